"""How an answer is encoded: what the request asks for, else what the configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rt4ksr_client.contract import (
    DEFAULT_PICTURE_FORMAT,
    PICTURE_FORMATS,
    Parameter,
    PictureFormat,
    PictureParameter,
)
from rt4ksr_client.errors import PictureError

__all__ = ["Encoding", "Encodings"]

_ALIASES: Mapping[str, PictureFormat] = {"jpg": "jpeg"}


@dataclass(frozen=True)
class Encoding:
    """A format, and a quality of 1 to 100; None is for one that has none."""

    format: PictureFormat
    quality: int | None


@dataclass(frozen=True)
class Encodings:
    """The defaults that requests start from."""

    format: PictureFormat = DEFAULT_PICTURE_FORMAT
    qualities: Mapping[PictureFormat, int] = field(default_factory=dict)

    @classmethod
    def from_config(cls, parameters: Mapping[str, str]) -> Encodings:
        """Read the defaults in a model configuration's parameters.

        Raises:
            PictureError: a value that no request could ask for either.

        """
        format_ = _format(parameters.get(Parameter.DEFAULT_FORMAT, DEFAULT_PICTURE_FORMAT))
        keys = {name: Parameter.DEFAULT_QUALITY + name for name in PICTURE_FORMATS}
        found = {name: parameters[key] for name, key in keys.items() if key in parameters}
        return cls(format_, {name: _quality(value) for name, value in found.items()})

    def wanted(self, parameters: Mapping[str, Any]) -> Encoding:
        """Return what a request's parameters ask for; their names may be in any case.

        Raises:
            PictureError: an unknown format, or a quality outside 1 to 100.

        """
        asked = {name.lower(): value for name, value in parameters.items()}
        format_ = _format(asked.get(PictureParameter.FORMAT, self.format))
        quality = asked.get(PictureParameter.QUALITY)
        default = self.qualities.get(format_)
        return Encoding(format_, default if quality is None else _quality(quality))


def _format(value: Any) -> PictureFormat:
    name = _ALIASES.get(str(value).lower(), str(value).lower())
    for known in PICTURE_FORMATS:
        if name == known:
            return known
    raise PictureError(
        f"{PictureParameter.FORMAT} must be one of {', '.join(PICTURE_FORMATS)}, got {value!r}"
    )


def _quality(value: Any) -> int:
    try:
        number = None if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        number = None
    if number is None or not 1 <= number <= 100:
        raise PictureError(
            f"{PictureParameter.QUALITY} must be a whole number of 1 to 100, got {value!r}"
        )
    return number
