"""The fused network as an ONNX graph from uint8 frames to uint8 frames.

``image`` uint8 ``(N, H, W, 3)`` to ``upscaled`` uint8 ``(N, s*H, s*W, 3)``; N, H and W are open, H
and W even. What it does differently from a transcription of the network, all of it exact up to
float rounding:

* The pixel-unshuffle is part of the head: 3x3 over the unshuffled picture is 6x6 with stride 2
  over the picture. That spares two passes over it, and a layout change.
* The division by 255 is in the head's weights, the multiplication in the upsampler's.
* The upsampler's channels are ordered (row, column, colour), and the clip follows it directly: a
  runtime fuses the clip into the convolution, and the pixel shuffle is one move of runs of ``6*s``
  floats that ends in NHWC, instead of a shuffle of single floats and a transpose.
* The constants that the norms live off are taken out (:mod:`rt4ksr_export.recentre`).

The first operator on the input and the last before the output are casts: TensorRT knows uint8
nowhere else.

In half precision only what a convolution reads and writes is FP16, the large part of the memory
traffic and all of the multiplications. The activation and the norm are FP32, and so is the bias,
but for a part that centres what the convolution writes: small numbers are rounded finely. What the
rounding of a weight does to the constant in its input is taken back in the bias as well. Every type
is in the graph, so a strongly typed TensorRT network computes what is verified here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rt4ksr_client.contract import CHANNELS, INPUT_NAME, OUTPUT_NAME
from rt4ksr_export.network import NORM_EPS, UNSHUFFLE, FusedRT4KSR
from rt4ksr_export.recentre import REMAINDER, recentred

__all__ = ["IR_VERSION", "OPSET", "Precision", "build_graph"]

OPSET = 20
"""The first with ``Gelu``; taken by ONNX Runtime and TensorRT in every Triton from 24.10."""

IR_VERSION = 9
"""The IR that came with opset 20; a newer one would shut out older runtimes for nothing."""


class Precision(str, Enum):
    """What the convolutions compute in."""

    FP32 = "fp32"
    FP16 = "fp16"


Array = NDArray[np.float32]
Half = NDArray[np.float16]
Weights = Mapping[str, Array]

_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
_KEEP, _REST = 0, -1  # what 0 and -1 mean in the shape given to Reshape


def build_graph(
    network: FusedRT4KSR,
    metadata: Mapping[str, str] | None = None,
    *,
    quantized: bool = True,
    precision: Precision = Precision.FP32,
) -> onnx.ModelProto:
    """Return the checked graph; the same weights and metadata give the same bytes.

    ``quantized=False`` leaves out clip, round and cast: ``upscaled`` is then float32, 255 = white,
    which is what the verification compares with the network.
    """
    architecture = network.architecture
    weights = {name: value.numpy() for name, value in recentred(network).state_dict().items()}
    draft = _Draft(precision)
    x = draft.node("Cast", [INPUT_NAME], to=draft.conv_type)
    x = draft.node("Transpose", [_refuse_odd_sizes(draft, x)], perm=_TO_NCHW)
    x = _head(draft, x, weights)
    for index in range(architecture.blocks):
        x = _norm_and_conv(draft, f"body.{index}", x, weights)
        x = draft.node("Gelu", [x])
    x = _norm_and_conv(draft, "tail", x, weights)
    x = _upsample(draft, x, weights, architecture.shuffle)
    element_type = TensorProto.UINT8 if quantized else TensorProto.FLOAT
    if quantized:
        x = draft.node("Clip", [x, draft.scalar("black", 0.0), draft.scalar("white", 255.0)])
        x = _round_and_shuffle(draft, x, architecture.shuffle)
    else:
        x = _pixel_shuffle_to_nhwc(draft, x, architecture.shuffle)
    draft.node("Cast", [x], output=OUTPUT_NAME, to=element_type)
    return draft.finish(element_type, metadata or {})


def _refuse_odd_sizes(draft: _Draft, x: str) -> str:
    """There and back to ``(N, H/2, 2, W/2, 6)``: moves no data, and fails if H or W is odd.

    Without it the head's stride would silently drop the last row or column.
    """
    pairs = CHANNELS * UNSHUFFLE
    x = draft.reshape(x, _KEEP, _KEEP, 1, _REST, pairs)
    x = draft.reshape(x, _KEEP, _REST, UNSHUFFLE, _KEEP, pairs)
    x = draft.reshape(x, _KEEP, _REST, 1, _KEEP, pairs)
    return draft.reshape(x, _KEEP, _KEEP, _REST, CHANNELS)


def _head(draft: _Draft, x: str, weights: Weights) -> str:
    weight = weights["head.weight"]
    features, _, rows, columns = weight.shape
    # torch unshuffles to channels (colour, row, column)
    weight = weight.reshape(features, CHANNELS, UNSHUFFLE, UNSHUFFLE, rows, columns)
    weight = weight.transpose(0, 1, 4, 2, 5, 3)
    weight = weight.reshape(features, CHANNELS, rows * UNSHUFFLE, columns * UNSHUFFLE)
    bias, black = weights["head.bias"], np.zeros(CHANNELS, np.float32)
    return draft.conv("head", x, weight / np.float32(255), bias, black, stride=UNSHUFFLE)


def _norm_and_conv(draft: _Draft, name: str, x: str, weights: Weights) -> str:
    x = draft.node("Transpose", [x], perm=_TO_NHWC)
    scale, shift = (
        draft.constant(f"{name}.norm.{part}", weights[f"{name}.norm.{part}"])
        for part in ("weight", "bias")
    )
    x = draft.node("LayerNormalization", [x, scale, shift], axis=-1, epsilon=NORM_EPS)
    x = draft.node("Transpose", [draft.to_conv_type(x)], perm=_TO_NCHW)
    expected = np.float32(REMAINDER) * weights[f"{name}.norm.weight"]
    name = f"{name}.conv"
    return draft.conv(name, x, weights[f"{name}.weight"], weights[f"{name}.bias"], expected)


def _upsample(draft: _Draft, x: str, weights: Weights, shuffle: int) -> str:
    weight, bias = (
        # from torch's shuffle order (colour, row, column) to (row, column, colour)
        np.moveaxis(values.reshape(CHANNELS, shuffle, shuffle, *values.shape[1:]), 0, 2).reshape(
            values.shape
        )
        * np.float32(255)
        for values in (weights["upsample.weight"], weights["upsample.bias"])
    )
    unknown = np.zeros(weight.shape[1], np.float32)
    return draft.conv("upsample", draft.to_conv_type(x), weight, bias, unknown)


def _round_and_shuffle(draft: _Draft, x: str, shuffle: int) -> str:
    """Round and shuffle in the order that moves fewer bytes or makes fewer passes.

    FP32 is moved as it is and rounded in the pass that casts it. Rounded first, 0..255 is exact in
    FP16, which is half as much to move.
    """
    if draft.conv_type == TensorProto.FLOAT:
        return draft.node("Round", [_pixel_shuffle_to_nhwc(draft, x, shuffle)])
    x = draft.to_conv_type(draft.node("Round", [x]))
    return _pixel_shuffle_to_nhwc(draft, x, shuffle)


def _pixel_shuffle_to_nhwc(draft: _Draft, x: str, shuffle: int) -> str:
    """``(N, shuffle*shuffle*3, h, w)`` to ``(N, shuffle*h, shuffle*w, 3)``."""
    run = shuffle * CHANNELS
    x = draft.node("Transpose", [x], perm=_TO_NHWC)
    x = draft.reshape(x, _KEEP, _KEEP, _KEEP, shuffle, run)
    x = draft.node("Transpose", [x], perm=[0, 1, 3, 2, 4])
    # in two steps, as a shape has room for one unknown besides the dimensions it keeps
    x = draft.reshape(x, _KEEP, _REST, 1, _KEEP, run)
    return draft.reshape(x, _KEEP, _KEEP, _REST, CHANNELS)


def _rounded(weight: Array, bias: Array, expected: Array) -> tuple[Half, Half, Array]:
    """Return FP16 weight, FP16 part of the bias, and the FP32 rest of it.

    With an input of ``expected``, ``(C,)``, the convolution gives 0 and the rest is what the exact
    one gives.
    """
    half = weight.astype(np.float16)
    wide, seen = half.astype(np.float64), expected.astype(np.float64)
    centring = -(wide.sum(axis=(2, 3)) @ seen).astype(np.float16)
    lost = (weight - wide).sum(axis=(2, 3)) @ seen
    return half, centring, (bias - centring.astype(np.float64) + lost).astype(np.float32)


class _Draft:
    """Collects nodes and weights; a node is named after its place, so that names are stable."""

    def __init__(self, precision: Precision) -> None:
        half = precision is Precision.FP16
        self.conv_type = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Array | Half) -> str:
        self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def scalar(self, name: str, value: float) -> str:
        self._weights[name] = numpy_helper.from_array(np.array(value, np.float32), name)
        return name

    def node(
        self, operator: str, inputs: list[str], output: str | None = None, **attributes: Any
    ) -> str:
        name = f"{len(self._nodes):02d}_{operator}"
        output = output or f"{name}.out"
        self._nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def reshape(self, x: str, *shape: int) -> str:
        name = "shape_" + "_".join(map(str, shape))
        self._weights[name] = numpy_helper.from_array(np.array(shape, np.int64), name)
        return self.node("Reshape", [x, name])

    def to_conv_type(self, x: str) -> str:
        """Cast FP32 to what the convolutions read."""
        if self.conv_type == TensorProto.FLOAT:
            return x
        return self.node("Cast", [x], to=self.conv_type)

    def conv(
        self, name: str, x: str, weight: Array, bias: Array, expected: Array, stride: int = 1
    ) -> str:
        """Convolve ``x``, of :attr:`conv_type` and about ``expected``; the result is FP32."""
        values: list[Array | Half] = [weight, bias]
        rest = None
        if self.conv_type != TensorProto.FLOAT:
            *values, rest = _rounded(weight, bias, expected)
        names = (f"{name}.weight", f"{name}.bias")
        constants = [self.constant(*pair) for pair in zip(names, values, strict=True)]
        x = self.node(
            "Conv",
            [x, *constants],
            kernel_shape=list(weight.shape[2:]),
            pads=[stride] * 4,  # a 3x3 padded by one pixel, of `stride` original ones each
            strides=[stride] * 2,
        )
        if rest is None:
            return x
        x = self.node("Cast", [x], to=TensorProto.FLOAT)
        return self.node("Add", [x, self.constant(f"{name}.rest", rest[:, None, None])])

    def finish(self, element_type: int, metadata: Mapping[str, str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes,
            "rt4ksr",
            [_frames(INPUT_NAME, TensorProto.UINT8, "H", "W")],
            [_frames(OUTPUT_NAME, element_type, "upscaled_H", "upscaled_W")],
            list(self._weights.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="rt4ksr-triton",
        )
        helper.set_model_props(model, dict(sorted(metadata.items())))
        onnx.checker.check_model(model, full_check=True)
        return model


def _frames(name: str, element_type: int, height: str, width: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type, ["N", height, width, CHANNELS])
