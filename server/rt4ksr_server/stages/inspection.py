"""What the endpoint takes, told from a file's bytes before anything is decoded.

Each check costs less than a copy of the file. What they let through is bounded in pixels, passes
and text, so that decoding it is bounded too; what a decoder then finds broken is refused there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from rt4ksr_client.contract import (
    MAX_INPUT_PX,
    MAX_PICTURE_BYTES,
    PICTURE_FORMATS,
    PictureFormat,
)
from rt4ksr_client.errors import PictureError

__all__ = ["MAX_SCANS", "Limits", "inspect"]

MAX_SCANS: Final = 100
"""Most passes of a progressive JPEG. Encoders make about 10; each costs a walk over all pixels."""

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG_START, _JPEG_END, _JPEG_SCAN = b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xda"
_PADDING: Final = b"\0\t\n\r "
# What phones put behind a JPEG: Samsung's trailer says so at its end, a motion photo in its XMP.
_SAMSUNG_END: Final = b"SEFT"
_MOTION_PHOTO: Final = (b"MotionPhoto", b"MicroVideo")
_XMP_WITHIN_BYTES: Final = 256 * 1024
_SHOWN_BYTES: Final = 12


@dataclass(frozen=True)
class Limits:
    """Largest file, most pixels of a picture (width times height), and its longest side, if any."""

    max_bytes: int = MAX_PICTURE_BYTES
    max_px: int = MAX_INPUT_PX
    max_side_px: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that nothing could meet."""
        if min(self.max_bytes, self.max_px, self.max_side_px or 1) < 1 or self.max_side_px == 0:
            raise ValueError(f"the limits of the image endpoint must be positive: {self}")


def inspect(data: bytes, limits: Limits) -> PictureFormat:
    """Return the format of an encoded picture.

    A file that goes on after the picture's end may be a second file to another program (a
    polyglot), and is refused, unless it is what phones are known to append.

    Raises:
        PictureError: empty, too large, of another format, cut off, more than the picture, or a
            JPEG of more than :data:`MAX_SCANS` passes.

    """
    if not data:
        raise PictureError("an empty file")
    if len(data) > limits.max_bytes:
        raise PictureError(
            f"{len(data)} bytes, and this server takes at most {limits.max_bytes} a picture"
        )
    for format_, (begins, ends) in _CHECKS.items():
        if begins(data):
            if not ends(data):
                raise PictureError(
                    f"the {format_.upper()}'s end is missing, or something follows it: send the "
                    "whole picture and nothing else"
                )
            _check_scans(data, format_)
            return format_
    known = ", ".join(PICTURE_FORMATS)
    raise PictureError(f"none of {known}: it begins with {data[:_SHOWN_BYTES]!r}")


def _check_scans(data: bytes, format_: PictureFormat) -> None:
    # In what is entropy-coded 0xFF is followed by 0, so only thumbnails and profiles add to this.
    if format_ == "jpeg" and data.count(_JPEG_SCAN) > MAX_SCANS:
        raise PictureError(f"a progressive JPEG of more than {MAX_SCANS} scans")


def _jpeg_ends(data: bytes) -> bool:
    if _ends_with(data, _JPEG_END) or data.endswith(_SAMSUNG_END):
        return True
    beginning = data[:_XMP_WITHIN_BYTES]
    return any(name in beginning for name in _MOTION_PHOTO)


def _webp_ends(data: bytes) -> bool:
    length = int.from_bytes(data[4:8], "little") + 8
    return length <= len(data) and not data[length:].strip(_PADDING)


def _ends_with(data: bytes, end: bytes) -> bool:
    return data.endswith(end) or data.rstrip(_PADDING).endswith(end)


_Check = Callable[[bytes], bool]
_CHECKS: Final[Mapping[PictureFormat, tuple[_Check, _Check]]] = {
    "jpeg": (lambda data: data.startswith(_JPEG_START), _jpeg_ends),
    "png": (lambda data: data.startswith(_PNG_START), lambda data: _ends_with(data, _PNG_END)),
    "webp": (lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", _webp_ends),
}
"""By format: whether a file begins, and ends, like one."""
