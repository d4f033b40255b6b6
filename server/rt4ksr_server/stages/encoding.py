"""The encoding of an answer: what the request asks for, otherwise the configuration's default."""

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

__all__ = ["Encoding", "EncodingDefaults", "parse_format", "parse_quality"]


@dataclass(frozen=True)
class Encoding:
    """A format, and a quality from 1 to 100, or None for the format's default."""

    format: PictureFormat
    quality: int | None


@dataclass(frozen=True)
class EncodingDefaults:
    """The format, and the quality of each format, of answers to requests that do not say."""

    format: PictureFormat = DEFAULT_PICTURE_FORMAT
    qualities: Mapping[PictureFormat, int] = field(default_factory=dict)

    @classmethod
    def from_config(cls, parameters: Mapping[str, str]) -> EncodingDefaults:
        """Read the defaults from a model configuration's parameters.

        Raises:
            PictureError: a value that a request could not ask for either.

        """
        format_ = parse_format(parameters.get(Parameter.DEFAULT_FORMAT, DEFAULT_PICTURE_FORMAT))
        keys = {name: Parameter.DEFAULT_QUALITY + name for name in PICTURE_FORMATS}
        found = {name: parameters[key] for name, key in keys.items() if key in parameters}
        return cls(format_, {name: parse_quality(value) for name, value in found.items()})

    def encoding_for(self, parameters: Mapping[str, Any]) -> Encoding:
        """Return the encoding that a request's parameters ask for; case does not matter.

        Raises:
            PictureError: an unknown format, or a quality outside 1 to 100.

        """
        asked = {name.lower(): value for name, value in parameters.items()}
        format_ = parse_format(asked.get(PictureParameter.FORMAT, self.format))
        quality = asked.get(PictureParameter.QUALITY)
        default = self.qualities.get(format_)
        return Encoding(format_, default if quality is None else parse_quality(quality))


def parse_format(value: Any) -> PictureFormat:
    """Return the format that ``value`` names; ``jpg`` is ``jpeg``.

    Raises:
        PictureError: there is none.

    """
    name = str(value).lower()
    for known in PICTURE_FORMATS:
        if known == ("jpeg" if name == "jpg" else name):
            return known
    raise PictureError(
        f"{PictureParameter.FORMAT} must be one of {', '.join(PICTURE_FORMATS)}, got {value!r}"
    )


def parse_quality(value: Any) -> int:
    """Return ``value`` as a quality.

    Raises:
        PictureError: it is not a whole number from 1 to 100.

    """
    try:
        number = None if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        number = None
    if number is None or not 1 <= number <= 100:
        raise PictureError(
            f"{PictureParameter.QUALITY} must be a whole number from 1 to 100, got {value!r}"
        )
    return number
