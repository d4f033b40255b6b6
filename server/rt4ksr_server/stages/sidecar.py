"""What bypasses the network: sent as bytes from the decode stage to the encode stage.

It is JSON, because anyone who reaches the server can call either stage: nothing in it is ever run.
Bytes are in base64, the alpha channel is a PNG.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from rt4ksr_client import files
from rt4ksr_client.contract import SIZE_MULTIPLE_PX
from rt4ksr_client.errors import PictureError
from rt4ksr_client.formats import metadata
from rt4ksr_client.frames import Frame
from rt4ksr_client.pictures import SideData

__all__ = ["Sidecar", "from_base64", "metadata_value", "to_base64"]

BINARY_KEYS: Final = frozenset(metadata.KEPT) - {"dpi"}
"""Metadata whose values are bytes."""


@dataclass(frozen=True)
class Sidecar:
    """All of a picture but its colours; its size is that before padding and upscaling."""

    width_px: int
    height_px: int
    side_data: SideData

    def to_bytes(self) -> bytes:
        """Return the form that :meth:`from_bytes` reads."""
        alpha, info = self.side_data.alpha, self.side_data.info
        return json.dumps(
            {
                "width_px": self.width_px,
                "height_px": self.height_px,
                "gray": self.side_data.gray,
                "alpha": None if alpha is None else to_base64(files.encode(alpha, "PNG")),
                "info": {
                    key: to_base64(value) if key in BINARY_KEYS else value
                    for key, value in info.items()
                    if key != metadata.LEFT_OUT  # warnings have no place in a response
                },
            }
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Sidecar:
        """Read what :meth:`to_bytes` wrote.

        Raises:
            PictureError: it did not write this.

        """
        try:
            found = json.loads(data)
            width_px, height_px = int(found["width_px"]), int(found["height_px"])
            alpha: Image.Image | None = None
            if found["alpha"] is not None:
                png = io.BytesIO(from_base64(found["alpha"]))
                alpha = files.decode(png, "alpha", formats=("PNG",))
                if alpha.mode != "L":
                    raise ValueError(f"an alpha channel of mode {alpha.mode}")
            info = {key: metadata_value(key, value) for key, value in found["info"].items()}
            sidecar = cls(width_px, height_px, SideData(alpha, bool(found["gray"]), info))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
            raise PictureError(f"not a sidecar of the decode stage: {exc!r}") from exc
        if min(width_px, height_px) < 1 or (alpha and alpha.size != (width_px, height_px)):
            raise PictureError("not a sidecar of the decode stage: its sizes contradict each other")
        return sidecar

    def crop(self, upscaled: Frame) -> Frame:
        """Return the upscaled picture without its padding; ``upscaled`` is ``(H, W, 3)``.

        Raises:
            PictureError: ``upscaled`` is not this picture's size, padded, times a whole number.

        """
        height, width, _ = upscaled.shape
        padded = [side + -side % SIZE_MULTIPLE_PX for side in (self.height_px, self.width_px)]
        scale = max(1, height // padded[0])
        if [height, width] != [side * scale for side in padded]:
            raise PictureError(
                f"a picture of {self.width_px}x{self.height_px} does not become {width}x{height}"
            )
        return upscaled[: self.height_px * scale, : self.width_px * scale]


def to_base64(value: bytes) -> str:
    """Return ``value`` as text."""
    return base64.b64encode(value).decode("ascii")


def from_base64(text: str) -> bytes:
    """Return the bytes that :func:`to_base64` made ``text`` of.

    Raises:
        ValueError: it did not.

    """
    return base64.b64decode(text, validate=True)


def metadata_value(key: str, value: Any) -> Any:
    """Return a value of the JSON form as Pillow has it.

    Raises:
        ValueError, TypeError: not metadata that the decode stage sends.

    """
    if key in BINARY_KEYS:
        return from_base64(value)
    if key == metadata.SUBSAMPLED:
        return bool(value)
    if key != "dpi":
        raise ValueError(f"unknown {key!r}")
    across, down = (float(number) for number in value)
    return across, down
