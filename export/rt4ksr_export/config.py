"""``config.pbtxt`` of a served model, from Triton's protobuf schema."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from rt4ksr_client.contract import CHANNELS, INPUT_NAME, OUTPUT_NAME, ModelSpec

__all__ = ["config_text"]

MAX_BATCH_SIZE = 8
"""At 4K a batch of 8 is 200 MB of output: more would not run faster, only wait longer."""

MAX_QUEUE_DELAY_US = 500
"""How long a frame may wait for company; a small part of the fastest frame (3 ms on a GPU)."""

MAX_QUEUE_SIZE = 64
"""Frames that may wait (400 MB of 1080p); the next one is refused at once instead of piling up."""

QUEUE_TIMEOUT_US = 30_000_000
"""A frame that waited this long is refused: nobody wants it any more."""


def config_text(spec: ModelSpec, parameters: Mapping[str, str]) -> str:
    """Return the text of ``config.pbtxt`` for ``spec``, with ``parameters`` for the clients."""
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
    text: str = text_format.MessageToString(config)
    return text


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
