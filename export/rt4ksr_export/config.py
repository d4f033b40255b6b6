"""Every ``config.pbtxt`` of a model repository, built from Triton's protobuf schema.

A model has three configurations with one wire contract: ``config.pbtxt`` runs anywhere;
``configs/gpu.pbtxt`` and ``configs/tensorrt.pbtxt`` are selected with tritonserver's
``--model-config-name``. docs/gpu.md gives the reason for each line. Beside the models, a repository
has the image endpoint: two stages that all models share, and an ensemble for each model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

import rt4ksr_client
from rt4ksr_client.contract import (
    DECODE_STAGE,
    DEFAULT_PICTURE_FORMAT,
    ENCODE_STAGE,
    INPUT_NAME,
    INPUTS,
    MAX_INPUT_PX,
    MAX_PICTURE_BYTES,
    MAX_SIDE_PX,
    MODELS,
    OUTPUT_NAME,
    OUTPUTS,
    PICTURE_FORMATS,
    PICTURE_NAME,
    PRIORITIES,
    SIDECAR_NAME,
    UPSCALED_PICTURE_NAME,
    FrameTensor,
    ModelSpec,
    Parameter,
    auto_endpoint,
    image_endpoint,
)
from rt4ksr_client.files import FORMATS
from rt4ksr_export.graph import Precision
from rt4ksr_export.tensorrt import MAX_BATCH_SIZE, Profile, Target

__all__ = [
    "CONFIG_NAME",
    "GRAPHS",
    "PLANS",
    "VERSION",
    "auto_configs",
    "config_text",
    "endpoint_config",
    "model_config",
    "model_configs",
    "stage_configs",
]

CONFIG_NAME: Final = "config.pbtxt"
GPU_CONFIG_NAME: Final = "configs/gpu.pbtxt"
TENSORRT_CONFIG_NAME: Final = "configs/tensorrt.pbtxt"

VERSION: Final = "1"
"""The folder of a model's files, as Triton numbers versions."""

GRAPHS: Final[Mapping[Precision, str]] = {
    Precision.FP32: "model.onnx",
    Precision.FP16: "model_fp16.onnx",
}
"""Files of a version; the first is the default of Triton's ONNX Runtime backend."""

PLANS: Final[Mapping[Target, str]] = {Target.TENSORRT: "model.plan", Target.RTX: "model.rtx"}
"""Files of a version that are compiled from one of :data:`GRAPHS`."""

ENGINE_CACHE: Final = "/var/cache/rt4ksr"
"""Where ONNX Runtime keeps the engines it builds: a volume that only the server can write to."""

_DATA_TYPES: Final = {8: schema.TYPE_UINT8, 16: schema.TYPE_UINT16}
(_IMAGE,), (_UPSCALED,) = INPUTS["rgb"], OUTPUTS["rgb"]

WARMUP_SIDE_PX: Final = 64
"""A small frame loads the kernels, and has an engine built that is not in the cache. One of the
model's own size makes the next one only 0.1 s faster on a CPU, and every start seconds longer."""

ONNX_RUNTIME: Final = {"enable_mem_pattern": "0"}
"""Parameters of Triton's ONNX Runtime backend. A memory pattern is planned for frames of one size,
and here each may have another: without, a frame takes as long and the server keeps less memory."""

MAX_QUEUE_DELAY_US: Final = 500
"""How long a frame waits for a second one; a small part of the fastest frame (3 ms on a GPU)."""

MAX_QUEUE_SIZE: Final = 64
"""Frames that may wait (400 MB of 1080p); further ones are rejected at once."""

QUEUE_TIMEOUT_US: Final = 30_000_000
"""A frame that waited this long is rejected: its client has given up by then."""

AUTO_INSTANCES: Final = {CONFIG_NAME: 1, GPU_CONFIG_NAME: 4, TENSORRT_CONFIG_NAME: 4}
DECODE_INSTANCES: Final = {CONFIG_NAME: 1, GPU_CONFIG_NAME: 4, TENSORRT_CONFIG_NAME: 4}
ENCODE_INSTANCES: Final = {CONFIG_NAME: 2, GPU_CONFIG_NAME: 8, TENSORRT_CONFIG_NAME: 8}
"""By configuration. On a CPU the network uses all cores, and one picture is encoded while the next
is upscaled. With a GPU the cores are free for the codecs, of which encoding 4K is the slower. An
endpoint that chooses has as many pictures in work as instances."""


_LIMITS: Final = {
    Parameter.MAX_PICTURE_BYTES: MAX_PICTURE_BYTES,
    Parameter.MAX_INPUT_PX: MAX_INPUT_PX,
}
"""Of what decodes pictures."""


def model_configs(spec: ModelSpec, parameters: Mapping[str, str]) -> dict[str, schema.ModelConfig]:
    """Return the configurations of a model by their paths in its folder.

    Clients read ``parameters``; see :class:`rt4ksr_client.contract.Parameter`.
    """
    return {
        CONFIG_NAME: model_config(spec, parameters),
        GPU_CONFIG_NAME: gpu_config(spec, parameters),
        TENSORRT_CONFIG_NAME: tensorrt_config(spec, parameters),
    }


def model_config(spec: ModelSpec, parameters: Mapping[str, str]) -> schema.ModelConfig:
    """Return the configuration that runs anywhere: ONNX Runtime, full precision."""
    config = schema.ModelConfig(
        name=spec.name,
        backend="onnxruntime",
        max_batch_size=MAX_BATCH_SIZE,
        # Every dimension except the channels is dynamic, as in the graph.
        input=[
            _frames_tensor(schema.ModelInput, tensor, spec.bits) for tensor in INPUTS[spec.colours]
        ],
        output=[
            _frames_tensor(schema.ModelOutput, tensor, spec.bits)
            for tensor in OUTPUTS[spec.colours]
        ],
        # KIND_AUTO uses a GPU if there is one. One instance: a second one is a second TensorRT
        # context, and Triton would make two on a CPU.
        instance_group=[
            schema.ModelInstanceGroup(kind=schema.ModelInstanceGroup.KIND_AUTO, count=1)
        ],
        version_policy=schema.ModelVersionPolicy(
            latest=schema.ModelVersionPolicy.Latest(num_versions=1)
        ),
        dynamic_batching=_bounded_batching(MAX_QUEUE_DELAY_US),
    )
    warmup = config.model_warmup.add(name="one_frame", batch_size=1)
    for tensor in INPUTS[spec.colours]:
        sample = warmup.inputs[tensor.name]
        sample.data_type = _DATA_TYPES[spec.bits]
        sample.dims.extend(tensor.shape(1, WARMUP_SIDE_PX, WARMUP_SIDE_PX)[1:])
        sample.random_data = True
    _set_parameters(config, {**parameters, **ONNX_RUNTIME})
    return config


def gpu_config(spec: ModelSpec, parameters: Mapping[str, str]) -> schema.ModelConfig:
    """Return the configuration in which ONNX Runtime has TensorRT compile the FP16 graph."""
    config = model_config(spec, parameters)
    config.default_model_filename = GRAPHS[Precision.FP16]
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    accelerator = accelerators.add(name="tensorrt")
    # No precision_mode: with one, ONNX Runtime would not build a strongly typed network.
    accelerator.parameters.update(
        {
            "trt_engine_cache_enable": "true",
            "trt_engine_cache_path": ENGINE_CACHE,
            "trt_engine_cache_prefix": spec.name,
            "trt_timing_cache_enable": "true",
            "trt_timing_cache_path": ENGINE_CACHE,
            # Models are loaded at the same time, and would write one timing cache at once.
            "trt_force_sequential_engine_build": "true",
        }
    )
    # TensorRT has no 16-bit integers: ONNX Runtime casts them, and the engine begins behind that.
    suffix = ".codes" if spec.bits > 8 else ""
    entries = {tensor.name + suffix: tensor for tensor in INPUTS[spec.colours]}
    for key, shape in Profile.of(spec).texts(entries).items():
        accelerator.parameters[f"trt_profile_{key}_shapes"] = shape
    return config


def tensorrt_config(spec: ModelSpec, parameters: Mapping[str, str]) -> schema.ModelConfig:
    """Return the configuration for Triton's TensorRT backend and a plan built in advance.

    TensorRT has no 16-bit integers, so a model of those is served as by :func:`gpu_config`.
    """
    if spec.bits > 8:
        return gpu_config(spec, parameters)
    config = model_config(spec, parameters)
    config.backend = "tensorrt"
    config.default_model_filename = PLANS[Target.TENSORRT]
    config.instance_group[0].kind = schema.ModelInstanceGroup.KIND_GPU
    cuda = config.optimization.cuda
    cuda.graphs = True
    cuda.busy_wait_events = True
    cuda.output_copy_stream = True
    # A recorded graph serves this one shape, and without a lower bound no other.
    recorded = cuda.graph_spec.add(batch_size=1)
    for tensor in INPUTS[spec.colours]:
        _, *dims = tensor.shape(1, spec.input_height_px, spec.input_width_px)
        recorded.input[tensor.name].dim.extend(dims)
    return config


def stage_configs() -> dict[str, dict[str, schema.ModelConfig]]:
    """Return the configurations of the image endpoint's stages, by stage and path."""
    decode = _stage_config(DECODE_STAGE)
    decode.input.append(_pictures_tensor(schema.ModelInput, PICTURE_NAME))
    decode.output.append(_frames_tensor(schema.ModelOutput, _IMAGE))
    decode.output.append(_pictures_tensor(schema.ModelOutput, SIDECAR_NAME))
    _set_parameters(decode, _LIMITS)

    encode = _stage_config(ENCODE_STAGE)
    encode.input.append(_frames_tensor(schema.ModelInput, _UPSCALED))
    encode.input.append(_pictures_tensor(schema.ModelInput, SIDECAR_NAME))
    encode.output.append(_pictures_tensor(schema.ModelOutput, UPSCALED_PICTURE_NAME))
    _set_parameters(encode, {Parameter.DEFAULT_FORMAT: DEFAULT_PICTURE_FORMAT})
    for name in PICTURE_FORMATS:
        options = FORMATS[name.upper()]
        if "quality" in options:
            _set_parameters(encode, {Parameter.DEFAULT_QUALITY + name: options["quality"]})

    return {
        DECODE_STAGE: _by_path(decode, DECODE_INSTANCES),
        ENCODE_STAGE: _by_path(encode, ENCODE_INSTANCES),
    }


def _by_path(
    stage: schema.ModelConfig, instances: Mapping[str, int]
) -> dict[str, schema.ModelConfig]:
    """Return the configurations of a Python model by path, with so many instances."""
    configs = {}
    for path, count in instances.items():
        config = schema.ModelConfig()
        config.CopyFrom(stage)
        config.instance_group[0].count = count
        if Parameter.MAX_INPUT_PX in stage.parameters and path != CONFIG_NAME:
            # TensorRT would reject a longer side with a less helpful message.
            _set_parameters(config, {Parameter.MAX_SIDE: MAX_SIDE_PX})
        configs[path] = config
    return configs


def _stage_config(name: str) -> schema.ModelConfig:
    """Return what the configurations of all Python models have in common."""
    config = schema.ModelConfig(
        name=name,
        backend="python",
        max_batch_size=MAX_BATCH_SIZE,
        instance_group=[schema.ModelInstanceGroup(kind=schema.ModelInstanceGroup.KIND_CPU)],
        # Batching has no advantage here, but brings the bounded queue.
        dynamic_batching=_bounded_batching(),
    )
    _set_parameters(config, {Parameter.PROJECT_VERSION: rt4ksr_client.__version__})
    return config


def auto_configs(scale: int) -> dict[str, schema.ModelConfig]:
    """Return the configurations of the endpoint that chooses a model by picture, by path."""
    endpoint = _stage_config(auto_endpoint(scale))
    endpoint.input.append(_pictures_tensor(schema.ModelInput, PICTURE_NAME))
    endpoint.output.append(_pictures_tensor(schema.ModelOutput, UPSCALED_PICTURE_NAME))
    specs = [s for s in MODELS.values() if s.scale == scale and s.colours == "rgb"]
    specs.sort(key=lambda spec: spec.content != "any")
    names = ",".join(spec.name for spec in specs)
    _set_parameters(endpoint, {**_LIMITS, Parameter.SCALE: scale, Parameter.CHOICES: names})
    for spec in specs:
        if spec.max_jpeg_quality or spec.max_jpeg_quality_444:
            limits = {
                f"{Parameter.MAX_JPEG_QUALITY}:{spec.name}": spec.max_jpeg_quality,
                f"{Parameter.MAX_JPEG_QUALITY_444}:{spec.name}": spec.max_jpeg_quality_444,
            }
            _set_parameters(endpoint, limits)
    return _by_path(endpoint, AUTO_INSTANCES)


def endpoint_config(model: str, parameters: Mapping[str, str]) -> schema.ModelConfig:
    """Return the ensemble that serves ``model`` for encoded pictures.

    ``parameters`` are the model's own; those that describe its pictures become the endpoint's.
    """
    config = schema.ModelConfig(
        name=image_endpoint(model),
        platform="ensemble",
        max_batch_size=MAX_BATCH_SIZE,
        input=[_pictures_tensor(schema.ModelInput, PICTURE_NAME)],
        output=[_pictures_tensor(schema.ModelOutput, UPSCALED_PICTURE_NAME)],
    )
    steps = (
        (DECODE_STAGE, (PICTURE_NAME,), (INPUT_NAME, SIDECAR_NAME)),
        (model, (INPUT_NAME,), (OUTPUT_NAME,)),
        (ENCODE_STAGE, (OUTPUT_NAME, SIDECAR_NAME), (UPSCALED_PICTURE_NAME,)),
    )
    for name, inputs, outputs in steps:
        step = config.ensemble_scheduling.step.add(model_name=name, model_version=-1)
        step.input_map.update({tensor: tensor for tensor in inputs})
        step.output_map.update({tensor: tensor for tensor in outputs})
    public = (Parameter.SCALE, Parameter.WEIGHTS_SHA256, Parameter.PROJECT_VERSION)
    _set_parameters(config, {key: parameters[key] for key in public})
    return config


def config_text(config: schema.ModelConfig) -> str:
    """Return ``config`` as ``config.pbtxt`` has it."""
    text: str = text_format.MessageToString(config)
    return text


def _set_parameters(config: schema.ModelConfig, values: Mapping[str, str | int]) -> None:
    """Add ``values`` to the parameters of ``config``."""
    for key, value in values.items():
        config.parameters[key].string_value = str(value)


def _bounded_batching(max_delay_us: int = 0) -> schema.ModelDynamicBatching:
    """Return dynamic batching with a queue that rejects requests when it is full or too slow.

    Each priority has a queue. A request may ask to be rejected earlier.
    """
    return schema.ModelDynamicBatching(
        max_queue_delay_microseconds=max_delay_us,
        priority_levels=len(PRIORITIES),
        default_priority_level=PRIORITIES["normal"],
        default_queue_policy=schema.ModelQueuePolicy(
            timeout_action=schema.ModelQueuePolicy.REJECT,
            default_timeout_microseconds=QUEUE_TIMEOUT_US,
            allow_timeout_override=True,
            max_queue_size=MAX_QUEUE_SIZE,
        ),
    )


TensorKind = type[schema.ModelInput] | type[schema.ModelOutput]


def _frames_tensor(
    kind: TensorKind, tensor: FrameTensor, bits: int = 8
) -> schema.ModelInput | schema.ModelOutput:
    """Return an input or output of ``(H, W, C)`` a frame."""
    dims = [-1, -1, tensor.channels]
    return kind(name=tensor.name, data_type=_DATA_TYPES[bits], dims=dims)


def _pictures_tensor(kind: TensorKind, name: str) -> schema.ModelInput | schema.ModelOutput:
    """Return an input or output of one encoded picture, or of its sidecar."""
    return kind(name=name, data_type=schema.TYPE_STRING, dims=[1])
