from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rt4ksr_client.contract import DEFAULT_MODELS, INPUT_NAME, MODELS, OUTPUT_NAME, ModelSpec
from rt4ksr_client.errors import ExportError, VerificationError
from rt4ksr_export.checkpoint import load_network, weights_sha256
from rt4ksr_export.config import config_text
from rt4ksr_export.fuse import fuse
from rt4ksr_export.graph import build_graph
from rt4ksr_export.network import RT4KSR, Architecture
from rt4ksr_export.repository import export_model, model_files, model_parameters
from rt4ksr_export.verify import verify
from rt4ksr_export.weights import packaged_weights


@pytest.fixture(scope="module", params=[2, 3], ids=["x2", "x3"])
def network(request: pytest.FixtureRequest) -> RT4KSR:
    return load_network(packaged_weights(DEFAULT_MODELS[request.param].name))


@pytest.fixture
def spec(network: RT4KSR) -> ModelSpec:
    return DEFAULT_MODELS[network.architecture.scale]


@pytest.fixture
def small_network(network: RT4KSR) -> RT4KSR:
    """Untrained, and quickly verified: for tests of what comes after that."""
    torch.manual_seed(2)
    return RT4KSR(Architecture(network.architecture.scale, features=8, blocks=1)).eval()


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
    files = model_files(load_network(packaged_weights(name)), MODELS[name])

    assert files == content(root / "model_repository" / name)


def test_the_shipped_weights_pass_verification(
    network: RT4KSR, spec: ModelSpec, tmp_path: Path
) -> None:
    export_model(network, spec, tmp_path)

    assert content(tmp_path / spec.name) == model_files(network, spec)


def test_the_graph_is_open_in_batch_and_size_and_closed_in_channels(network: RT4KSR) -> None:
    session = onnxruntime.InferenceSession(
        build_graph(fuse(network)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (frames,), (upscaled,) = session.get_inputs(), session.get_outputs()

    for tensor, name in ((frames, INPUT_NAME), (upscaled, OUTPUT_NAME)):
        assert (tensor.name, tensor.type) == (name, "tensor(uint8)")
        *open_sizes, channels = tensor.shape
        assert channels == 3
        assert all(isinstance(size, str) for size in open_sizes)
        assert len(set(open_sizes)) == 3


def test_uint8_is_cast_first_on_the_way_in_and_last_on_the_way_out(network: RT4KSR) -> None:
    graph = build_graph(fuse(network)).graph
    readers = [node.op_type for node in graph.node if INPUT_NAME in node.input]
    writers = [node.op_type for node in graph.node if OUTPUT_NAME in node.output]

    assert readers == ["Cast"]
    assert writers == ["Cast"]
    assert [node.op_type for node in graph.node].count("Cast") == 2


def test_the_graph_carries_what_it_was_made_from(network: RT4KSR) -> None:
    model = build_graph(fuse(network), model_parameters(network))
    metadata = {entry.key: entry.value for entry in model.metadata_props}

    assert metadata["weights_sha256"] == weights_sha256(network)
    assert metadata["scale"] == str(network.architecture.scale)
    assert metadata["project_version"]


def test_a_graph_with_one_wrong_weight_is_refused_with_the_numbers(network: RT4KSR) -> None:
    model = build_graph(fuse(network))
    weight = next(w for w in model.graph.initializer if w.name == "body.1.conv.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[3, 5, 0, 2] += 0.02
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))

    with pytest.raises(VerificationError, match=r"raw float off by at most \S+, uint8 by"):
        verify(model, build_graph(fuse(network), quantized=False), network)


def test_a_graph_that_is_wrong_only_before_rounding_is_refused_too(network: RT4KSR) -> None:
    fused = fuse(network)
    model = build_graph(fused)
    assert fused.upsample.bias is not None
    with torch.no_grad():
        fused.upsample.bias += 2e-4

    with pytest.raises(VerificationError, match="raw float off"):
        verify(model, build_graph(fused, quantized=False), network)


@pytest.mark.parametrize("size", [(5, 4), (4, 5), (7, 7)])
def test_an_odd_size_is_refused_and_not_cut_short(size: tuple[int, int], network: RT4KSR) -> None:
    session = onnxruntime.InferenceSession(
        build_graph(fuse(network)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    with pytest.raises(Exception, match="Reshape"):
        session.run(None, {INPUT_NAME: np.zeros((1, *size, 3), np.uint8)})


def test_a_batch_gives_what_its_pictures_give_one_by_one(network: RT4KSR) -> None:
    session = onnxruntime.InferenceSession(
        build_graph(fuse(network)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    batch = np.random.default_rng(5).integers(0, 256, (3, 12, 20, 3), dtype=np.uint8)

    (together,) = session.run([OUTPUT_NAME], {INPUT_NAME: batch})

    for index in range(3):
        (alone,) = session.run([OUTPUT_NAME], {INPUT_NAME: batch[index : index + 1]})
        np.testing.assert_array_equal(together[index], alone[0])


@pytest.mark.parametrize("name", MODELS)
def test_the_config_parses_back_to_what_the_contract_says(name: str) -> None:
    spec = MODELS[name]
    config = text_format.Parse(
        config_text(spec, {"scale": str(spec.scale)}), model_config_pb2.ModelConfig()
    )

    assert config.backend == "onnxruntime"
    assert config.name == name
    assert [(t.name, list(t.dims)) for t in config.input] == [(INPUT_NAME, [-1, -1, 3])]
    assert [(t.name, list(t.dims)) for t in config.output] == [(OUTPUT_NAME, [-1, -1, 3])]
    assert config.parameters["scale"].string_value == str(spec.scale)
    assert 0 < config.dynamic_batching.default_queue_policy.max_queue_size < 1000
    assert list(config.model_warmup[0].inputs[INPUT_NAME].dims) == [
        spec.input_height_px,
        spec.input_width_px,
        3,
    ]
    assert [group.count for group in config.instance_group] == [1]


def test_the_authors_checkpoints_pass_verification(
    authors_checkpoint: Path, tmp_path: Path
) -> None:
    network = load_network(authors_checkpoint)

    full, half, _ = export_model(network, DEFAULT_MODELS[network.architecture.scale], tmp_path)

    assert full.raw < 1e-4
    assert full.levels <= 1
    assert half.psnr_db >= 55


def test_a_failed_export_leaves_the_old_model_and_nothing_beside_it(
    small_network: RT4KSR, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_model(small_network, spec, tmp_path)
    before = content(tmp_path)

    other = RT4KSR(small_network.architecture)
    monkeypatch.setattr(
        "rt4ksr_export.repository.fuse", lambda _: fuse(RT4KSR(small_network.architecture))
    )
    with pytest.raises(VerificationError):
        export_model(other, spec, tmp_path)

    assert content(tmp_path) == before


def test_an_interrupted_publication_puts_the_old_model_back(
    small_network: RT4KSR, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_model(small_network, spec, tmp_path)
    before = content(tmp_path)
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_model(small_network, spec, tmp_path)

    assert content(tmp_path) == before


def test_weights_of_another_scale_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"x3 model, the weights are for x2"):
        export_model(RT4KSR(Architecture(2)), MODELS["rt4ksr_x3"], tmp_path)


def test_a_folder_that_is_no_model_is_not_replaced(
    small_network: RT4KSR, spec: ModelSpec, tmp_path: Path
) -> None:
    precious = tmp_path / spec.name / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")

    with pytest.raises(ExportError, match="not replaced"):
        export_model(small_network, spec, tmp_path)
    assert precious.read_text() == "years of work"


def test_an_output_that_cannot_be_written_is_named(
    small_network: RT4KSR, spec: ModelSpec, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ExportError, match=r"file/repository: cannot be written"):
        export_model(small_network, spec, tmp_path / "file" / "repository")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_is_named(
    small_network: RT4KSR, spec: ModelSpec, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="cannot be written"):
        export_model(small_network, spec, tmp_path)


def test_the_shipped_weights_are_not_an_untrained_network(network: RT4KSR) -> None:
    """They keep a smooth picture as it is, which random weights never do."""
    ramp = torch.linspace(0.2, 0.8, 64).expand(1, 3, 64, 64)
    with torch.inference_mode():
        upscaled = network(ramp)
    expected = torch.nn.functional.interpolate(
        ramp, scale_factor=network.architecture.scale, mode="bilinear"
    )
    assert (upscaled - expected)[..., 32:-32, 32:-32].abs().max() < 0.05
