"""What every transport offers, and what a client learns from the server through it."""

from __future__ import annotations

import abc
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rt4ksr_client.calls import Cancellation
from rt4ksr_client.contract import Parameter
from rt4ksr_client.errors import (
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
)
from rt4ksr_client.frames import Frame

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Question", "ServedModel", "Transport"]

_PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class ServedModel:
    """What the server says about one of its models (the ``parameters`` of its config)."""

    name: str
    scale: int
    size_multiple: int
    halo_px: int
    max_batch_size: int
    weights_sha256: str
    project_version: str

    def __post_init__(self) -> None:
        """Refuse a model no picture could be prepared for."""
        if self.scale < 1 or self.size_multiple < 1 or self.halo_px < 0:
            raise ValueError(f"scale, size_multiple or halo_px out of range: {self}")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ServedModel:
        """Read a model configuration in its JSON form.

        Raises:
            ServerError: the model does not carry this project's parameters.

        """
        name = str(config.get("name", "?"))
        values = {k: v.get("string_value", "") for k, v in config.get("parameters", {}).items()}
        try:
            return cls(
                name=name,
                scale=int(values[Parameter.SCALE]),
                size_multiple=int(values[Parameter.SIZE_MULTIPLE]),
                halo_px=int(values[Parameter.HALO]),
                max_batch_size=int(config.get("max_batch_size", 0)),
                weights_sha256=values.get(Parameter.WEIGHTS_SHA256, ""),
                project_version=values.get(Parameter.PROJECT_VERSION, ""),
            )
        except (KeyError, ValueError) as exc:
            raise ServerError(
                f"model {name!r} is not one of rt4ksr-triton's: its config has no valid "
                f"parameter {exc}"
            ) from exc


class Question(enum.Enum):
    """What a server can be asked; the last three are about one model."""

    SERVER = enum.auto()
    INDEX = enum.auto()
    CONFIG = enum.auto()
    STATISTICS = enum.auto()
    MODEL_READY = enum.auto()


class Transport(abc.ABC):
    """A way to one server, which may be shared between threads.

    It tries once; trying again is for :class:`~rt4ksr_client.retry.Retries`. Every method raises a
    subclass of :class:`~rt4ksr_client.errors.ServerError`.
    """

    name: str
    """``grpc``, ``http``, ``shm`` or ``cuda_shm``."""

    reason: str
    """Why this way was taken, for people."""

    address: str
    """Where the server is, for people."""

    @abc.abstractmethod
    def infer(
        self,
        model: str,
        batch: Frame,
        *,
        timeout_s: float,
        cancellation: Cancellation | None = None,
    ) -> Frame:
        """Upscale ``(N, H, W, 3)`` uint8 to ``(N, s*H, s*W, 3)`` uint8.

        The result may be a read-only view of the response. ``cancellation`` ends the call from
        another thread.
        """

    @abc.abstractmethod
    def ask(self, question: Question, model: str = "", *, timeout_s: float) -> Any:
        """Return the server's answer in the JSON form of Triton's HTTP protocol."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release connections and memory. Calling it twice is harmless."""

    def decide(self, *, timeout_s: float) -> None:  # noqa: B027 - nothing to decide is usual
        """Settle :attr:`name` and :attr:`reason`, which may take a question to the server."""

    def served_model(self, model: str, *, timeout_s: float) -> ServedModel:
        """Ask the server what ``model`` is."""
        return ServedModel.from_config(self.ask(Question.CONFIG, model, timeout_s=timeout_s))

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()

    def _explained(self, error: ServerError, model: str) -> ServerError:
        """Tell apart what Triton answers with one status: ask it what is alive.

        ``model`` is empty for a question about the server, which has only one answer.
        """
        if not isinstance(error, (ServerUnreachableError, ModelNotReadyError)):
            about = f"{self.address}: {model}" if model else self.address
            return type(error)(f"{about}: {error}")
        unreachable = ServerUnreachableError(
            f"no Triton server answers at {self.address}: start one with 'rt4ksr serve'"
        )
        if not model:
            return unreachable
        try:
            ready = self.ask(Question.MODEL_READY, model, timeout_s=_PROBE_TIMEOUT_S)["ready"]
        except ServerError:
            return unreachable
        if ready:
            return OverloadedError(f"{self.address}: {model}: {error}")
        return ModelNotReadyError(
            f"{self.address}: model {model!r} is not ready: it is still loading, or the server "
            "does not have it"
        )
