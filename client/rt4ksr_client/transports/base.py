"""What every transport offers, and what a client learns from the server through it."""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rt4ksr_client.call import Cancellation
from rt4ksr_client.contract import (
    INPUT_NAME,
    OUTPUT_NAME,
    WIRE_DATATYPE,
)
from rt4ksr_client.errors import (
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
)
from rt4ksr_client.frames import Frame
from rt4ksr_client.served_model import ServedModel

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MessageTransport", "Question", "Route", "Tensor", "Transport"]

_PROBE_TIMEOUT_S = 2.0

Parameters = Mapping[str, "str | int"]
NO_PARAMETERS: Final[Parameters] = MappingProxyType({})


class Question(enum.Enum):
    """What a server can be asked; the last three are about one model."""

    SERVER = enum.auto()
    INDEX = enum.auto()
    CONFIG = enum.auto()
    STATISTICS = enum.auto()
    MODEL_READY = enum.auto()


@dataclass(frozen=True)
class Tensor:
    """A tensor as it is on the wire; ``content`` is contiguous, row by row, little-endian."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes | memoryview

    @classmethod
    def of_frames(cls, batch: Frame) -> Tensor:
        """Return the request of a network; ``batch`` is copied only if it is not contiguous."""
        content = np.ascontiguousarray(batch).data.cast("B")
        return cls(INPUT_NAME, WIRE_DATATYPE, batch.shape, content)

    def as_frames(self) -> Frame:
        """Return a view as uint8 of :attr:`shape`.

        Raises:
            ServerError: it is of another type, or there is more or less in it.

        """
        if self.datatype != WIRE_DATATYPE:
            raise ServerError(f"the server's response holds no picture: it is {self.datatype}")
        try:
            return np.frombuffer(self.content, np.uint8).reshape(self.shape)
        except ValueError as exc:
            raise ServerError(f"the server's response holds no picture: {exc}") from exc


@dataclass(frozen=True)
class Route:
    """Transport and wire of a client, each with the reason for it as a sentence."""

    transport: str
    transport_reason: str
    wire: str
    wire_reason: str


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

    wire: str = "raw"
    """``raw`` or ``encoded``: how frames travel."""

    wire_reason: str = "frames as they are, exact"
    """Why they travel like this, for people."""

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
        """Settle :attr:`name`, :attr:`wire` and why, which may take questions to the server."""

    def messages(self) -> MessageTransport | None:
        """Return the way that takes other tensors too; None where frames share memory.

        To be asked after :meth:`decide`.
        """
        return None

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


class MessageTransport(Transport):
    """A transport that sends tensors in messages, whatever they are."""

    @abc.abstractmethod
    def exchange(
        self,
        model: str,
        tensor: Tensor,
        wanted: str,
        *,
        parameters: Parameters = NO_PARAMETERS,
        timeout_s: float,
        cancellation: Cancellation | None = None,
    ) -> Tensor:
        """Send ``tensor`` to ``model``, return its output ``wanted``.

        ``parameters`` are the request's; the rest is as in :meth:`infer`.
        """

    def infer(
        self,
        model: str,
        batch: Frame,
        *,
        timeout_s: float,
        cancellation: Cancellation | None = None,
    ) -> Frame:
        """See :class:`Transport`."""
        sent = Tensor.of_frames(batch)
        answer = self.exchange(
            model, sent, OUTPUT_NAME, timeout_s=timeout_s, cancellation=cancellation
        )
        return answer.as_frames()

    def messages(self) -> MessageTransport:
        """See :class:`Transport`."""
        return self
