from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt4ksr_client.cli import main
from rt4ksr_export.evaluation import bicubic, evaluate, pairs, summary_table
from rt4ksr_export.scores import luma, psnr_db, ssim


def test_psnr_follows_its_formula_inside_the_border() -> None:
    true = np.full((20, 20, 3), 100, np.uint8)
    test = true + np.uint8(5)
    test[0] = 0

    assert psnr_db(true, test, border=4) == pytest.approx(20 * np.log10(255 / 5))
    assert psnr_db(true, test, border=0) < psnr_db(true, test, border=4)
    assert psnr_db(true, true, border=4) == float("inf")


def test_luma_is_bt601_in_limited_range() -> None:
    pixels = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)

    assert luma(pixels)[0] == pytest.approx([16, 235, 81.481])


def test_ssim_is_one_for_equal_pictures_and_less_for_others() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)

    assert ssim(true, true, 4) == pytest.approx(1.0)
    assert ssim(true, 255 - true, 4) < 0.5


def test_the_small_picture_fits_the_scale_and_is_worse_as_jpeg(photograph: Path) -> None:
    large = np.asarray(Image.open(photograph))[:127, 300:441]

    made = {name: (np.asarray(small), cropped) for name, small, cropped in pairs(large, 3)}

    assert {cropped.shape for _, cropped in made.values()} == {(126, 138, 3)}
    assert {small.shape for small, _ in made.values()} == {(42, 46, 3)}
    clean = made["clean"][0].astype(int)
    errors = [float(np.abs(made[name][0] - clean).mean()) for name in ("JPEG 90", "JPEG 75")]
    assert 0 < errors[0] < errors[1]


def test_the_summary_names_the_worst_picture(photograph: Path) -> None:
    whole = np.asarray(Image.open(photograph))
    pictures = [("bark", whole[100:200, 100:200]), ("sky", whole[:100, 900:1000])]
    worse = bicubic(2)

    scores = list(
        evaluate(
            pictures, 2, {"bicubic": bicubic(2), "dark": lambda small: worse(small) // np.uint8(2)}
        )
    )

    clean = next(r for r in summary_table(scores, "bicubic") if r.method == "dark")
    assert clean.gain_db < 0
    assert clean.worst_gain_db == pytest.approx(
        min(
            dark.psnr_rgb_db - plain.psnr_rgb_db
            for plain, dark in zip(scores[0::2], scores[1::2], strict=True)
            if plain.condition == "clean"
        )
    )
    assert clean.worst_picture in ("bark", "sky")


@pytest.mark.parametrize("scale", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_shipped_weights_beat_bicubic_on_a_photograph_outside_their_training_set(
    scale: int, photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.open(photograph).crop((200, 200, 700, 500)).save(tmp_path / "nuthatch.png")
    data, plot = str(tmp_path), str(tmp_path / "gains.png")

    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--data", data, "--scale", str(scale), "--json", "--plot", plot])

    assert not ended.value.code
    summary = json.loads(capsys.readouterr().out)["summary"]
    gains = {r["condition"]: r["gain_db"] for r in summary if r["method"] != "bicubic"}
    assert gains["clean"] > 0.1
    with Image.open(plot) as drawn:
        assert drawn.width > 500
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--data", data, "--scale", str(scale), "--plot", plot])
    assert ended.value.code == 1
    assert "gains.png: the file exists: --overwrite" in capsys.readouterr().err


def test_auto_scores_all_shipped_weights_and_the_choice(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.open(photograph).crop((300, 200, 500, 360)).save(tmp_path / "nuthatch.png")
    words = ["evaluate", "--data", str(tmp_path), "--scale", "2", "--weights", "auto"]

    with pytest.raises(SystemExit) as ended:
        main([*words, "--condition", "clean", "--condition", "jpeg 75, png", "--json"])

    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    chosen = {row["condition"]: list(row["chosen"]) for row in found["regrets"]}
    assert chosen == {"clean": ["rt4ksr_x2"], "JPEG 75, PNG": ["rt4ksr_x2_jpeg_low"]}
    methods = {row["method"] for row in found["summary"]}
    assert {"bicubic", "rt4ksr_x2", "rt4ksr_x2_jpeg", "auto"} <= methods


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--condition", "gif"], "is not a condition"),
        (["--video", "--weights", "auto"], "auto is for photographs"),
        (["--video", "--curve", "curve.png"], "are for photographs"),
        (["--curve", "curve.png", "--condition", "clean"], "needs two qualities of JPEG"),
    ],
)
def test_contradictory_options_are_wrong_usage(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")

    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--data", str(tmp_path), "--scale", "2", *words])

    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
