"""How strongly a picture was compressed: exactly by its tables, closely by its pixels."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.JpegPresets import presets

from rt4ksr_client import files
from rt4ksr_client.formats.compression import Compression, compression_of, quality_of_table


@pytest.fixture(scope="module")
def clean(photograph: Path) -> Image.Image:
    """A photograph without the traces of its own file."""
    with Image.open(photograph) as opened_file:
        image: Image.Image = opened_file.convert("RGB")
    return image.resize((426, 240), Image.Resampling.BICUBIC)


def saved(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def jpeg(image: Image.Image, quality: int, subsampling: str = "4:2:0") -> Image.Image:
    return opened(saved(image, "JPEG", quality=quality, subsampling=subsampling))


def pixels_of(image: Image.Image) -> Image.Image:
    """The picture as a PNG has it: without tables."""
    return Image.fromarray(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("quality", [1, 10, 30, 50, 60, 75, 80, 85, 90, 92, 95, 97, 98, 99, 100])
def test_a_jpeg_file_says_its_quality(clean: Image.Image, quality: int, subsampling: str) -> None:
    found = compression_of(jpeg(clean, quality, subsampling))

    assert found.quality == pytest.approx(quality, abs=0.51)
    assert found.full_chroma == (subsampling == "4:4:4")
    assert found.evidence == "by its quantization tables"


@pytest.mark.parametrize("name", presets)
def test_photoshops_tables_count_by_what_they_do_to_luma(clean: Image.Image, name: str) -> None:
    gray = clean.convert("L")

    def error(image: Image.Image) -> float:
        difference = np.asarray(image, dtype=np.float64) - np.asarray(gray)
        return float(np.square(difference).mean())

    tables: Any = presets[name]["quantization"]
    image = opened(saved(gray, "JPEG", qtables=[list(tables[0])]))
    quality = compression_of(image).quality

    assert quality is not None
    better, worse = (jpeg(gray, round(quality) + step) for step in (8, -8))
    assert error(better if quality < 94 else gray) <= error(image) <= error(worse)


def test_flat_tables_count_by_their_size(clean: Image.Image) -> None:
    qualities = [quality_of_table([step] * 64) for step in (1, 4, 16, 64)]

    assert qualities == sorted(qualities, reverse=True)
    assert qualities[0] > 98
    assert qualities[3] < 50


@pytest.mark.parametrize(
    ("quality", "offset"),
    [
        (98, (0, 0)),
        (95, (0, 0)),
        *itertools.product([90, 75, 50, 25], [(0, 0), (3, 5), (0, 7), (4, 0)]),
    ],
)
def test_pixels_show_the_quality_of_a_jpeg_that_became_a_png(
    clean: Image.Image, quality: int, offset: tuple[int, int]
) -> None:
    decoded = jpeg(clean, quality)

    found = compression_of(pixels_of(decoded.crop((*offset, *decoded.size))))

    assert found.quality == pytest.approx(quality, abs=3)
    assert not found.full_chroma
    assert found.evidence == "by its pixels"


@pytest.mark.parametrize("quality", [90, 75])
def test_pixels_show_chroma_in_full(clean: Image.Image, quality: int) -> None:
    found = compression_of(pixels_of(jpeg(clean, quality, "4:4:4")))

    assert found.quality == pytest.approx(quality, abs=3)
    assert found.full_chroma


@pytest.mark.parametrize(("second", "offset"), [(92, (0, 0)), (98, (0, 0)), (98, (3, 5))])
def test_the_stronger_of_two_compressions_counts(
    clean: Image.Image, second: int, offset: tuple[int, int]
) -> None:
    once = jpeg(clean, 60)
    twice = jpeg(once.crop((*offset, *once.size)), second, "4:4:4")

    found = compression_of(twice)

    assert found.quality == pytest.approx(60, abs=3)
    assert not found.full_chroma
    assert compression_of(jpeg(jpeg(clean, 95), 60)).quality == pytest.approx(60, abs=0.51)


@pytest.mark.parametrize("quality", [95, 90, 75])
def test_saving_again_at_the_same_quality_changes_nothing(clean: Image.Image, quality: int) -> None:
    found = compression_of(jpeg(jpeg(clean, quality), quality))

    assert found.quality == pytest.approx(quality, abs=0.51)


def test_other_tables_show_in_pixels_too(clean: Image.Image) -> None:
    steps = np.add.outer(np.arange(8), np.arange(8)).ravel() + 5  # flatter than libjpeg's
    image = opened(saved(clean, "JPEG", qtables=[steps.tolist()] * 2, subsampling="4:4:4"))

    found, expected = compression_of(pixels_of(image)), compression_of(image)

    assert found.evidence == "by its pixels"
    assert found.quality == pytest.approx(expected.quality, abs=8)
    assert expected.evidence == "by its quantization tables"


def checkerboard(side: int, period_px: int) -> Image.Image:
    odd = np.add.outer(np.arange(side) // period_px, np.arange(side) // period_px) % 2
    return Image.fromarray((odd * 180 + 40).astype(np.uint8)).convert("RGB")


def tiles(side: int) -> Image.Image:
    """The same noisy tile of 8x8 pixels again and again."""
    tile = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(np.tile(tile, (side // 8, side // 8, 1)))


def pixel_art(side: int, pixel_px: int) -> Image.Image:
    colors = np.random.default_rng(1).integers(0, 256, (side // pixel_px,) * 2 + (3,), np.uint8)
    return Image.fromarray(colors).resize((side, side), Image.Resampling.NEAREST)


def gradient(side: int) -> Image.Image:
    ramp = np.linspace(0, 255, side)
    return Image.fromarray(np.add.outer(ramp, ramp).astype(np.uint16).astype(np.uint8) // 2)


def noise(side: int) -> Image.Image:
    values = np.random.default_rng(2).normal(128, 30, (side, side, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


NOT_COMPRESSED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "a photograph": lambda clean: clean,
    "sharpened": lambda clean: clean.resize((640, 360), Image.Resampling.LANCZOS),
    "few colors": lambda clean: clean.quantize(64).convert("RGB"),
    "few levels": lambda clean: clean.point(lambda value: value // 32 * 36),
    "gray": lambda clean: clean.convert("L"),
    "enlarged pixels": lambda clean: clean.resize((852, 480), Image.Resampling.NEAREST),
    "blocks of 8": lambda clean: clean.reduce(8).resize(clean.size, Image.Resampling.NEAREST),
    "an enlarged JPEG": lambda clean: pixels_of(
        jpeg(clean, 75).resize((852, 480), Image.Resampling.BICUBIC)
    ),
    "a reduced JPEG": lambda clean: pixels_of(
        jpeg(clean, 75).resize((300, 170), Image.Resampling.BICUBIC)
    ),
    "a checkerboard of 8": lambda _: checkerboard(256, 8),
    "a checkerboard of 4": lambda _: checkerboard(256, 4),
    "tiles": lambda _: tiles(256),
    "pixel art of 8": lambda _: pixel_art(256, 8),
    "pixel art of 2": lambda _: pixel_art(256, 2),
    "a gradient": lambda _: gradient(256),
    "noise": lambda _: noise(256),
    "one color": lambda _: Image.new("RGB", (256, 256), (90, 160, 30)),
    "a small icon": lambda clean: clean.resize((32, 32)),
}


@pytest.mark.parametrize("name", NOT_COMPRESSED)
def test_nothing_is_found_where_nothing_was_compressed(clean: Image.Image, name: str) -> None:
    found = compression_of(NOT_COMPRESSED[name](clean))

    assert found.quality is None, found
    assert str(found) == "no compression found"


@pytest.mark.parametrize("size", [(71, 71), (72, 72), (1, 300), (73, 200)])
def test_sizes_around_a_tile(clean: Image.Image, size: tuple[int, int]) -> None:
    small = clean.crop((0, 0, *size))

    assert compression_of(small).quality is None
    assert compression_of(jpeg(small, 70)).quality == pytest.approx(70, abs=0.51)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_any_mode_can_be_examined(clean: Image.Image, mode: str) -> None:
    image = Image.new("LAB", (90, 90)) if mode == "LAB" else clean.convert(mode)

    assert compression_of(image).quality is None


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_deep_pictures_have_no_compression(mode: str) -> None:
    assert compression_of(Image.new(mode, (100, 100))).quality is None


def test_a_picture_with_alpha_shows_its_compression(clean: Image.Image) -> None:
    image = pixels_of(jpeg(clean, 75))
    image.putalpha(128)

    assert compression_of(image).quality == pytest.approx(75, abs=3)


def test_a_cmyk_jpeg_counts_by_its_tables(clean: Image.Image) -> None:
    image = opened(saved(clean.convert("CMYK"), "JPEG", quality=70))

    assert compression_of(image).quality == pytest.approx(70, abs=0.51)


def decoded(content: bytes) -> Image.Image:
    """The picture as the command and the image endpoint read it."""
    return files.decode(io.BytesIO(content), "in")


@pytest.mark.parametrize("frames", [1, 2])
def test_a_lossy_webp_differs_from_a_lossless_one(
    clean: Image.Image, tmp_path: Path, frames: int
) -> None:
    more: dict[str, Any] = {}
    if frames > 1:
        more = {"save_all": True, "append_images": [clean.rotate(180)]}
    lossy = saved(clean, "WEBP", quality=80, **more)
    lossless = saved(clean, "WEBP", lossless=True, **more)
    for content, expected in ((lossy, True), (lossless, False)):
        path = tmp_path / f"{expected}.webp"
        path.write_bytes(content)
        with Image.open(path) as image:
            found = [compression_of(image)]
        found += [compression_of(decoded(content)), compression_of(files.decode(path, "in"))]
        assert [one.quality is not None for one in found] == [expected] * 3
        assert [one.full_chroma for one in found] == [not expected] * 3


@pytest.mark.parametrize(
    ("quality", "equivalent"), [(95, 97), (90, 95), (80, 92), (60, 85), (40, 78), (20, 72)]
)
@pytest.mark.parametrize("method", [0, 4, 6])
def test_a_lossy_webp_counts_by_its_quantizer(
    clean: Image.Image, quality: int, equivalent: int, method: int
) -> None:
    found = compression_of(decoded(saved(clean, "WEBP", quality=quality, method=method)))

    assert found.quality == pytest.approx(equivalent, abs=0.5)
    assert not found.full_chroma
    assert found.evidence == "by its WebP quantizer"


def test_a_webp_with_alpha_counts_by_its_quantizer(clean: Image.Image) -> None:
    clean = clean.copy()
    clean.putalpha(Image.linear_gradient("L").resize(clean.size))

    found = compression_of(decoded(saved(clean, "WEBP", quality=60)))

    assert found.quality == pytest.approx(85, abs=0.5)


def test_an_avif_counts_as_compressed(clean: Image.Image) -> None:
    found = compression_of(decoded(saved(clean, "AVIF", quality=60)))

    assert found == Compression(90.0, full_chroma=False, evidence="assumed for AVIF")


def test_a_description_says_what_and_by_which_evidence(clean: Image.Image) -> None:
    assert str(compression_of(jpeg(clean, 75))) == "JPEG 75, 4:2:0 (by its quantization tables)"
