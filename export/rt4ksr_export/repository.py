"""Exports a network: builds a model, verifies it and publishes the verified files, all or none.

The data flows one way: weights, network, fused network, graphs, verification, repository.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from tritonclient.grpc.model_config_pb2 import ModelConfig

import rt4ksr_client
from rt4ksr_client.contract import (
    MAX_INPUT_PX,
    MAX_SIDE_PX,
    SIZE_MULTIPLE_PX,
    ModelSpec,
    Parameter,
    auto_endpoint,
    image_endpoint,
)
from rt4ksr_client.errors import ExportError
from rt4ksr_export.checkpoint import weights_sha256
from rt4ksr_export.config import (
    CONFIG_NAME,
    GRAPHS,
    PLANS,
    VERSION,
    auto_configs,
    config_text,
    endpoint_config,
    model_configs,
    stage_configs,
)
from rt4ksr_export.fusion import fuse
from rt4ksr_export.graph import Precision, build_graph
from rt4ksr_export.network import RT4KSR
from rt4ksr_export.plans import read_identity, sha256
from rt4ksr_export.verification import Agreement, HalfAgreement, verify, verify_half

__all__ = [
    "BuiltModel",
    "Export",
    "auto_files",
    "build_model",
    "endpoint_files",
    "export_model",
    "publish",
    "stage_files",
]

_STAGE_PROGRAM = '''"""The image endpoint's {stage} stage; its code is in rt4ksr-triton."""

try:
    from rt4ksr_server.stages.{stage} import TritonPythonModel
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"the image endpoint needs {{missing.name}}: install rt4ksr-triton with pip for the "
        "python3 that tritonserver runs, or load other models only "
        "(--model-control-mode=explicit --load-model=rt4ksr_x2)"
    ) from missing

__all__ = ["TritonPythonModel"]
'''

_log = logging.getLogger(__name__)

Files = Mapping[str, bytes]
"""Contents by path in a model's folder."""


@dataclass(frozen=True)
class BuiltModel:
    """A model made from one network: the same weights give the same bytes."""

    spec: ModelSpec
    graphs: Mapping[Precision, onnx.ModelProto]
    parameters: Mapping[str, str]
    """For clients; see the contract."""

    def files(self) -> dict[str, bytes]:
        """Return the model's folder."""
        graphs = {
            GRAPHS[precision]: graph.SerializeToString(deterministic=True)
            for precision, graph in self.graphs.items()
        }
        hashes = {Parameter.FILE_SHA256 + name: sha256(graph) for name, graph in graphs.items()}
        configs = model_configs(self.spec, {**self.parameters, **hashes})
        files = {f"{VERSION}/{name}": graph for name, graph in graphs.items()}
        return files | {path: config_text(config).encode() for path, config in configs.items()}


@dataclass(frozen=True)
class Export:
    """How far the published graphs are from the network, and from each other.

    ``dropped_plans`` are the names of plans that were built from another graph and are now gone.
    """

    full: Agreement
    half: HalfAgreement
    dropped_plans: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line with the figures."""
        return f"{self.full}; {self.half}"


def export_model(
    network: RT4KSR,
    spec: ModelSpec,
    repository: str | os.PathLike[str],
    *,
    overwrite: bool = True,
) -> Export:
    """Write ``repository/spec.name``: fused, verified against ``network``, ready to be served.

    The image endpoint of a model for RGB is written beside it, with the stages that all endpoints
    share. An older model of that name is replaced only when the new one is complete. Without
    ``overwrite``, it is kept if it has a file with other content than the new one, such as an
    edited configuration.

    Raises:
        ExportError: the network has another scale, a model is kept, or the folder cannot be
            written.
        VerificationError: the graph does not compute what the network computes.

    """
    repository = Path(repository)
    model = build_model(network, spec)
    files = model.files()
    graphs = [files[f"{VERSION}/{name}"] for name in GRAPHS.values()]
    plans, dropped = _current_plans(repository / spec.name, graphs)
    folders = {spec.name: files | plans}
    if spec.colours == "rgb":
        folders |= stage_files()
        folders[image_endpoint(spec.name)] = endpoint_files(spec.name, model.parameters)
        if spec.content == "any":
            folders[auto_endpoint(spec.scale)] = auto_files(spec.scale)
    if not overwrite:
        _check_kept(repository, folders)
    _log.info("%s: verifying", spec.name)
    full, half = model.graphs[Precision.FP32], model.graphs[Precision.FP16]
    agreement, half_agreement = verify(full, network), verify_half(half, full)
    for name, content in folders.items():
        publish(content, repository, name)
    return Export(agreement, half_agreement, dropped)


def build_model(network: RT4KSR, spec: ModelSpec) -> BuiltModel:
    """Fuse ``network`` and build its graphs.

    Raises:
        ExportError: the network has another scale, or other colours.

    """
    scale = network.architecture.scale
    if scale != spec.scale:
        raise ExportError(f"{spec.name} is a x{spec.scale} model, the weights are for x{scale}")
    colours = network.architecture.colours
    if colours != spec.colours:
        raise ExportError(f"{spec.name} is for {spec.colours}, the weights are for {colours}")
    # What the graphs compute, and nothing that changes with a release: a plan is built from them.
    origin = {
        Parameter.SCALE: str(scale),
        Parameter.COLOURS: colours,
        Parameter.SIZE_MULTIPLE: str(SIZE_MULTIPLE_PX),
        Parameter.HALO: str(network.architecture.halo_px),
        Parameter.WEIGHTS_SHA256: weights_sha256(network),
    }
    serving = {
        Parameter.MAX_INPUT_PX: str(MAX_INPUT_PX),
        Parameter.MAX_SIDE: str(MAX_SIDE_PX),
        Parameter.PROJECT_VERSION: rt4ksr_client.__version__,
    }
    if spec.max_jpeg_quality or spec.max_jpeg_quality_444:
        serving[Parameter.MAX_JPEG_QUALITY] = str(spec.max_jpeg_quality)
        serving[Parameter.MAX_JPEG_QUALITY_444] = str(spec.max_jpeg_quality_444)
    _log.info("%s: fusing the network and building its graphs", spec.name)
    fused = fuse(network)
    graphs = {
        precision: build_graph(fused, origin, precision=precision, bits=spec.bits)
        for precision in GRAPHS
    }
    return BuiltModel(spec, graphs, origin | serving)


def endpoint_files(model: str, parameters: Mapping[str, str]) -> dict[str, bytes]:
    """Return the folder of the image endpoint of ``model``, which has these ``parameters``."""
    config = endpoint_config(model, parameters)
    # Triton needs a folder of the version, and git keeps no empty one.
    return {CONFIG_NAME: config_text(config).encode(), f"{VERSION}/.gitkeep": b""}


def stage_files() -> dict[str, dict[str, bytes]]:
    """Return the folders of the image endpoint's stages, by name.

    The stages are Python models whose code is :mod:`rt4ksr_server.stages`; the repository has their
    configurations and a program that imports it.
    """
    return {
        name: _python_model(name.rpartition("_")[2], configs)
        for name, configs in stage_configs().items()
    }


def auto_files(scale: int) -> dict[str, bytes]:
    """Return the folder of the image endpoint that chooses a model by picture."""
    return _python_model("choose", auto_configs(scale))


def _python_model(stage: str, configs: Mapping[str, ModelConfig]) -> dict[str, bytes]:
    texts = {path: config_text(config).encode() for path, config in configs.items()}
    return {f"{VERSION}/model.py": _STAGE_PROGRAM.format(stage=stage).encode(), **texts}


def _check_kept(repository: Path, folders: Mapping[str, Files]) -> None:
    """Check that ``folders`` replace no file of other content.

    Raises:
        ExportError: they do.

    """
    for name, files in folders.items():
        folder = repository / name
        if not (folder / CONFIG_NAME).is_file():  # see publish
            continue
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if files.get(path.relative_to(folder).as_posix()) != path.read_bytes():
                raise ExportError(
                    f"{path} is not what this export writes: --overwrite replaces all of {folder}, "
                    "-o writes elsewhere"
                )


def _current_plans(
    model_folder: Path, graphs: Iterable[bytes]
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the files of the plans built from ``graphs``, and the names of outdated plans."""
    folder = model_folder / VERSION
    known = {sha256(graph) for graph in graphs}
    files: dict[str, bytes] = {}
    outdated = []
    for plan in (folder / name for name in PLANS.values()):
        if not plan.is_file():
            continue
        identity = read_identity(plan)
        if identity is None or identity.onnx_sha256 not in known:
            outdated.append(plan.name)
            continue
        for path in sorted(folder.glob(f"{plan.name}*")):
            files[f"{VERSION}/{path.name}"] = path.read_bytes()
    return files, tuple(outdated)


def publish(files: Files, repository: Path, name: str) -> None:
    """Write ``files`` into ``repository/name``, which is replaced completely or not at all.

    Raises:
        ExportError: it cannot be written, or exists and is not a model folder.

    """
    target = repository / name
    if target.exists() and not (target / CONFIG_NAME).is_file():
        raise ExportError(
            f"{target} exists and is not a model folder (it has no {CONFIG_NAME}): not replaced"
        )
    try:
        repository.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=repository, prefix=f".{name}."))
    except OSError as exc:
        raise ExportError(f"{repository}: cannot be written: {exc}") from exc
    fresh, old = temporary / "new", temporary / "old"
    try:
        for path, content in files.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_bytes(content)
        replaces = target.exists()
        if replaces:
            target.rename(old)
        try:
            fresh.rename(target)
        except BaseException:
            if replaces:
                old.rename(target)
            raise
    except OSError as exc:
        raise ExportError(f"{target}: cannot be written: {exc}") from exc
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
