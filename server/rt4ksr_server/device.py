"""The device that the networks of a server run on: a GPU if it can be used, otherwise the CPU."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from rt4ksr_client.errors import ServerStartError
from rt4ksr_server import gpu_probe
from rt4ksr_server.gpu_probe import CUDA, TENSORRT, Findings

__all__ = [
    "DEVICES",
    "Device",
    "DeviceName",
    "device_of_binary",
    "device_of_wheel",
    "gpu_device",
    "probe_gpu",
    "required_bytes",
]

DeviceName = Literal["auto", "cpu", "cuda"]
DEVICES: Final[tuple[DeviceName, ...]] = ("auto", "cpu", "cuda")

PROBE_TIMEOUT_S: Final = 60.0
GPU_CONFIG: Final = "--model-config-name=gpu"
PROVIDERS_VARIABLE: Final = "RT4KSR_PROVIDERS"
ENGINE_CACHE_VARIABLE: Final = "RT4KSR_ENGINE_CACHE"
"""Read by ``backends/onnxruntime``: ONNX Runtime's providers, the best one first, and the folder
that replaces the one of the configuration, which is the container's."""

# Estimates, to be replaced by measurements; docs/gpu.md derives them. Each model of the embedded
# server is a process with a CUDA context of its own.
PROCESS_BYTES: Final = 500_000_000
CONTEXT_BYTES: Final = 800_000_000
FRAME_BYTES: Final = 1_000_000_000

REINSTALL: Final = (
    "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'rt4ksr-triton[gpu]'"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """A device, in words, and what a tritonserver needs to run its networks there."""

    description: str
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


NO_GPU: Final = {"CUDA_VISIBLE_DEVICES": ""}
"""With a GPU in sight, Triton turns ``KIND_AUTO`` into ``KIND_GPU``."""


def device_of_binary(wanted: DeviceName) -> Device:
    """Return the device for a tritonserver of its own installation, which has its own backends."""
    if wanted == "cpu":
        return Device("CPU", environment=NO_GPU)
    if wanted == "cuda":
        return Device("GPU, with the backends of this tritonserver", (GPU_CONFIG,))
    return Device("left to this tritonserver")


def device_of_wheel(wanted: DeviceName, networks: int) -> Device:
    """Return the device for the wheel's tritonserver, which is to load this many ``networks``.

    Raises:
        ServerStartError: ``cuda`` is wanted, and the GPU cannot be used.

    """
    if wanted == "cpu":
        return Device("CPU", environment=NO_GPU)
    findings = probe_gpu()
    try:
        device = gpu_device(findings, networks)
    except ServerStartError as error:
        if wanted == "cuda":
            raise ServerStartError(
                f"the networks cannot run on a GPU: {error}; --device auto falls back to the CPU"
            ) from error
        device = Device(f"CPU: {error}", environment=NO_GPU)
    return device


def probe_gpu() -> Findings:
    """Return what a process of its own finds out about the GPU; quick where there is no driver."""
    try:
        ctypes.CDLL("libcuda.so.1")  # loads it, and starts nothing
    except OSError:
        return Findings(failure="no NVIDIA driver found")
    try:
        done = subprocess.run(
            [sys.executable, gpu_probe.__file__],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
        logger.debug("gpu_probe: %s%s", done.stdout, done.stderr)
        return Findings(**json.loads(done.stdout))
    except (subprocess.TimeoutExpired, ValueError, TypeError) as error:
        # A crash in a library of the GPU leaves no JSON.
        return Findings(failure=f"the test of the GPU failed ({type(error).__name__})")


def gpu_device(
    findings: Findings, networks: int, distributions: Sequence[str] | None = None
) -> Device:
    """Return the GPU with the best provider that fits into its memory.

    ``distributions`` are the names of the installed packages that contain ONNX Runtime.

    Raises:
        ServerStartError: it cannot be used; the text is the reason alone.

    """
    if not findings.name:
        raise ServerStartError(findings.failure or "no GPU found")
    card = f"{findings.name} ({findings.total_bytes / 1e9:.1f} GB)"
    if CUDA not in findings.providers:
        if len(runtime_distributions() if distributions is None else distributions) > 1:
            raise ServerStartError(
                f"onnxruntime and onnxruntime-gpu are both installed, and the first hides the "
                f"{card} from the second: {REINSTALL}"
            )
        raise ServerStartError(
            f"the installed ONNX Runtime has no support for the {card}: {REINSTALL}"
        )
    major, minor = findings.driver_cuda
    needed = findings.runtime_cuda.partition(".")[0]
    if needed.isdecimal() and major < int(needed):
        raise ServerStartError(
            f"the driver of the {card} supports CUDA {major}.{minor}, and onnxruntime-gpu "
            f"{findings.runtime} needs CUDA {needed}: update the driver"
        )
    if findings.failure:
        raise ServerStartError(f"ONNX Runtime cannot use the {card}: {findings.failure}")
    candidates = [(TENSORRT, CUDA), (CUDA,)] if findings.tensorrt else [(CUDA,)]
    for providers in candidates:
        if required_bytes(providers, networks) <= findings.free_bytes:
            break
    else:
        need = required_bytes(candidates[-1], networks)
        raise ServerStartError(
            f"{networks} models need about {need / 1e9:.1f} GB of GPU memory, and "
            f"{findings.free_bytes / 1e9:.1f} GB of the {card} are free: load fewer with --model"
        )
    with_tensorrt = providers[0] == TENSORRT
    library = f"TensorRT {findings.tensorrt}" if with_tensorrt else "CUDA"
    if findings.tensorrt and not with_tensorrt:
        library += ", as TensorRT would need more memory than is free"
    return Device(
        f"{card}, ONNX Runtime {findings.runtime} with {library}",
        (GPU_CONFIG,),
        {
            # Of several GPUs, the one that was tested; Triton would load every model on each.
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0],
            PROVIDERS_VARIABLE: ",".join(providers),
            # An engine is for one version of TensorRT.
            ENGINE_CACHE_VARIABLE: str(engine_cache() / f"tensorrt-{findings.tensorrt}"),
        },
    )


def required_bytes(providers: Sequence[str], networks: int) -> int:
    """Return the estimated GPU memory of this many networks on the first of ``providers``.

    TensorRT reserves a context for each; CUDA's provider takes the memory of frames as they come,
    which is counted for one model in use.
    """
    if providers[0] == TENSORRT:
        return networks * (PROCESS_BYTES + CONTEXT_BYTES)
    return networks * PROCESS_BYTES + FRAME_BYTES


def engine_cache() -> Path:
    """Return the folder of this user for engines; they are trusted when they are loaded."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "rt4ksr"


def runtime_distributions() -> list[str]:
    """Return the installed packages that contain ONNX Runtime; two of them overwrite each other."""
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            metadata.distribution(name)
            found.append(name)
        except metadata.PackageNotFoundError:
            continue
    return found
