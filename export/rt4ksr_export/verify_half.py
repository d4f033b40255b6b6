"""Refuses an FP16 graph that does not show what the FP32 graph shows.

On the CPU ONNX Runtime computes FP16 convolutions in FP32 and leaves out the rounding in between
where it can. Here it cannot: what each convolution writes is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rt4ksr_client.contract import INPUT_NAME, OUTPUT_NAME
from rt4ksr_client.errors import VerificationError
from rt4ksr_export.scores import psnr_db
from rt4ksr_export.verify import verification_inputs

__all__ = ["HalfAgreement", "HalfTolerance", "agreement_of", "verify_half"]

Batch = NDArray[np.uint8]


@dataclass(frozen=True)
class HalfTolerance:
    """How far half precision may be from full precision, on any input."""

    psnr_db: float = 55.0
    levels: int = 2


@dataclass(frozen=True)
class HalfAgreement:
    """How far it was, at worst, over all inputs."""

    psnr_db: float
    levels: int
    finite: bool

    def within(self, tolerance: HalfTolerance) -> bool:
        """Whether every figure keeps to ``tolerance``."""
        enough = self.psnr_db >= tolerance.psnr_db and self.levels <= tolerance.levels
        return self.finite and enough

    def __str__(self) -> str:
        """One line with the figures."""
        broken = "" if self.finite else ", with NaN or infinite values inside"
        return f"FP16 off by at most {self.levels}, PSNR at least {self.psnr_db:.1f} dB{broken}"


def verify_half(
    half: onnx.ModelProto, full: onnx.ModelProto, tolerance: HalfTolerance | None = None
) -> HalfAgreement:
    """Compare the FP16 graph with the FP32 one, both from uint8 to uint8.

    Raises:
        VerificationError: they differ by more than ``tolerance``, or a value inside the FP16 graph
            is NaN or infinite; the text carries the numbers.

    """
    exposed = _session(_exposed(half))
    finite = True

    def run(batch: Batch) -> Batch:
        nonlocal finite
        upscaled, *inside = exposed.run(None, {INPUT_NAME: batch})
        finite = finite and all(bool(np.isfinite(values).all()) for values in inside)
        pixels: Batch = upscaled
        return pixels

    worst = agreement_of(run, full, HalfTolerance(psnr_db=0, levels=255))
    return _accepted(replace(worst, finite=finite), tolerance or HalfTolerance())


def agreement_of(
    run: Callable[[Batch], Batch | None],
    full: onnx.ModelProto,
    tolerance: HalfTolerance | None = None,
) -> HalfAgreement:
    """Compare ``run``, which may pass on an input, with a graph, over the verification's inputs.

    Raises:
        VerificationError: they differ by more than ``tolerance``.

    """
    reference = _session(full)
    compared = []
    for batch in verification_inputs():
        upscaled = run(batch)
        if upscaled is None:
            continue
        (expected,) = reference.run([OUTPUT_NAME], {INPUT_NAME: batch})
        levels = np.abs(upscaled.astype(np.int16) - expected)
        compared.append((psnr_db(expected, upscaled, border=0), int(levels.max())))
    worst = HalfAgreement(min(psnr for psnr, _ in compared), max(n for _, n in compared), True)
    return _accepted(worst, tolerance or HalfTolerance())


def _accepted(worst: HalfAgreement, tolerance: HalfTolerance) -> HalfAgreement:
    if not worst.within(tolerance):
        raise VerificationError(
            f"half precision is not enough for these weights: {worst}; allowed: "
            f"{tolerance.levels}, {tolerance.psnr_db:g} dB"
        )
    return worst


def _exposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose further outputs are what the convolutions and the norms write."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    nodes = list(exposed.graph.node)
    del exposed.graph.node[:]
    for node in nodes:
        exposed.graph.node.append(node)
        if node.op_type not in ("Conv", "LayerNormalization"):
            continue
        written, half = node.output[0], node.op_type == "Conv"
        kept = f"{written}.kept"
        # The one operator that ONNX Runtime has for FP16 here, so that it has to round before it.
        exposed.graph.node[-1].output[0] = kept
        exposed.graph.node.append(helper.make_node("Identity", [kept], [written]))
        element_type = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        exposed.graph.output.append(helper.make_tensor_value_info(written, element_type, None))
    return exposed


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
