"""What a small picture went through before it is upscaled: formats that it was saved in."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from rt4ksr_client import files

__all__ = ["ALL", "CURVE", "DEFAULT", "Condition", "Saving"]

_STEP: Final = re.compile(r"(jpeg|webp|avif) (\d+)( 4:4:4)?|(png)", re.IGNORECASE)


@dataclass(frozen=True)
class Saving:
    """Saved with Pillow in a format; ``quality`` is None for PNG. Chroma is 4:2:0 by default."""

    format: str
    quality: int | None = None
    full_chroma: bool = False

    def __str__(self) -> str:
        """Return e.g. ``JPEG 90``."""
        quality = "" if self.quality is None else f" {self.quality}"
        return f"{self.format}{quality}{' 4:4:4' if self.full_chroma else ''}"

    def options(self) -> dict[str, Any]:
        """Return what Pillow's ``save`` takes."""
        options: dict[str, Any] = {} if self.quality is None else {"quality": self.quality}
        if self.format in ("JPEG", "AVIF"):
            options["subsampling"] = "4:4:4" if self.full_chroma else "4:2:0"
        return options


@dataclass(frozen=True)
class Condition:
    """How a picture was saved, once or several times; not at all is ``clean``."""

    savings: tuple[Saving, ...] = ()

    def __str__(self) -> str:
        """Return what :meth:`parse` reads, e.g. ``JPEG 75, PNG``."""
        return ", ".join(map(str, self.savings)) or "clean"

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read ``clean``, or formats separated by commas: ``JPEG 90 4:4:4``, ``JPEG 75, PNG``.

        Raises:
            ValueError: a format or a quality that there is not.

        """
        if text.strip().lower() == "clean":
            return cls()
        savings = []
        for step in text.split(","):
            found = _STEP.fullmatch(step.strip())
            if (
                found is None
                or not 1 <= int(found[2] or 1) <= 100
                or (found[3] and found[1].lower() == "webp")
            ):
                raise ValueError(
                    f"{step.strip()!r} is not a condition: expected clean, JPEG 90, JPEG 90 4:4:4, "
                    "WEBP 80, AVIF 60, PNG, or several of them with commas: JPEG 75, PNG"
                )
            quality = None if found[2] is None else int(found[2])
            savings.append(Saving((found[1] or found[4]).upper(), quality, bool(found[3])))
        return cls(tuple(savings))

    @property
    def jpeg_quality(self) -> int | None:
        """The quality of what was saved once as JPEG in 4:2:0."""
        match self.savings:
            case (Saving("JPEG", quality, False),):
                return quality
        return None

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return ``picture`` (mode RGB) as its last file is opened."""
        for saving in self.savings:
            buffer = io.BytesIO()
            picture.save(buffer, saving.format, **saving.options())
            picture = files.decode(buffer, str(saving))
        return picture


def _conditions(texts: Iterable[str]) -> tuple[Condition, ...]:
    return tuple(map(Condition.parse, texts))


DEFAULT: Final = _conditions(["clean", "JPEG 90", "JPEG 75"])

ALL: Final = _conditions(
    [
        "clean",
        *(f"JPEG {quality}" for quality in (98, 95, 92, 90, 85, 75, 60, 40)),
        "JPEG 90 4:4:4",
        "WEBP 80",
        "AVIF 60",
        "JPEG 75, PNG",
        "JPEG 75, JPEG 98",
        "JPEG 90, JPEG 90",
    ]
)
"""What pictures from the Internet have gone through."""

CURVE: Final = _conditions(
    ["clean", *(f"JPEG {quality}" for quality in (99, 98, 96, 94, 92, 90, 85, 80, 75, 60, 45, 30))]
)
"""For a curve over the quality of JPEG."""
