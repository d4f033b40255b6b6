"""Shared memory where the server can map it, gRPC where it cannot."""

from __future__ import annotations

import threading
from typing import Any

from rt4ksr_client.calls import Cancellation, Deadline
from rt4ksr_client.errors import DeadlineExceededError, ServerError, ServerUnreachableError
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports.base import Question, Transport
from rt4ksr_client.transports.grpc import GrpcTransport
from rt4ksr_client.transports.shm import ShmTransport

__all__ = ["AutoTransport"]


class AutoTransport(Transport):
    """Decides at the first call: a server that maps a region of ours shares our memory.

    That is proof enough, and no guess by address: a server in a container on this host may not,
    one behind a tunnel to this host may.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._chosen: Transport | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        """``auto`` until it is decided."""
        return "auto" if self._chosen is None else self._chosen.name

    @property
    def reason(self) -> str:  # type: ignore[override]
        """Why."""
        return "not decided yet" if self._chosen is None else self._chosen.reason

    def infer(
        self,
        model: str,
        batch: Frame,
        *,
        timeout_s: float,
        cancellation: Cancellation | None = None,
    ) -> Frame:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        deadline = Deadline(timeout_s)
        transport = self._choose(deadline)
        left_s = deadline.required_s(self.address)
        return transport.infer(model, batch, timeout_s=left_s, cancellation=cancellation)

    def ask(self, question: Question, model: str = "", *, timeout_s: float) -> Any:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        deadline = Deadline(timeout_s)
        transport = self._choose(deadline)
        return transport.ask(question, model, timeout_s=deadline.required_s(self.address))

    def decide(self, *, timeout_s: float) -> None:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        self._choose(Deadline(timeout_s))

    def close(self) -> None:
        """Close what was chosen."""
        if self._chosen is not None:
            self._chosen.close()

    def _choose(self, deadline: Deadline) -> Transport:
        with self._lock:
            if self._chosen is None:
                self._chosen = self._tried(deadline.required_s(self.address))
            return self._chosen

    def _tried(self, timeout_s: float) -> Transport:
        deadline = Deadline(timeout_s)
        shared = ShmTransport(self.address)
        try:
            shared.prove(timeout_s=timeout_s)
        except DeadlineExceededError as exc:
            shared.close()
            raise self._explained(exc, "") from exc
        except (ServerError, OSError) as exc:
            shared.close()
            return self._plain(exc, deadline)
        shared.reason = "the server maps this process's memory"
        return shared

    def _plain(self, reason: Exception, deadline: Deadline) -> Transport:
        plain = GrpcTransport(self.address)
        plain.reason = f"the server cannot map this process's memory: {reason}"
        if isinstance(reason, ServerUnreachableError):
            # A server that forbids shared memory says UNAVAILABLE too, but then answers this.
            try:
                plain.ask(Question.SERVER, timeout_s=deadline.required_s(self.address))
            except ServerError:
                plain.close()
                raise
        return plain
