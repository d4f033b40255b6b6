"""The image endpoint's part of a model repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from rt4ksr_client.contract import (
    DECODE_STAGE,
    DEFAULT_MODELS,
    ENCODE_STAGE,
    MAX_SIDE_PX,
    MODELS,
    PICTURE_NAME,
    UPSCALED_PICTURE_NAME,
    auto_endpoint,
    image_endpoint,
)
from rt4ksr_export.checkpoint import load_network, packaged_weights
from rt4ksr_export.config import auto_configs, endpoint_config, model_config, stage_configs
from rt4ksr_export.repository import auto_files, build_model, endpoint_files, stage_files

PICTURES = [spec.name for spec in MODELS.values() if spec.colours == "rgb"]


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture
def stages() -> dict[str, ModelConfig]:
    return {name: configs["config.pbtxt"] for name, configs in stage_configs().items()}


def test_the_stages_in_git_are_what_the_exporter_makes(root: Path) -> None:
    for name, files in stage_files().items():
        assert content(root / "model_repository" / name) == files


@pytest.mark.parametrize("scale", DEFAULT_MODELS)
def test_the_endpoints_that_choose_know_every_model_of_their_scale(scale: int, root: Path) -> None:
    files = auto_files(scale)
    parameters = auto_configs(scale)["config.pbtxt"].parameters

    assert content(root / "model_repository" / auto_endpoint(scale)) == files
    default, *others = parameters["choices"].string_value.split(",")
    assert default == DEFAULT_MODELS[scale].name
    assert {default, *others} == {name for name in PICTURES if MODELS[name].scale == scale}
    for name in others:
        limit = parameters[f"max_jpeg_quality:{name}"].string_value
        assert int(limit) == MODELS[name].max_jpeg_quality > 0


@pytest.mark.parametrize("name", PICTURES)
def test_the_endpoints_in_git_are_what_the_exporter_makes(name: str, root: Path) -> None:
    model = build_model(load_network(packaged_weights(name)), MODELS[name])

    files = endpoint_files(name, model.parameters)

    assert content(root / "model_repository" / image_endpoint(name)) == files


@pytest.mark.parametrize("name", PICTURES)
def test_every_tensor_of_an_ensemble_has_one_type_at_both_ends(
    name: str, stages: dict[str, ModelConfig]
) -> None:
    parameters = {"scale": "2", "weights_sha256": "", "project_version": "1"}
    ensemble = endpoint_config(name, parameters)
    models = stages | {name: model_config(MODELS[name], {})}
    made = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        model = models[step.model_name]
        taken = {t.name: (t.data_type, list(t.dims)) for t in model.input}
        assert {inner: made[outer] for inner, outer in step.input_map.items()} == taken
        given = {t.name: (t.data_type, list(t.dims)) for t in model.output}
        made |= {outer: given[inner] for inner, outer in step.output_map.items()}
        assert model.max_batch_size == ensemble.max_batch_size

    (output,) = ensemble.output
    assert made[output.name] == (output.data_type, list(output.dims))
    assert [t.name for t in ensemble.input] == [PICTURE_NAME]
    assert output.name == UPSCALED_PICTURE_NAME


def test_stages_have_more_instances_where_a_gpu_leaves_the_cores_free() -> None:
    for name, configs in stage_configs().items():
        counts = {path: config.instance_group[0].count for path, config in configs.items()}
        assert counts["config.pbtxt"] < counts["configs/gpu.pbtxt"], name
        assert counts["configs/gpu.pbtxt"] == counts["configs/tensorrt.pbtxt"]


def test_the_decode_stage_knows_the_longest_side_of_a_plan_and_only_there() -> None:
    sides = {
        path: config.parameters["max_side_px"].string_value
        for path, config in stage_configs()[DECODE_STAGE].items()
        if "max_side_px" in config.parameters
    }

    assert sides == {
        "configs/gpu.pbtxt": str(MAX_SIDE_PX),
        "configs/tensorrt.pbtxt": str(MAX_SIDE_PX),
    }


def test_limits_and_defaults_are_parameters(stages: dict[str, ModelConfig]) -> None:
    limits = {k: v.string_value for k, v in stages[DECODE_STAGE].parameters.items()}
    defaults = {k: v.string_value for k, v in stages[ENCODE_STAGE].parameters.items()}

    assert {"max_input_px", "max_picture_bytes"} <= set(limits)
    assert defaults["default_format"] == "jpeg"
    assert (defaults["default_quality_jpeg"], defaults["default_quality_webp"]) == ("95", "90")


def test_every_queue_of_a_stage_is_bounded(stages: dict[str, ModelConfig]) -> None:
    for config in stages.values():
        policy = config.dynamic_batching.default_queue_policy
        assert policy.max_queue_size > 0
        assert policy.default_timeout_microseconds > 0
