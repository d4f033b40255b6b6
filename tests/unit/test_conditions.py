"""What small pictures go through before they are scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt4ksr_client.formats.compression import compression_of
from rt4ksr_export.conditions import ALL, CURVE, Condition
from rt4ksr_export.degradations import Pixels
from rt4ksr_export.evaluation import bicubic, evaluate, pairs, regrets
from rt4ksr_export.plots import plot_curve


@pytest.fixture
def large(photograph: Path) -> Pixels:
    return np.asarray(Image.open(photograph))[100:300, 300:556]


@pytest.mark.parametrize("condition", [*ALL, *CURVE], ids=str)
def test_a_condition_is_read_as_it_is_written(condition: Condition) -> None:
    assert Condition.parse(str(condition)) == condition
    assert Condition.parse(str(condition).lower()) == condition


@pytest.mark.parametrize(
    "text", ["", "jpeg", "JPEG 0", "JPEG 101", "GIF 3", "PNG 4", "WEBP 80 4:4:4", "JPEG 90, clean"]
)
def test_other_words_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not a condition: expected clean, JPEG 90"):
        Condition.parse(text)


def test_lower_qualities_are_worse(large: Pixels) -> None:
    conditions = [Condition.parse(text) for text in ("clean", "JPEG 95", "JPEG 40", "AVIF 40")]

    made = {name: np.asarray(small).astype(int) for name, small, _ in pairs(large, 2, conditions)}

    assert list(made) == ["clean", "JPEG 95", "JPEG 40", "AVIF 40"]
    errors = [float(np.abs(made[name] - made["clean"]).mean()) for name in made]
    assert 0 == errors[0] < errors[1] < errors[2]
    assert errors[3] > errors[1]


@pytest.mark.parametrize(
    ("text", "quality", "full_chroma"),
    [
        ("clean", None, True),
        ("JPEG 90", 90, False),
        ("JPEG 90 4:4:4", 90, True),
        ("WEBP 80", 92, False),
        ("JPEG 75, PNG", 75, False),
        ("JPEG 75, JPEG 98", 75, False),
    ],
)
def test_the_small_picture_is_as_a_user_opens_it(
    large: Pixels, text: str, quality: float | None, full_chroma: bool
) -> None:
    ((_, small, _),) = pairs(large, 2, [Condition.parse(text)])

    found = compression_of(small)

    assert found.quality == (quality and pytest.approx(quality, abs=2))
    assert found.full_chroma == full_chroma


def test_regrets_are_against_the_best_method(large: Pixels, tmp_path: Path) -> None:
    plain = bicubic(2)
    methods = {
        "bicubic": plain,
        "good": lambda small: plain(small),
        "dark": lambda small: plain(small) // np.uint8(2),
    }
    conditions = [Condition(), *(Condition.parse(f"JPEG {quality}") for quality in (90, 50))]

    def choose(small: Image.Image) -> str:
        return "dark" if (compression_of(small).quality or 100) < 60 else "good"

    scores = list(evaluate([("a", large)], 2, methods, conditions, choose))
    rows = {row.condition: row for row in regrets(scores, "bicubic")}

    assert {name: dict(row.chosen) for name, row in rows.items()} == {
        "clean": {"good": 1},
        "JPEG 90": {"good": 1},
        "JPEG 50": {"dark": 1},
    }
    assert rows["clean"].mean_db == rows["clean"].worst_db == 0
    assert rows["JPEG 50"].best_method == "good"
    assert rows["JPEG 50"].mean_db == pytest.approx(rows["JPEG 50"].worst_db)
    assert rows["JPEG 50"].worst_db > 5
    assert not regrets([score for score in scores if not score.chosen], "bicubic")

    plot_curve(scores, "bicubic", conditions, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as drawn:
        assert drawn.width > 500
