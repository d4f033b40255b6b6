"""The page of ``rt4ksr compare``."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image, ImageCms

from rt4ksr_client.cli.compare import bicubic_beside, compare_page
from rt4ksr_client.formats.container import png_chunk


def pictures_in(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def described(size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, (200, 50, 50))
    exif = Image.Exif()
    exif[0x013B] = "Somebody"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.info |= {"exif": exif.tobytes(), "icc_profile": profile}
    return image


def test_the_page_holds_both_pictures_in_the_same_size_and_colours() -> None:
    source, upscaled = described((64, 48)), described((128, 96))

    pictures = pictures_in(compare_page(source, upscaled, "in.jpg"))

    assert [picture.size for picture in pictures] == [(128, 96)] * 2
    profiles = [picture.info["icc_profile"] for picture in pictures]
    assert profiles == [source.info["icc_profile"]] * 2


def test_the_page_has_the_colours_of_a_picture_that_states_them_in_numbers() -> None:
    source, upscaled = Image.new("RGB", (8, 6)), Image.new("RGB", (16, 12))
    for image in (source, upscaled):
        image.info["png_color"] = png_chunk(b"cICP", bytes([12, 13, 0, 1]))

    for picture in pictures_in(compare_page(source, upscaled, "in.png")):
        assert b"Display P3" in picture.info["icc_profile"]


def test_the_page_has_no_metadata_but_the_colour_profile() -> None:
    source, upscaled = described((64, 48)), described((128, 96))

    pictures = pictures_in(compare_page(source, upscaled, "in.jpg"))

    assert not any(picture.getexif() for picture in pictures)
    assert "exif" in source.info
    assert "exif" in upscaled.info


@pytest.mark.parametrize("title", ["a <b> & {width}", "$width %s \N{SNOWMAN}"])
def test_any_file_name_is_text_on_the_page(title: str) -> None:
    page = compare_page(described((8, 8)), described((16, 16)), title)

    assert "<b>" not in page
    assert re.search(r"\{width\}|\$width", page)


def test_transparent_pictures_are_compared_on_white() -> None:
    hidden_green = Image.new("RGBA", (8, 8), (0, 255, 0, 0))

    for image in bicubic_beside(hidden_green, hidden_green.resize((16, 16))):
        assert (np.asarray(image) == 255).all()


def test_the_page_needs_no_other_file_and_escapes_its_title() -> None:
    small = Image.new("RGBA", (8, 6), (255, 0, 0, 128))

    page = compare_page(small, small.resize((16, 12)), '<a "b">')

    assert "&lt;a &quot;b&quot;&gt;" in page
    assert page.count("data:image/webp;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert [image.size for image in bicubic_beside(small, small.resize((16, 12)))] == [(16, 12)] * 2
