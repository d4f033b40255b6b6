"""Videos with still parts through the real network: what is not computed again is what it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rt4ksr_client import Upscaler
from rt4ksr_client.contract import models_for
from rt4ksr_client.video import VideoOptions, upscale_video
from rt4ksr_client.video.planes import from_video_frame
from rt4ksr_client.video.unchanged import RequestCost
from rt4ksr_server import TritonServer
from support.videos import decoded, make_video

pytestmark = pytest.mark.server

MODELS = {bits: models_for("video", bits)[2].name for bits in (8, 16)}
LOSSLESS = {"x264-params": "qp=0"}
MOVING, RESTING, SIZE = 6, 3, (330, 186)


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[TritonServer]:
    with TritonServer(root / "model_repository", models=[*MODELS.values()]) as running:
        yield running


def moving_box(index: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Two scenes, in each a box that moves and then rests."""
    scene, index = divmod(index, MOVING + RESTING)
    width, height = size
    frame = np.random.default_rng(scene).integers(0, 256, (height, width, 3), np.uint8)
    left = 20 * min(index, MOVING - 1)
    frame[30:60, left : left + 24] = (200, 40, 30)
    return frame


@pytest.mark.parametrize("bits", [8, 16])
def test_frames_computed_in_part_are_those_computed_whole(
    bits: int, server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may measure that tiles do not pay.
    cost = RequestCost(fixed_s=0.0, px_s=1.0)
    monkeypatch.setattr(RequestCost, "measured", lambda *_: cost)
    source = make_video(
        tmp_path / "in.mkv",
        frames=2 * (MOVING + RESTING),
        size=SIZE,
        draw=moving_box,
        pixel_format="yuv420p" if bits == 8 else "yuv420p10le",
        encoder=LOSSLESS,
    )
    # FFV1 is lossless; rounding 16 bits to 10 may add a level to one that tiles differ by.
    with Upscaler(server.grpc_url, model=MODELS[bits], timeout_s=30) as upscaler:
        done = upscale_video(source, tmp_path / "out.mkv", upscaler, VideoOptions(codec="ffv1"))
        whole = [upscaler.upscale(frame) for frame in decoded(source)]

    differing, count = 0, 0
    for frame, expected in zip(decoded(tmp_path / "out.mkv"), whole, strict=True):
        found, wanted = from_video_frame(frame, bits), from_video_frame(expected, bits)
        for plane, other in ((found.luma, wanted.luma), (found.chroma, wanted.chroma)):
            levels = np.abs(plane.astype(int) - other) >> (0 if bits == 8 else 6)
            assert levels.max() <= 1
            differing, count = differing + int((levels > 0).sum()), count + levels.size
    assert differing <= 1e-4 * count
    savings = done.savings
    assert savings.unchanged_frames == 2 * RESTING
    assert savings.whole_frames + savings.partly_computed_frames == 2 * MOVING
    assert savings.partly_computed_frames
    assert savings.computed_share < 0.6


def test_the_command_says_how_much_was_saved(server: TritonServer, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", frames=5, size=SIZE, encoder=LOSSLESS)
    words: list[Any] = ["video", source, "-o", tmp_path / "out.mkv", "--json", "-v"]
    words += ["--url", server.grpc_url, "--preset", "ultrafast"]

    result = subprocess.run(
        [sys.executable, "-c", "from rt4ksr_client.cli import main; main()", *words],
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stderr
    row = json.loads(result.stdout)
    assert (row["whole_frames"], row["unchanged_frames"]) == (1, 4)
    assert row["computed_share"] == pytest.approx(0.2)
    assert "computed 20.0% of the pixels" in result.stderr
