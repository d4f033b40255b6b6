"""The SDK with the real networks: tiles that rely on their halo, and time that they take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rt4ksr_client import Upscaler, Yuv420
from rt4ksr_client.call import Call
from rt4ksr_client.connection import Connection
from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_client.transports import Transport, open_transport
from rt4ksr_server import TritonServer
from support.processes import settled

pytestmark = pytest.mark.server

VIDEO = ["rt4ksr_x2_video", "rt4ksr_x2_video16"]


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[TritonServer]:
    names = [spec.name for spec in DEFAULT_MODELS.values()] + VIDEO
    with TritonServer(root / "model_repository", models=names) as running:
        yield running


@pytest.mark.parametrize("model", [spec.name for spec in DEFAULT_MODELS.values()])
@pytest.mark.parametrize("size", [(360, 640), (241, 333)])
def test_a_picture_sent_in_tiles_equals_the_one_sent_whole(
    size: tuple[int, int], model: str, server: TritonServer, photograph: Path
) -> None:
    height, width = size
    frame = np.asarray(Image.open(photograph))[:height, :width]
    with (
        Upscaler(server.grpc_url, model=model) as whole,
        Upscaler(server.grpc_url, model=model, max_request_px=20_000) as tiled,
    ):
        difference = np.abs(whole.upscale(frame).astype(int) - tiled.upscale(frame))

    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.9999


@pytest.mark.parametrize("model", VIDEO)
def test_planes_sent_in_tiles_equal_those_sent_whole(
    model: str, server: TritonServer, photograph: Path
) -> None:
    luma, *chroma = Image.open(photograph).crop((0, 0, 333, 241)).convert("YCbCr").split()
    halves = np.stack([np.asarray(channel.reduce(2)) for channel in chroma], axis=-1)
    planes: list[Any] = [np.asarray(luma), halves]
    level = 1
    if model.endswith("16"):
        level = 64  # of 10 bits
        planes = [plane.astype(np.uint16) << 8 for plane in planes]
    frame = Yuv420(*planes)
    with (
        Upscaler(server.grpc_url, model=model) as whole,
        Upscaler(server.grpc_url, model=model, max_request_px=20_000) as tiled,
    ):
        one, other = whole.upscale(frame), tiled.upscale(frame)

    for a, b in ((one.luma, other.luma), (one.chroma, other.chroma)):
        difference = np.abs(a.astype(int) - b)
        assert difference.max() <= level
        assert (difference < level).mean() >= 0.9999


def busy_s(transport: Transport, model: str) -> float:
    """How long the server has been executing ``model``: a batch counts once."""

    def counted_ns() -> int:
        (statistics,) = transport.model_statistics(Call(10), model=model)
        stages = ("compute_input", "compute_infer", "compute_output")
        return sum(int(row[stage]["ns"]) for row in statistics["batch_stats"] for stage in stages)

    return settled(counted_ns, 0.5) / 1e9  # an execution is counted a little after its answer


def test_map_keeps_the_server_busy_while_the_caller_works(server: TritonServer) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (540, 960, 3), dtype=np.uint8)

    def busy_share() -> float:
        times_s = []
        for _ in range(3):
            begin_s = time.monotonic()
            upscaler.upscale(frame)
            times_s.append(time.monotonic() - begin_s)
        before_s = busy_s(watching, "rt4ksr_x2")
        begin_s = time.monotonic()
        for _ in upscaler.map(frame for _ in range(20)):
            time.sleep(min(times_s) / 2)
        duration_s = time.monotonic() - begin_s
        return (busy_s(watching, "rt4ksr_x2") - before_s) / duration_s

    with (
        open_transport(Connection(server.grpc_url, "grpc")) as watching,
        Upscaler(server.grpc_url, scale=2, transport="shm") as upscaler,
    ):
        upscaler.upscale(frame)  # the first one of a size is slower
        # One after the other, it would be 0.67 at most; other programs on the machine lower it.
        assert any(busy_share() > 0.8 for _ in range(5))
