"""Refuses a graph that does not compute what the network it was made from computes.

The graph runs in ONNX Runtime on the CPU; the reference is the *unfused* PyTorch network, so that
a mistake in the fusion shows too. Inputs: photographs, noise, gradients, black and white, in
several sizes and batch sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import skimage.data
import torch
from numpy.typing import NDArray

from rt4ksr_client.contract import INPUT_NAME, OUTPUT_NAME
from rt4ksr_client.errors import VerificationError
from rt4ksr_export.network import RT4KSR

__all__ = ["Agreement", "Tolerance", "verification_inputs", "verify"]

Batch = NDArray[np.uint8]


@dataclass(frozen=True)
class Tolerance:
    """How far the graph may be from the network."""

    raw: float = 1e-4
    """Largest absolute difference of the float output, before clipping, in units of 1.0 = white."""
    levels: int = 1
    """Largest difference of a uint8 value."""
    equal_share: float = 0.999
    """Least share of uint8 values that are equal."""


@dataclass(frozen=True)
class Agreement:
    """How far the graph was from the network, at worst, over all inputs."""

    raw: float
    levels: int
    equal_share: float
    inputs: int

    def within(self, tolerance: Tolerance) -> bool:
        """Whether every figure keeps to ``tolerance`` (a NaN never does)."""
        return (
            self.raw <= tolerance.raw
            and self.levels <= tolerance.levels
            and self.equal_share >= tolerance.equal_share
        )

    def __str__(self) -> str:
        """One line with the figures."""
        return (
            f"raw float off by at most {self.raw:.2g}, uint8 by at most {self.levels}, "
            f"{self.equal_share:.4%} equal, over {self.inputs} inputs"
        )


def verify(
    model: onnx.ModelProto,
    raw_model: onnx.ModelProto,
    network: RT4KSR,
    tolerance: Tolerance | None = None,
) -> Agreement:
    """Compare the graph, and its form without quantization, with the network.

    Raises:
        VerificationError: they differ by more than ``tolerance``; the text carries the numbers.

    """
    tolerance = tolerance or Tolerance()
    sessions = _session(model), _session(raw_model)
    # In float64, so that what is found is the graph's error and not the reference's own.
    exact = copy.deepcopy(network).double()
    compared = [_compare(*sessions, exact, batch) for batch in verification_inputs()]
    worst = Agreement(
        raw=max(a.raw for a in compared),
        levels=max(a.levels for a in compared),
        equal_share=min(a.equal_share for a in compared),
        inputs=len(compared),
    )
    if not worst.within(tolerance):
        raise VerificationError(
            f"the exported graph does not compute what the network computes: {worst}; allowed: "
            f"{tolerance.raw:g}, {tolerance.levels}, {tolerance.equal_share:.2%}"
        )
    return worst


def verification_inputs() -> Iterator[Batch]:
    """Yield uint8 batches ``(N, H, W, 3)``, small enough for a verification of seconds."""
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


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def _compare(
    session: onnxruntime.InferenceSession,
    raw_session: onnxruntime.InferenceSession,
    network: RT4KSR,
    batch: Batch,
) -> Agreement:
    (quantized,) = session.run([OUTPUT_NAME], {INPUT_NAME: batch})
    (raw,) = raw_session.run([OUTPUT_NAME], {INPUT_NAME: batch})
    expected = _reference(network, batch)
    if raw.shape != expected.shape or quantized.shape != expected.shape:
        raise VerificationError(
            f"the exported graph returns shape {quantized.shape} for {batch.shape}, "
            f"the network {expected.shape}"
        )
    levels = np.abs(quantized.astype(np.int16) - _quantized(expected))
    return Agreement(
        raw=float(np.abs(raw / 255.0 - expected).max()),
        levels=int(levels.max()),
        equal_share=float((levels == 0).mean()),
        inputs=1,
    )


def _reference(network: RT4KSR, batch: Batch) -> NDArray[np.float64]:
    """Run the unfused network: ``(N, H, W, 3)`` uint8 to ``(N, s*H, s*W, 3)``, unclipped."""
    nchw = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).double() / 255.0
    with torch.inference_mode():
        upscaled: NDArray[np.float64] = network(nchw).permute(0, 2, 3, 1).numpy()
    return upscaled


def _quantized(raw: NDArray[np.float64]) -> NDArray[np.int16]:
    """Clip and round half to even, as the contract says."""
    levels: NDArray[np.int16] = np.rint(np.clip(raw, 0.0, 1.0) * 255.0).astype(np.int16)
    return levels
