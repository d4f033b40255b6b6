"""TensorRT plans of the models in a repository, each beside its ONNX files.

A plan works with one graph, one TensorRT and one kind of GPU: its identity, which is written beside
it as JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
import torch

from rt4ksr_client.contract import INPUTS, ModelSpec
from rt4ksr_client.errors import ExportError
from rt4ksr_client.files import atomic_write
from rt4ksr_export.config import GRAPHS, PLANS, VERSION
from rt4ksr_export.graph import Precision
from rt4ksr_export.tensorrt import Compiler, Engine, Profile, Target
from rt4ksr_export.verification import HalfAgreement, compare_half

__all__ = [
    "BuiltPlan",
    "Gpu",
    "PlanIdentity",
    "build_plan",
    "compare_plan",
    "find_gpu",
    "read_identity",
    "sha256",
    "sidecar_path",
    "trtexec_command",
]

_PROGRAMS: Final[Mapping[Target, str]] = {
    Target.TENSORRT: "trtexec --stronglyTyped",
    Target.RTX: "tensorrt_rtx",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """A GPU as CUDA names it; ``compute_capability`` such as 8.9."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class PlanIdentity:
    """Everything that the bytes of a plan depend on; plans of one identity are interchangeable.

    ``gpu`` is None where the compiler needs none: the plan is then finished on the user's GPU.
    """

    model: str
    onnx_sha256: str
    precision: str
    builder: str
    builder_version: str
    gpu: Gpu | None
    profile: Profile

    def text(self) -> str:
        """Return the JSON of the sidecar."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    def difference(self, other: PlanIdentity) -> str:
        """Return what differs, for a message; empty for equals."""
        mine, theirs = (dataclasses.asdict(identity) for identity in (self, other))
        return ", ".join(f"{k} {theirs[k]} -> {v}" for k, v in mine.items() if v != theirs[k])


@dataclass(frozen=True)
class BuiltPlan:
    """A plan that is in place. ``agreement`` is None where there was no GPU to run it on."""

    path: Path
    identity: PlanIdentity
    built: bool
    agreement: HalfAgreement | None

    def __str__(self) -> str:
        """One line with the library and the figures."""
        by = f"{self.identity.builder} {self.identity.builder_version}"
        if not self.built:
            return f"{self.path}: up to date ({by})"
        figures = "not run: no GPU" if self.agreement is None else str(self.agreement)
        return f"{self.path}: built with {by}; {figures}"


def build_plan(
    spec: ModelSpec,
    repository: Path,
    target: Target,
    *,
    precision: Precision = Precision.FP16,
    force: bool = False,
) -> BuiltPlan:
    """Compile the ONNX file of ``repository/spec.name`` into a plan, run it and put it in place.

    A plan of the same identity is kept, one of another identity is not replaced; ``force`` builds
    and replaces in any case.

    Raises:
        ExportError: no such model, no GPU, a plan of another identity, or TensorRT fails.
        VerificationError: the plan does not compute what the ONNX file computes; nothing is
            published.
        MissingExtraError: TensorRT is not installed.

    """
    if spec.bits > 8:
        raise ExportError(
            f"{spec.name} takes 16-bit values, for which TensorRT has no type: ONNX Runtime serves "
            "it (with --model-config-name=gpu, and TensorRT for what is between)"
        )
    compiler = Compiler(target)
    folder = repository / spec.name / VERSION
    graph_path, plan_path = folder / GRAPHS[precision], folder / PLANS[target]
    try:
        graph = graph_path.read_bytes()
    except OSError as exc:
        raise ExportError(f"{graph_path}: cannot be read: {exc.strerror}") from exc
    identity = PlanIdentity(
        model=spec.name,
        onnx_sha256=sha256(graph),
        precision=precision.value,
        builder=compiler.trt.__name__,
        builder_version=compiler.version,
        gpu=find_gpu() if target is Target.TENSORRT else None,
        profile=Profile.of(spec),
    )
    if plan_path.exists() and not force:
        _require_identity(plan_path, identity)
        return BuiltPlan(plan_path, identity, built=False, agreement=None)
    cache_path = folder / f"{plan_path.name}.timing"
    timing_cache = cache_path.read_bytes() if cache_path.is_file() else b""
    _log.info("%s: compiling %s for %s", spec.name, graph_path.name, target.value)
    plan, timings = compiler.compile(graph, identity.profile, timing_cache)
    agreement = compare_plan(compiler, plan, graph, identity.profile)
    if timings:
        _write(cache_path, timings)
    # The plan last: without its identity it would be of unknown origin.
    _write(sidecar_path(plan_path), identity.text().encode())
    _write(plan_path, plan)
    return BuiltPlan(plan_path, identity, built=True, agreement=agreement)


def _require_identity(plan: Path, identity: PlanIdentity) -> None:
    """Raise :class:`ExportError` if ``plan``, which exists, has another identity."""
    found = read_identity(plan)
    if found == identity:
        return
    difference = "its origin is unknown"
    if found is not None:
        difference = f"it was built for something else ({identity.difference(found)})"
    raise ExportError(f"{plan} exists and {difference}: --force replaces it")


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    except OSError as exc:
        raise ExportError(f"{path}: cannot be written: {exc.strerror}") from exc


def compare_plan(
    compiler: Compiler, plan: bytes, graph: bytes, profile: Profile
) -> HalfAgreement | None:
    """Run ``plan`` and ``graph`` on the inputs of the verification that fit the profile.

    Returns None where PyTorch sees no GPU.

    Raises:
        VerificationError: they differ by more than half precision may from full precision.
        ExportError: the plan cannot be loaded or run.

    """
    if not torch.cuda.is_available():
        return None
    engine = Engine(compiler, plan, profile)
    agreement = compare_half(engine, onnx.load_model_from_string(graph))
    agreement.require()
    return agreement


def trtexec_command(
    spec: ModelSpec, repository: Path, target: Target, precision: Precision = Precision.FP16
) -> str:
    """Return the shell command that builds the same plan without this program."""
    folder = repository / spec.name / VERSION
    path = folder / PLANS[target]
    tensors = {tensor.name: tensor for tensor in INPUTS[spec.colours]}
    shapes = [f"--{key}Shapes={text}" for key, text in Profile.of(spec).texts(tensors).items()]
    files = [f"--onnx={folder / GRAPHS[precision]}", f"--saveEngine={path}"]
    if target is Target.TENSORRT:
        files.append(f"--timingCacheFile={path}.timing")
    return f"{_PROGRAMS[target]} {shlex.join([*files, *shapes])}"


def sidecar_path(plan: Path) -> Path:
    """Return the path of the identity of ``plan``: ``model.plan.json``."""
    return plan.with_name(f"{plan.name}.json")


def read_identity(plan: Path) -> PlanIdentity | None:
    """Return the identity beside a plan; None if there is none, or none that can be read."""
    try:
        fields = json.loads(sidecar_path(plan).read_text(encoding="utf-8"))
        profile = Profile(**{key: tuple(shape) for key, shape in fields.pop("profile").items()})
        gpu = fields.pop("gpu")
        return PlanIdentity(**fields, profile=profile, gpu=None if gpu is None else Gpu(**gpu))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def find_gpu() -> Gpu:
    """Return the first GPU in CUDA's order, which is the one TensorRT compiles for.

    Raises:
        ExportError: there is none, or PyTorch cannot use it.

    """
    if not torch.cuda.is_available():
        raise ExportError(
            "a TensorRT plan is built on the GPU that will run it, and PyTorch finds none here; "
            "--trtexec prints the command for a machine that has one"
        )
    found = torch.cuda.get_device_properties(0)
    return Gpu(found.name, f"{found.major}.{found.minor}")


def sha256(content: bytes) -> str:
    """Return the hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()
