"""EXIF data edited in place."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import ExifTags, Image

from rt4ksr_client.formats import exif

NOTE = b"Maker\0" + bytes(range(200))
THUMBNAIL = b"\xff\xd8" + b"thumbnail" * 50 + b"\xff\xd9"


def encoded(order: str, *, thumbnail: bool = True, note: bytes = NOTE) -> bytes:
    """EXIF as cameras write it: a maker note in the middle, the thumbnail at the end."""

    def directory(at: int, entries: Sequence[tuple[int, int, bytes]], following: int = 0) -> bytes:
        table, values = b"", b""
        values_at = at + 6 + 12 * len(entries)
        for tag, kind, value in entries:
            count = len(value) // {2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[kind]
            field = value.ljust(4, b"\0")
            if len(value) > 4:
                field = struct.pack(order + "I", values_at + len(values))
                values += value + bytes(len(value) % 2)
            table += struct.pack(order + "HHI", tag, kind, count) + field
        head = struct.pack(order + "H", len(entries)) + table
        return head + struct.pack(order + "I", following) + values

    def short(value: int) -> bytes:
        return struct.pack(order + "H", value)

    def long(value: int) -> bytes:
        return struct.pack(order + "I", value)

    nested_entries: list[tuple[int, int, bytes]] = [
        (ExifTags.Base.ISOSpeedRatings, 3, short(400)),
        (ExifTags.IFD.MakerNote, 7, note),
        (0x9214, 3, short(100) * 4),
        (ExifTags.Base.ExifImageWidth, 4, long(64)),
        (ExifTags.Base.ExifImageHeight, 4, long(48)),
        (ExifTags.Base.FocalPlaneXResolution, 5, long(3000) + long(1)),
    ]
    first_entries: list[tuple[int, int, bytes]] = [
        (ExifTags.Base.Make, 2, b"A camera of note\0"),
        (ExifTags.Base.Orientation, 3, short(6)),
        (ExifTags.Base.XResolution, 5, long(300) + long(1)),
        (ExifTags.Base.YCbCrPositioning, 3, short(2)),
        (ExifTags.IFD.Exif, 4, long(0)),
    ]
    nested_at = 8 + len(directory(8, first_entries))
    first_entries[-1] = (ExifTags.IFD.Exif, 4, long(nested_at))
    nested = directory(nested_at, nested_entries)
    second_at = nested_at + len(nested)
    second = [(0x0201, 4, long(0)), (0x0202, 4, long(len(THUMBNAIL)))]
    second[0] = (0x0201, 4, long(second_at + len(directory(second_at, second))))
    head = (b"II*\0" if order == "<" else b"MM\0*") + long(8)
    data = head + directory(8, first_entries, second_at if thumbnail else 0) + nested
    return b"Exif\0\0" + data + (directory(second_at, second) + THUMBNAIL if thumbnail else b"")


def read(data: bytes) -> tuple[dict[int, Any], dict[int, Any]]:
    found = Image.Exif()
    found.load(data)
    nested = found.get_ifd(ExifTags.IFD.Exif)
    return {tag: found[tag] for tag in found if tag != ExifTags.IFD.Exif}, nested


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("thumbnail", [True, False])
def test_what_is_true_of_the_upscaled_picture_stays(order: str, thumbnail: bool) -> None:
    edited = exif.of_upscaled(encoded(order, thumbnail=thumbnail))

    first, nested = read(edited)
    assert first == {ExifTags.Base.Make: "A camera of note", ExifTags.Base.XResolution: 300}
    assert nested == {ExifTags.Base.ISOSpeedRatings: 400, ExifTags.IFD.MakerNote: NOTE}
    found = Image.Exif()
    found.load(edited)
    assert not found.get_ifd(ExifTags.IFD.IFD1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_maker_note_stays_where_its_offsets_expect_it(order: str) -> None:
    data = encoded(order)

    assert exif.has_maker_note(data)
    assert exif.of_upscaled(data).index(NOTE) == data.index(NOTE)


def test_the_thumbnail_is_gone_not_only_unlinked() -> None:
    data = encoded("<")

    assert b"thumbnail" not in exif.of_upscaled(data)
    assert b"thumbnail" not in exif.of_upscaled(data + b"something after it")
    assert len(exif.of_upscaled(data)) == len(data) - len(THUMBNAIL)


def test_twice_is_once() -> None:
    edited = exif.of_upscaled(encoded(">"))

    assert exif.of_upscaled(edited) == edited


def test_nothing_is_left_of_an_orientation() -> None:
    source = Image.Exif()
    source[ExifTags.Base.Orientation] = 3

    assert exif.of_upscaled(source.tobytes()) == b""


def test_a_pointer_out_of_the_data_costs_only_the_thumbnail() -> None:
    data = bytearray(encoded("<"))
    at = 6 + 8 + 2 + 12 * 5
    data[at : at + 4] = struct.pack("<I", 10**9)

    first, nested = read(exif.of_upscaled(bytes(data)))

    assert ExifTags.Base.Make in first and ExifTags.IFD.MakerNote in nested


@pytest.mark.parametrize("data", [b"", b"Exif\0\0", b"II*\0", b"II*\0\xff\xff\xff\xff", b"text"])
def test_malformed_data_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="malformed EXIF"):
        exif.of_upscaled(data)
    assert not exif.has_maker_note(data)


def test_broken_data_is_edited_or_an_error() -> None:
    rng = random.Random(0)
    for order in ("<", ">"):
        data = encoded(order)
        for _ in range(2000):
            broken = bytearray(data[: rng.randrange(6, len(data))])
            for _ in range(rng.choice((1, 4, 16))):
                broken[rng.randrange(min(len(broken), 250))] = rng.randrange(256)
            try:
                exif.of_upscaled(bytes(broken))
            except ValueError:
                continue
