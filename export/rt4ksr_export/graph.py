"""The fused network as an ONNX graph from frames to frames.

Inputs and outputs are those of :mod:`rt4ksr_client.contract`; N, H and W are dynamic, H and W even.
It differs from a transcription of the network in these points, all of them exact up
to float rounding:

* The pixel-unshuffle is part of the head: 3x3 over the unshuffled picture is 6x6 with stride 2
  over the picture. That saves two passes over it, and a layout change.
* The division by 255 is in the head's weights, the multiplication in the upsampler's.
* The upsampler's channels are ordered (row, column, colour), and the clip follows it directly: a
  runtime fuses the clip into the convolution, and the pixel shuffle is one move of runs of ``6*s``
  floats that ends in NHWC, instead of a shuffle of single floats and a transpose.
* 4:2:0 goes into two convolutions that are added, 6x6 with stride 2 for luma and 3x3 for chroma,
  after black and gray were subtracted: padding with zeros then surrounds the frame with black. It
  comes out of one, which a runtime fills better with channels than one for each plane.
* The constant offsets of the layer norms are removed (:func:`rt4ksr_export.fusion.recentre`).

The first operator on the input and the last before the output are casts: TensorRT supports uint8
nowhere else. The FP32 graph for 4:2:0, which GPUs do not get, shuffles codes instead of floats: on
a CPU that saves 5 % of its time with 8 bits, and 15 % with 16.

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

from rt4ksr_client.contract import INPUTS, OUTPUTS, FrameTensor
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

BLACK, LUMA_RANGE = 16.0, 219.0
GRAY, CHROMA_RANGE = 128.0, 224.0
"""Codes of 8 bits, limited range (ITU-R BT.709-6, section 4)."""

WIDE, WIDEST = 256.0, 65535.0
"""A step of an 8-bit code in 16 bits, and the largest code."""

_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
_QUANTIZING = ("Clip", "Round")
_CODES = {8: TensorProto.UINT8, 16: TensorProto.UINT16}
_KEEP, _REST = 0, -1  # what 0 and -1 mean in the shape given to Reshape


def build_graph(
    network: FusedRT4KSR,
    metadata: Mapping[str, str] | None = None,
    *,
    precision: Precision = Precision.FP32,
    bits: int = 8,
) -> onnx.ModelProto:
    """Return the checked graph; the same weights and metadata give the same bytes.

    ``bits`` are those of a value of the inputs and outputs, 8 or 16.
    """
    builder = GraphBuilder(recentre(network), precision, bits)
    is_rgb = network.architecture.colours == "rgb"
    x = builder.rgb_head() if is_rgb else builder.yuv420_head()
    for index in range(network.architecture.blocks):
        x = builder.node("Gelu", [builder.norm_and_conv(f"body.{index}", x)])
    x = builder.to_conv_type(builder.norm_and_conv("tail", x))
    if is_rgb:
        builder.rgb_output(x)
    else:
        builder.yuv420_outputs(x)
    return builder.model(metadata or {})


def without_quantization(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph of :func:`build_graph` that neither clips nor rounds.

    Its outputs are float32, in the same units.
    """
    raw = onnx.ModelProto()
    raw.CopyFrom(model)
    graph = raw.graph
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type in _QUANTIZING}
    kept = [node for node in graph.node if node.op_type not in _QUANTIZING]
    for node in kept:
        node.input[:] = [sources.get(name, name) for name in node.input]
        if node.op_type == "Cast" and node.attribute[0].i in _CODES.values():
            node.attribute[0].i = TensorProto.FLOAT
    for output in graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
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

    def __init__(self, network: FusedRT4KSR, precision: Precision, bits: int) -> None:
        half = precision is Precision.FP16
        self.architecture: Architecture = network.architecture
        self.conv_type = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self.io_type = _CODES[bits]
        is_wide = bits > 8
        # FP16 has no room for codes of 16 bits, which are brought to units of 8 bits and back.
        self.scales_codes, self.rounds_halves = half and is_wide, half and not is_wide
        self.moves_codes = not half and self.architecture.colours == "yuv420"
        self.unit = WIDE if is_wide and not half else 1.0
        self.white = self.unit * (WIDEST / WIDE if is_wide else 255.0)
        self.luma_range = np.float32(LUMA_RANGE * self.unit)
        self.chroma_range = np.float32(CHROMA_RANGE * self.unit)
        self._values: Mapping[str, Array] = {k: v.numpy() for k, v in network.state_dict().items()}
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def rgb_head(self) -> str:
        """Convolve 6x6 with stride 2: the pixel-unshuffle and the network's first convolution."""
        (image,) = INPUTS["rgb"]
        x = self.node("Cast", [image.name], to=self.conv_type)
        x = self.node("Transpose", [self.reject_odd_sizes(x, image)], perm=_TO_NCHW)
        weight = unshuffled_weight(self._values["head.weight"]) / np.float32(255)
        black = np.zeros(image.channels, np.float32)
        return self.conv("head", x, weight, self._values["head.bias"], black, stride=UNSHUFFLE)

    def yuv420_head(self) -> str:
        """Convolve luma 6x6 with stride 2 and chroma 3x3, and add: the first convolution."""
        luma, chroma = INPUTS["yuv420"]
        weight, bias = self._values["head.weight"], self._values["head.bias"]
        luma_weight = unshuffled_weight(weight[:, : UNSHUFFLE**2]) / self.luma_range
        chroma_weight = weight[:, UNSHUFFLE**2 :] / self.chroma_range

        # Centred as (N, H/2, 2, W/2, 2): ONNX Runtime is slow where the last dimension is 1.
        x = self.centred(luma, self.reject_odd_sizes(self.codes(luma), luma), BLACK)
        # One channel: NHWC and NCHW are the same bytes.
        x = self.reshape(x, _KEEP, 1, _REST, _KEEP, UNSHUFFLE)
        x = self.to_conv_type(self.reshape(x, _KEEP, _KEEP, _KEEP, _REST))
        middle = np.full(luma.channels, LUMA_RANGE / 2, np.float32)
        x = self.conv("head.luma", x, luma_weight, bias, middle, stride=UNSHUFFLE)

        y = self.to_conv_type(self.centred(chroma, self.codes(chroma), GRAY))
        y = self.node("Transpose", [y], perm=_TO_NCHW)
        zero = np.zeros(chroma.channels, np.float32)
        y = self.conv("head.chroma", y, chroma_weight, np.zeros_like(bias), zero)
        return self.node("Add", [x, y])

    def codes(self, plane: FrameTensor) -> str:
        """Return an input as FP32."""
        return self.node("Cast", [plane.name], to=TensorProto.FLOAT, output=f"{plane.name}.codes")

    def centred(self, plane: FrameTensor, x: str, zero: float) -> str:
        """Return the codes ``x`` of ``plane``, scaled, less the one for black or gray."""
        if self.scales_codes:
            x = self.node("Mul", [x, self.scalar("narrow", 1 / WIDE)])
        return self.node("Sub", [x, self.scalar(f"{plane.name}.zero", zero * self.unit)])

    def reject_odd_sizes(self, x: str, frames: FrameTensor) -> str:
        """Reshape to blocks of two rows and columns: moves no data, and fails if H or W is odd.

        Otherwise the head's stride would silently drop the last row or column. Padding and cropping
        here instead takes 9 % more of a CPU's time, for even sizes too: TensorRT has uint8 in casts
        only, so that float32 would be cropped. Returns NHWC, or ``(N, H/2, 2, W/2, 2)`` of luma.
        """
        pairs = frames.channels * UNSHUFFLE
        x = self.reshape(x, _KEEP, _KEEP, 1, _REST, pairs)
        x = self.reshape(x, _KEEP, _REST, UNSHUFFLE, _KEEP, pairs)
        if frames.channels == 1:
            return x
        x = self.reshape(x, _KEEP, _REST, 1, _KEEP, pairs)
        return self.reshape(x, _KEEP, _KEEP, _REST, frames.channels)

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

    def rgb_output(self, x: str) -> None:
        """Convolve to RGB of 0..255, clip, round and shuffle."""
        shuffle = self.architecture.shuffle
        weight, bias = (
            # from torch's shuffle order (colour, row, column) to (row, column, colour)
            np.moveaxis(values.reshape(-1, shuffle, shuffle, *values.shape[1:]), 0, 2).reshape(
                values.shape
            )
            * np.float32(255)
            for values in (self._values["upsample.weight"], self._values["upsample.bias"])
        )
        (upscaled,) = OUTPUTS["rgb"]
        self.output(upscaled, self.codes_nhwc(x, weight, bias), shuffle)

    def yuv420_outputs(self, x: str) -> None:
        """Convolve to luma and chroma, clip, round and shuffle."""
        scale = self.architecture.scale
        ordered = []
        for values in (self._values["upsample.weight"], self._values["upsample.bias"]):
            rest = values.shape[1:]
            packed = values.reshape(-1, scale, scale, *rest)
            # luma from (row and column in its block, row and column of the block) to rows, columns
            blocks = packed[: UNSHUFFLE**2].reshape(UNSHUFFLE, UNSHUFFLE, scale, scale, *rest)
            rows = np.moveaxis(blocks, (2, 0, 3, 1), (0, 1, 2, 3)).reshape(-1, *rest)
            pairs = np.moveaxis(packed[UNSHUFFLE**2 :], 0, 2).reshape(-1, *rest)
            ordered.append(np.concatenate([rows * self.luma_range, pairs * self.chroma_range]))
        weight, bias = ordered
        sizes = np.array([len(rows), len(pairs)])
        bias += np.repeat([BLACK * self.unit, GRAY * self.unit], sizes).astype(np.float32)
        x = self.codes_nhwc(x, weight, bias)
        luma, chroma = parts = [f"{x}.luma", f"{x}.chroma"]
        inputs = [x, self.constant("planes", sizes)]
        self._nodes.append(helper.make_node("Split", inputs, parts, "Split", axis=-1))
        self.output(OUTPUTS["yuv420"][0], luma, UNSHUFFLE * scale)
        self.output(OUTPUTS["yuv420"][1], chroma, scale)

    def codes_nhwc(self, x: str, weight: Array, bias: Array) -> str:
        """Convolve to codes and clip them; NHWC.

        What comes next is in the order that moves fewer bytes or makes fewer passes. RGB in FP32 is
        shuffled as it is and rounded in the pass that casts it. FP16 is rounded first: 0..255 is
        exact in FP16, which is half as much to move. Codes of 16 bits are not.
        """
        x = self.conv("upsample", x, weight, bias, np.zeros(weight.shape[1], np.float32))
        white = self.scalar("white", self.white)
        x = self.node("Clip", [x, self.scalar("black", 0.0), white])
        if self.rounds_halves:
            x = self.to_conv_type(self.node("Round", [x]))
        x = self.node("Transpose", [x], perm=_TO_NHWC)
        return self.cast(x) if self.moves_codes else x

    def output(self, frames: FrameTensor, x: str, shuffle: int) -> None:
        """Shuffle ``(N, h, w, row * column * channel)`` to ``(N, shuffle*h, shuffle*w, C)``."""
        run = shuffle * frames.channels
        x = self.reshape(x, _KEEP, _KEEP, _KEEP, shuffle, run)
        x = self.node("Transpose", [x], perm=[0, 1, 3, 2, 4])
        # in two steps, as a shape has room for one unknown besides the dimensions it keeps
        x = self.reshape(x, _KEEP, _REST, 1, _KEEP, run)
        shape = (_KEEP, _KEEP, _REST, frames.channels)
        if self.moves_codes:
            self.reshape(x, *shape, output=frames.name)
        else:
            self.cast(self.reshape(x, *shape), frames.name)

    def cast(self, x: str, output: str | None = None) -> str:
        """Round codes to what the outputs hold."""
        if self.scales_codes:
            x = self.node("Mul", [x, self.scalar("wide", WIDE)])
        if not self.rounds_halves:
            x = self.node("Round", [x])
        return self.node("Cast", [x], output=output, to=self.io_type)

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

    def reshape(self, x: str, *shape: int, output: str | None = None) -> str:
        """Reshape; 0 keeps a dimension, -1 is the rest."""
        name = self.constant("shape_" + "_".join(map(str, shape)), np.array(shape))
        return self.node("Reshape", [x, name], output)

    def constant(self, name: str, value: Array | Half | NDArray[np.int64]) -> str:
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
        colours = self.architecture.colours
        frames, upscaled = (
            [
                helper.make_tensor_value_info(
                    tensor.name,
                    self.io_type,
                    ["N", *(symbolic_side(prefix, s, tensor) for s in "HW"), tensor.channels],
                )
                for tensor in tensors
            ]
            for prefix, tensors in (("", INPUTS[colours]), ("upscaled_", OUTPUTS[colours]))
        )
        initializers = list(self._initializers.values())
        graph = helper.make_graph(self._nodes, "rt4ksr", frames, upscaled, initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="rt4ksr-triton",
        )
        helper.set_model_props(model, dict(sorted(metadata.items())))
        onnx.checker.check_model(model, full_check=True)
        return model


def unshuffled_weight(weight: Array) -> Array:
    """Return the 6x6 kernel that does to pixels what a 3x3 one does to unshuffled ones."""
    features, _, rows, columns = weight.shape
    # torch unshuffles to channels (colour, row, column)
    weight = weight.reshape(features, -1, UNSHUFFLE, UNSHUFFLE, rows, columns)
    weight = weight.transpose(0, 1, 4, 2, 5, 3)
    return weight.reshape(features, -1, rows * UNSHUFFLE, columns * UNSHUFFLE)


def symbolic_side(prefix: str, side: str, tensor: FrameTensor) -> str:
    """Return the name of a dynamic dimension, such as ``upscaled_H`` or ``W/2``."""
    return f"{prefix}{side}" + (f"/{tensor.subsampling}" if tensor.subsampling > 1 else "")
