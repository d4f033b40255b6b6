"""One repository, three configurations: a client cannot tell them apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton_grpc
from PIL import Image
from tritonclient.utils import InferenceServerException

from rt4ksr_client import Upscaler
from rt4ksr_client.contract import (
    DEFAULT_MODELS,
    INPUT_NAME,
    MAX_SIDE_PX,
    ModelSpec,
    image_endpoint,
)
from rt4ksr_server import TritonServer
from support.image_endpoint import answered, encoded, opened, upscaled
from support.processes import becomes_true
from support.servers import ServerFactory

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(server_with: ServerFactory, root: Path) -> Iterator[TritonServer]:
    flags = ["--model-config-name=gpu"]
    with server_with(root / "model_repository", extra_args=flags) as running:
        yield running


def test_every_folder_is_a_ready_model_and_the_readme_is_ignored(
    server: TritonServer, root: Path
) -> None:
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        index = {model.name: model.state for model in client.get_model_repository_index().models}

    assert (root / "model_repository" / "README.md").is_file()
    folders = {path.name for path in (root / "model_repository").iterdir() if path.is_dir()}
    assert index == dict.fromkeys(folders, "READY")


def test_a_model_without_the_named_configuration_uses_its_only_one(
    server: TritonServer, root: Path, photograph: Path
) -> None:
    endpoint = image_endpoint("rt4ksr_x2")
    assert not (root / "model_repository" / endpoint / "configs").exists()
    picture = Image.open(photograph).crop((300, 200, 400, 280))

    (answer,) = upscaled(server, encoded(picture, "PNG"), model=endpoint, format="png")

    with Upscaler(server.grpc_url, model="rt4ksr_x2") as upscaler:
        assert opened(answer).tobytes() == upscaler.upscale(picture).tobytes()


def test_the_endpoint_rejects_a_side_beyond_the_profile_and_the_client_tiles_it(
    server: TritonServer,
) -> None:
    long = Image.new("RGB", (MAX_SIDE_PX + 1, 8), (90, 80, 70))

    with pytest.raises(InferenceServerException, match=rf"a side of more than {MAX_SIDE_PX} pix"):
        upscaled(server, encoded(long, "PNG"), model=image_endpoint("rt4ksr_x2"))

    before = answered(server, "rt4ksr_x2")
    with Upscaler(server.grpc_url, model="rt4ksr_x2") as upscaler:
        assert upscaler.upscale(long).size == (2 * MAX_SIDE_PX + 2, 16)
    # It counts a request a little after its answer.
    assert becomes_true(lambda: answered(server, "rt4ksr_x2") == before + 2)


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
