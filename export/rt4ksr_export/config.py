"""Configurations of a served model, from Triton's protobuf schema: one wire contract, three ways.

``config.pbtxt`` runs anywhere; ``configs/gpu.pbtxt`` and ``configs/tensorrt.pbtxt`` are chosen with
tritonserver's ``--model-config-name``. Each line's reason is in docs/gpu.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from rt4ksr_client.contract import CHANNELS, INPUT_NAME, OUTPUT_NAME, ModelSpec
from rt4ksr_export.plans.profile import MAX_BATCH_SIZE, Profile

__all__ = ["HALF_GRAPH_NAME", "PLAN_NAME", "config_text", "config_texts"]

HALF_GRAPH_NAME: Final = "model_fp16.onnx"
PLAN_NAME: Final = "model.plan"

ENGINE_CACHE: Final = "/var/cache/rt4ksr"
"""Where ONNX Runtime keeps the engines it builds: to be mounted, and written by the server only."""

ORT_GPU_INSTANCES: Final = 2
"""One copies while the other computes. The TensorRT backend does so within one instance."""

MAX_QUEUE_DELAY_US = 500
"""How long a frame may wait for company; a small part of the fastest frame (3 ms on a GPU)."""

MAX_QUEUE_SIZE = 64
"""Frames that may wait (400 MB of 1080p); the next one is refused at once instead of piling up."""

QUEUE_TIMEOUT_US = 30_000_000
"""A frame that waited this long is refused: nobody wants it any more."""


def config_texts(spec: ModelSpec, parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the text of every configuration by its place in the model's folder."""
    default = _config(spec, parameters)
    return {
        "config.pbtxt": _text(default),
        "configs/gpu.pbtxt": _text(_gpu(default, spec)),
        "configs/tensorrt.pbtxt": _text(_tensorrt(default, spec)),
    }


def config_text(spec: ModelSpec, parameters: Mapping[str, str]) -> str:
    """Return the text of ``config.pbtxt`` for ``spec``, with ``parameters`` for the clients."""
    return _text(_config(spec, parameters))


def _text(config: schema.ModelConfig) -> str:
    text: str = text_format.MessageToString(config)
    return text


def _gpu(default: schema.ModelConfig, spec: ModelSpec) -> schema.ModelConfig:
    """ONNX Runtime, which has TensorRT compile the graph in half precision at the first start."""
    config = schema.ModelConfig()
    config.CopyFrom(default)
    config.default_model_filename = HALF_GRAPH_NAME
    config.instance_group[0].count = ORT_GPU_INSTANCES
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
        }
    )
    for key, shape in Profile.of(spec).texts().items():
        accelerator.parameters[f"trt_profile_{key}_shapes"] = shape
    return config


def _tensorrt(default: schema.ModelConfig, spec: ModelSpec) -> schema.ModelConfig:
    """Triton's TensorRT backend and a plan built ahead."""
    config = schema.ModelConfig()
    config.CopyFrom(default)
    config.backend = "tensorrt"
    config.default_model_filename = PLAN_NAME
    config.instance_group[0].kind = schema.ModelInstanceGroup.KIND_GPU
    cuda = config.optimization.cuda
    cuda.graphs = True
    cuda.busy_wait_events = True
    cuda.output_copy_stream = True
    # A recorded graph serves this one shape, and without a lower bound no other.
    recorded = cuda.graph_spec.add(batch_size=1)
    recorded.input[INPUT_NAME].dim.extend([spec.input_height_px, spec.input_width_px, CHANNELS])
    return config


def _config(spec: ModelSpec, parameters: Mapping[str, str]) -> schema.ModelConfig:
    """The one that runs anywhere."""
    config = schema.ModelConfig(
        name=spec.name,
        backend="onnxruntime",
        max_batch_size=MAX_BATCH_SIZE,
        # Sizes are the frame's own: every dimension but the channels is open, as in the graph.
        input=[_tensor(schema.ModelInput, INPUT_NAME)],
        output=[_tensor(schema.ModelOutput, OUTPUT_NAME)],
        # KIND_AUTO takes a GPU where there is one; the count keeps Triton from making two on a CPU.
        instance_group=[
            schema.ModelInstanceGroup(kind=schema.ModelInstanceGroup.KIND_AUTO, count=1)
        ],
        version_policy=schema.ModelVersionPolicy(
            latest=schema.ModelVersionPolicy.Latest(num_versions=1)
        ),
        dynamic_batching=schema.ModelDynamicBatching(
            max_queue_delay_microseconds=MAX_QUEUE_DELAY_US,
            default_queue_policy=schema.ModelQueuePolicy(
                timeout_action=schema.ModelQueuePolicy.REJECT,
                default_timeout_microseconds=QUEUE_TIMEOUT_US,
                max_queue_size=MAX_QUEUE_SIZE,
            ),
        ),
        model_warmup=[_warmup(spec)],
    )
    for key, value in sorted(parameters.items()):
        config.parameters[key].string_value = value
    return config


def _tensor(
    kind: type[schema.ModelInput] | type[schema.ModelOutput], name: str
) -> schema.ModelInput | schema.ModelOutput:
    return kind(name=name, data_type=schema.TYPE_UINT8, dims=[-1, -1, CHANNELS])


def _warmup(spec: ModelSpec) -> schema.ModelWarmup:
    """One frame of the model's own size, so that ready means fast."""
    frame = schema.ModelWarmup.Input(
        data_type=schema.TYPE_UINT8,
        dims=[spec.input_height_px, spec.input_width_px, CHANNELS],
        random_data=True,
    )
    return schema.ModelWarmup(name="one_frame", batch_size=1, inputs={INPUT_NAME: frame})
