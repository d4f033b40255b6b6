"""Opens a graph on a provider of ONNX Runtime, and runs it there: on the CPU, or on a GPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

CONTAINER_CACHE = "/var/cache/rt4ksr"
"""Where the configurations have engines kept."""

Array = npt.NDArray[Any]


class ProviderError(Exception):
    """The graph cannot be opened on the wanted provider."""


def open_session(
    path: Path,
    options: ort.SessionOptions,
    device_id: int | None,
    accelerators: Sequence[Mapping[str, Any]] = (),
) -> ort.InferenceSession:
    """Return a session on GPU ``device_id``, or on the CPU if it is None.

    The variable ``RT4KSR_PROVIDERS`` names the providers for a GPU, the best one first.
    ``accelerators`` are those of the configuration, in its JSON form; TensorRT takes its options
    from there.

    Raises:
        ProviderError: there is no provider for a GPU, or it does not work.

    """
    if device_id is None:
        return ort.InferenceSession(path, options, providers=[CPU])
    names = [name for name in os.environ.get("RT4KSR_PROVIDERS", "").split(",") if name]
    if not names:
        raise ProviderError(
            "KIND_GPU: this server runs on the CPU; use KIND_AUTO, rt4ksr serve --device cuda, or "
            "NVIDIA's container"
        )
    if CUDA in names:
        ort.preload_dlls()
    if TENSORRT in names:
        import tensorrt  # noqa: F401 - loads the libraries that the provider needs
    session = ort.InferenceSession(
        path, options, providers=provider_options(names, device_id, accelerators)
    )
    session.disable_fallback()
    found = session.get_providers()
    if found[0] == CPU and names[0] != CPU:
        raise ProviderError(f"{' and '.join(names)} do not work here: use --device cpu")
    return session


def provider_options(
    names: Sequence[str], device_id: int, accelerators: Sequence[Mapping[str, Any]]
) -> list[tuple[str, dict[str, str]]]:
    """Return providers with their options, as ONNX Runtime takes them."""
    cache = os.environ.get("RT4KSR_ENGINE_CACHE", CONTAINER_CACHE)
    configured: dict[str, str] = {}
    for accelerator in accelerators:
        if accelerator["name"] == "tensorrt":
            configured = {
                key: value.replace(CONTAINER_CACHE, cache)
                for key, value in accelerator.get("parameters", {}).items()
            }
    if TENSORRT in names:
        Path(cache).mkdir(mode=0o700, parents=True, exist_ok=True)
    device = {"device_id": str(device_id)}
    by_name = {
        TENSORRT: {**device, **configured},
        # By default cuDNN tries every algorithm at each new size, and an arena doubles.
        CUDA: {
            **device,
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
        },
    }
    return [(name, by_name.get(name, {})) for name in names]


class BoundMemory:
    """Runs a session through memory of its own, one run at a time.

    A GPU copies from and to page-locked memory faster, and while it computes another run: every run
    of a session has a CUDA stream of its own. Page-locking takes milliseconds, so it is done when
    the shapes of the run before come again, as those of a video do.
    """

    def __init__(self, session: ort.InferenceSession, device_id: int) -> None:
        self._session = session
        self._device_id = device_id
        self._shapes: object = None
        self._outputs: list[Array] = []
        self._binding: Any = None
        self._locked: list[PageLock] = []
        self._inputs: dict[str, Array] = {}

    def run(self, wanted: tuple[str, ...], arrays: Mapping[str, Array]) -> Sequence[Array]:
        """Return the outputs ``wanted``; they are valid until the next run."""
        shapes = (wanted, [(name, array.shape) for name, array in arrays.items()])
        if shapes != self._shapes:
            self._unbind()
            outputs: list[Array] = self._session.run(wanted, dict(arrays))
            self._shapes, self._outputs = shapes, outputs
            return outputs
        if self._binding is None:
            self._bind(arrays, wanted)
        for name, array in arrays.items():
            np.copyto(self._inputs[name], array)
        self._session.run_with_iobinding(self._binding)
        return self._outputs

    def _bind(self, arrays: Mapping[str, Array], wanted: tuple[str, ...]) -> None:
        self._inputs = {name: np.empty_like(array) for name, array in arrays.items()}
        self._outputs = [np.empty_like(array) for array in self._outputs]
        locked = [*self._inputs.values(), *self._outputs]
        self._locked = [PageLock(array, self._device_id) for array in locked]
        binding = self._session.io_binding()
        for name, array in self._inputs.items():
            binding.bind_cpu_input(name, array)
        for name, array in zip(wanted, self._outputs, strict=True):
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._binding = binding

    def _unbind(self) -> None:
        self._binding, self._shapes = None, None
        for lock in self._locked:
            lock.release()
        self._locked, self._inputs, self._outputs = [], {}, []


class PageLock:
    """Page-locks an array for the copies of GPU ``device_id``, as far as CUDA's driver can.

    Where it cannot (there is no driver, or the limit of locked memory is reached), the array stays
    as it is, and copies are slower.
    """

    PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE: for every CUDA context

    def __init__(self, array: Array, device_id: int) -> None:
        self._array = array
        self._driver = cuda_driver(device_id)
        address, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self.holds = self._driver is not None and not self._driver.cuMemHostRegister_v2(
            address, size, self.PORTABLE
        )

    def release(self) -> None:
        """Unlock the array."""
        if self.holds and self._driver is not None:
            self._driver.cuMemHostUnregister(ctypes.c_void_p(self._array.ctypes.data))
            self.holds = False


def cuda_driver(device_id: int) -> ctypes.CDLL | None:
    """Return CUDA's driver with the context that ONNX Runtime uses made current in this thread."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    ready = (
        driver.cuInit(0) == 0
        and driver.cuDeviceGet(ctypes.byref(device), device_id) == 0
        and driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
        and driver.cuCtxSetCurrent(context) == 0
    )
    return driver if ready else None
