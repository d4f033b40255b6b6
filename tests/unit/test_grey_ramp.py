"""A flat grey ramp through the shipped graphs of 16 bits: what banding in HDR video depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from rt4ksr_client.contract import INPUTS, models_for
from rt4ksr_client.frames import Yuv420
from rt4ksr_client.video.colours import ColourTags
from rt4ksr_client.video.planes import from_video_frame, samples, to_video_frame

DEPTH, BLACK, WHITE, GREY = 10, 64, 940, 512
PQ = ColourTags(DEPTH, matrix=9, primaries=9, transfer=16)
REACH_PX = 20
"""More than the network's reach, so that a frame's border is not part of what is measured."""


@pytest.fixture(params=[2, 3], ids=["x2", "x3"])
def scale(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def session(root: Path, scale: int) -> onnxruntime.InferenceSession:
    name = models_for("video", bits=16)[scale].name
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = root / "model_repository" / name / "1" / "model.onnx"
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def upscaled(session: onnxruntime.InferenceSession, luma: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the 10-bit planes that a video of 10-bit ``luma`` becomes, without their borders."""
    chroma = np.full((luma.shape[0] // 2, luma.shape[1] // 2, 2), GREY << 6, np.uint16)
    source = Yuv420(np.left_shift(luma, 6).astype(np.uint16), chroma)
    decoded = from_video_frame(to_video_frame(source, "yuv420p10le", PQ))
    planes = (decoded.luma[None, ..., None], decoded.chroma[None])
    names = [tensor.name for tensor in INPUTS["yuv420"]]
    large, colours = session.run(None, dict(zip(names, planes, strict=True)))
    frame = to_video_frame(Yuv420(large[0, ..., 0], colours[0]), "yuv420p10le", PQ)
    scale = large.shape[1] // luma.shape[0]
    edges = (REACH_PX * scale, REACH_PX * scale // 2, REACH_PX * scale // 2)
    return [
        samples(plane, DEPTH)[edge:-edge, edge:-edge].astype(int)
        for plane, edge in zip(frame.planes, edges, strict=True)
    ]


def test_flat_grey_of_ten_bits_comes_out_within_a_code(
    session: onnxruntime.InferenceSession,
) -> None:
    for code in range(BLACK, WHITE + 1, 12):
        luma, u, v = upscaled(session, np.full((48, 48), code))

        assert np.abs(luma - code).max() <= 1
        assert np.abs(u - GREY).max() <= 1
        assert np.abs(v - GREY).max() <= 1


def test_a_gradient_of_ten_bits_comes_out_within_a_code(
    session: onnxruntime.InferenceSession, scale: int
) -> None:
    codes = np.arange(BLACK, WHITE + 1).repeat(4)  # a code every four pixels

    luma, u, v = upscaled(session, np.tile(codes, (48, 1)))

    places = (np.arange(scale * codes.size) + 0.5) / scale / 4 - 0.5  # of pixels, in codes
    line = (BLACK + places)[REACH_PX * scale : -REACH_PX * scale]
    assert np.abs(luma - line).max() < 1.5  # a code, and what the steps of the source are off
    four_codes = luma[:, : luma.shape[1] // (16 * scale) * 16 * scale].reshape(-1, 16 * scale)
    assert (np.diff(four_codes.mean(axis=1).reshape(len(luma), -1), axis=1) > 2).all()
    assert np.abs(u - GREY).max() <= 1
    assert np.abs(v - GREY).max() <= 1
