"""Tiny nearest-neighbour models for a real tritonserver.

They keep the wire contract of the real models (names, types, shapes, even sizes only) and cost next
to nothing, so that a test sees the serving and not the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.compose
import onnx.parser
import tritonclient.grpc as triton_grpc
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rt4ksr_client import __version__, contract
from rt4ksr_client.contract import ModelSpec, Parameter
from rt4ksr_export.repository import endpoint_files, stage_files
from rt4ksr_server import TritonServer

# Of one tensor. The reshapes before `even` copy nothing; they fail where a side is odd.
_NEAREST = """
<ir_version: 8, opset_import: ["": 17]>
nearest ({type}[N, {height}, {width}, {channels}] {image})
    => ({type}[N, large_{height}, large_{width}, {channels}] {upscaled})
<int64[4] pairs = {{0, 0, -1, {pair}}}, int64[4] wide_shape = {{0, 0, -1, {channels}}},
 int64[2] rows = {{0, -1}}, int64[1] pair = {{{pair}}}, int64[1] channels = {{{channels}}}>
{{
    shape = Shape({image})
    width = Shape <start=2, end=3> ({image})
    by_columns = Reshape({image}, pairs)
    halved = Concat <axis=0> (rows, width, pair)
    by_rows = Reshape(by_columns, halved)
    even = Reshape(by_rows, shape)
    doubled = Concat <axis=3> ({columns})
    wide = Reshape(doubled, wide_shape)
    wide_width = Shape <start=2, end=3> (wide)
    large_shape = Concat <axis=0> (rows, wide_width, channels)
    tall = Concat <axis=2> ({rows})
    {upscaled} = Reshape(tall, large_shape)
}}
"""


def nearest(image: npt.NDArray[Any], scale: int) -> npt.NDArray[Any]:
    """What a nearest model answers: ``(N, H, W, C)`` to ``(N, s*H, s*W, C)``, of each tensor."""
    return image.repeat(scale, axis=1).repeat(scale, axis=2)


def nearest_graph(spec: ModelSpec) -> onnx.ModelProto:
    """An ONNX nearest-neighbour upscaler under the wire contract."""
    parts = []
    for taken, given in zip(
        contract.INPUTS[spec.colours], contract.OUTPUTS[spec.colours], strict=True
    ):
        is_half = taken.subsampling == 2
        text = _NEAREST.format(
            type=spec.datatype.lower(),
            image=taken.name,
            upscaled=given.name,
            height="H_half" if is_half else "H",
            width="W_half" if is_half else "W",
            channels=taken.channels,
            pair=contract.SIZE_MULTIPLE_PX // taken.subsampling * taken.channels,
            columns=", ".join(["even"] * spec.scale),
            rows=", ".join(["wide"] * spec.scale),
        )
        part = onnx.parser.parse_model(text)
        for value in (*part.graph.input, *part.graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param.endswith("_half"):  # the parser takes no slash
                    dim.dim_param = dim.dim_param.replace("_half", "/2")
        parts.append(part)
    model = parts[0]
    for number, part in enumerate(parts[1:]):
        model = onnx.compose.merge_models(
            model,
            onnx.compose.add_prefix(part, f"{number}_", rename_inputs=False, rename_outputs=False),
            io_map=[],
        )
    onnx.checker.check_model(model, full_check=True)
    return model


def inverted_graph(spec: ModelSpec) -> onnx.ModelProto:
    """As :func:`nearest_graph` for RGB, but with each value ``v`` as ``255 - v``."""
    model = nearest_graph(spec)
    model.opset_import[0].version = 18  # the first with BitwiseNot
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == contract.OUTPUT_NAME:
                node.output[index] = "nearest"
    model.graph.node.append(
        onnx.helper.make_node("BitwiseNot", ["nearest"], [contract.OUTPUT_NAME])
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def nearest_config(spec: ModelSpec, max_batch_size: int = 8) -> model_config_pb2.ModelConfig:
    """A config for :func:`nearest_graph`, with the parameters a client reads."""
    values = {
        Parameter.SCALE: spec.scale,
        Parameter.COLOURS: spec.colours,
        Parameter.SIZE_MULTIPLE: contract.SIZE_MULTIPLE_PX,
        Parameter.HALO: 16,
        Parameter.MAX_INPUT_PX: contract.MAX_INPUT_PX,
        Parameter.WEIGHTS_SHA256: hashlib.sha256(spec.name.encode()).hexdigest(),
        Parameter.PROJECT_VERSION: __version__,
        Parameter.MAX_JPEG_QUALITY: spec.max_jpeg_quality,
        Parameter.MAX_JPEG_QUALITY_444: spec.max_jpeg_quality_444,
    }
    config = model_config_pb2.ModelConfig(
        name=spec.name, backend="onnxruntime", max_batch_size=max_batch_size
    )
    for described, tensors in (
        (config.input, contract.INPUTS[spec.colours]),
        (config.output, contract.OUTPUTS[spec.colours]),
    ):
        for tensor in tensors:
            described.add(
                name=tensor.name,
                data_type=f"TYPE_{spec.datatype}",
                dims=[-1, -1, tensor.channels],
            )
    config.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_AUTO)
    config.dynamic_batching.max_queue_delay_microseconds = 0
    for key, value in values.items():
        config.parameters[key].string_value = str(value)
    return config


def write_model(
    repository: Path, config: model_config_pb2.ModelConfig, graph: onnx.ModelProto
) -> None:
    """Add a model folder to ``repository``, as an exporter does."""
    version = repository / config.name / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(graph.SerializeToString())
    (repository / config.name / "config.pbtxt").write_text(text_format.MessageToString(config))


def add_endpoints(repository: Path, models: Iterable[str]) -> None:
    """Add the image endpoint of each of ``models``, as the exporter makes it."""
    folders = stage_files()
    for model in models:
        config = text_format.Parse(
            (repository / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
        )
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        folders[contract.image_endpoint(model)] = endpoint_files(model, parameters)
    for name, files in folders.items():
        for place, content in files.items():
            (repository / name / place).parent.mkdir(parents=True, exist_ok=True)
            (repository / name / place).write_bytes(content)


def infer(
    server: TritonServer, model: str, image: npt.NDArray[np.uint8], timeout_s: float = 30
) -> npt.NDArray[np.uint8]:
    """Send one uint8 ``(N, H, W, C)`` tensor as it is, by gRPC; return the answer."""
    tensor = triton_grpc.InferInput(contract.INPUT_NAME, image.shape, contract.WIRE_DATATYPE)
    tensor.set_data_from_numpy(image)
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        result = client.infer(model, [tensor], client_timeout=timeout_s)
    answer: npt.NDArray[np.uint8] = result.as_numpy(contract.OUTPUT_NAME)
    return answer
