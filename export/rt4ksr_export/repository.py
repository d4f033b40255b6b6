"""Publishes a verified model into a Triton model repository, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import onnx

import rt4ksr_client
from rt4ksr_client.contract import (
    MAX_INPUT_PX,
    SIZE_MULTIPLE_PX,
    ModelSpec,
    Parameter,
    image_endpoint,
)
from rt4ksr_client.errors import ExportError
from rt4ksr_export.checkpoint import weights_sha256
from rt4ksr_export.config import HALF_GRAPH_NAME, PLAN_NAME, config_texts
from rt4ksr_export.endpoint import endpoint_files, stage_files
from rt4ksr_export.fuse import fuse
from rt4ksr_export.graph import Precision, build_graph
from rt4ksr_export.network import RT4KSR
from rt4ksr_export.plans.identity import read_identity, sha256
from rt4ksr_export.verify import Agreement, verify
from rt4ksr_export.verify_half import HalfAgreement, verify_half

__all__ = [
    "GRAPHS",
    "PLANS",
    "VERSION",
    "Agreements",
    "export_model",
    "model_files",
    "model_parameters",
]

CONFIG_NAME = "config.pbtxt"
VERSION = "1"

GRAPHS: Mapping[Precision, str] = {
    Precision.FP32: "model.onnx",
    Precision.FP16: HALF_GRAPH_NAME,
}
"""Files of a version folder; the first is the one Triton's ONNX Runtime backend looks for."""


PLANS: Mapping[str, str] = {"tensorrt": PLAN_NAME, "rtx": "model.rtx"}
"""Files of a version folder that are compiled from one of :data:`GRAPHS`, by target."""


class Agreements(NamedTuple):
    """How far the published graphs are from the network, and from each other.

    ``dropped`` names the plans that were built from another graph and are not there any more.
    """

    full: Agreement
    half: HalfAgreement
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line with the figures."""
        return f"{self.full}; {self.half}"


def export_model(
    network: RT4KSR, spec: ModelSpec, repository: str | os.PathLike[str]
) -> Agreements:
    """Write ``repository/spec.name``: fused, verified against ``network``, ready to be served.

    Its image endpoint is written beside it, with the stages that all endpoints share. An older
    model of that name is replaced only when the new one is complete.

    Raises:
        ExportError: the network has another scale, or the folder cannot be written.
        VerificationError: the graph does not compute what the network computes.

    """
    scale = network.architecture.scale
    if scale != spec.scale:
        raise ExportError(f"{spec.name} is a x{spec.scale} model, the weights are for x{scale}")
    graphs = _graphs(network)
    full, half = graphs[Precision.FP32], graphs[Precision.FP16]
    raw = build_graph(fuse(network), quantized=False)
    agreements = Agreements(verify(full, raw, network), verify_half(half, full))
    files = model_files(network, spec)
    plans, dropped = _plans(Path(repository) / spec.name / VERSION, files)
    _publish(files | plans, Path(repository), spec.name)
    for stage, content in stage_files().items():
        _publish(content, Path(repository), stage)
    endpoint = endpoint_files(spec.name, model_parameters(network))
    _publish(endpoint, Path(repository), image_endpoint(spec.name))
    return agreements._replace(dropped=dropped)


def model_files(network: RT4KSR, spec: ModelSpec) -> dict[str, bytes]:
    """Return what is in the model's folder, by path; the same weights give the same bytes."""
    graphs = {GRAPHS[p]: _content(graph) for p, graph in _graphs(network).items()}
    hashes = {Parameter.FILE_SHA256 + name: sha256(content) for name, content in graphs.items()}
    configs = config_texts(spec, model_parameters(network) | hashes)
    files = {f"{VERSION}/{name}": content for name, content in graphs.items()}
    return files | {place: text.encode() for place, text in configs.items()}


def _graphs(network: RT4KSR) -> dict[Precision, onnx.ModelProto]:
    fused, parameters = fuse(network), model_parameters(network)
    return {p: build_graph(fused, parameters, precision=p) for p in GRAPHS}


def model_parameters(network: RT4KSR) -> dict[str, str]:
    """What a client may ask the server about the model; see the contract."""
    return {
        Parameter.SCALE: str(network.architecture.scale),
        Parameter.SIZE_MULTIPLE: str(SIZE_MULTIPLE_PX),
        Parameter.HALO: str(network.architecture.halo_px),
        Parameter.MAX_INPUT_PX: str(MAX_INPUT_PX),
        Parameter.WEIGHTS_SHA256: weights_sha256(network),
        Parameter.PROJECT_VERSION: rt4ksr_client.__version__,
    }


def _content(graph: onnx.ModelProto) -> bytes:
    content: bytes = graph.SerializeToString(deterministic=True)
    return content


def _plans(folder: Path, graphs: Mapping[str, bytes]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the files of the plans that were built from ``graphs``, and names of other plans."""
    kept: dict[str, bytes] = {}
    dropped = []
    known = {sha256(content) for content in graphs.values()}
    for plan in (folder / name for name in PLANS.values()):
        if not plan.is_file():
            continue
        identity = read_identity(plan)
        if identity is None or identity.onnx_sha256 not in known:
            dropped.append(plan.name)
            continue
        for path in sorted(folder.glob(f"{plan.name}*")):
            kept[f"{VERSION}/{path.name}"] = path.read_bytes()
    return kept, tuple(dropped)


def _publish(files: Mapping[str, bytes], repository: Path, name: str) -> None:
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
        for place, content in files.items():
            (fresh / place).parent.mkdir(parents=True, exist_ok=True)
            (fresh / place).write_bytes(content)
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
