"""Rejects graphs that do not compute what the network computes.

Two comparisons, both in ONNX Runtime on the CPU. The FP32 graph is compared with the *unfused*
PyTorch network, so that a mistake in the fusion is found, too. The FP16 graph is compared with the
FP32 one. Inputs: photographs, noise, gradients, black and white, in several sizes and batch sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime
import skimage.data
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rt4ksr_client.contract import INPUT_NAME, OUTPUT_NAME
from rt4ksr_client.errors import VerificationError
from rt4ksr_export.graph import without_quantization
from rt4ksr_export.network import RT4KSR
from rt4ksr_export.scores import psnr_db

__all__ = [
    "Agreement",
    "HalfAgreement",
    "HalfTolerance",
    "Tolerance",
    "compare_half",
    "expose_half_values",
    "open_session",
    "verification_inputs",
    "verify",
    "verify_half",
]

Batch = NDArray[np.uint8]


@dataclass(frozen=True)
class Tolerance:
    """How far the graph may be from the network."""

    raw: float = 1e-4
    """Largest absolute difference of the float output, before clipping, in units of 1.0 = white."""
    levels: int = 1
    """Largest difference of a uint8 value."""
    equal_share: float = 0.999
    """Smallest share of uint8 values that are equal."""


@dataclass(frozen=True)
class Agreement:
    """How far the graph was from the network in the worst case over all inputs."""

    raw: float
    levels: int
    equal_share: float
    inputs: int

    def require(self, tolerance: Tolerance | None = None) -> None:
        """Raise :class:`VerificationError` unless every figure is within ``tolerance``."""
        tolerance = tolerance or Tolerance()
        close = self.raw <= tolerance.raw and self.levels <= tolerance.levels  # never for a NaN
        if not (close and self.equal_share >= tolerance.equal_share):
            raise VerificationError(
                f"the exported graph does not compute what the network computes: {self}; allowed: "
                f"{tolerance.raw:g}, {tolerance.levels}, {tolerance.equal_share:.2%}"
            )

    def __str__(self) -> str:
        """One line with the figures."""
        return (
            f"raw float off by at most {self.raw:.2g}, uint8 by at most {self.levels}, "
            f"{self.equal_share:.4%} equal, over {self.inputs} inputs"
        )


@dataclass(frozen=True)
class HalfTolerance:
    """How far half precision may be from full precision, on any input."""

    psnr_db: float = 55.0
    levels: int = 2


@dataclass(frozen=True)
class HalfAgreement:
    """How far half precision was from full precision in the worst case over all inputs."""

    psnr_db: float
    levels: int
    finite: bool = True
    """Whether no value inside the graph was NaN or infinite, as far as that was checked."""

    def require(self, tolerance: HalfTolerance | None = None) -> None:
        """Raise :class:`VerificationError` unless every figure is within ``tolerance``."""
        tolerance = tolerance or HalfTolerance()
        enough = self.psnr_db >= tolerance.psnr_db and self.levels <= tolerance.levels
        if not (self.finite and enough):
            raise VerificationError(
                f"half precision is not enough for these weights: {self}; allowed: "
                f"{tolerance.levels}, {tolerance.psnr_db:g} dB"
            )

    def __str__(self) -> str:
        """One line with the figures."""
        broken = "" if self.finite else ", with NaN or infinite values inside"
        return f"FP16 off by at most {self.levels}, PSNR at least {self.psnr_db:.1f} dB{broken}"


def verify(
    model: onnx.ModelProto, network: RT4KSR, tolerance: Tolerance | None = None
) -> Agreement:
    """Compare the FP32 graph with ``network``, with and without its clipping and rounding.

    Raises:
        VerificationError: they differ by more than ``tolerance``; the text has the figures.

    """
    quantized_session = open_session(model)
    raw_session = open_session(without_quantization(model))
    exact = copy.deepcopy(network).double()  # so that its own rounding is not counted
    compared = []
    for batch in verification_inputs():
        (quantized,) = quantized_session.run([OUTPUT_NAME], {INPUT_NAME: batch})
        (raw,) = raw_session.run([OUTPUT_NAME], {INPUT_NAME: batch})
        nchw = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).double() / 255.0
        with torch.inference_mode():
            expected = exact(nchw).permute(0, 2, 3, 1).numpy()
        if not raw.shape == quantized.shape == expected.shape:
            raise VerificationError(
                f"the exported graph returns shape {quantized.shape} for {batch.shape}, "
                f"the network {expected.shape}"
            )
        rounded = np.rint(np.clip(expected, 0.0, 1.0) * 255.0).astype(np.int16)  # half to even
        levels = np.abs(quantized.astype(np.int16) - rounded)
        raw_difference = float(np.abs(raw / 255.0 - expected).max())
        compared.append((raw_difference, int(levels.max()), float((levels == 0).mean())))
    raw_differences, most_levels, equal_shares = zip(*compared, strict=True)
    agreement = Agreement(
        raw=float(np.max(raw_differences)),  # NaN if one of them is
        levels=max(most_levels),
        equal_share=min(equal_shares),
        inputs=len(compared),
    )
    agreement.require(tolerance)
    return agreement


def verify_half(
    half: onnx.ModelProto, full: onnx.ModelProto, tolerance: HalfTolerance | None = None
) -> HalfAgreement:
    """Compare the FP16 graph with the FP32 one, both from uint8 to uint8.

    Raises:
        VerificationError: they differ by more than ``tolerance``, or a value inside the FP16 graph
            is NaN or infinite; the text has the figures.

    """
    exposed = open_session(expose_half_values(half), optimized=False)
    finite = True

    def upscale(batch: Batch) -> Batch:
        nonlocal finite
        upscaled, *inside = exposed.run(None, {INPUT_NAME: batch})
        finite = finite and all(bool(np.isfinite(values).all()) for values in inside)
        pixels: Batch = upscaled
        return pixels

    agreement = replace(compare_half(upscale, full), finite=finite)
    agreement.require(tolerance)
    return agreement


def compare_half(upscale: Callable[[Batch], Batch | None], full: onnx.ModelProto) -> HalfAgreement:
    """Compare ``upscale``, which returns None for an input that it cannot process, with a graph."""
    reference = open_session(full, optimized=False)
    compared = []
    for batch in verification_inputs():
        upscaled = upscale(batch)
        if upscaled is None:
            continue
        (expected,) = reference.run([OUTPUT_NAME], {INPUT_NAME: batch})
        levels = np.abs(upscaled.astype(np.int16) - expected)
        compared.append((psnr_db(expected, upscaled, border=0), int(levels.max())))
    return HalfAgreement(min(psnr for psnr, _ in compared), max(levels for _, levels in compared))


def verification_inputs() -> Iterator[Batch]:
    """Yield uint8 batches ``(N, H, W, 3)``, small enough to verify a model within seconds."""
    rng = np.random.default_rng(20230617)
    astronaut, coffee, rocket = (
        getattr(skimage.data, name)() for name in ("astronaut", "coffee", "rocket")
    )
    yield astronaut[np.newaxis, :256, :320]
    yield coffee[np.newaxis, 100:390, 60:520]
    yield np.stack([rocket[120:300, 200:360], coffee[10:190, 30:190], astronaut[0:180, 130:290]])
    for batch, height, width in ((1, 2, 2), (2, 64, 48), (1, 38, 150)):
        yield rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, 256).round().astype(np.uint8)
    yield np.broadcast_to(ramp[:, None, None], (1, 256, 64, 3))
    yield np.broadcast_to(np.stack([ramp, ramp[::-1], ramp // 4 + 96], axis=-1), (1, 64, 256, 3))
    for level in (0, 255):
        yield np.full((1, 64, 96, 3), level, np.uint8)


def expose_half_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with the results of its convolutions and norms as further outputs.

    On the CPU, ONNX Runtime computes FP16 convolutions in FP32 and skips the rounding in between
    where it can. Where the rounded value is an output, it cannot.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    nodes = list(exposed.graph.node)
    del exposed.graph.node[:]
    for node in nodes:
        exposed.graph.node.append(node)
        if node.op_type not in ("Conv", "LayerNormalization"):
            continue
        name, half = node.output[0], node.op_type == "Conv"
        kept = f"{name}.kept"
        # Identity: the one operator for which ONNX Runtime has FP16 here, so it has to round.
        exposed.graph.node[-1].output[0] = kept
        exposed.graph.node.append(helper.make_node("Identity", [kept], [name]))
        element_type = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        exposed.graph.output.append(helper.make_tensor_value_info(name, element_type, None))
    return exposed


def open_session(model: onnx.ModelProto, *, optimized: bool = True) -> onnxruntime.InferenceSession:
    """Return a session on the CPU; without optimization it computes operator by operator."""
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
