"""Publishes a verified model into a Triton model repository, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import onnx

import rt4ksr_client
from rt4ksr_client.contract import (
    SIZE_MULTIPLE_PX,
    ModelSpec,
    Parameter,
)
from rt4ksr_client.errors import ExportError
from rt4ksr_export.checkpoint import weights_sha256
from rt4ksr_export.config import config_text
from rt4ksr_export.fuse import fuse
from rt4ksr_export.graph import build_graph
from rt4ksr_export.network import RT4KSR
from rt4ksr_export.verify import Agreement, verify

__all__ = ["export_model", "model_parameters"]

CONFIG_NAME = "config.pbtxt"
VERSION = "1"


def export_model(network: RT4KSR, spec: ModelSpec, repository: str | os.PathLike[str]) -> Agreement:
    """Write ``repository/spec.name``: fused, verified against ``network``, ready to be served.

    An older model of that name is replaced only when the new one is complete.

    Raises:
        ExportError: the network has another scale, or the folder cannot be written.
        VerificationError: the graph does not compute what the network computes.

    """
    scale = network.architecture.scale
    if scale != spec.scale:
        raise ExportError(f"{spec.name} is a x{spec.scale} model, the weights are for x{scale}")
    parameters = model_parameters(network)
    fused = fuse(network)
    model = build_graph(fused, parameters)
    agreement = verify(model, build_graph(fused, quantized=False), network)
    _publish(model, config_text(spec, parameters), Path(repository), spec.name)
    return agreement


def model_parameters(network: RT4KSR) -> dict[str, str]:
    """What a client may ask the server about the model; see the contract."""
    return {
        Parameter.SCALE: str(network.architecture.scale),
        Parameter.SIZE_MULTIPLE: str(SIZE_MULTIPLE_PX),
        Parameter.HALO: str(network.architecture.halo_px),
        Parameter.WEIGHTS_SHA256: weights_sha256(network),
        Parameter.PROJECT_VERSION: rt4ksr_client.__version__,
    }


def _publish(model: onnx.ModelProto, config: str, repository: Path, name: str) -> None:
    target = repository / name
    if target.exists() and not (target / CONFIG_NAME).is_file():
        raise ExportError(
            f"{target} exists and is no model folder (it has no {CONFIG_NAME}): not replaced"
        )
    try:
        repository.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=repository, prefix=f".{name}."))
    except OSError as exc:
        raise ExportError(f"{repository}: cannot be written: {exc}") from exc
    try:
        fresh = beside / "new"
        (fresh / VERSION).mkdir(parents=True)
        (fresh / VERSION / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
        (fresh / CONFIG_NAME).write_text(config, encoding="utf-8")
        _swap(fresh, target, beside / "old")
    except OSError as exc:
        raise ExportError(f"{target}: cannot be written: {exc}") from exc
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _swap(fresh: Path, target: Path, old: Path) -> None:
    """Put ``fresh`` in the place of ``target``; put the old one back if that fails."""
    had_one = target.exists()
    if had_one:
        target.rename(old)
    try:
        fresh.rename(target)
    except BaseException:
        if had_one:
            old.rename(target)
        raise
