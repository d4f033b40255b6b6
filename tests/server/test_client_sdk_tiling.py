"""Tiling against the real network, whose halo it relies on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt4ksr_client import Upscaler
from rt4ksr_client.contract import MODELS
from rt4ksr_server import TritonServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[TritonServer]:
    with TritonServer(root / "model_repository") as running:
        yield running


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [(360, 640), (241, 333)])
def test_a_picture_sent_in_tiles_is_the_one_sent_whole(
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
