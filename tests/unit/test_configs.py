from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from rt4ksr_client.contract import INPUT_NAME, MAX_SIDE_PX, MODELS, OUTPUT_NAME, ModelSpec
from rt4ksr_export.config import config_text, model_config, model_configs
from rt4ksr_export.tensorrt import MAX_BATCH_SIZE, Profile

PATHS = ("config.pbtxt", "configs/gpu.pbtxt", "configs/tensorrt.pbtxt")

ACCELERATOR_KEYS = {
    # What the ONNX Runtime backend of Triton reads; any other key fails the load.
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_engine_cache_prefix",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_profile_max_shapes",
}


@pytest.fixture(params=MODELS.values(), ids=list(MODELS))
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    model: ModelSpec = request.param
    return model


@pytest.fixture
def configs(spec: ModelSpec) -> dict[str, schema.ModelConfig]:
    """As Triton reads them."""
    made = model_configs(spec, {"scale": str(spec.scale), "halo_px": "16"})
    return {
        path: text_format.Parse(config_text(config), schema.ModelConfig())
        for path, config in made.items()
    }


def test_the_config_parses_back_to_what_the_contract_says(spec: ModelSpec) -> None:
    config = text_format.Parse(
        config_text(model_config(spec, {"scale": str(spec.scale)})), schema.ModelConfig()
    )

    assert config.backend == "onnxruntime"
    assert config.name == spec.name
    assert [(t.name, list(t.dims)) for t in config.input] == [(INPUT_NAME, [-1, -1, 3])]
    assert [(t.name, list(t.dims)) for t in config.output] == [(OUTPUT_NAME, [-1, -1, 3])]
    assert config.parameters["scale"].string_value == str(spec.scale)
    assert 0 < config.dynamic_batching.default_queue_policy.max_queue_size < 1000
    assert list(config.model_warmup[0].inputs[INPUT_NAME].dims) == [64, 64, 3]
    assert [group.count for group in config.instance_group] == [1]


def test_the_three_configurations_are_the_same_for_clients(
    configs: dict[str, schema.ModelConfig],
) -> None:
    assert tuple(configs) == PATHS
    seen = []
    for config in configs.values():
        for field in ("backend", "default_model_filename", "instance_group", "optimization"):
            config.ClearField(field)
        seen.append(config.SerializeToString(deterministic=True))

    assert len(set(seen)) == 1


def test_the_gpu_configuration_keeps_the_types_of_the_graph(
    configs: dict[str, schema.ModelConfig], spec: ModelSpec
) -> None:
    config = configs["configs/gpu.pbtxt"]
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator

    assert (config.backend, config.default_model_filename) == ("onnxruntime", "model_fp16.onnx")
    assert accelerator.name == "tensorrt"
    assert set(accelerator.parameters) == ACCELERATOR_KEYS  # among them no precision_mode
    height, width = spec.input_height_px, spec.input_width_px
    best = accelerator.parameters["trt_profile_opt_shapes"]
    assert best == f"{INPUT_NAME}:1x{height}x{width}x3"


def test_the_tensorrt_configuration_records_the_shape_that_its_plan_is_best_for(
    configs: dict[str, schema.ModelConfig], spec: ModelSpec
) -> None:
    config = configs["configs/tensorrt.pbtxt"]
    (recorded,) = config.optimization.cuda.graph_spec

    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert not recorded.HasField("graph_lower_bound")  # or a graph would serve smaller frames too
    batch_and_frame = (recorded.batch_size, *recorded.input[INPUT_NAME].dim)
    assert batch_and_frame == Profile.of(spec).best


def test_every_configuration_has_one_instance(configs: dict[str, schema.ModelConfig]) -> None:
    """A TensorRT context of its own for each instance: together they have to fit on a card."""
    for config in configs.values():
        assert [group.count for group in config.instance_group] == [1]


def test_a_plan_takes_every_batch_that_triton_may_form(
    configs: dict[str, schema.ModelConfig], spec: ModelSpec
) -> None:
    batch, height, width, channels = Profile.of(spec).largest

    assert {config.max_batch_size for config in configs.values()} == {batch} == {MAX_BATCH_SIZE}
    assert batch * height * width * channels * spec.scale**2 < 2**31
    assert height == width == MAX_SIDE_PX
