"""The fused network as an ONNX graph from uint8 frames to uint8 frames.

``image`` uint8 ``(N, H, W, 3)`` to ``upscaled`` uint8 ``(N, s*H, s*W, 3)``; N, H and W are open.
The division by 255 is folded into the head's weights and the multiplication into the upsampler's,
which is exact up to float rounding because both are linear ends of the network.

The first operator on the input and the last before the output are casts: TensorRT knows uint8
nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rt4ksr_client.contract import CHANNELS, INPUT_NAME, OUTPUT_NAME
from rt4ksr_export.network import NORM_EPS, UNSHUFFLE, FusedRT4KSR

__all__ = ["OPSET", "RAW_OUTPUT_NAME", "build_graph"]

OPSET = 20
"""The first with ``Gelu``; taken by ONNX Runtime and TensorRT in every Triton from 24.10."""

IR_VERSION = 9
"""The IR that came with opset 20; a newer one would shut out older runtimes for nothing."""

RAW_OUTPUT_NAME = "raw"
"""Inner tensor ``(N, s*H, s*W, 3)``, float32, unclipped, 0 = black and 255 = white."""

_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def build_graph(network: FusedRT4KSR, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Return the checked graph; the same weights and metadata give the same bytes."""
    architecture = network.architecture
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    draft = _Draft()

    x = draft.node("Cast", [INPUT_NAME], to=TensorProto.FLOAT)
    x = draft.node("Transpose", [x], perm=_TO_NCHW)
    x = draft.node("SpaceToDepth", [x], blocksize=UNSHUFFLE)
    x = draft.conv("head", x, _head_weight(weights["head.weight"]), weights["head.bias"])
    for index in range(architecture.blocks):
        x = draft.norm_and_conv(f"body.{index}", x, weights)
        x = draft.node("Gelu", [x])
    x = draft.norm_and_conv("tail", x, weights)
    x = draft.conv("upsample", x, weights["upsample.weight"] * 255, weights["upsample.bias"] * 255)
    x = draft.node("DepthToSpace", [x], blocksize=architecture.shuffle, mode="CRD")
    x = draft.node("Transpose", [x], output=RAW_OUTPUT_NAME, perm=_TO_NHWC)
    x = draft.node("Clip", [x, draft.constant("black", 0.0), draft.constant("white", 255.0)])
    x = draft.node("Round", [x])
    draft.node("Cast", [x], output=OUTPUT_NAME, to=TensorProto.UINT8)
    return draft.finish(metadata)


def _head_weight(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """From torch's unshuffled channel order, for [0, 1], to ``SpaceToDepth``'s, for 0..255."""
    features, _, rows, columns = weight.shape
    by_torch = weight.reshape(features, CHANNELS, UNSHUFFLE, UNSHUFFLE, rows, columns)
    by_onnx = by_torch.transpose(0, 2, 3, 1, 4, 5).reshape(weight.shape)
    return by_onnx / np.float32(255)


class _Draft:
    """Collects nodes and weights; a node is named after its place, so that names are stable."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[np.float32] | float) -> str:
        array = np.ascontiguousarray(value, dtype=np.float32)
        self._weights.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def node(
        self, operator: str, inputs: list[str], output: str | None = None, **attributes: Any
    ) -> str:
        name = f"{len(self._nodes):02d}_{operator}"
        output = output or f"{name}.out"
        self._nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def conv(
        self, name: str, x: str, weight: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> str:
        inputs = [
            x,
            self.constant(f"{name}.weight", weight),
            self.constant(f"{name}.bias", bias),
        ]
        return self.node("Conv", inputs, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def norm_and_conv(self, name: str, x: str, weights: Mapping[str, NDArray[np.float32]]) -> str:
        x = self.node("Transpose", [x], perm=_TO_NHWC)
        norm = [
            self.constant(f"{name}.norm.{part}", weights[f"{name}.norm.{part}"])
            for part in ("weight", "bias")
        ]
        x = self.node("LayerNormalization", [x, *norm], axis=-1, epsilon=NORM_EPS)
        x = self.node("Transpose", [x], perm=_TO_NCHW)
        return self.conv(
            f"{name}.conv", x, weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"]
        )

    def finish(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes,
            "rt4ksr",
            [_frames(INPUT_NAME, "H", "W")],
            [_frames(OUTPUT_NAME, "upscaled_H", "upscaled_W")],
            self._weights,
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


def _frames(name: str, height: str, width: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", height, width, CHANNELS])
