"""TensorRT for RTX compiles without a GPU: the real parser and the real builder."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper

from rt4ksr_client.contract import MODELS
from rt4ksr_client.errors import ExportError, MissingExtraError
from rt4ksr_export.config import GRAPHS, PLANS
from rt4ksr_export.graph import Precision
from rt4ksr_export.network import RT4KSR, Architecture
from rt4ksr_export.plans import (
    BuiltPlan,
    Gpu,
    PlanIdentity,
    build_plan,
    compare_plan,
    find_gpu,
    read_identity,
    trtexec_command,
)
from rt4ksr_export.repository import export_model
from rt4ksr_export.tensorrt import Compiler, Profile, Target

X2 = MODELS["rt4ksr_x2"]

COMPILED_BY_DEFAULT = {
    ("rt4ksr_x2", Precision.FP32),
    ("rt4ksr_x2", Precision.FP16),
    ("rt4ksr_x3", Precision.FP16),
}
"""The graphs of one scale differ in their weights only; with --slow, all are compiled."""


@pytest.fixture(scope="module")
def rtx() -> Compiler:
    return Compiler(Target.RTX)


@pytest.fixture
def repository(root: Path, tmp_path: Path) -> Path:
    shutil.copytree(root / "model_repository" / X2.name, tmp_path / X2.name)
    return tmp_path


@pytest.fixture(scope="module")
def shared_plan(root: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltPlan:
    """A plan in a repository that tests must not change."""
    repository = tmp_path_factory.mktemp("repository")
    shutil.copytree(root / "model_repository" / X2.name, repository / X2.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)
        return build_plan(X2, repository, Target.RTX)


@pytest.fixture
def repository_with_plan(shared_plan: BuiltPlan, tmp_path: Path) -> Path:
    shutil.copytree(shared_plan.path.parents[1], tmp_path / X2.name)
    return tmp_path


CONTEXT_BYTES = {
    (2, "rgb"): 415_334_400,
    (3, "rgb"): 674_918_400,
    (2, "yuv420"): 440_371_200,
    (3, "yuv420"): 449_484_800,
}
"""By scale and colours: what a context of the FP16 graph reserves for its largest frames."""


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(
            name,
            precision,
            id=f"{name}-{precision.value}",
            marks=[] if (name, precision) in COMPILED_BY_DEFAULT else pytest.mark.slow,
        )
        for name in MODELS
        if MODELS[name].bits == 8
        for precision in Precision
        # FP32 for 4:2:0 is for CPUs only: it shuffles codes, of which TensorRT only takes casts
        if (MODELS[name].colours, precision) != ("yuv420", Precision.FP32)
    ],
)
def test_every_graph_for_gpus_compiles_strongly_typed_with_dynamic_sizes(
    name: str,
    precision: Precision,
    rtx: Compiler,
    root: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = MODELS[name]
    graph = (root / "model_repository" / name / "1" / GRAPHS[precision]).read_bytes()
    profile = Profile.of(spec)

    with caplog.at_level(logging.DEBUG, "rt4ksr_export.tensorrt"):
        plan, _ = rtx.compile(graph, profile)

    assert len(graph) < len(plan) < 10_000_000
    assert not rtx.logger.errors
    if precision is Precision.FP16:
        expected = CONTEXT_BYTES[spec.scale, spec.colours]
        assert f"Total Activation Memory: {expected} bytes" in caplog.text


@pytest.mark.parametrize(
    ("scale", "expected"), [(2, (3.0, 3.4)), (3, (4.6, 5.5))], ids=["x2", "x3"]
)
def test_the_models_of_a_scale_fit_on_a_gpu_of_8_gb(
    scale: int, expected: tuple[float, float]
) -> None:
    """See model_repository/README.md; measured figures are in the test above."""
    gpu = tensorrt = 0.0
    for spec in (spec for spec in MODELS.values() if spec.scale == scale):
        values = math.prod(Profile.of(spec).largest) * (1 + spec.scale**2)
        values = values * 3 if spec.colours == "rgb" else values * 3 // 2
        # With 16 bits, ONNX Runtime casts to floats and back around the engine.
        frames = values if spec.bits == 8 else values * (2 + 4)
        gpu += CONTEXT_BYTES[spec.scale, spec.colours] + frames
        tensorrt += CONTEXT_BYTES[spec.scale, spec.colours] + frames * (2 if spec.bits == 8 else 1)

    assert (round(gpu / 1e9, 1), round(tensorrt / 1e9, 1)) == expected
    assert max(gpu, tensorrt) < 7.1e9


def test_a_graph_that_tensorrt_cannot_read_is_rejected_with_its_reason(rtx: Compiler) -> None:
    frames = [helper.make_tensor_value_info(n, onnx.TensorProto.UINT8, ["N"]) for n in "ab"]
    node = helper.make_node("NoSuchOperator", ["a"], ["b"])
    model = helper.make_model(helper.make_graph([node], "graph", frames[:1], frames[1:]))

    with pytest.raises(ExportError, match=r"cannot read the graph.*NoSuchOperator"):
        rtx.compile(model.SerializeToString(), Profile.of(X2))
    with pytest.raises(ExportError, match="cannot read the graph"):
        rtx.compile(b"not a graph", Profile.of(X2))


def test_a_profile_of_odd_sizes_is_rejected(rtx: Compiler, root: Path) -> None:
    graph = (root / "model_repository" / X2.name / "1" / "model_fp16.onnx").read_bytes()
    odd = Profile((1, 3, 3), (1, 3, 3), (1, 3, 3))

    with pytest.raises(ExportError, match=r"cannot compile the graph: \S+"):
        rtx.compile(graph, odd)


def test_a_plan_is_built_beside_its_graph_and_not_twice(shared_plan: BuiltPlan) -> None:
    content = shared_plan.path.read_bytes()
    repository = shared_plan.path.parents[2]

    assert shared_plan.built
    assert shared_plan.path == repository / X2.name / "1" / "model.rtx"
    assert read_identity(shared_plan.path) == shared_plan.identity
    assert shared_plan.identity.precision == "fp16"
    assert not build_plan(X2, repository, Target.RTX).built
    assert shared_plan.path.read_bytes() == content


@pytest.mark.slow
def test_a_plan_of_the_same_identity_is_built_again_if_forced(repository_with_plan: Path) -> None:
    assert build_plan(X2, repository_with_plan, Target.RTX, force=True).built


def test_a_plan_of_another_identity_is_not_replaced_unless_forced(
    repository_with_plan: Path,
) -> None:
    repository = repository_with_plan

    with pytest.raises(ExportError, match=r"built for something else .*fp16 -> fp32.*--force"):
        build_plan(X2, repository, Target.RTX, precision=Precision.FP32)
    full = build_plan(X2, repository, Target.RTX, precision=Precision.FP32, force=True)
    assert read_identity(full.path) == full.identity


@pytest.mark.parametrize("beside", [None, "{", '{"model": 1}', "[]"])
def test_a_plan_of_unknown_origin_is_not_replaced(beside: str | None, repository: Path) -> None:
    plan = repository / X2.name / "1" / "model.rtx"
    plan.write_bytes(b"of a friend")
    if beside is not None:
        plan.with_name("model.rtx.json").write_text(beside)

    with pytest.raises(ExportError, match="its origin is unknown"):
        build_plan(X2, repository, Target.RTX)
    assert plan.read_bytes() == b"of a friend"


def test_the_error_names_a_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"model_fp16\.onnx: cannot be read: No such file"):
        build_plan(X2, tmp_path, Target.RTX)


def test_a_new_export_keeps_the_plan_of_the_same_graph_and_reports_the_removed_ones(
    tmp_path: Path, quick_verification: None
) -> None:
    torch.manual_seed(2)
    network, repository = RT4KSR(Architecture(2, features=8, blocks=1)).eval(), tmp_path
    export_model(network, X2, repository)
    built = build_plan(X2, repository, Target.RTX)
    stray = built.path.with_name(PLANS[Target.TENSORRT])
    stray.write_bytes(b"built with trtexec")
    (built.path.with_name("model.plan.json")).write_text(
        dataclasses.replace(built.identity, onnx_sha256="0" * 64).text()
    )

    assert export_model(network, X2, repository).dropped_plans == ("model.plan",)
    assert read_identity(built.path) == built.identity
    assert not build_plan(X2, repository, Target.RTX).built
    assert sorted(p.name for p in built.path.parent.glob("model.plan*")) == []


def test_without_tensorrt_the_error_names_the_extra(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # its import fails

    with pytest.raises(MissingExtraError, match=r"rt4ksr-triton\[export,tensorrt\]"):
        build_plan(X2, repository, Target.TENSORRT)


def test_without_a_gpu_the_error_suggests_trtexec(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ExportError, match="--trtexec"):
        find_gpu()


def test_trtexec_gets_the_same_shapes_and_files() -> None:
    command = trtexec_command(X2, Path("my repository"), Target.TENSORRT)

    assert command.startswith("trtexec --stronglyTyped ")
    for part in (
        "'--onnx=my repository/rt4ksr_x2/1/model_fp16.onnx'",
        "'--saveEngine=my repository/rt4ksr_x2/1/model.plan'",
        "--minShapes=image:1x2x2x3",
        "--optShapes=image:1x1080x1920x3",
        "--maxShapes=image:2x2080x2080x3",
    ):
        assert part in command


def test_the_trtexec_command_names_both_planes() -> None:
    command = trtexec_command(MODELS["rt4ksr_x3_video"], Path("r"), Target.RTX)

    assert "--optShapes=luma:1x720x1280x1,chroma:1x360x640x2" in command


def test_a_model_of_16_bits_has_no_plan(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="TensorRT has no type: ONNX Runtime serves it"):
        build_plan(MODELS["rt4ksr_x2_video16"], tmp_path, Target.RTX)


def test_the_sizes_of_a_profile_must_rise() -> None:
    with pytest.raises(ValueError, match="must rise"):
        Profile((1, 4, 4), (1, 2, 8), (1, 8, 8))


def test_the_difference_of_two_identities() -> None:
    profile = Profile.of(X2)
    old = PlanIdentity("m", "a", "fp16", "tensorrt", "10.3.0", Gpu("T4", "7.5"), profile)
    new = dataclasses.replace(old, builder_version="11.4.0")

    assert new.difference(old) == "builder_version 10.3.0 -> 11.4.0"


@pytest.mark.gpu
@pytest.mark.parametrize("target", Target, ids=lambda target: target.value)
def test_on_a_gpu_a_plan_agrees_with_its_graph(target: Target, repository: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no NVIDIA GPU")
    try:
        built = build_plan(X2, repository, target)
    except MissingExtraError as exc:
        pytest.skip(str(exc))

    assert built.agreement is not None
    assert built.agreement.psnr_db >= 55
    if target is Target.TENSORRT:
        assert built.identity.gpu == find_gpu()


def test_without_a_gpu_the_comparison_is_reported_as_not_run(
    rtx: Compiler, shared_plan: BuiltPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert compare_plan(rtx, b"", b"", Profile.of(X2)) is None
    assert "not run: no GPU" in str(shared_plan)
