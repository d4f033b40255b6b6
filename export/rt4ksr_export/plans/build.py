"""Builds the plan of a model in a repository, beside its ONNX files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rt4ksr_client.contract import ModelSpec
from rt4ksr_client.errors import ExportError
from rt4ksr_client.files import atomic_write
from rt4ksr_export.graph import Precision
from rt4ksr_export.plans.compare import compare_plan
from rt4ksr_export.plans.compiler import Compiler, Target
from rt4ksr_export.plans.identity import (
    Gpu,
    PlanIdentity,
    find_gpu,
    read_identity,
    sha256,
    sidecar_of,
)
from rt4ksr_export.plans.profile import Profile
from rt4ksr_export.repository import GRAPHS, PLANS, VERSION
from rt4ksr_export.verify_half import HalfAgreement

__all__ = ["BuiltPlan", "build_plan", "trtexec_command"]

_PROGRAMS: Final[Mapping[Target, str]] = {
    Target.TENSORRT: "trtexec --stronglyTyped",
    Target.RTX: "tensorrt_rtx",
}


@dataclass(frozen=True)
class BuiltPlan:
    """A plan that is in place. ``agreement`` is None where there was no GPU to run it on."""

    path: Path
    identity: PlanIdentity
    built: bool
    agreement: HalfAgreement | None

    def __str__(self) -> str:
        """One line for people."""
        by = f"{self.identity.builder} {self.identity.builder_version}"
        if not self.built:
            return f"{self.path}: up to date ({by})"
        ran = "not run, for want of a GPU" if self.agreement is None else str(self.agreement)
        return f"{self.path}: built with {by}; {ran}"


def build_plan(
    spec: ModelSpec,
    repository: Path,
    target: Target,
    *,
    precision: Precision = Precision.FP16,
    force: bool = False,
) -> BuiltPlan:
    """Compile the ONNX of ``repository/spec.name`` into a plan, run it and put it in place.

    A plan that is there already is kept if it is the same, and refused to be replaced otherwise;
    ``force`` builds in any case.

    Raises:
        ExportError: no such model, no GPU, a plan of another identity, or TensorRT refuses.
        VerificationError: the plan does not show what the ONNX shows; nothing is published.
        MissingExtraError: TensorRT is not installed.

    """
    compiler = Compiler(target)
    folder = repository / spec.name / VERSION
    graph = _read(folder / GRAPHS[precision])
    path = folder / PLANS[target.value]
    identity = PlanIdentity(
        model=spec.name,
        onnx_sha256=sha256(graph),
        precision=precision.value,
        builder=compiler.trt.__name__,
        builder_version=compiler.version,
        gpu=_gpu(target),
        profile=Profile.of(spec),
    )
    if not force and _is_there(path, identity):
        return BuiltPlan(path, identity, built=False, agreement=None)
    cache = folder / f"{path.name}.timing"
    known = cache.read_bytes() if cache.is_file() else b""
    plan, timings = compiler.compile(graph, identity.profile, known)
    agreement = compare_plan(compiler, plan, graph, identity.profile)
    files = {sidecar_of(path): identity.text().encode(), path: plan}
    _publish({cache: timings, **files} if timings else files)
    return BuiltPlan(path, identity, built=True, agreement=agreement)


def trtexec_command(
    spec: ModelSpec, repository: Path, target: Target, precision: Precision = Precision.FP16
) -> str:
    """Return the shell command that builds the same plan without this program."""
    folder = repository / spec.name / VERSION
    path = folder / PLANS[target.value]
    shapes = [f"--{key}Shapes={text}" for key, text in Profile.of(spec).texts().items()]
    files = [f"--onnx={folder / GRAPHS[precision]}", f"--saveEngine={path}"]
    if target is Target.TENSORRT:
        files.append(f"--timingCacheFile={path}.timing")
    return f"{_PROGRAMS[target]} {shlex.join([*files, *shapes])}"


def _gpu(target: Target) -> Gpu | None:
    return find_gpu() if target is Target.TENSORRT else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ExportError(f"{path}: cannot be read: {exc.strerror}") from exc


def _is_there(path: Path, identity: PlanIdentity) -> bool:
    if not path.exists():
        return False
    found = read_identity(path)
    if found == identity:
        return True
    what = "nothing says what it was built from"
    if found is not None:
        what = f"it was built for something else ({identity.difference(found)})"
    raise ExportError(f"{path} is there and {what}: --force replaces it")


def _publish(files: Mapping[Path, bytes]) -> None:
    """Write each file beside its place and rename it, the last one last."""
    for path, content in files.items():
        try:
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        except OSError as exc:
            raise ExportError(f"{path}: cannot be written: {exc.strerror}") from exc
