"""PNG files of ours: read alike by every decoder, described as Pillow describes them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw

from rt4ksr_client import files
from rt4ksr_client.formats import metadata, png
from rt4ksr_client.formats.container import png_chunk
from rt4ksr_client.formats.sequences import Shot, write_sequence
from rt4ksr_client.pictures import FrameImage
from support.png import check_png

CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
SIZES = [(1, 1), (1, 9), (9, 1), (7, 5), (300_000, 1), (99_999, 3), (3, 99_999), (641, 1203)]


def picture(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    shape = (size[1], size[0], CHANNELS[mode])
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.frombytes(mode, size, values.tobytes())


def opened(data: bytes) -> Image.Image:
    check_png(data)
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def assert_same(one: Image.Image, other: Image.Image) -> None:
    assert (one.mode, one.size) == (other.mode, other.size)
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("mode", CHANNELS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pictures_of_any_shape_come_back_as_they_were(mode: str, size: tuple[int, int]) -> None:
    image = picture(mode, size)

    assert_same(opened(png.encoded_file(image, {})), image)


@given(
    mode=st.sampled_from(sorted(CHANNELS)),
    size=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    colours=st.integers(1, 256),
    seed=st.integers(0, 1 << 32),
)
def test_so_does_every_picture(mode: str, size: tuple[int, int], colours: int, seed: int) -> None:
    shape = (size[1], size[0], CHANNELS[mode])
    values = np.random.default_rng(seed).integers(0, colours, shape, dtype=np.uint8)
    image = Image.frombytes(mode, size, values.tobytes())

    assert_same(opened(png.encoded_file(image, {})), image)


@pytest.mark.parametrize("mode", ["1", "P", "I;16"])
def test_pictures_of_other_modes_are_written_by_pillow(mode: str) -> None:
    values = np.arange(12 * 10, dtype=np.uint16).reshape(10, 12)
    gray = Image.fromarray(values.astype(np.uint8))
    image = Image.fromarray(values * 257) if mode == "I;16" else gray.convert(mode)

    assert_same(opened(png.encoded_file(image, {"compress_level": 1})), image)


@pytest.mark.extras
@pytest.mark.parametrize("mode", CHANNELS)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (641, 1203)], ids=str)
def test_opencv_and_libspng_read_the_same_pixels(mode: str, size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs the group dev")
    pyspng = pytest.importorskip("pyspng", reason="needs the group dev")
    image = picture(mode, size)
    data = png.encoded_file(image, {})
    asked = "RGBA" if mode == "LA" else mode  # both read gray with alpha as colour
    pixels = np.asarray(image.convert(asked))
    bgr = pixels if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]

    np.testing.assert_array_equal(pyspng.load(data, asked).reshape(pixels.shape), pixels)
    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(by_opencv, bgr)


def test_colours_of_invisible_pixels_are_written() -> None:
    image = picture("RGBA", (40, 30))
    image.putalpha(0)

    assert_same(opened(png.encoded_file(image, {})), image)


def test_a_picture_of_several_strips_is_the_same_file_on_any_number_of_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = picture("RGB", (641, 1203))
    data = []
    for cores in (1, 2, 16):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, count=cores: set(range(count)))
        data.append(png.encoded_file(image, {}))

    assert [kind for kind, _ in check_png(data[0])].count(b"IDAT") > 2
    assert data[0] == data[1] == data[2]


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = png_chunk(b"cICP", bytes([12, 13, 0, 1]))
PRIMARIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
GAMMA = png_chunk(b"gAMA", (45455).to_bytes(4, "big")) + png_chunk(
    b"cHRM", b"".join(value.to_bytes(4, "big") for value in PRIMARIES)
)
TEXTS = (
    png_chunk(b"tEXt", b"Title\0A")
    + png_chunk(b"iTXt", b"Note\0\0\0\0\0\xc3\xa4")
    + png_chunk(b"zTXt", b"Long\0\0x\x9c\x03\0\0\0\0\x01")
)
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "profile": {"icc_profile": PROFILE, "dpi": (300.0, 299.0), "comment": b"A comment"},
    "numbers": {"png_color": P3 + png_chunk(b"sRGB", b"\0"), "png_texts": TEXTS},
    "gamma": {"png_color": GAMMA, "exif": EXIF, "iptc": b"\x1c\x02\x78\x00\x05Hello"},
    "xmp": {"xmp": b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a/></x:xmpmeta>'},
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
@pytest.mark.parametrize("mode", CHANNELS)
def test_what_surrounds_the_pixels_is_what_pillow_writes(mode: str, name: str) -> None:
    image = picture(mode, (64, 48))
    image.info.update(DESCRIPTIONS[name])
    if mode in ("L", "RGB"):
        image.info["transparency"] = 3 if mode == "L" else (1, 2, 3)
    options, dropped = metadata.save_options(image, "PNG")
    assert not dropped
    by_pillow = io.BytesIO()
    image.save(by_pillow, "PNG", **options)

    ours, pillows = (
        [chunk for chunk in check_png(data) if chunk[0] != b"IDAT"]
        for data in (files.encode(image, "PNG"), by_pillow.getvalue())
    )

    assert ours == pillows
    kinds = {
        "profile": {b"iCCP", b"pHYs", b"tEXt"},
        "numbers": {b"cICP", b"sRGB", b"tEXt", b"iTXt", b"zTXt"},
        "gamma": {b"gAMA", b"cHRM", b"eXIf", b"zTXt"},
        "xmp": {b"iTXt"},
    }
    assert kinds.get(name, set()) <= {kind for kind, _ in ours}
    assert (b"tRNS" in dict(ours)) == (mode in ("L", "RGB"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_frames_of_an_animation_come_back_as_they_were(mode: str) -> None:
    frames = [picture(mode, (403, 301), seed) for seed in range(3)]
    frames[0].info["icc_profile"] = PROFILE
    stream = io.BytesIO()

    shots = [Shot(frame, 100) for frame in frames]
    write_sequence(stream, shots, "PNG", count=3, has_alpha=mode == "RGBA")

    assert b"iCCP" in dict(check_png(stream.getvalue()))
    animation = Image.open(stream)
    for index, frame in enumerate(frames):
        animation.seek(index)
        assert_same(animation.convert(mode), frame)


def gradient() -> Image.Image:
    y, x = np.mgrid[:700, :900]
    values = np.stack([x * 255 // 899, y * 255 // 699, (x + y) * 255 // 1600], axis=2)
    return Image.fromarray(values.astype(np.uint8))


def drawing() -> Image.Image:
    image = Image.new("RGB", (1200, 800), (250, 250, 250))
    draw = ImageDraw.Draw(image)
    for y in range(10, 780, 14):
        draw.text((10, y), f"def line_{y}(self): return the quick brown fox" * 3, (30, 30, 60))
    draw.rectangle((800, 0, 1200, 800), (32, 34, 40))
    draw.ellipse((850, 100, 1150, 400), (200, 80, 60))
    return image


@pytest.mark.parametrize("name", ["drawing", "gradient", "photograph"])
def test_files_are_about_as_small_as_pillows_at_level_1(name: str, photograph: Path) -> None:
    pictures = {
        "drawing": drawing(),
        "gradient": gradient(),
        "photograph": files.open_picture(photograph),
    }
    image = pictures[name]
    by_pillow = io.BytesIO()
    image.save(by_pillow, "PNG", compress_level=1)

    assert len(files.encode(image, "PNG")) < 1.1 * len(by_pillow.getvalue())


def test_a_picture_without_pixels_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        files.encode(Image.new("RGB", (0, 5)), "PNG")


def test_an_upscaled_frame_is_written_from_where_it_is() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (301, 500, 3), dtype=np.uint8)
    for frame in (wide, wide[:, :403]):  # a cropped one is not contiguous
        image = FrameImage(frame)

        data = files.encode(image, "PNG")

        assert image.frame is not None
        np.testing.assert_array_equal(np.asarray(opened(data)), frame)
