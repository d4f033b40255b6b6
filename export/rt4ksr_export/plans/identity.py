"""What a plan is a plan of: it is good for one graph, one TensorRT and one kind of GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from rt4ksr_client.errors import ExportError
from rt4ksr_export.plans.profile import Profile

__all__ = ["Gpu", "PlanIdentity", "find_gpu", "read_identity", "sha256", "sidecar_of"]


@dataclass(frozen=True)
class Gpu:
    """A GPU as CUDA names it; ``compute_capability`` such as 8.9."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class PlanIdentity:
    """Everything the bytes of a plan depend on; two plans of one identity may replace each other.

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


def sidecar_of(plan: Path) -> Path:
    """Return where the identity of ``plan`` is: ``model.plan.json``."""
    return plan.with_name(f"{plan.name}.json")


def read_identity(plan: Path) -> PlanIdentity | None:
    """Return what is said beside a plan; None where that is nothing, or nothing readable."""
    try:
        fields = json.loads(sidecar_of(plan).read_text(encoding="utf-8"))
        profile = Profile(**{key: tuple(shape) for key, shape in fields.pop("profile").items()})
        gpu = fields.pop("gpu")
        return PlanIdentity(**fields, profile=profile, gpu=None if gpu is None else Gpu(**gpu))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def sha256(content: bytes) -> str:
    """Return the hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()


def find_gpu() -> Gpu:
    """Return the GPU that CUDA calls the first, which is the one TensorRT compiles for.

    Raises:
        ExportError: there is none, or PyTorch cannot use it.

    """
    if not torch.cuda.is_available():
        raise ExportError(
            "a TensorRT plan is built on the GPU that will run it, and PyTorch can use none here; "
            "--trtexec prints the command for a machine that has one"
        )
    found = torch.cuda.get_device_properties(0)
    return Gpu(found.name, f"{found.major}.{found.minor}")
