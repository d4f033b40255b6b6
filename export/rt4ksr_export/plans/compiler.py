"""Compiles ONNX with the Python API of TensorRT 10 and 11, and of TensorRT for RTX.

The three share the API used here. The network is strongly typed: the types are the graph's.
TensorRT needs the GPU it compiles for; TensorRT for RTX needs none.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from rt4ksr_client.contract import INPUT_NAME
from rt4ksr_client.errors import ExportError, MissingExtraError
from rt4ksr_export.plans.profile import Profile

__all__ = ["Compiler", "Target"]


class Target(str, Enum):
    """Which TensorRT; the value is also the name of the extra."""

    TENSORRT = "tensorrt"
    RTX = "rtx"


_MODULES: Final[Mapping[Target, tuple[str, ...]]] = {
    Target.TENSORRT: ("tensorrt",),
    Target.RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}


class Compiler:
    """One TensorRT library.

    Raises:
        MissingExtraError: it is not installed, or its libraries cannot be loaded.

    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.trt = _module(target)
        self.version: str = self.trt.__version__
        self.logger = _logger(target)
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
        shapes.set_shape(INPUT_NAME, profile.least, profile.best, profile.largest)
        config.add_optimization_profile(shapes)
        if self.has_timings:
            self._recall(config, timing_cache)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ExportError(f"{self.target.value} cannot compile the graph: {self._reason()}")
        timings = bytes(config.get_timing_cache().serialize()) if self.has_timings else b""
        return bytes(plan), timings

    @staticmethod
    def _recall(config: Any, timing_cache: bytes) -> None:
        """Use the times of an earlier build, unless they are of another version or GPU."""
        if not config.set_timing_cache(config.create_timing_cache(timing_cache), False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def _reason(self) -> str:
        return "; ".join(self.logger.errors) or "it gives no reason"


def _module(target: Target) -> Any:
    problems = []
    for name in _MODULES[target]:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as exc:  # OSError: a shared library that cannot be loaded
            problems.append(str(exc))
    raise MissingExtraError(
        f"target {target.value} needs NVIDIA's library ({'; '.join(problems)}): "
        f"pip install 'rt4ksr-triton[export,{target.value}]'"
    )


@functools.cache
def _logger(target: Target) -> Any:
    """Return the one logger of a library: TensorRT keeps the first it is given."""
    trt = _module(target)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Logger()
