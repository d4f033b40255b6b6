"""Asks the first GPU of this machine whether ONNX Runtime can use it.

It is run by path, as ``python gpu_probe.py``, in a process of its own: the program that starts a
server stays without a CUDA context, which would take memory of the GPU and not survive a fork.
Prints the JSON form of :class:`Findings`. ``CUDA_VISIBLE_DEVICES`` applies.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from typing import Any, Final

CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"

CONVOLUTION: Final = base64.b64decode(
    "CAg6cQoRCgF4CgF3EgF5IgRDb252OgASCWdwdV9wcm9iZSoXCAQIAQgBCAEQCkIBd0oIADwAPAA8ADxaGwoBeBIWCh"
    "QIChIQCgIIAQoCCAEKAggICgIICGIbCgF5EhYKFAgKEhAKAggBCgIIBAoCCAgKAggIQgQKABAR"
)
"""An ONNX graph: a convolution in half precision, for which CUDA and cuDNN have to work."""


@dataclass
class Findings:
    """What the driver and ONNX Runtime report; versions are ``(major, minor)``, sizes bytes.

    ``failure`` is the reason why the GPU cannot be used, empty if it can.
    """

    failure: str = ""
    name: str = ""
    total_bytes: int = 0
    free_bytes: int = 0
    driver_cuda: list[int] = field(default_factory=lambda: [0, 0])
    runtime: str = ""
    runtime_cuda: str = ""
    providers: list[str] = field(default_factory=list)
    tensorrt: str = ""

    def to_json(self) -> str:
        """Return the form that the process prints."""
        return json.dumps(asdict(self))


class DriverError(Exception):
    """A call of the CUDA driver failed; the text says why."""


def ask_driver(findings: Findings) -> None:
    """Fill in what the driver reports about the first visible GPU.

    Raises:
        DriverError: no driver, no GPU, or a call that failed.

    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise DriverError("no NVIDIA driver found") from None

    def call(name: str, *arguments: Any) -> None:
        status = getattr(driver, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            driver.cuGetErrorString(status, ctypes.byref(text))
            raise DriverError(f"{name}: {(text.value or str(status).encode()).decode()}")

    version, device = ctypes.c_int(), ctypes.c_int()
    name, context = ctypes.create_string_buffer(128), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuInit", 0)
    call("cuDriverGetVersion", ctypes.byref(version))
    findings.driver_cuda = [version.value // 1000, version.value % 1000 // 10]
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDeviceGetName", name, len(name), device)
    findings.name = name.value.decode(errors="replace")
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxPushCurrent_v2", context)
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    findings.free_bytes, findings.total_bytes = free.value, total.value


def ask_runtime(findings: Findings) -> None:
    """Fill in what ONNX Runtime is able to do, without a look at the GPU."""
    import onnxruntime

    findings.runtime = onnxruntime.__version__
    findings.runtime_cuda = str(getattr(onnxruntime, "cuda_version", "") or "")
    findings.providers = list(onnxruntime.get_available_providers())
    if TENSORRT in findings.providers:
        try:
            findings.tensorrt = str(importlib.import_module("tensorrt").__version__)
        except (ImportError, OSError):  # OSError: a library that cannot be loaded
            findings.tensorrt = ""


def run_convolution(provider: str = CUDA) -> str:
    """Run :data:`CONVOLUTION` on ``provider``; return why it failed, or nothing."""
    import numpy as np
    import onnxruntime

    if provider == CUDA:
        onnxruntime.preload_dlls()
    try:
        session = onnxruntime.InferenceSession(CONVOLUTION, providers=[provider])
        found = session.get_providers()
        if found[0] != provider:
            return "its CUDA or cuDNN libraries cannot be loaded"
        ones = np.ones((1, 1, 8, 8), np.float16)
        (answer,) = session.run(None, {"x": ones})
    except Exception as error:  # its types share no base class of their own
        return str(error)
    return "" if answer.shape == (1, 4, 8, 8) and (answer == 1).all() else "it computes wrongly"


def main() -> None:
    """Print the findings; whatever libraries print goes to stderr."""
    findings = Findings()
    with redirect_stdout(sys.stderr):
        try:
            ask_driver(findings)
            ask_runtime(findings)
            if CUDA in findings.providers:
                findings.failure = run_convolution()
        except DriverError as error:
            findings.failure = str(error)
    print(findings.to_json())  # noqa: T201 - its pipe is its interface


if __name__ == "__main__":
    main()
