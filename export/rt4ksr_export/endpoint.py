"""The image endpoint in a repository: two stages that all models share, an ensemble for each.

The stages are Python models whose code is :mod:`rt4ksr_server.stages`; the repository holds their
configurations and one line that imports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

import rt4ksr_client
from rt4ksr_client.contract import (
    CHANNELS,
    DECODE_STAGE,
    DEFAULT_PICTURE_FORMAT,
    ENCODE_STAGE,
    INPUT_NAME,
    MAX_INPUT_PX,
    MAX_PICTURE_BYTES,
    OUTPUT_NAME,
    PICTURE_FORMATS,
    PICTURE_NAME,
    SIDECAR_NAME,
    UPSCALED_PICTURE_NAME,
    Parameter,
    image_endpoint,
)
from rt4ksr_client.files import FORMATS
from rt4ksr_export.config import MAX_QUEUE_SIZE, QUEUE_TIMEOUT_US
from rt4ksr_export.plans.profile import MAX_BATCH_SIZE

__all__ = ["endpoint_files", "stage_files"]

DECODE_INSTANCES: Final = {"config.pbtxt": 1, "configs/gpu.pbtxt": 4, "configs/tensorrt.pbtxt": 4}
ENCODE_INSTANCES: Final = {"config.pbtxt": 2, "configs/gpu.pbtxt": 8, "configs/tensorrt.pbtxt": 8}
"""By configuration. On a CPU the network takes all cores, and one picture is encoded while the
next is upscaled. A GPU leaves the cores to the codecs, of which encoding 4K is the slower."""

_MODEL_PY: Final = '''"""The image endpoint's {stage} stage; its code is in rt4ksr-triton."""

try:
    from rt4ksr_server.stages.{stage} import TritonPythonModel
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"the image endpoint needs {{missing.name}}: install rt4ksr-triton with pip for the "
        "python3 that tritonserver runs, or load other models only "
        "(--model-control-mode=explicit --load-model=rt4ksr_x2)"
    ) from missing

__all__ = ["TritonPythonModel"]
'''

_PUBLIC_PARAMETERS: Final = (Parameter.SCALE, Parameter.WEIGHTS_SHA256, Parameter.PROJECT_VERSION)


def endpoint_files(model: str, parameters: Mapping[str, str]) -> dict[str, bytes]:
    """Return what is in the folder of ``model``'s image endpoint, by path.

    ``parameters`` are the model's own; those that describe its pictures are the endpoint's too.
    """
    config = schema.ModelConfig(
        name=image_endpoint(model),
        platform="ensemble",
        max_batch_size=MAX_BATCH_SIZE,
        input=[_pictures(schema.ModelInput, PICTURE_NAME)],
        output=[_pictures(schema.ModelOutput, UPSCALED_PICTURE_NAME)],
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
    _add_parameters(config, {key: parameters[key] for key in _PUBLIC_PARAMETERS})
    # Triton wants a folder of the version, and git keeps none that is empty.
    return {"config.pbtxt": _text(config), "1/.gitkeep": b""}


def stage_files() -> dict[str, dict[str, bytes]]:
    """Return what is in the folders of both stages, by name and path."""
    decode = _stage(DECODE_STAGE)
    decode.input.append(_pictures(schema.ModelInput, PICTURE_NAME))
    decode.output.extend(
        [_frames(schema.ModelOutput, INPUT_NAME), _pictures(schema.ModelOutput, SIDECAR_NAME)]
    )
    limits = {Parameter.MAX_PICTURE_BYTES: MAX_PICTURE_BYTES, Parameter.MAX_INPUT_PX: MAX_INPUT_PX}
    _add_parameters(decode, limits)

    encode = _stage(ENCODE_STAGE)
    encode.input.extend(
        [_frames(schema.ModelInput, OUTPUT_NAME), _pictures(schema.ModelInput, SIDECAR_NAME)]
    )
    encode.output.append(_pictures(schema.ModelOutput, UPSCALED_PICTURE_NAME))
    _add_parameters(encode, {Parameter.DEFAULT_FORMAT: DEFAULT_PICTURE_FORMAT})
    _add_parameters(encode, _qualities())
    return {
        DECODE_STAGE: _stage_folder(decode, DECODE_INSTANCES),
        ENCODE_STAGE: _stage_folder(encode, ENCODE_INSTANCES),
    }


def _stage_folder(config: schema.ModelConfig, instances: Mapping[str, int]) -> dict[str, bytes]:
    stage = config.name.rpartition("_")[2]
    files = {"1/model.py": _MODEL_PY.format(stage=stage).encode()}
    for place, count in instances.items():
        config.instance_group[0].count = count
        files[place] = _text(config)
    return files


def _stage(name: str) -> schema.ModelConfig:
    config = schema.ModelConfig(
        name=name,
        backend="python",
        max_batch_size=MAX_BATCH_SIZE,
        instance_group=[schema.ModelInstanceGroup(kind=schema.ModelInstanceGroup.KIND_CPU)],
        # Batches gain nothing here; this is for its bounded queue.
        dynamic_batching=schema.ModelDynamicBatching(
            default_queue_policy=schema.ModelQueuePolicy(
                timeout_action=schema.ModelQueuePolicy.REJECT,
                default_timeout_microseconds=QUEUE_TIMEOUT_US,
                max_queue_size=MAX_QUEUE_SIZE,
            ),
        ),
    )
    _add_parameters(config, {Parameter.PROJECT_VERSION: rt4ksr_client.__version__})
    return config


def _qualities() -> dict[str, int]:
    """Return the client's own qualities, by parameter."""
    defaults = {name: FORMATS[name.upper()] for name in PICTURE_FORMATS}
    return {
        Parameter.DEFAULT_QUALITY + name: options["quality"]
        for name, options in defaults.items()
        if "quality" in options
    }


def _add_parameters(config: schema.ModelConfig, values: Mapping[str, str | int]) -> None:
    for key, value in values.items():
        config.parameters[key].string_value = str(value)


Kind = type[schema.ModelInput] | type[schema.ModelOutput]


def _pictures(kind: Kind, name: str) -> schema.ModelInput | schema.ModelOutput:
    return _tensor(kind, name, schema.TYPE_STRING, [1])


def _frames(kind: Kind, name: str) -> schema.ModelInput | schema.ModelOutput:
    return _tensor(kind, name, schema.TYPE_UINT8, [-1, -1, CHANNELS])


def _tensor(
    kind: Kind, name: str, data_type: int, dims: Iterable[int]
) -> schema.ModelInput | schema.ModelOutput:
    return kind(name=name, data_type=data_type, dims=dims)


def _text(config: schema.ModelConfig) -> bytes:
    text: str = text_format.MessageToString(config)
    return text.encode()
