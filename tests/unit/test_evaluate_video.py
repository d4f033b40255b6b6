from __future__ import annotations

import json
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rt4ksr_client.cli import main
from rt4ksr_client.errors import VideoError
from rt4ksr_client.frames import Yuv420
from rt4ksr_export.degradations import Codec
from rt4ksr_export.evaluation import bicubic
from rt4ksr_export.video_evaluation import (
    CODECS,
    FRAMES,
    MOTION_PX,
    VideoScores,
    bicubic_planes,
    by_rgb,
    clips,
    detail,
    evaluate_video,
    flicker,
    smallest_picture_px,
    summarize_video,
)
from rt4ksr_export.vmaf import Vmaf

GRAY = Yuv420(np.full((16, 24), 126, np.uint8), np.full((8, 12, 2), 128, np.uint8))


@pytest.fixture(scope="module")
def picture(photograph: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(photograph))[250:410, 400:600]


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def ffmpeg(folder: Path, filters: str, score: str) -> None:
    """Write a program that answers as FFmpeg does."""
    script = folder / "ffmpeg"
    answer = f"case $2 in -filters) echo '{filters}';; *) {score};; esac"
    script.write_text(f"#!{shutil.which('sh')}\n{answer}\n")
    script.chmod(0o755)


@pytest.mark.parametrize("scale", [2, 3])
def test_a_clip_pans_over_the_middle_of_its_picture(scale: int, picture: NDArray[np.uint8]) -> None:
    small, large = clips(picture, scale)

    assert len(small) == len(large) == FRAMES
    height, width = small[0].luma.shape
    assert height % 2 == width % 2 == 0
    assert {frame.luma.shape for frame in large} == {(height * scale, width * scale)}
    down, right = MOTION_PX
    for before, after in pairwise(large):
        np.testing.assert_array_equal(before.luma[down:, right:], after.luma[:-down, :-right])


def test_a_clip_shows_at_most_720p() -> None:
    assert clips(np.zeros((1500, 2400, 3), np.uint8), 3)[1][0].luma.shape == (720, 1278)


def test_the_smallest_picture_is_large_enough_for_every_codec() -> None:
    side = smallest_picture_px(3)

    scores = list(
        evaluate_video(
            [("noise", np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))],
            3,
            {"bicubic": bicubic_planes(3)},
            Vmaf(),
        )
    )

    assert [score.condition for score in scores] == list(CODECS)


def test_detail_is_one_for_the_reference_and_less_for_a_blurred_one() -> None:
    rng = np.random.default_rng(0)
    true = [rng.integers(0, 256, (40, 40)).astype(np.uint8) for _ in range(2)]
    blurred = [(plane // 2 + np.roll(plane, 1, 1) // 2).astype(np.uint8) for plane in true]

    assert detail(true, true, 4) == 1
    assert 0.2 < detail(true, blurred, 4) < 0.8
    flat = [np.full((40, 40), 9, np.uint8)]
    assert detail(flat, flat, 4) == 1


def test_flicker_counts_errors_that_change_and_none_that_stay() -> None:
    rng = np.random.default_rng(0)
    true = [rng.integers(50, 200, (40, 40)).astype(np.uint8) for _ in range(4)]

    assert flicker(true, [plane + np.uint8(7) for plane in true], 4) == 0
    steps = [plane + np.uint8(index % 2 * 6) for index, plane in enumerate(true)]
    assert flicker(true, steps, 4) == pytest.approx(6)


def test_the_way_by_rgb_keeps_gray_and_doubles_the_frame() -> None:
    upscaled = by_rgb(bicubic(2))(GRAY)

    assert upscaled.luma.shape == (32, 48)
    assert set(upscaled.luma.flat) == {126}
    assert set(upscaled.chroma.flat) == {128}


def test_gains_are_of_luma_and_the_worst_picture_is_named() -> None:
    def scores(picture: str, method: str, psnr_y_db: float) -> VideoScores:
        return VideoScores(picture, "H.264 23", method, psnr_y_db, 40, 41, 32, None, 0.5, 2)

    rows = summarize_video(
        [
            scores("sky", "bicubic", 40),
            scores("sky", "net", 39),
            scores("bark", "bicubic", 30),
            scores("bark", "net", 33),
        ],
        "bicubic",
    )

    net = rows[1]
    assert (net.gain_db, net.worst_gain_db, net.worst_picture) == (1, -1, "sky")
    assert (net.psnr_y_db, net.psnr_v_db, net.vmaf, net.flicker) == (36, 41, None, 2)


def test_a_blurred_result_scores_lower_in_everything(picture: NDArray[np.uint8]) -> None:
    sharp = bicubic_planes(2)

    def soft(frame: Yuv420) -> Yuv420:
        luma, chroma = (
            np.stack([plane, *(np.roll(plane, by, 1) for by in (-2, -1, 1, 2))]).mean(axis=0)
            for plane in (frame.luma, frame.chroma)
        )
        return sharp(Yuv420(luma.astype(np.uint8), chroma.astype(np.uint8)))

    codecs = {"H.264 18": Codec("libx264", 18, 18)}
    methods = {"sharp": sharp, "soft": soft}
    better, worse = evaluate_video([("bark", picture)], 2, methods, Vmaf(), codecs)

    assert (better.method, better.condition) == ("sharp", "H.264 18")
    for score in ("psnr_y_db", "psnr_u_db", "psnr_v_db", "psnr_rgb_db", "detail"):
        assert getattr(better, score) > getattr(worse, score)
    assert better.flicker < worse.flicker


def test_vmaf_says_why_there_is_none(no_ffmpeg: None, tmp_path: Path) -> None:
    vmaf = Vmaf()

    assert vmaf([GRAY], [GRAY]) is None
    assert vmaf.missing == "there is no program ffmpeg on PATH"


def test_vmaf_needs_an_ffmpeg_with_libvmaf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ffmpeg(tmp_path, " ... vmafmotion        V->V       Calculate the VMAF Motion score.", "true")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert Vmaf().missing == f"{tmp_path / 'ffmpeg'} was built without libvmaf"


def test_vmaf_is_what_ffmpeg_writes_for_the_planes_it_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check = (
        "import json, sys; from pathlib import Path; "
        "a, b = (Path(n).read_bytes() for n in ('clip', 'reference')); "
        "assert '24x16' in sys.argv and len(a) == len(b) == 2 * 24 * 16 * 3 // 2; "
        "mean = 80 + a[0] - b[0]; "
        "Path('vmaf.json').write_text(json.dumps({'pooled_metrics': {'vmaf': {'mean': mean}}}))"
    )
    python = f'{shlex.quote(sys.executable)} -c {shlex.quote(check)} "$@"'
    ffmpeg(tmp_path, " ... libvmaf           VV->V      Calculate the VMAF.", python)
    monkeypatch.setenv("PATH", str(tmp_path))
    brighter = Yuv420(GRAY.luma + np.uint8(3), GRAY.chroma)

    assert Vmaf()([GRAY, GRAY], [brighter, brighter]) == 83


def test_a_failure_of_ffmpeg_is_told_in_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ffmpeg(tmp_path, " ... libvmaf           VV->V      .", "echo could not load model >&2; exit 3")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(VideoError, match="ffmpeg gave no VMAF: could not load model"):
        Vmaf()([GRAY], [GRAY])


def test_the_command_scores_planes_and_rgb_on_every_codec(
    picture: NDArray[np.uint8],
    no_ffmpeg: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.fromarray(picture).save(tmp_path / "bark.png")
    command = ["evaluate", "--data", str(tmp_path), "--scale", "2", "--video"]
    weights = ["--weights", "rt4ksr_x2_video", "--weights", "rt4ksr_x2"]

    with pytest.raises(SystemExit) as ended:
        main([*command, *weights, "--json", "--plot", str(tmp_path / "gains.png")])

    assert not ended.value.code
    summary = json.loads(capsys.readouterr().out)["summary"]
    found = {(row["condition"], row["method"]): row for row in summary}
    methods = ("bicubic", "rt4ksr_x2_video", "rt4ksr_x2")
    assert list(found) == [(codec, method) for codec in CODECS for method in methods]
    tuned = [row for row in summary if row["method"] == "rt4ksr_x2_video"]
    assert all(row["gain_db"] > 0 and row["vmaf"] is None for row in tuned)
    with Image.open(tmp_path / "gains.png") as drawn:
        assert drawn.width > 500


def test_the_table_says_why_a_score_is_missing(
    picture: NDArray[np.uint8],
    no_ffmpeg: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.fromarray(picture).save(tmp_path / "bark.png")

    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--data", str(tmp_path), "--scale", "2", "--video"])

    assert not ended.value.code
    printed = capsys.readouterr().out
    assert "no VMAF: there is no program ffmpeg on PATH" in printed
    assert "rt4ksr_x2_video" in printed


def test_weights_for_video_are_not_scored_on_photographs(
    photograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("evaluate", "--data", str(photograph), "--scale", "2"),
                *("--weights", "rt4ksr_x2_video"),
            ]
        )

    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "rt4ksr_x2_video is for video in 4:2:0: score it with --video" in said
