"""Which of a server's models a picture goes to, by rules that the models state themselves."""

from __future__ import annotations

import pytest

from rt4ksr_client.contract import MODELS, ModelSpec
from rt4ksr_client.formats.compression import UNCOMPRESSED, Compression
from rt4ksr_client.model_choice import model_for

DEFAULT = ModelSpec("x2", 2, 64, 64)
LIGHT = ModelSpec("light", 2, 64, 64, max_jpeg_quality=98, max_jpeg_quality_444=90)
STRONG = ModelSpec("strong", 2, 64, 64, max_jpeg_quality=82, max_jpeg_quality_444=70)
OTHERS = (
    ModelSpec("x3_strong", 3, 64, 64, max_jpeg_quality=82, max_jpeg_quality_444=70),
    ModelSpec("video", 2, 64, 64, "video", "yuv420", max_jpeg_quality=82),
)


def chosen(quality: float, *offered: ModelSpec, full_chroma: bool = False) -> str:
    compression = Compression(quality, full_chroma, "in a test")
    return model_for(compression, DEFAULT, [DEFAULT, *OTHERS, *offered]).name


@pytest.mark.parametrize(
    ("quality", "subsampled", "full"),
    [
        (10, "strong", "strong"),
        (70.4, "strong", "strong"),
        (75, "strong", "light"),
        (82.4, "strong", "light"),
        (83, "light", "light"),
        (91, "light", "x2"),
        (98, "light", "x2"),
        (99, "x2", "x2"),
    ],
)
def test_the_lowest_limit_that_fits_wins(quality: float, subsampled: str, full: str) -> None:
    for order in ((LIGHT, STRONG), (STRONG, LIGHT)):
        assert chosen(quality, *order) == subsampled
        assert chosen(quality, *order, full_chroma=True) == full


def test_models_that_the_server_lacks_are_skipped() -> None:
    assert chosen(75, LIGHT) == "light"
    assert chosen(90, STRONG) == "x2"
    assert chosen(75) == "x2"


def test_a_clean_picture_goes_to_the_default() -> None:
    assert model_for(UNCOMPRESSED, DEFAULT, [LIGHT, STRONG]) is DEFAULT


def test_equal_limits_are_decided_by_name() -> None:
    twin = ModelSpec("another", 2, 64, 64, max_jpeg_quality=82, max_jpeg_quality_444=70)

    assert chosen(75, STRONG, twin) == chosen(75, twin, STRONG) == "another"


def test_the_shipped_models_leave_no_compressed_picture_to_the_default() -> None:
    for scale in (2, 3):
        default = MODELS[f"rt4ksr_x{scale}"]
        for quality in (20, 60, 75, 85, 95):
            for full_chroma in (False, True):
                compression = Compression(quality, full_chroma, evidence="in a test")
                kind = model_for(compression, default, MODELS.values()).content
                low = "jpeg_low" if quality <= 75 else "jpeg"
                if full_chroma and quality == 95:
                    assert kind == "any"
                else:
                    assert kind == ("jpeg_low" if full_chroma else low)


@pytest.mark.parametrize(("limit", "limit_444"), [(101, 0), (80, 101), (-1, -1)])
def test_limits_out_of_range_are_rejected(limit: int, limit_444: int) -> None:
    with pytest.raises(ValueError, match="a JPEG quality is"):
        ModelSpec("x2", 2, 64, 64, max_jpeg_quality=limit, max_jpeg_quality_444=limit_444)
