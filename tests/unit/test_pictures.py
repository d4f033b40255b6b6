"""Pictures of every mode: taken apart for the network, put together again."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, JpegImagePlugin

from rt4ksr_client import files
from rt4ksr_client.errors import PictureError
from rt4ksr_client.frames import Frame
from rt4ksr_client.pictures import FrameImage, PictureWarning, join, split


def doubled(frame: Frame) -> Frame:
    return frame.repeat(2, axis=0).repeat(2, axis=1)


def enlarged(image: Image.Image) -> Image.Image:
    frame, side_data = split(image)
    return join(doubled(frame), side_data)


def noise(mode: str, size: tuple[int, int] = (12, 10)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return (
        Image.fromarray(values).convert(mode)
        if mode != "CMYK"
        else Image.fromarray(values[:, :, :3]).convert("CMYK")
    )


@pytest.mark.parametrize(
    ("mode", "result"),
    [
        ("1", "L"),
        ("L", "L"),
        ("LA", "LA"),
        ("P", "RGB"),
        ("RGB", "RGB"),
        ("RGBA", "RGBA"),
        ("RGBa", "RGBA"),
        ("CMYK", "RGB"),
        ("YCbCr", "RGB"),
        ("HSV", "RGB"),
    ],
)
def test_every_8_bit_mode_comes_back_twice_as_large(mode: str, result: str) -> None:
    image = (
        noise("RGBA").convert("RGB").convert(mode)
        if mode not in ("LA", "RGBA", "RGBa")
        else (noise("RGBA").convert("LA") if mode == "LA" else noise("RGBA").convert(mode))
    )

    large = enlarged(image)

    assert (large.mode, large.size) == (result, (24, 20))


def test_gray_survives_the_conversion_to_rgb_and_back() -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))

    np.testing.assert_array_equal(np.asarray(enlarged(image)), doubled(np.asarray(image)))


def test_invisible_colours_do_not_bleed_into_visible_edges() -> None:
    image = Image.new("RGBA", (16, 16), (0, 255, 0, 0))
    image.paste((200, 30, 30, 255), (4, 4, 12, 12))

    large = np.asarray(enlarged(image)).astype(int)

    visible = large[large[:, :, 3] > 16]
    assert np.abs(visible[:, :3] - (200, 30, 30)).max() <= 8


def test_a_palette_with_one_transparent_colour_keeps_it() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    image.info["transparency"] = 0

    large = enlarged(image)

    assert large.mode == "RGBA"
    assert large.getpixel((7, 7)) == (0, 0, 255, 255)
    assert np.asarray(large)[0, 0, 3] < 64


def test_16_bit_gray_is_rounded_to_8_with_a_warning() -> None:
    values = np.array([[0, 128, 129], [257, 32768, 65535]], dtype=np.uint16)

    with pytest.warns(PictureWarning, match="16 bits"):
        frame, _ = split(Image.fromarray(values))

    assert frame[:, :, 0].tolist() == [[0, 0, 1], [1, 128, 255]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pictures_are_rejected(mode: str) -> None:
    with pytest.raises(PictureError, match="32 bits"):
        split(Image.new(mode, (4, 4)))


def test_a_picture_without_pixels_is_rejected() -> None:
    with pytest.raises(PictureError, match="no pixels"):
        split(Image.new("RGB", (0, 4)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_reset(orientation: int) -> None:
    upright = noise("RGBA", (12, 8)).convert("RGB")
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if inverse is None else upright.transpose(inverse)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Artist] = "A"
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", exif=exif)

    large = enlarged(Image.open(buffer))

    np.testing.assert_array_equal(np.asarray(large), doubled(np.asarray(upright)))
    kept = Image.Exif()
    kept.load(large.info["exif"])
    assert dict(kept) == {ExifTags.Base.Artist: "A"}


def test_cmyk_with_a_profile_becomes_srgb_without_it() -> None:
    image = Image.new("CMYK", (4, 4), (0, 0, 0, 0))
    image.info["icc_profile"] = b"not a profile"

    with pytest.warns(PictureWarning, match="CMYK"):
        large = enlarged(image)

    assert large.getpixel((0, 0)) == (255, 255, 255)
    assert "icc_profile" not in large.info


@pytest.mark.parametrize("white", [1023, 65535])
def test_a_gray_file_of_10_or_16_bits_becomes_8_with_a_warning(white: int) -> None:
    values = np.linspace(0, white, 64).round().astype(">u2").reshape(8, 8)
    file = io.BytesIO(b"P5 8 8 %d\n" % white + values.tobytes())

    with pytest.warns(PictureWarning, match="16 bits"):
        frame, side_data = split(files.decode(file, "deep.pgm"))

    expected = np.rint(values.astype(float) * 255 / white)
    assert side_data.gray
    assert np.abs(frame[:, :, 0] - expected).max() <= 1


def test_layout_tags_of_a_small_tiff_do_not_end_up_in_the_large_one() -> None:
    small = files.encode(noise("RGBA", (64, 48)).convert("RGB"), "TIFF")
    large = enlarged(files.decode(io.BytesIO(small), "small.tiff"))

    again = files.decode(io.BytesIO(files.encode(large, "TIFF")), "large.tiff")

    np.testing.assert_array_equal(np.asarray(again), np.asarray(large))


@pytest.mark.parametrize(
    ("format_name", "options", "sampling"),
    [
        ("JPEG", {"subsampling": "4:2:0"}, "4:2:0"),
        ("JPEG", {"subsampling": "4:2:2"}, "4:2:0"),
        ("JPEG", {"subsampling": "4:4:4"}, "4:4:4"),
        ("PNG", {}, "4:4:4"),
    ],
    ids=str,
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_has_full_colour_resolution_unless_its_source_had_half(
    format_name: str, options: dict[str, Any], sampling: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    small = io.BytesIO()
    noise("RGB").save(small, format_name, exif=exif, **options)

    large = files.encode(enlarged(files.decode(small, "small")), "JPEG")

    found = JpegImagePlugin.get_sampling(Image.open(io.BytesIO(large)))
    assert ("4:4:4", "4:2:2", "4:2:0")[found] == sampling


def frame_image() -> FrameImage:
    return FrameImage(np.asarray(noise("RGB", (13, 11))).copy())


@pytest.mark.parametrize(
    "use",
    [
        lambda image: image.copy(),
        lambda image: image.convert("RGB"),
        lambda image: image.crop((1, 2, 9, 8)),
        lambda image: image.resize((5, 4)),
        lambda image: image.transpose(Image.Transpose.ROTATE_90),
        lambda image: Image.merge("RGB", image.split()),
        lambda image: Image.blend(image, image, 0.5),
        lambda image: pickle.loads(pickle.dumps(image)),
        lambda image: copy.copy(image),
        lambda image: copy.deepcopy(image),
        lambda image: Image.fromarray(np.asarray(image)),
        lambda image: files.decode(io.BytesIO(files.encode(image, "BMP")), "bmp"),
    ],
)
def test_an_upscaled_frame_is_a_picture_like_any_other(
    use: Callable[[Image.Image], Image.Image],
) -> None:
    image = frame_image()
    plain = Image.fromarray(np.asarray(image))

    assert use(image).tobytes() == use(plain).tobytes()
    assert image == plain
    assert image.getpixel((3, 4)) == plain.getpixel((3, 4))


def test_an_upscaled_frame_can_be_changed_without_changing_what_was_read_from_it() -> None:
    image = frame_image()
    before = np.asarray(image)
    expected = before.copy()
    assert np.shares_memory(before, np.asarray(image))
    assert not before.flags.writeable

    image.putpixel((0, 0), (1, 2, 3))
    image.paste((4, 5, 6), (5, 5, 7, 7))
    del image

    np.testing.assert_array_equal(before, expected)


def test_the_pixels_of_an_upscaled_frame_outlive_its_picture() -> None:
    image = frame_image()
    expected = np.asarray(image).copy()
    read = np.asarray(image)

    image.close()

    with pytest.raises(ValueError, match="closed"):
        image.getpixel((0, 0))
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("size", [(1, 1), (70_000, 3), (1001, 701)])
def test_the_frame_of_a_picture_of_any_size_holds_its_pixels(size: tuple[int, int]) -> None:
    image = noise("RGB", (1, 1)).resize(size)
    image.putpixel((size[0] - 1, size[1] - 1), (1, 2, 3))

    np.testing.assert_array_equal(split(image)[0], np.asarray(image))


def test_a_frame_that_was_upscaled_is_upscaled_again_from_where_it_is() -> None:
    frame = np.asarray(noise("RGB", (13, 11))).copy()

    assert np.shares_memory(split(FrameImage(frame))[0], frame)
