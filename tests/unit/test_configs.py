from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from rt4ksr_client.contract import INPUTS, MAX_SIDE_PX, MODELS, ModelSpec
from rt4ksr_export.config import config_text, model_config, model_configs
from rt4ksr_export.tensorrt import MAX_BATCH_SIZE, Profile

PATHS = ("config.pbtxt", "configs/gpu.pbtxt", "configs/tensorrt.pbtxt")

TENSORS = {
    "rgb": ([("image", [-1, -1, 3])], [("upscaled", [-1, -1, 3])]),
    "yuv420": (
        [("luma", [-1, -1, 1]), ("chroma", [-1, -1, 2])],
        [("upscaled_luma", [-1, -1, 1]), ("upscaled_chroma", [-1, -1, 2])],
    ),
}

ACCELERATOR_KEYS = {
    # What the ONNX Runtime backend of Triton reads; any other key fails the load.
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_engine_cache_prefix",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
    "trt_force_sequential_engine_build",
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
    inputs, outputs = TENSORS[spec.colours]
    assert [(t.name, list(t.dims)) for t in config.input] == inputs
    assert [(t.name, list(t.dims)) for t in config.output] == outputs
    data_type = schema.TYPE_UINT16 if spec.name.endswith("16") else schema.TYPE_UINT8
    assert {t.data_type for t in (*config.input, *config.output)} == {data_type}
    assert config.parameters["scale"].string_value == str(spec.scale)
    assert 0 < config.dynamic_batching.default_queue_policy.max_queue_size < 1000
    warmup = {name: list(one.dims) for name, one in config.model_warmup[0].inputs.items()}
    is_rgb = spec.colours == "rgb"
    planes = {"luma": [64, 64, 1], "chroma": [32, 32, 2]}
    assert warmup == ({"image": [64, 64, 3]} if is_rgb else planes)
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
    planes = f"luma:1x{height}x{width}x1,chroma:1x{height // 2}x{width // 2}x2"
    if spec.bits == 16:  # behind the casts, which TensorRT cannot do
        planes = planes.replace(":", ".codes:")
    assert best == (f"image:1x{height}x{width}x3" if spec.colours == "rgb" else planes)


def test_the_tensorrt_configuration_records_the_shape_that_its_plan_is_best_for(
    configs: dict[str, schema.ModelConfig], spec: ModelSpec
) -> None:
    config = configs["configs/tensorrt.pbtxt"]
    if spec.bits == 16:
        assert config == configs["configs/gpu.pbtxt"]
        return
    (recorded,) = config.optimization.cuda.graph_spec

    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert not recorded.HasField("graph_lower_bound")  # or a graph would serve smaller frames too
    for tensor in INPUTS[spec.colours]:
        batch_and_frame = (recorded.batch_size, *recorded.input[tensor.name].dim)
        assert batch_and_frame == tensor.shape(*Profile.of(spec).best)


def test_every_configuration_has_one_instance(configs: dict[str, schema.ModelConfig]) -> None:
    """A TensorRT context of its own for each instance: together they have to fit on a card."""
    for config in configs.values():
        assert [group.count for group in config.instance_group] == [1]


def test_a_plan_takes_every_batch_that_triton_may_form(
    configs: dict[str, schema.ModelConfig], spec: ModelSpec
) -> None:
    batch, height, width = Profile.of(spec).largest

    assert {config.max_batch_size for config in configs.values()} == {batch} == {MAX_BATCH_SIZE}
    assert batch * height * width * 3 * spec.scale**2 < 2**31
    assert height == width == MAX_SIDE_PX
