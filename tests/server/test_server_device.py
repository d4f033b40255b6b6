"""The embedded server and its device: what it reports, and the memory that a GPU is used through.

The backend's code for a GPU runs here on ONNX Runtime's provider for the CPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

import rt4ksr_server.installation
from rt4ksr_client import Upscaler
from rt4ksr_client.contract import MODELS
from rt4ksr_client.errors import ServerStartError
from rt4ksr_server import TritonServer
from rt4ksr_server.device import probe_gpu
from support.nearest_models import infer, nearest, nearest_config, nearest_graph, write_model
from support.servers import RepositoryFactory

pytestmark = pytest.mark.server

X2 = MODELS["rt4ksr_x2"]
RT4KSR = [sys.executable, "-c", "from rt4ksr_client.cli import main; main()"]
# Appended to the backend: lanes as for a GPU.
AS_ON_A_GPU = """
on_cpu = TritonPythonModel.lanes
TritonPythonModel.lanes = lambda self, device_id: on_cpu(self, 0)
"""


@pytest.fixture(scope="module")
def bound_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Two frames at a time through memory of the backend's own; requests meet in batches."""
    folder = tmp_path_factory.mktemp("bound")
    backends = folder / "backends"
    shutil.copytree(rt4ksr_server.installation.OWN_BACKENDS, backends)
    with (backends / "onnxruntime" / "model.py").open("a") as model:
        model.write(AS_ON_A_GPU)
    config = nearest_config(X2)
    config.dynamic_batching.preferred_batch_size.append(4)
    config.dynamic_batching.max_queue_delay_microseconds = 500_000
    write_model(folder / "repository", config, nearest_graph(X2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rt4ksr_server.installation, "OWN_BACKENDS", backends)
        with TritonServer(folder / "repository") as server:
            yield server


@pytest.mark.parametrize("side", [8, 128, 256])
def test_frames_that_overlap_get_their_own_answers(bound_server: TritonServer, side: int) -> None:
    images = [
        np.random.default_rng(seed).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        for seed in range(16)
    ]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda image: infer(bound_server, X2.name, image), images)

    for image, answer in zip(images, answers, strict=True):
        assert np.array_equal(answer, nearest(image, 2))


def test_a_rejected_frame_beside_a_good_one_gets_the_error(bound_server: TritonServer) -> None:
    good = np.ones((1, 256, 256, 3), np.uint8)
    odd = np.ones((1, 255, 256, 3), np.uint8)
    with ThreadPoolExecutor(8) as pool:
        calls = [
            (image, pool.submit(infer, bound_server, X2.name, image))
            for image in [good, odd, good, odd, good, good]
        ]
    for image, call in calls:
        if image is odd:
            with pytest.raises(InferenceServerException, match="cannot be run"):
                call.result()
        else:
            assert np.array_equal(call.result(), nearest(good, 2))


def test_status_names_the_device_of_each_model(
    nearest_server: TritonServer, bound_server: TritonServer
) -> None:
    with Upscaler(nearest_server.grpc_url, scale=2) as upscaler:
        over_grpc = upscaler.status().models
    with Upscaler(f"http://{nearest_server.http_url}", scale=2) as upscaler:
        over_http = upscaler.status().models
    expected = "GPU 0" if probe_gpu().name and nearest_server.device[:3] != "CPU" else "CPU"

    assert {model.device for model in (*over_grpc, *over_http)} == {expected}


def test_serve_prints_the_device_and_its_reason(nearest_repository: RepositoryFactory) -> None:
    flags = ["--grpc-port=0", "--http-port=0", "--metrics-port=0"]
    repository = f"--model-repository={nearest_repository([X2])}"
    with subprocess.Popen(
        [*RT4KSR, "serve", *flags, repository],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as serve:
        assert serve.stdout is not None
        printed = "".join(iter(serve.stdout.readline, "ready; Ctrl-C stops it\n"))
        serve.terminate()
        assert serve.wait(30) == 0

    assert re.search(r"^device  (CPU: \w+|NVIDIA )", printed, re.MULTILINE), printed


def test_a_gpu_that_is_asked_for_and_missing_is_an_error(
    nearest_repository: RepositoryFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    server = TritonServer(nearest_repository([X2]), device="cuda")

    with pytest.raises(ServerStartError, match="--device auto falls back to the CPU"):
        server.start()


def test_an_unknown_device_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ServerStartError, match="device 'tpu': choose from auto, cpu, cuda"):
        TritonServer(tmp_path, device="tpu")  # type: ignore[arg-type]
