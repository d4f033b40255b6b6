"""One repository, three configurations: a client cannot tell them apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from rt4ksr_client import Upscaler
from rt4ksr_client.contract import DEFAULT_MODELS, INPUT_NAME, ModelSpec
from rt4ksr_server import TritonServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[TritonServer]:
    wanted = [f"--load-model={spec.name}" for spec in DEFAULT_MODELS.values()]
    flags = ["--model-config-name=gpu", "--model-control-mode=explicit", *wanted]
    with TritonServer(root / "model_repository", extra_args=flags) as running:
        yield running


@pytest.mark.parametrize("spec", DEFAULT_MODELS.values(), ids=lambda spec: spec.name)
def test_the_gpu_configuration_serves_the_graph_in_half_precision(
    spec: ModelSpec, server: TritonServer, root: Path, photograph: Path
) -> None:
    frame = np.asarray(Image.open(photograph))[200:360, 300:500]
    answers = []
    for name in ("model_fp16.onnx", "model.onnx"):
        session = onnxruntime.InferenceSession(
            root / "model_repository" / spec.name / "1" / name, providers=["CPUExecutionProvider"]
        )
        answers.append(session.run(None, {INPUT_NAME: frame[np.newaxis]})[0][0])
    half, full = answers

    with Upscaler(server.grpc_url, model=spec.name) as upscaler:
        served = upscaler.upscale(frame)
        assert len(upscaler.served_model.weights_sha256) == 64

    np.testing.assert_array_equal(served, half)
    assert 0 < np.abs(served.astype(int) - full).max() <= 2
