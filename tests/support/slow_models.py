"""A repository with a model of 4:2:0 that answers after a known time."""

from __future__ import annotations

import shutil
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rt4ksr_client.contract import PRIORITIES, models_for
from support.nearest_models import nearest_config

SPEC = models_for("video")[2]
MODEL = Path(__file__).with_name("calibrated_model.py")
MARK = 40
"""Added to the chroma of what the network gives, 128."""


def write_slow_model(folder: Path, delay_s: float, instances: int) -> Path:
    """Write a repository whose model answers after a delay, ``instances`` at a time."""
    config = nearest_config(SPEC, max_batch_size=1)
    config.backend = "python"
    config.parameters["delay_s"].string_value = str(delay_s)
    config.parameters["wrong_every"].string_value = "0"
    config.parameters["mark"].string_value = str(MARK)
    config.instance_group[0].count = instances
    config.instance_group[0].kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    batching = config.dynamic_batching
    batching.priority_levels, batching.default_priority_level = 2, PRIORITIES["normal"]
    batching.default_queue_policy.allow_timeout_override = True
    version = folder / SPEC.name / "1"
    version.mkdir(parents=True)
    shutil.copy(MODEL, version / "model.py")
    (folder / SPEC.name / "config.pbtxt").write_text(text_format.MessageToString(config))
    return folder
