from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import rt4ksr_client
from rt4ksr_client.contract import DEFAULT_MODELS, INPUT_NAME, MODELS, OUTPUT_NAME, ModelSpec
from rt4ksr_client.errors import ExportError, VerificationError
from rt4ksr_export import fusion, graph, repository, verification
from rt4ksr_export.checkpoint import load_network, packaged_weights, weights_sha256
from rt4ksr_export.fusion import fuse
from rt4ksr_export.graph import Precision, build_graph
from rt4ksr_export.network import RT4KSR, Architecture, FusedRT4KSR
from rt4ksr_export.plans import PlanIdentity, sha256, sidecar_path
from rt4ksr_export.repository import BuiltModel, build_model, export_model
from rt4ksr_export.tensorrt import Profile
from rt4ksr_export.verification import Tolerance, open_session, verify


@pytest.fixture(scope="module", params=[2, 3], ids=["x2", "x3"])
def network(request: pytest.FixtureRequest) -> RT4KSR:
    return load_network(packaged_weights(DEFAULT_MODELS[request.param].name))


@pytest.fixture(scope="module")
def spec(network: RT4KSR) -> ModelSpec:
    return DEFAULT_MODELS[network.architecture.scale]


@pytest.fixture(scope="module")
def built(network: RT4KSR, spec: ModelSpec) -> BuiltModel:
    return build_model(network, spec)


@pytest.fixture(scope="module")
def session(built: BuiltModel) -> onnxruntime.InferenceSession:
    return open_session(built.graphs[Precision.FP32])


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)], ids=str)
def verified_network(request: pytest.FixtureRequest) -> RT4KSR:
    """Shipped weights, for tests that run the whole verification, which takes seconds."""
    return load_network(packaged_weights(DEFAULT_MODELS[request.param].name))


@pytest.fixture(params=[2, pytest.param(3, marks=pytest.mark.slow)], ids=["x2", "x3"])
def small_network(request: pytest.FixtureRequest, quick_verification: None) -> RT4KSR:
    """Untrained, and verified on two small inputs: for tests of the steps after that."""
    torch.manual_seed(2)
    return RT4KSR(Architecture(request.param, features=8, blocks=1)).eval()


@pytest.fixture
def small_spec(small_network: RT4KSR) -> ModelSpec:
    return DEFAULT_MODELS[small_network.architecture.scale]


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", MODELS)
def test_the_model_repository_in_git_is_what_the_shipped_weights_give(
    name: str, root: Path
) -> None:
    weights = packaged_weights(MODELS[name].weights_name)
    model = build_model(load_network(weights), MODELS[name])

    assert model.files() == content(root / "model_repository" / name)


def test_the_shipped_weights_pass_verification(verified_network: RT4KSR, tmp_path: Path) -> None:
    spec = DEFAULT_MODELS[verified_network.architecture.scale]

    export_model(verified_network, spec, tmp_path)

    assert content(tmp_path / spec.name) == build_model(verified_network, spec).files()


def test_an_export_fuses_once_and_publishes_the_graphs_that_it_verified(
    small_network: RT4KSR,
    small_spec: ModelSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fused: list[FusedRT4KSR] = []
    built: list[onnx.ModelProto] = []
    verified: list[onnx.ModelProto] = []

    def recording_fuse(network: RT4KSR) -> FusedRT4KSR:
        fused.append(fusion.fuse(network))
        return fused[-1]

    def recording_build(*args: object, **kwargs: object) -> onnx.ModelProto:
        built.append(graph.build_graph(*args, **kwargs))  # type: ignore[arg-type]
        return built[-1]

    def recording_verify(model: onnx.ModelProto, *args: object) -> object:
        verified.append(model)
        return verification.verify(model, *args)  # type: ignore[arg-type]

    def recording_verify_half(half: onnx.ModelProto, full: onnx.ModelProto) -> object:
        verified.append(half)
        assert full is verified[0]
        return verification.verify_half(half, full)

    monkeypatch.setattr(repository, "fuse", recording_fuse)
    monkeypatch.setattr(repository, "build_graph", recording_build)
    monkeypatch.setattr(repository, "verify", recording_verify)
    monkeypatch.setattr(repository, "verify_half", recording_verify_half)

    export_model(small_network, small_spec, tmp_path)

    assert (len(fused), len(built), len(verified)) == (1, 2, 2)
    folder = tmp_path / small_spec.name / "1"
    for model, name in zip(verified, ("model.onnx", "model_fp16.onnx"), strict=True):
        assert any(model is one for one in built)
        assert (folder / name).read_bytes() == model.SerializeToString(deterministic=True)


def test_a_new_version_of_the_project_changes_no_graph_and_invalidates_no_plan(
    small_network: RT4KSR, small_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / small_spec.name
    export_model(small_network, small_spec, tmp_path)
    plan = folder / "1" / "model.plan"
    plan.write_bytes(b"a plan of the half-precision graph")
    identity = PlanIdentity(
        model=small_spec.name,
        onnx_sha256=sha256((folder / "1" / "model_fp16.onnx").read_bytes()),
        precision="fp16",
        builder="tensorrt",
        builder_version="10.13.3.9",
        gpu=None,
        profile=Profile.of(small_spec),
    )
    sidecar_path(plan).write_text(identity.text())
    before = content(folder)
    version = rt4ksr_client.__version__
    monkeypatch.setattr(rt4ksr_client, "__version__", "98.7.6")

    assert export_model(small_network, small_spec, tmp_path).dropped_plans == ()

    after = content(folder)
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    assert changed == {"config.pbtxt", "configs/gpu.pbtxt", "configs/tensorrt.pbtxt"}
    for path in changed:
        assert after[path] == before[path].replace(version.encode(), b"98.7.6")


def test_batch_height_and_width_are_dynamic_and_the_channels_are_fixed(
    session: onnxruntime.InferenceSession,
) -> None:
    (frames,), (upscaled,) = session.get_inputs(), session.get_outputs()

    for tensor, name in ((frames, INPUT_NAME), (upscaled, OUTPUT_NAME)):
        assert (tensor.name, tensor.type) == (name, "tensor(uint8)")
        *open_sizes, channels = tensor.shape
        assert channels == 3
        assert all(isinstance(size, str) for size in open_sizes)
        assert len(set(open_sizes)) == 3


def test_the_first_and_the_last_operator_are_casts(built: BuiltModel) -> None:
    nodes = built.graphs[Precision.FP32].graph.node
    readers = [node.op_type for node in nodes if INPUT_NAME in node.input]
    writers = [node.op_type for node in nodes if OUTPUT_NAME in node.output]

    assert readers == ["Cast"]
    assert writers == ["Cast"]
    assert [node.op_type for node in nodes].count("Cast") == 2


@pytest.mark.parametrize("precision", Precision, ids=lambda precision: precision.value)
def test_a_graph_has_its_origin_as_metadata_and_the_configuration_the_version_too(
    precision: Precision, network: RT4KSR, built: BuiltModel
) -> None:
    metadata = {entry.key: entry.value for entry in built.graphs[precision].metadata_props}

    assert metadata["weights_sha256"] == weights_sha256(network)
    assert metadata["scale"] == str(network.architecture.scale)
    assert metadata.items() < built.parameters.items()
    assert set(built.parameters) - set(metadata) == {
        "project_version",
        "max_input_px",
        "max_side_px",
    }
    assert built.parameters["project_version"] == rt4ksr_client.__version__


def assert_one_wrong_weight_is_refused(network: RT4KSR) -> None:
    model = build_graph(fuse(network))
    weight = next(w for w in model.graph.initializer if w.name == "body.0.conv.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[3, 5, 0, 2] += 0.02
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))

    with pytest.raises(VerificationError, match=r"raw float off by at most \S+, values by"):
        verify(model, network)


def assert_a_shift_before_rounding_is_refused(network: RT4KSR) -> None:
    fused = fuse(network)
    assert fused.upsample.bias is not None
    with torch.no_grad():
        fused.upsample.bias += 2e-4
    anything_after_rounding = Tolerance(levels=255, equal_share=0.0)

    with pytest.raises(VerificationError, match="raw float off"):
        verify(build_graph(fused), network, anything_after_rounding)


def test_a_graph_with_one_wrong_weight_is_rejected_with_the_figures(small_network: RT4KSR) -> None:
    assert_one_wrong_weight_is_refused(small_network)


def test_a_graph_that_is_wrong_only_before_rounding_is_rejected_too(small_network: RT4KSR) -> None:
    assert_a_shift_before_rounding_is_refused(small_network)


@pytest.mark.slow
def test_errors_in_the_graphs_of_the_shipped_weights_are_rejected(network: RT4KSR) -> None:
    assert_one_wrong_weight_is_refused(network)
    assert_a_shift_before_rounding_is_refused(network)


@pytest.mark.parametrize("size", [(5, 4), (4, 5), (7, 7)])
def test_an_odd_size_is_rejected_and_not_cropped(
    size: tuple[int, int], session: onnxruntime.InferenceSession
) -> None:
    with pytest.raises(Exception, match="Reshape"):
        session.run(None, {INPUT_NAME: np.zeros((1, *size, 3), np.uint8)})


def test_a_batch_gives_what_its_pictures_give_one_by_one(
    session: onnxruntime.InferenceSession,
) -> None:
    batch = np.random.default_rng(5).integers(0, 256, (3, 12, 20, 3), dtype=np.uint8)

    (together,) = session.run([OUTPUT_NAME], {INPUT_NAME: batch})

    for index in range(3):
        (alone,) = session.run([OUTPUT_NAME], {INPUT_NAME: batch[index : index + 1]})
        np.testing.assert_array_equal(together[index], alone[0])


@pytest.mark.slow
def test_the_authors_checkpoints_pass_verification(
    authors_checkpoint: Path, tmp_path: Path
) -> None:
    network = load_network(authors_checkpoint)

    exported = export_model(network, DEFAULT_MODELS[network.architecture.scale], tmp_path)

    assert exported.full.raw < 1e-4
    assert exported.full.levels <= 1
    assert exported.half.psnr_db >= 55


def test_a_failed_export_leaves_the_old_model_and_nothing_beside_it(
    small_network: RT4KSR, small_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_model(small_network, small_spec, tmp_path)
    before = content(tmp_path)

    other = RT4KSR(small_network.architecture)
    monkeypatch.setattr(
        "rt4ksr_export.repository.fuse", lambda _: fuse(RT4KSR(small_network.architecture))
    )
    with pytest.raises(VerificationError):
        export_model(other, small_spec, tmp_path)

    assert content(tmp_path) == before


def test_an_interrupted_publication_puts_the_old_model_back(
    small_network: RT4KSR, small_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_model(small_network, small_spec, tmp_path)
    before = content(tmp_path)
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_model(small_network, small_spec, tmp_path)

    assert content(tmp_path) == before


def test_weights_of_another_scale_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"x3 model, the weights are for x2"):
        export_model(RT4KSR(Architecture(2)), MODELS["rt4ksr_x3"], tmp_path)


def test_a_folder_that_is_not_a_model_is_not_replaced(
    small_network: RT4KSR, small_spec: ModelSpec, tmp_path: Path
) -> None:
    precious = tmp_path / small_spec.name / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")

    with pytest.raises(ExportError, match="not replaced"):
        export_model(small_network, small_spec, tmp_path)
    assert precious.read_text() == "years of work"


def test_the_error_names_an_output_that_cannot_be_written(
    small_network: RT4KSR, small_spec: ModelSpec, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ExportError, match=r"file/repository: cannot be written"):
        export_model(small_network, small_spec, tmp_path / "file" / "repository")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_is_an_export_error(
    small_network: RT4KSR, small_spec: ModelSpec, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="cannot be written"):
        export_model(small_network, small_spec, tmp_path)


def test_the_shipped_weights_are_not_an_untrained_network(network: RT4KSR) -> None:
    """They keep a smooth picture as it is, which random weights never do."""
    ramp = torch.linspace(0.2, 0.8, 64).expand(1, 3, 64, 64)
    with torch.inference_mode():
        upscaled = network(ramp)
    expected = torch.nn.functional.interpolate(
        ramp, scale_factor=network.architecture.scale, mode="bilinear"
    )
    assert (upscaled - expected)[..., 32:-32, 32:-32].abs().max() < 0.05
