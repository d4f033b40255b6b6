"""Compiles and runs ONNX with the Python API of TensorRT 10 and 11, and of TensorRT for RTX.

The three share the API used here. The network is strongly typed: its types are those of the graph.
TensorRT needs the GPU it compiles for; TensorRT for RTX compiles without one.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from rt4ksr_client.contract import (
    INPUTS,
    MAX_SIDE_PX,
    SIZE_MULTIPLE_PX,
    FrameTensor,
    ModelSpec,
)
from rt4ksr_client.errors import ExportError, MissingExtraError

__all__ = ["MAX_BATCH_SIZE", "Compiler", "Engine", "Profile", "Target"]

Batch = Mapping[str, NDArray[Any]]
Frames = tuple[int, int, int]
"""N, H and W of a batch, in frames and pixels."""

MAX_BATCH_SIZE: Final = 2
"""Of every configuration. One 4K frame fills a GPU; a second one hides the time between launches.
A TensorRT context reserves memory for this many frames of the largest size."""

_FRAME_TENSORS: Final = {tensor.name: tensor for tensors in INPUTS.values() for tensor in tensors}

_log = logging.getLogger(__name__)


class Target(str, Enum):
    """Which TensorRT; the value is also the name of the extra."""

    TENSORRT = "tensorrt"
    RTX = "rtx"


_LIBRARIES: Final[Mapping[Target, tuple[str, ...]]] = {
    Target.TENSORRT: ("tensorrt",),
    Target.RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}


@dataclass(frozen=True)
class Profile:
    """Smallest, best and largest batch ``(N, H, W)``; every even size in between can run."""

    least: Frames
    best: Frames
    largest: Frames

    def __post_init__(self) -> None:
        """Reject what TensorRT would reject later and less clearly."""
        for low, middle, high in zip(self.least, self.best, self.largest, strict=True):
            if not 0 < low <= middle <= high:
                raise ValueError(f"{self}: each size must rise from least over best to largest")

    @classmethod
    def of(cls, spec: ModelSpec) -> Profile:
        """Return the profile of a served model: best for the frame it is meant for."""
        return cls(
            (1, SIZE_MULTIPLE_PX, SIZE_MULTIPLE_PX),
            (1, spec.input_height_px, spec.input_width_px),
            (MAX_BATCH_SIZE, MAX_SIDE_PX, MAX_SIDE_PX),
        )

    def texts(self, tensors: Mapping[str, FrameTensor]) -> dict[str, str]:
        """Return min, opt and max as trtexec and ONNX Runtime read them: ``image:1x2x2x3,...``.

        ``tensors`` are what goes into the engine, by the names that it has there.
        """
        batches = {"min": self.least, "opt": self.best, "max": self.largest}
        return {
            key: ",".join(
                f"{name}:{'x'.join(map(str, tensor.shape(*batch)))}"
                for name, tensor in tensors.items()
            )
            for key, batch in batches.items()
        }


class Compiler:
    """One TensorRT library.

    Raises:
        MissingExtraError: it is not installed, or its libraries cannot be loaded.

    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.trt = load_library(target)
        self.version: str = self.trt.__version__
        self.logger = _library_logger(target)
        self.has_timings = target is Target.TENSORRT

    def compile(
        self, graph: bytes, profile: Profile, timing_cache: bytes = b""
    ) -> tuple[bytes, bytes]:
        """Return the plan and the timing cache, which makes the next build faster.

        TensorRT for RTX measures on the user's GPU instead, and has no cache.

        Raises:
            ExportError: TensorRT cannot read or compile the graph; the text says why.

        """
        trt = self.trt
        self.logger.errors.clear()
        try:
            builder = trt.Builder(self.logger)
        except TypeError as exc:  # what the bindings make of a null pointer
            raise ExportError(f"{self.target.value} cannot start: {self._reason()}") from exc
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse(graph):
            found = [parser.get_error(i) for i in range(parser.num_errors)]
            errors = [f"{error.node_operator()} {error.desc()}".strip() for error in found]
            raise ExportError(f"{self.target.value} cannot read the graph: {'; '.join(errors)}")
        config = builder.create_builder_config()
        shapes = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = _FRAME_TENSORS[network.get_input(index).name]
            bounds = (tensor.shape(*b) for b in (profile.least, profile.best, profile.largest))
            shapes.set_shape(tensor.name, *bounds)
        config.add_optimization_profile(shapes)
        if self.has_timings:
            # A cache of another version or GPU is not used.
            recalled = config.create_timing_cache(timing_cache)
            if not config.set_timing_cache(recalled, False):
                config.set_timing_cache(config.create_timing_cache(b""), False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ExportError(f"{self.target.value} cannot compile the graph: {self._reason()}")
        timings = bytes(config.get_timing_cache().serialize()) if self.has_timings else b""
        return bytes(plan), timings

    def _reason(self) -> str:
        """Return the errors that the library has logged since the last compilation began."""
        return "; ".join(self.logger.errors) or "it gives no reason"


class Engine:
    """Runs a plan on the first GPU: arrays by the names of its inputs, to those of its outputs.

    Raises:
        ExportError: the plan cannot be loaded.

    """

    def __init__(self, compiler: Compiler, plan: bytes, profile: Profile) -> None:
        self._profile = profile
        self._runtime = compiler.trt.Runtime(compiler.logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ExportError(f"{compiler.target.value} cannot load the plan it has just built")
        self._context = self._engine.create_execution_context()

    def __call__(self, batch: Batch) -> Batch | None:
        """Return None for a batch that is larger than the profile.

        Raises:
            ExportError: the plan cannot be run.

        """
        largest = self._profile.largest
        for name, array in batch.items():
            bounds = _FRAME_TENSORS[name].shape(*largest)
            if any(size > top for size, top in zip(array.shape, bounds, strict=True)):
                return None
        device = torch.device("cuda")
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(device)
            for name, array in batch.items()
        }
        for name, tensor in tensors.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        upscaled = {
            name: torch.empty(
                tuple(self._context.get_tensor_shape(name)), dtype=torch.uint8, device=device
            )
            for name in names
            if name not in tensors
        }
        for name, tensor in (tensors | upscaled).items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream(device).cuda_stream):
            shapes = {name: array.shape for name, array in batch.items()}
            raise ExportError(f"the plan cannot be run on a batch of {shapes}")
        return {name: tensor.cpu().numpy() for name, tensor in upscaled.items()}  # waits


def load_library(target: Target) -> Any:
    """Return the Python module of NVIDIA's library.

    Raises:
        MissingExtraError: it is not installed, or its libraries cannot be loaded.

    """
    problems = []
    for name in _LIBRARIES[target]:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as exc:  # OSError: a shared library that cannot be loaded
            problems.append(str(exc))
    raise MissingExtraError(
        f"target {target.value} needs NVIDIA's library ({'; '.join(problems)}): "
        f"pip install 'rt4ksr-triton[export,{target.value}]'"
    )


@functools.cache
def _library_logger(target: Target) -> Any:
    """Return the one logger of a library: TensorRT keeps the first it is given.

    Its messages go to :mod:`logging`; ``errors`` has those that are errors.
    """
    trt = load_library(target)
    levels = {
        trt.ILogger.Severity.WARNING: logging.WARNING,
        trt.ILogger.Severity.INFO: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)
            elif severity in levels:
                _log.log(levels[severity], "%s: %s", target.value, message)

    return Logger()
