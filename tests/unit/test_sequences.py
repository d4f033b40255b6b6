"""Animations and files of several pages: every frame, its time, and few of them in memory."""

from __future__ import annotations

import io
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from rt4ksr_client import files
from rt4ksr_client.formats.sequences import ANIMATED_FORMATS, FrameSequence, Shot, write_sequence
from rt4ksr_client.pictures import PictureWarning

ANIMATED = sorted(ANIMATED_FORMATS)


def picture(index: int, mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A bright square on dark ground, somewhere else for each index."""
    image = Image.new(mode, size, (20, 40, 90, 0) if mode == "RGBA" else (20, 40, 90))
    left = index * 7 % (size[0] - 16)
    image.paste((220, 180, 60), (left, 16, left + 16, 32))
    return image


def written(shots: list[Shot], format_name: str, **options: Any) -> io.BytesIO:
    stream = io.BytesIO()
    write_sequence(stream, iter(shots), format_name, count=len(shots), **options)
    stream.seek(0)
    return stream


def read(stream: io.BytesIO, format_name: str) -> list[Shot]:
    return list(FrameSequence(files.decode(stream, "written"), "written", format_name))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("format_name", ANIMATED)
def test_every_frame_of_an_animation_comes_back_with_its_time(format_name: str, mode: str) -> None:
    shots = [Shot(picture(index, mode), 40 + 10 * index) for index in range(7)]

    found = read(written(shots, format_name, has_alpha=mode == "RGBA"), format_name)

    assert [shot.duration_ms for shot in found] == [shot.duration_ms for shot in shots]
    for shot, expected in zip(found, shots, strict=True):
        difference = np.asarray(shot.picture.convert("RGBA")).astype(int) - np.asarray(
            expected.picture.convert("RGBA")
        )
        visible = np.asarray(expected.picture.convert("RGBA"))[:, :, 3] > 0
        # Compressed with loss, or by a palette; far from what another frame would give.
        assert np.abs(difference[visible]).mean() < 8
        assert np.abs(difference[:, :, 3]).mean() < 2


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "AVIF"])  # WebP uses alpha for what stays
def test_an_opaque_animation_is_written_without_alpha(format_name: str) -> None:
    shots = [Shot(picture(index), 100) for index in range(3)]

    found = files.decode(written(shots, format_name, has_alpha=False), "written")

    assert not found.has_transparency_data


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "AVIF"])
def test_a_frame_may_be_transparent_where_the_first_was_opaque(format_name: str) -> None:
    shots = [Shot(picture(0).convert("RGBA"), 100), Shot(picture(1, "RGBA"), 100)]

    corners = [shot.picture.getpixel((0, 0)) for shot in read(written(shots, format_name), "PNG")]

    assert [corner[3] for corner in corners if isinstance(corner, tuple)] == [255, 0]


def test_so_may_a_frame_of_a_gif_as_players_show_it() -> None:
    av = pytest.importorskip("av", reason="needs the video extra; Pillow fills cleared frames")
    shots = [Shot(picture(0).convert("RGBA"), 100), Shot(picture(1, "RGBA"), 100)]

    with av.open(written(shots, "GIF")) as container:
        frames = [frame.to_ndarray(format="rgba") for frame in container.decode(video=0)]

    assert [int(frame[0, 0, 3]) for frame in frames] == [255, 0]


@pytest.mark.parametrize("format_name", ANIMATED)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_sequence_knows_whether_frames_are_transparent(format_name: str, mode: str) -> None:
    stream = written([Shot(picture(index, mode), 100) for index in range(2)], format_name)

    sequence = FrameSequence(files.decode(stream, "a"), "a", "PNG")

    assert sequence.has_alpha == any(
        shot.picture.has_transparency_data
        for shot in FrameSequence(files.decode(stream, "a"), "a", "PNG")
    )
    assert sequence.has_alpha or mode == "RGB"


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP"])
@pytest.mark.parametrize(("loop", "expected"), [(0, 0), (3, 3), (None, None)])
def test_an_animation_plays_as_often_as_its_source(
    format_name: str, loop: int | None, expected: int | None
) -> None:
    shots = [Shot(picture(index), 100) for index in range(2)]

    found = FrameSequence(files.decode(written(shots, format_name, loop=loop), "a"), "a", "GIF")

    assert found.loop == (1 if expected is None and format_name != "GIF" else expected)


@pytest.mark.parametrize("format_name", ["GIF", "PNG"])
def test_frames_that_are_the_same_are_written_once_and_stay_for_as_long(format_name: str) -> None:
    shots = [Shot(picture(index // 3), 100) for index in range(9)]

    found = read(written(shots, format_name), format_name)

    assert [shot.duration_ms for shot in found] == [300, 300, 300]


def test_a_picture_that_stays_for_an_hour_is_written_as_several_frames() -> None:
    shots = [Shot(picture(0), 30_000)] * 120 + [Shot(picture(1), 40)]

    for format_name in ("GIF", "PNG"):
        found = read(written(shots, format_name), format_name)
        assert sum(shot.duration_ms for shot in found) == pytest.approx(3_600_040)


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "AVIF"])
def test_times_of_a_third_of_a_frame_do_not_add_up_to_a_drift(format_name: str) -> None:
    shots = [Shot(picture(index), 100 / 3) for index in range(30)]

    found = read(written(shots, format_name), format_name)

    assert sum(shot.duration_ms for shot in found) == 1000


@pytest.mark.parametrize("format_name", [*ANIMATED, "TIFF"])
def test_few_frames_are_in_memory_at_a_time(format_name: str) -> None:
    alive: list[weakref.ref[Image.Image]] = []
    most = 0

    def shots() -> Iterator[Shot]:
        nonlocal most
        for index in range(30):
            image = picture(index)
            alive.append(weakref.ref(image))
            most = max(most, sum(one() is not None for one in alive))
            yield Shot(image, 40)

    with io.BytesIO() as stream:
        write_sequence(stream, shots(), format_name, count=30)

    assert len(alive) == 30
    assert most <= 4  # the last two, one being made, one of the loop that made it


def test_metadata_of_an_animation_is_written_once_before_the_frames() -> None:
    shots = [Shot(picture(index), 100) for index in range(3)]
    shots[0].picture.info["xmp"] = b"<x:xmpmeta/>"

    stream = written(shots, "PNG")

    assert stream.getvalue().count(b"XML:com.adobe.xmp") == 1
    assert files.decode(stream, "a").info["xmp"] == b"<x:xmpmeta/>"


def test_pages_of_a_tiff_keep_their_sizes_and_metadata() -> None:
    pages = [picture(0), picture(1, "RGBA", (40, 30)), picture(2).convert("L")]
    for index, page in enumerate(pages):
        page.info["dpi"] = (100 + index, 100 + index)

    found = read(written([Shot(page) for page in pages], "TIFF"), "TIFF")

    assert len(found) == 3
    for index, (shot, expected) in enumerate(zip(found, pages, strict=True)):
        assert shot.picture.mode == expected.mode
        np.testing.assert_array_equal(np.asarray(shot.picture), np.asarray(expected))
        assert shot.picture.info["dpi"] == (100 + index, 100 + index)


def test_what_is_no_page_of_a_tiff_is_not_read_as_one() -> None:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[254] = 1  # a reduced version of another page
    stream = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(stream) as writer:
        for index, options in enumerate([{}, {"tiffinfo": directory}, {}]):
            picture(index).save(writer, "TIFF", **options)
            writer.newFrame()
    stream.seek(0)

    found = read(stream, "TIFF")

    assert [shot.picture.tobytes() for shot in found] == [
        picture(0).tobytes(),
        picture(2).tobytes(),
    ]


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("GIF", "JPEG", "JPEG has no animation: only the first of 3 frames"),
        ("PNG", "TIFF", "TIFF has no animation: only the first of 3 frames"),
        ("TIFF", "PNG", "PNG has one page: only the first of 3 is kept"),
        ("TIFF", "GIF", "GIF has one page: only the first of 3 is kept"),
    ],
)
def test_frames_and_pages_that_a_format_cannot_store_are_named(
    source: str, target: str, words: str
) -> None:
    stream = written([Shot(picture(index), 100) for index in range(3)], source)

    with pytest.warns(PictureWarning, match=words):
        sequence = FrameSequence(files.decode(stream, "a"), "a", target)

    assert len(sequence) == len(list(sequence)) == 1


def test_a_flic_animation_is_one(tmp_path: Path) -> None:
    def chunk(kind: int, body: bytes) -> bytes:
        return (len(body) + 6).to_bytes(4, "little") + kind.to_bytes(2, "little") + body

    def frame(value: int) -> bytes:
        palette = chunk(4, b"\x01\x00\x00\x00" + bytes(value // 3 for value in range(768)))
        pixels = chunk(16, bytes([value]) * 64)
        body = palette + pixels
        head = (len(body) + 16).to_bytes(4, "little") + (0xF1FA).to_bytes(2, "little")
        return head + (2).to_bytes(2, "little") + bytes(8) + body

    frames = frame(10) + frame(200)
    head = bytearray(128)
    head[4:6] = (0xAF12).to_bytes(2, "little")
    head[6:14] = b"\x02\x00\x08\x00\x08\x00\x08\x00"
    head[16:20] = (50).to_bytes(4, "little")
    head[0:4] = (128 + len(frames)).to_bytes(4, "little")
    path = tmp_path / "a.flc"
    path.write_bytes(bytes(head) + frames)

    with files.decode(path, "a") as image:
        shots = list(FrameSequence(image, "a", "PNG"))

    assert [shot.picture.convert("L").getpixel((0, 0)) for shot in shots] == [10, 200]
    assert {shot.duration_ms for shot in shots} == {50}
