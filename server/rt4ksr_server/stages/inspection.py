"""What the image endpoint accepts, checked on a file's bytes before anything is decoded.

Each check costs less than a copy of the file. What passes is bounded in pixels, passes and text, so
that decoding it is bounded too; what a decoder then finds broken is rejected there.
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

PADDING: Final = b"\0\t\n\r "
JPEG_SCAN: Final = b"\xff\xda"
XMP_WITHIN_BYTES: Final = 256 * 1024
SHOWN_BYTES: Final = 12


@dataclass(frozen=True)
class Limits:
    """Largest file in bytes, most pixels of a picture (width times height), and its longest side.

    Without ``max_side_px``, a side may have any length.
    """

    max_bytes: int = MAX_PICTURE_BYTES
    max_px: int = MAX_INPUT_PX
    max_side_px: int | None = None

    def __post_init__(self) -> None:
        """Reject limits that nothing could meet."""
        given = [self.max_bytes, self.max_px]
        if min(given if self.max_side_px is None else [*given, self.max_side_px]) < 1:
            raise ValueError(f"the limits of the image endpoint must be positive: {self}")


def inspect(data: bytes, limits: Limits) -> PictureFormat:
    """Return the format of an encoded picture.

    Data after the picture's end may be a second file to another program (a polyglot) and is
    rejected, unless it is what phones are known to append.

    Raises:
        PictureError: empty, too large, another format, truncated, with trailing data, or a JPEG of
            more than :data:`MAX_SCANS` passes.

    """
    if not data:
        raise PictureError("an empty file")
    if len(data) > limits.max_bytes:
        raise PictureError(
            f"{len(data)} bytes: this server accepts at most {limits.max_bytes} per picture"
        )
    for format_, (begins, ends) in CHECKS.items():
        if begins(data):
            if not ends(data):
                raise PictureError(
                    f"the {format_.upper()} is truncated, or has trailing data: send the whole "
                    "picture and nothing else"
                )
            # Entropy-coded data has a 0 after each 0xFF; only thumbnails and profiles add to this.
            if format_ == "jpeg" and data.count(JPEG_SCAN) > MAX_SCANS:
                raise PictureError(f"a progressive JPEG of more than {MAX_SCANS} scans")
            return format_
    known = ", ".join(PICTURE_FORMATS)
    raise PictureError(f"none of {known}: it begins with {data[:SHOWN_BYTES]!r}")


def jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG ends with its own end, or with what phones append.

    Samsung's trailer has a mark at its end; a motion photo is named in the XMP.
    """
    if ends_with(data, b"\xff\xd9") or data.endswith(b"SEFT"):
        return True
    return any(name in data[:XMP_WITHIN_BYTES] for name in (b"MotionPhoto", b"MicroVideo"))


def webp_ends(data: bytes) -> bool:
    """Whether a WebP has the length that its header says."""
    length = int.from_bytes(data[4:8], "little") + 8
    return length <= len(data) and not data[length:].strip(PADDING)


def ends_with(data: bytes, end: bytes) -> bool:
    """Whether ``data`` ends with ``end`` and nothing but padding."""
    return data.endswith(end) or data.rstrip(PADDING).endswith(end)


Check = Callable[[bytes], bool]

CHECKS: Final[Mapping[PictureFormat, tuple[Check, Check]]] = {
    "jpeg": (lambda data: data.startswith(b"\xff\xd8\xff"), jpeg_ends),
    "png": (
        lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
        lambda data: ends_with(data, b"IEND\xaeB`\x82"),
    ),
    "webp": (lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", webp_ends),
}
"""By format: whether a file begins, and ends, like one."""
