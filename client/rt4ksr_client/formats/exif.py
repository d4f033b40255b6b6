"""EXIF data, edited in place: what stays keeps its position, on which maker notes depend.

EXIF is a TIFF file without pixels: directories of 12-byte entries, which point to values elsewhere
in the data. Written anew, values move, and the offsets inside a camera's maker note, which only its
maker understands, lead nowhere.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from PIL.ExifTags import IFD, Base

__all__ = ["LAYOUT_TAGS", "SIZE_TAGS", "has_maker_note", "of_upscaled"]

LAYOUT_TAGS: Final = frozenset(
    {
        *range(254, 267),  # subfile types, width, height, bits, compression, photometric
        Base.Orientation,
        *(273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339, 347),
        *range(512, 533),  # JPEG data, YCbCr
        *(700, 33723, 34377, 34675),  # XMP, IPTC, Photoshop's resources, ICC profile
        *range(20481, 20545),  # Photoshop's thumbnail
    }
)
"""Tags of the first directory that describe the file's pixels, or are kept elsewhere."""

SIZE_TAGS: Final = frozenset(
    {
        Base.ExifImageWidth,
        Base.ExifImageHeight,
        Base.CompressedBitsPerPixel,
        0x9214,  # SubjectArea
        Base.SubjectLocation,
        Base.FocalPlaneXResolution,
        Base.FocalPlaneYResolution,
        Base.FocalPlaneResolutionUnit,
    }
)
"""Tags of the EXIF directory that count pixels of the small picture."""

_PREFIX: Final = re.compile(rb"^(?:Exif\0\0)+")
_THUMBNAIL_AT, _THUMBNAIL_BYTES = 0x0201, 0x0202


def of_upscaled(exif: bytes) -> bytes:
    """Return ``exif`` as it is true of the upscaled picture; empty if nothing is left of it.

    Orientation, thumbnail, :data:`LAYOUT_TAGS` and :data:`SIZE_TAGS` are removed.

    Raises:
        ValueError: malformed data.

    """
    data = bytearray(_PREFIX.sub(b"", exif))
    try:
        order, first = _header(data)
        nested = _positions(data, order, first).get(IFD.Exif)
        if nested is not None:
            _remove(data, order, _number(data, order, nested), SIZE_TAGS)
        _remove_thumbnail(data, order, first)
        if not _remove(data, order, first, LAYOUT_TAGS):
            return b""
    except struct.error as exc:
        raise ValueError(f"malformed EXIF: {exc}") from exc
    return b"Exif\0\0" + bytes(data)


def has_maker_note(exif: bytes) -> bool:
    """Whether a camera's maker left a note in ``exif``."""
    data = bytearray(_PREFIX.sub(b"", exif))
    try:
        order, first = _header(data)
        nested = _positions(data, order, first)[IFD.Exif]
        return IFD.MakerNote in _positions(data, order, _number(data, order, nested))
    except (struct.error, ValueError, KeyError):
        return False


def _header(data: bytearray) -> tuple[str, int]:
    """Return the byte order, as struct writes it, and the position of the first directory."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
    if order is None:
        raise ValueError("malformed EXIF: no TIFF header")
    return order, _number(data, order, 4)


def _number(data: bytearray, order: str, at: int) -> int:
    number: int = struct.unpack_from(order + "I", data, at)[0]
    return number


def _positions(data: bytearray, order: str, directory: int) -> dict[int, int]:
    """Return where the value of each tag is, or the pointer to it."""
    (count,) = struct.unpack_from(order + "H", data, directory)
    entries = range(directory + 2, directory + 2 + 12 * count, 12)
    return {struct.unpack_from(order + "HHII", data, at)[0]: at + 8 for at in entries}


def _remove(data: bytearray, order: str, directory: int, tags: Collection[int]) -> int:
    """Remove entries from a directory; return how many are left."""
    (count,) = struct.unpack_from(order + "H", data, directory)
    start, end = directory + 2, directory + 2 + 12 * count
    following = struct.pack(order + "I", _number(data, order, end))
    entries = [bytes(data[at : at + 12]) for at in range(start, end, 12)]
    kept = [one for one in entries if struct.unpack_from(order + "H", one)[0] not in tags]
    table = struct.pack(order + "H", len(kept)) + b"".join(kept) + following
    data[directory : end + 4] = table.ljust(end + 4 - directory, b"\0")
    return len(kept)


def _remove_thumbnail(data: bytearray, order: str, first: int) -> None:
    """Remove the second directory, and overwrite the picture that it points to."""
    (count,) = struct.unpack_from(order + "H", data, first)
    pointer = first + 2 + 12 * count
    second = _number(data, order, pointer)
    struct.pack_into(order + "I", data, pointer, 0)
    if not second:
        return
    with suppress(struct.error, KeyError):  # some cameras' pointers lead out of the data
        positions = _positions(data, order, second)
        start = _number(data, order, positions[_THUMBNAIL_AT])
        end = start + _number(data, order, positions[_THUMBNAIL_BYTES])
        if pointer < start < end < len(data):
            data[start:end] = bytes(end - start)
        elif pointer < start < len(data):
            del data[start:]
