"""Rejects graphs that do not compute what the network computes.

Two comparisons, both in ONNX Runtime on the CPU. The FP32 graph is compared with the *unfused*
PyTorch network, so that a mistake in the fusion is found, too. The FP16 graph is compared with the
FP32 one, and both with the originals of photographs. Inputs: photographs, noise, gradients, black
and white, in several sizes and batch sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import onnx
import onnxruntime
import skimage.data
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from rt4ksr_client.errors import VerificationError
from rt4ksr_export.colours import samples_to_codes, unpack, yuv420_samples
from rt4ksr_export.degradations import downscale
from rt4ksr_export.graph import BLACK, CHROMA_RANGE, GRAY, LUMA_RANGE, without_quantization
from rt4ksr_export.network import RT4KSR, pack_yuv420, unpack_yuv420

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

Batch = Mapping[str, NDArray[Any]]
"""Arrays by the names of inputs or outputs."""

SAME_STEPS = 0.05


@dataclass(frozen=True)
class Tolerance:
    """How far the graph may be from the network."""

    raw: float = 1e-4
    """Largest absolute difference of the float output, before clipping, in units of 1.0 = white."""
    levels: float = 1
    """Largest difference of a value, in steps of 8 bits."""
    equal_share: float = 0.999
    """Smallest share of values that are equal, in 8 bits, or within a twentieth step, in 16."""


@dataclass(frozen=True)
class Agreement:
    """How far the graph was from the network in the worst case over all inputs."""

    raw: float
    levels: float
    equal_share: float
    inputs: int

    def require(self, tolerance: Tolerance | None = None) -> None:
        """Raise :class:`VerificationError` unless every figure is within ``tolerance``."""
        tolerance = tolerance or Tolerance()
        close = self.raw <= tolerance.raw and self.levels <= tolerance.levels  # never for a NaN
        if not (close and self.equal_share >= tolerance.equal_share):
            raise VerificationError(
                f"the exported graph does not compute what the network computes: {self}; allowed: "
                f"{tolerance.raw:g}, {tolerance.levels:g}, {tolerance.equal_share:.2%}"
            )

    def __str__(self) -> str:
        """One line with the figures."""
        return (
            f"raw float off by at most {self.raw:.2g}, values by at most {self.levels:.2g}, "
            f"{self.equal_share:.4%} equal, over {self.inputs} inputs"
        )


@dataclass(frozen=True)
class HalfTolerance:
    """How far half precision may be from full precision.

    What counts is the cost: the PSNR that it loses against the originals. The bound on single
    values catches what a mean does not show.
    """

    cost_db: float = 0.01
    """Largest loss of PSNR in dB, mean over photographs."""
    levels: float = 8
    """Largest difference of a value from full precision, in steps of 8 bits, noise included."""


@dataclass(frozen=True)
class HalfAgreement:
    """How far half precision was from full precision: the cost, and the worst of all inputs."""

    cost_db: float
    psnr_db: float
    """To full precision, of the worst input."""
    levels: float
    finite: bool = True
    """Whether no value inside the graph was NaN or infinite, as far as that was checked."""

    def require(self, tolerance: HalfTolerance | None = None) -> None:
        """Raise :class:`VerificationError` unless every figure is within ``tolerance``."""
        tolerance = tolerance or HalfTolerance()
        close = self.cost_db <= tolerance.cost_db and self.levels <= tolerance.levels
        if not (self.finite and close):
            raise VerificationError(
                f"half precision is not enough for these weights: {self}; allowed: "
                f"{tolerance.cost_db:g} dB, {tolerance.levels:g} levels"
            )

    def __str__(self) -> str:
        """One line with the figures."""
        broken = "" if self.finite else ", with NaN or infinite values inside"
        return (
            f"FP16 costs {self.cost_db:.4f} dB on photographs, off by at most {self.levels:.3g} "
            f"levels, PSNR to FP32 at least {self.psnr_db:.1f} dB{broken}"
        )


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
    unit = code_unit(model)
    compared = []
    for batch in verification_inputs(model):
        quantized = quantized_session.run(None, dict(batch))
        raw = raw_session.run(None, dict(batch))
        expected = expected_codes(exact, batch, unit)
        shapes = [[a.shape for a in arrays] for arrays in (raw, quantized, expected)]
        if not shapes[0] == shapes[1] == shapes[2]:
            raise VerificationError(
                f"the exported graph returns the shapes {shapes[1]}, the network {shapes[2]}"
            )
        for graphs, graphs_raw, networks in zip(quantized, raw, expected, strict=True):
            largest = np.iinfo(graphs.dtype).max
            rounded = np.rint(np.clip(networks, 0, largest))  # half to even
            steps = np.abs(graphs.astype(np.float64) - rounded) / unit
            raw_difference = float(np.abs(graphs_raw - networks).max()) / (255 * unit)
            same = steps <= (0 if unit == 1 else SAME_STEPS)
            compared.append((raw_difference, float(steps.max()), float(same.mean())))
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
    """Compare the FP16 graph with the FP32 one, both from codes to codes.

    Raises:
        VerificationError: they differ by more than ``tolerance``, or a value inside the FP16 graph
            is NaN or infinite; the text has the figures.

    """
    exposed = open_session(expose_half_values(half), optimized=False)
    finite = True

    output_names = [output.name for output in half.graph.output]

    def upscale(batch: Batch) -> Batch:
        nonlocal finite
        upscaled = exposed.run(None, dict(batch))
        inside = upscaled[len(output_names) :]
        finite = finite and all(bool(np.isfinite(values).all()) for values in inside)
        return dict(zip(output_names, upscaled, strict=False))

    agreement = replace(compare_half(upscale, full), finite=finite)
    agreement.require(tolerance)
    return agreement


def compare_half(upscale: Callable[[Batch], Batch | None], full: onnx.ModelProto) -> HalfAgreement:
    """Compare ``upscale``, which returns None for an input that it cannot process, with a graph."""
    session = open_session(full, optimized=False)
    unit = code_unit(full)
    names = [output.name for output in full.graph.output]

    def expected(batch: Batch) -> Batch:
        return dict(zip(names, session.run(None, dict(batch)), strict=True))

    worst_mean_square, most_levels = 0.0, 0.0
    for batch in verification_inputs(full):
        upscaled, reference = upscale(batch), expected(batch)
        if upscaled is None:
            continue
        for name in names:
            steps = (upscaled[name].astype(np.float64) - reference[name]) / unit
            worst_mean_square = max(worst_mean_square, float(np.square(steps).mean()))
            most_levels = max(most_levels, float(np.abs(steps).max()))
    costs_db = []
    for batch, originals in photographs(full, expected):
        upscaled, reference = upscale(batch), expected(batch)
        if upscaled is not None:
            costs_db.append(
                max(
                    _psnr_db(reference[name], originals[name])
                    - _psnr_db(upscaled[name], originals[name])
                    for name in names
                )
            )
    psnr_db = 10 * np.log10(255**2 / worst_mean_square) if worst_mean_square else float("inf")
    return HalfAgreement(fmean(costs_db), psnr_db, most_levels)


def _psnr_db(test: NDArray[Any], original: NDArray[Any]) -> float:
    """Of codes; the peak does not matter to a difference."""
    return float(-10 * np.log10(np.square(test.astype(np.float64) - original).mean()))


def photographs(
    model: onnx.ModelProto, upscale: Callable[[Batch], Batch]
) -> Iterator[tuple[Batch, Batch]]:
    """Yield photographs, downscaled, as inputs of a graph, and the originals as its outputs.

    Args:
        model: the graph.
        upscale: runs it, to find its scale.

    """
    inputs = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    unit = code_unit(model)

    def tensors(pixels: NDArray[np.uint8], names: list[str]) -> dict[str, NDArray[Any]]:
        if len(names) == 1:
            return {names[0]: pixels[np.newaxis]}
        frame = unpack(samples_to_codes(yuv420_samples(pixels), "yuv420"))
        planes = [frame.luma[np.newaxis, ..., np.newaxis], frame.chroma[np.newaxis]]
        if unit > 1:
            planes = [(plane.astype(np.uint16) * unit).astype(np.uint16) for plane in planes]
        return dict(zip(names, planes, strict=True))

    smallest = upscale(tensors(np.zeros((2, 2, 3), np.uint8), inputs))
    scale = smallest[outputs[0]].shape[1] // 2
    for name in ("astronaut", "coffee", "rocket"):
        original = getattr(skimage.data, name)()
        height, width = (side // (2 * scale) * 2 * scale for side in original.shape[:2])
        original = original[:height, :width]
        small = np.asarray(downscale(Image.fromarray(original), scale))
        yield tensors(small, inputs), tensors(original, outputs)


def code_unit(model: onnx.ModelProto) -> int:
    """Return what a step of an 8-bit code is in the values of a graph: 1, or 256 for 16 bits."""
    wide = model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT16
    return 256 if wide else 1


def expected_codes(network: RT4KSR, batch: Batch, unit: int) -> list[NDArray[np.float64]]:
    """Return the outputs that ``network``, in float64, gives for ``batch``, not rounded."""
    tensors = [
        torch.from_numpy(np.ascontiguousarray(array).astype(np.float64) / unit).permute(0, 3, 1, 2)
        for array in batch.values()
    ]
    with torch.inference_mode():
        if network.architecture.colours == "rgb":
            planes = [network(tensors[0] / 255) * 255]
        else:
            luma, chroma = tensors
            packed = pack_yuv420((luma - BLACK) / LUMA_RANGE, (chroma - GRAY) / CHROMA_RANGE)
            luma, chroma = unpack_yuv420(network(packed))
            planes = [luma * LUMA_RANGE + BLACK, chroma * CHROMA_RANGE + GRAY]
    return [plane.permute(0, 2, 3, 1).numpy() * unit for plane in planes]


def verification_inputs(model: onnx.ModelProto) -> Iterator[Batch]:
    """Yield batches for a graph, small enough to verify a model within seconds.

    4:2:0 gets the pictures of RGB as BT.709, and noise of its own.
    """
    names = [value.name for value in model.graph.input]
    unit = code_unit(model)
    rng = np.random.default_rng(20230618)
    for pixels in _pictures():
        if len(names) == 1:
            yield {names[0]: pixels}
            continue
        frames = [unpack(samples_to_codes(yuv420_samples(p), "yuv420")) for p in pixels]
        planes = [
            np.stack([f.luma for f in frames])[..., None],
            np.stack([f.chroma for f in frames]),
        ]
        if unit > 1:  # fill the low bits, too
            planes = [p.astype(np.uint16) * unit + rng.integers(0, unit, p.shape) for p in planes]
            planes = [p.astype(np.uint16) for p in planes]
        yield dict(zip(names, planes, strict=True))
    if len(names) > 1:
        # Codes that video has: noise in all of a code's range is far outside the colours of RGB.
        ranges = ((16, 236, (2, 48, 64, 1)), (80, 177, (2, 24, 32, 2)))
        noise = [rng.integers(low * unit, high * unit, shape) for low, high, shape in ranges]
        dtype = np.uint8 if unit == 1 else np.uint16
        yield dict(zip(names, (plane.astype(dtype) for plane in noise), strict=True))


def _pictures() -> Iterator[NDArray[np.uint8]]:
    """Yield uint8 RGB ``(N, H, W, 3)``: photographs, noise, gradients, black and white."""
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
