"""The fused network as an ONNX graph from uint8 frames to uint8 frames.

``image`` uint8 ``(N, H, W, 3)`` to ``upscaled`` uint8 ``(N, s*H, s*W, 3)``; N, H and W are dynamic,
H and W even. It differs from a transcription of the network in these points, all of them exact up
to float rounding:

* The pixel-unshuffle is part of the head: 3x3 over the unshuffled picture is 6x6 with stride 2
  over the picture. That saves two passes over it, and a layout change.
* The division by 255 is in the head's weights, the multiplication in the upsampler's.
* The upsampler's channels are ordered (row, column, colour), and the clip follows it directly: a
  runtime fuses the clip into the convolution, and the pixel shuffle is one move of runs of ``6*s``
  floats that ends in NHWC, instead of a shuffle of single floats and a transpose.
* The constant offsets of the layer norms are removed (:func:`rt4ksr_export.fusion.recentre`).

The first operator on the input and the last before the output are casts: TensorRT supports uint8
nowhere else.

In half precision only the inputs and outputs of convolutions are FP16: most of the memory traffic
and all multiplications. Activations and norms are FP32, and so is the bias, except for a part that
centres the convolution's output: small numbers are rounded finely. The bias also compensates for
what rounding the weights does to the constant in their input. Every type is in the graph, so a
strongly typed TensorRT network computes what is verified here.
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
from rt4ksr_export.fusion import REMAINDER, recentre
from rt4ksr_export.network import NORM_EPS, UNSHUFFLE, Architecture, FusedRT4KSR

__all__ = [
    "IR_VERSION",
    "OPSET",
    "GraphBuilder",
    "Precision",
    "build_graph",
    "round_to_half",
    "without_quantization",
]

OPSET = 20
"""The first with ``Gelu``; supported by ONNX Runtime and TensorRT in every Triton from 24.10."""

IR_VERSION = 9
"""The IR version of opset 20; a newer one would exclude older runtimes for no benefit."""


class Precision(str, Enum):
    """The number format of the convolutions."""

    FP32 = "fp32"
    FP16 = "fp16"


Array = NDArray[np.float32]
Half = NDArray[np.float16]

_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
_QUANTIZING = ("Clip", "Round")
_KEEP, _REST = 0, -1  # what 0 and -1 mean in the shape given to Reshape


def build_graph(
    network: FusedRT4KSR,
    metadata: Mapping[str, str] | None = None,
    *,
    precision: Precision = Precision.FP32,
) -> onnx.ModelProto:
    """Return the checked graph; the same weights and metadata give the same bytes."""
    builder = GraphBuilder(recentre(network), precision)
    x = builder.node("Cast", [INPUT_NAME], to=builder.conv_type)
    x = builder.head(builder.reject_odd_sizes(x))
    for index in range(network.architecture.blocks):
        x = builder.node("Gelu", [builder.norm_and_conv(f"body.{index}", x)])
    x = builder.upsample(builder.norm_and_conv("tail", x))
    x = builder.quantize_and_shuffle(x)
    builder.node("Cast", [x], output=OUTPUT_NAME, to=TensorProto.UINT8)
    return builder.model(metadata or {})


def without_quantization(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph of :func:`build_graph` that neither clips nor rounds.

    Its ``upscaled`` is float32, 255 = white.
    """
    raw = onnx.ModelProto()
    raw.CopyFrom(model)
    graph = raw.graph
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type in _QUANTIZING}
    kept = [node for node in graph.node if node.op_type not in _QUANTIZING]
    for node in kept:
        node.input[:] = [sources.get(name, name) for name in node.input]
    kept[-1].attribute[0].i = graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    used = {name for node in kept for name in node.input}
    initializers = [value for value in graph.initializer if value.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(initializers)
    return raw


def round_to_half(weight: Array, bias: Array, expected: Array) -> tuple[Half, Half, Array]:
    """Round a convolution to FP16; return its weight, its FP16 bias and the FP32 bias to add.

    ``expected``, ``(C,)``, is a typical input. For it the FP16 convolution gives 0, and the sum
    with the FP32 bias is what the exact convolution gives.
    """
    half = weight.astype(np.float16)
    wide, seen = half.astype(np.float64), expected.astype(np.float64)
    centring = -(wide.sum(axis=(2, 3)) @ seen).astype(np.float16)
    lost = (weight - wide).sum(axis=(2, 3)) @ seen
    return half, centring, (bias - centring.astype(np.float64) + lost).astype(np.float32)


class GraphBuilder:
    """Appends the parts of ``network`` to a graph; each method returns the name of its result.

    A node is named after its position, so that names are stable.
    """

    def __init__(self, network: FusedRT4KSR, precision: Precision) -> None:
        half = precision is Precision.FP16
        self.architecture: Architecture = network.architecture
        self.conv_type = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self._values: Mapping[str, Array] = {k: v.numpy() for k, v in network.state_dict().items()}
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def reject_odd_sizes(self, x: str) -> str:
        """Reshape to ``(N, H/2, 2, W/2, 6)`` and back: moves no data, and fails if H or W is odd.

        Otherwise the head's stride would silently drop the last row or column. Padding and cropping
        here instead takes 9 % more of a CPU's time, for even sizes too: TensorRT has uint8 in casts
        only, so that float32 would be cropped. Returns NCHW.
        """
        pairs = CHANNELS * UNSHUFFLE
        x = self.reshape(x, _KEEP, _KEEP, 1, _REST, pairs)
        x = self.reshape(x, _KEEP, _REST, UNSHUFFLE, _KEEP, pairs)
        x = self.reshape(x, _KEEP, _REST, 1, _KEEP, pairs)
        x = self.reshape(x, _KEEP, _KEEP, _REST, CHANNELS)
        return self.node("Transpose", [x], perm=_TO_NCHW)

    def head(self, x: str) -> str:
        """Convolve 6x6 with stride 2: the pixel-unshuffle and the network's first convolution."""
        weight = self._values["head.weight"]
        features, _, rows, columns = weight.shape
        # torch unshuffles to channels (colour, row, column)
        weight = weight.reshape(features, CHANNELS, UNSHUFFLE, UNSHUFFLE, rows, columns)
        weight = weight.transpose(0, 1, 4, 2, 5, 3)
        weight = weight.reshape(features, CHANNELS, rows * UNSHUFFLE, columns * UNSHUFFLE)
        bias, black = self._values["head.bias"], np.zeros(CHANNELS, np.float32)
        return self.conv("head", x, weight / np.float32(255), bias, black, stride=UNSHUFFLE)

    def norm_and_conv(self, block: str, x: str) -> str:
        """Normalize over the channels and convolve."""
        x = self.node("Transpose", [x], perm=_TO_NHWC)
        scale, shift = (
            self.constant(f"{block}.norm.{part}", self._values[f"{block}.norm.{part}"])
            for part in ("weight", "bias")
        )
        x = self.node("LayerNormalization", [x, scale, shift], axis=-1, epsilon=NORM_EPS)
        x = self.node("Transpose", [self.to_conv_type(x)], perm=_TO_NCHW)
        expected = np.float32(REMAINDER) * self._values[f"{block}.norm.weight"]
        name = f"{block}.conv"
        weight, bias = self._values[f"{name}.weight"], self._values[f"{name}.bias"]
        return self.conv(name, x, weight, bias, expected)

    def upsample(self, x: str) -> str:
        """Convolve to the ``3*(2s)^2`` channels that the pixel shuffle turns into RGB, 0..255."""
        shuffle = self.architecture.shuffle
        weight, bias = (
            # from torch's shuffle order (colour, row, column) to (row, column, colour)
            np.moveaxis(
                values.reshape(CHANNELS, shuffle, shuffle, *values.shape[1:]), 0, 2
            ).reshape(values.shape)
            * np.float32(255)
            for values in (self._values["upsample.weight"], self._values["upsample.bias"])
        )
        unknown = np.zeros(weight.shape[1], np.float32)
        return self.conv("upsample", self.to_conv_type(x), weight, bias, unknown)

    def quantize_and_shuffle(self, x: str) -> str:
        """Clip, round and shuffle, in the order that moves fewer bytes or makes fewer passes.

        FP32 is shuffled as it is and rounded in the pass that casts it. FP16 is rounded first:
        0..255 is exact in FP16, which is half as much to move.
        """
        x = self.node("Clip", [x, self.scalar("black", 0.0), self.scalar("white", 255.0)])
        if self.conv_type == TensorProto.FLOAT:
            return self.node("Round", [self.pixel_shuffle_to_nhwc(x)])
        return self.pixel_shuffle_to_nhwc(self.to_conv_type(self.node("Round", [x])))

    def pixel_shuffle_to_nhwc(self, x: str) -> str:
        """``(N, shuffle*shuffle*3, h, w)`` to ``(N, shuffle*h, shuffle*w, 3)``."""
        shuffle = self.architecture.shuffle
        run = shuffle * CHANNELS
        x = self.node("Transpose", [x], perm=_TO_NHWC)
        x = self.reshape(x, _KEEP, _KEEP, _KEEP, shuffle, run)
        x = self.node("Transpose", [x], perm=[0, 1, 3, 2, 4])
        # in two steps, as a shape has room for one unknown besides the dimensions it keeps
        x = self.reshape(x, _KEEP, _REST, 1, _KEEP, run)
        return self.reshape(x, _KEEP, _KEEP, _REST, CHANNELS)

    def conv(
        self, name: str, x: str, weight: Array, bias: Array, expected: Array, stride: int = 1
    ) -> str:
        """Convolve ``x``, of :attr:`conv_type` and about ``expected``; the result is FP32."""
        values: list[Array | Half] = [weight, bias]
        rest = None
        if self.conv_type != TensorProto.FLOAT:
            *values, rest = round_to_half(weight, bias, expected)
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

    def to_conv_type(self, x: str) -> str:
        """Cast FP32 to the input type of the convolutions."""
        if self.conv_type == TensorProto.FLOAT:
            return x
        return self.node("Cast", [x], to=self.conv_type)

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps a dimension, -1 is the rest."""
        name = "shape_" + "_".join(map(str, shape))
        self._initializers[name] = numpy_helper.from_array(np.array(shape, np.int64), name)
        return self.node("Reshape", [x, name])

    def constant(self, name: str, value: Array | Half) -> str:
        """Add an initializer."""
        self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def scalar(self, name: str, value: float) -> str:
        """Add an initializer without dimensions, float32."""
        self._initializers[name] = numpy_helper.from_array(np.array(value, np.float32), name)
        return name

    def node(
        self, operator: str, inputs: list[str], output: str | None = None, **attributes: Any
    ) -> str:
        """Append a node."""
        name = f"{len(self._nodes):02d}_{operator}"
        output = output or f"{name}.out"
        self._nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def model(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Return the checked model."""
        frames, upscaled = (
            helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", height, width, CHANNELS])
            for name, height, width in (
                (INPUT_NAME, "H", "W"),
                (OUTPUT_NAME, "upscaled_H", "upscaled_W"),
            )
        )
        initializers = list(self._initializers.values())
        graph = helper.make_graph(self._nodes, "rt4ksr", [frames], [upscaled], initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="rt4ksr-triton",
        )
        helper.set_model_props(model, dict(sorted(metadata.items())))
        onnx.checker.check_model(model, full_check=True)
        return model
