"""Which device the embedded server chooses, and why not the other one."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from rt4ksr_client.errors import ServerStartError
from rt4ksr_server import device, gpu_probe
from rt4ksr_server.device import (
    device_of_binary,
    device_of_wheel,
    gpu_device,
    probe_gpu,
    required_bytes,
)
from rt4ksr_server.gpu_probe import CUDA, TENSORRT, Findings, run_convolution

CPU = "CPUExecutionProvider"
LAPTOP = Findings(
    name="NVIDIA GeForce RTX 4070 Laptop GPU",
    total_bytes=8_585_000_000,
    free_bytes=7_600_000_000,
    driver_cuda=[13, 0],
    runtime="1.31.1",
    runtime_cuda="13.0",
    providers=[TENSORRT, CUDA, CPU],
)
WITH_TENSORRT = replace(LAPTOP, tensorrt="10.13.3")
NETWORKS = 8


def test_a_gpu_that_works_is_used_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    chosen = gpu_device(LAPTOP, NETWORKS)

    assert chosen.description == (
        "NVIDIA GeForce RTX 4070 Laptop GPU (8.6 GB), ONNX Runtime 1.31.1 with CUDA"
    )
    assert chosen.flags == ("--model-config-name=gpu",)
    assert chosen.environment["RT4KSR_PROVIDERS"] == CUDA
    assert chosen.environment["CUDA_VISIBLE_DEVICES"] == "2"


def test_tensorrt_is_preferred_where_it_is_installed_and_its_contexts_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    two = gpu_device(WITH_TENSORRT, 2)
    all_of_them = gpu_device(WITH_TENSORRT, NETWORKS)

    assert two.description.endswith("with TensorRT 10.13.3")
    assert two.environment == {
        "CUDA_VISIBLE_DEVICES": "0",
        "RT4KSR_PROVIDERS": f"{TENSORRT},{CUDA}",
        "RT4KSR_ENGINE_CACHE": str(tmp_path / "rt4ksr" / "tensorrt-10.13.3"),
    }
    assert all_of_them.environment["RT4KSR_PROVIDERS"] == CUDA
    assert "as TensorRT would need more memory than is free" in all_of_them.description


def test_all_models_fit_a_card_of_8_gb() -> None:
    assert required_bytes([CUDA], NETWORKS) < LAPTOP.free_bytes


@pytest.mark.parametrize(
    ("findings", "packages", "reason"),
    [
        (Findings(failure="no NVIDIA driver found"), [], "^no NVIDIA driver found$"),
        (
            Findings(failure="cuInit: no CUDA-capable device is detected"),
            [],
            "^cuInit: no CUDA-capable device is detected$",
        ),
        (
            replace(LAPTOP, providers=[CPU]),
            ["onnxruntime"],
            r"has no support for the NVIDIA .* 'rt4ksr-triton\[gpu\]'$",
        ),
        (
            replace(LAPTOP, providers=[CPU]),
            ["onnxruntime", "onnxruntime-gpu"],
            "are both installed, .*: pip uninstall -y onnxruntime onnxruntime-gpu && pip install",
        ),
        (
            replace(LAPTOP, driver_cuda=[12, 4], failure="whatever"),
            ["onnxruntime-gpu"],
            r"supports CUDA 12\.4, and onnxruntime-gpu 1\.31\.1 needs CUDA 13: update the driver$",
        ),
        (
            replace(LAPTOP, failure="its CUDA or cuDNN libraries cannot be loaded"),
            ["onnxruntime-gpu"],
            "cannot use the NVIDIA .*: its CUDA or cuDNN libraries cannot be loaded$",
        ),
        (
            replace(LAPTOP, free_bytes=2_000_000_000),
            ["onnxruntime-gpu"],
            r"8 models need about 5\.0 GB of GPU memory, and 2\.0 GB of .* are free: load fewer",
        ),
    ],
    ids=["driver", "no gpu", "cpu runtime", "both", "old driver", "libraries", "small"],
)
def test_a_gpu_that_cannot_be_used_gives_the_reason(
    findings: Findings,
    packages: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ServerStartError, match=reason):
        gpu_device(findings, NETWORKS, packages)

    monkeypatch.setattr(device, "probe_gpu", lambda: findings)
    monkeypatch.setattr(device, "runtime_distributions", lambda: packages)
    fallen_back = device_of_wheel("auto", NETWORKS)
    assert fallen_back.description.startswith("CPU: ")
    assert fallen_back.environment == {"CUDA_VISIBLE_DEVICES": ""}  # KIND_AUTO stays with the CPU
    assert fallen_back.flags == ()
    with pytest.raises(ServerStartError, match=r"cannot run on a GPU: .*--device auto falls back"):
        device_of_wheel("cuda", NETWORKS)


def test_the_cpu_is_chosen_without_a_look_at_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "probe_gpu", lambda: pytest.fail("asked the GPU"))

    assert device_of_wheel("cpu", NETWORKS).description == "CPU"


def test_a_tritonserver_of_its_own_installation_chooses_by_itself() -> None:
    assert device_of_binary("auto") == device.Device("left to this tritonserver")
    assert device_of_binary("cuda").flags == ("--model-config-name=gpu",)
    assert device_of_binary("cpu").environment == {"CUDA_VISIBLE_DEVICES": ""}


def test_the_probe_answers_on_this_machine() -> None:
    printed = subprocess.run(
        [sys.executable, gpu_probe.__file__], capture_output=True, text=True, check=True
    ).stdout
    found = Findings(**json.loads(printed))

    assert found.name or found.failure
    assert probe_gpu().name == found.name


def test_a_probe_that_crashes_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: None)
    crashing = tmp_path / "crashing.py"
    crashing.write_text("import os; os.abort()")
    monkeypatch.setattr(gpu_probe, "__file__", str(crashing))

    assert probe_gpu().failure == "the test of the GPU failed (JSONDecodeError)"


def test_the_graph_of_the_probe_is_a_convolution_in_half_precision() -> None:
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> '
        "gpu_probe (float16[1,1,8,8] x) => (float16[1,4,8,8] y) { y = Conv(x, w) }"
    )
    weights = np.ones((4, 1, 1, 1), np.float16)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))

    assert base64.b64encode(gpu_probe.CONVOLUTION) == base64.b64encode(graph.SerializeToString())


def test_the_probe_runs_its_graph_and_notices_a_provider_that_is_missing() -> None:
    assert run_convolution(CPU) == ""
    assert run_convolution("NoSuchExecutionProvider") != ""
