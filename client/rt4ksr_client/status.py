"""A server's description of itself, its models and their work so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rt4ksr_client.call import Call
from rt4ksr_client.contract import PICTURE_NAME, UPSCALED_PICTURE_NAME, Parameter
from rt4ksr_client.errors import DeadlineExceededError, ServerError
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports import Transport

__all__ = ["ModelKind", "ModelStatistics", "ModelStatus", "ServerStatus", "read_status"]


@dataclass(frozen=True)
class ModelStatistics:
    """Requests answered and failed since the model was loaded, and mean times of an answer.

    ``queue_ms`` is the wait for the model, ``input_ms`` and ``output_ms`` move tensors to and from
    it, ``infer_ms`` runs it. Milliseconds per request; all 0 before the first answer.
    """

    answered: int
    failed: int
    executions: int
    queue_ms: float
    input_ms: float
    infer_ms: float
    output_ms: float

    @classmethod
    def from_json(cls, model: dict[str, Any]) -> ModelStatistics:
        """Read one entry of Triton's ``model_stats``."""
        stats = model["inference_stats"]
        answered = int(stats["success"]["count"])

        def mean_ms(stage: str) -> float:
            return int(stats[stage]["ns"]) / 1e6 / answered if answered else 0.0

        return cls(
            answered=answered,
            failed=int(stats["fail"]["count"]),
            executions=int(model["execution_count"]),
            queue_ms=mean_ms("queue"),
            input_ms=mean_ms("compute_input"),
            infer_ms=mean_ms("compute_infer"),
            output_ms=mean_ms("compute_output"),
        )


ModelKind = Literal["network", "endpoint", "stage", "unknown"]
"""A network takes frames, an endpoint takes encoded pictures, a stage is a part of endpoints;
unknown: another project's, or not ready."""


@dataclass(frozen=True)
class ModelStatus:
    """One model of the server; ``served`` is None for all but networks.

    ``device`` is what the server runs it on: ``CPU``, ``GPU 0``, or empty for an endpoint.
    """

    name: str
    version: str
    ready: bool
    reason: str
    kind: ModelKind
    backend: str
    device: str
    served: ServedModel | None
    statistics: ModelStatistics | None


@dataclass(frozen=True)
class ServerStatus:
    """One server: ``version`` is tritonserver's, ``extensions`` are its protocol extensions."""

    address: str
    name: str
    version: str
    extensions: tuple[str, ...]
    models: tuple[ModelStatus, ...]


def read_status(transport: Transport, call: Call) -> ServerStatus:
    """Ask the server of ``transport``.

    Raises:
        ServerError: no answer.

    """
    server = transport.server_metadata(call)
    statistics = transport.model_statistics(call)
    try:
        index = transport.repository_index(call)
    except DeadlineExceededError:
        raise
    except ServerError:
        # A server in production keeps its index private. Every model it has loaded has statistics.
        index = [{**model, "state": "READY"} for model in statistics]
    by_version = {(model["name"], model["version"]): model for model in statistics}
    return ServerStatus(
        address=transport.address,
        name=server["name"],
        version=server["version"],
        extensions=tuple(server["extensions"]),
        models=tuple(_model_status(transport, row, by_version, call) for row in index),
    )


def _model_status(
    transport: Transport,
    row: dict[str, Any],
    statistics: dict[tuple[str, str], Any],
    call: Call,
) -> ModelStatus:
    name, version = row["name"], row.get("version", "")
    ready = row.get("state") == "READY"
    config = transport.model_config(name, call) if ready else {}
    kind: ModelKind = "unknown"
    served = None
    try:
        served = ServedModel.from_config(config)
        kind = "network"
    except ServerError:
        if Parameter.PROJECT_VERSION in config.get("parameters", {}):
            tensors = [t.get("name") for t in (*config.get("input", ()), *config.get("output", ()))]
            kind = "endpoint" if tensors == [PICTURE_NAME, UPSCALED_PICTURE_NAME] else "stage"
    counts = statistics.get((name, version))
    return ModelStatus(
        name=name,
        version=version,
        ready=ready,
        reason=row.get("reason", ""),
        kind=kind,
        backend=config.get("backend", ""),
        device=_device(config),
        served=served,
        statistics=None if counts is None else ModelStatistics.from_json(counts),
    )


def _device(config: dict[str, Any]) -> str:
    """Return the devices of a loaded model; Triton has replaced ``KIND_AUTO`` by then."""
    found = []
    for group in config.get("instance_group", ()):
        gpus = ",".join(map(str, group.get("gpus", ())))
        kind = str(group.get("kind", "")).removeprefix("KIND_")
        found.append(f"{kind} {gpus}".strip())
    return ", ".join(dict.fromkeys(found))
