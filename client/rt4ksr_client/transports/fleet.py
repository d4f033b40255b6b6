"""Several servers as one: the least busy gets the work, one that fails rests."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rt4ksr_client.call import Cancellation
from rt4ksr_client.errors import ModelNotReadyError, ServerUnreachableError
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports.base import Question, Transport

__all__ = ["FleetTransport"]

REST_S = 1.0
"""How long a server that failed gets no work, unless all of them failed."""


@dataclass
class _Member:
    transport: Transport
    in_flight: int = 0
    resting_until_s: float = 0.0
    last_call: int = 0

    def order(self, now_s: float) -> tuple[float, int, int]:
        """Return what the choice minimises: rest left, calls in flight, then whose turn it is."""
        return max(0.0, self.resting_until_s - now_s), self.in_flight, self.last_call


class FleetTransport(Transport):
    """Balances calls over ``transports``; a call that fails is for the caller to try again.

    The next attempt goes to another server, because the one that failed rests.
    """

    def __init__(self, transports: Sequence[Transport]) -> None:
        self._members = [_Member(transport) for transport in transports]
        self._lock = threading.Lock()
        self._calls = 0
        self.address = ",".join(transport.address for transport in transports)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The ways to the servers, e.g. ``shm+grpc``."""
        names = dict.fromkeys(member.transport.name for member in self._members)
        return "+".join(names)

    @property
    def reason(self) -> str:  # type: ignore[override]
        """Why, for each server."""
        each = (member.transport for member in self._members)
        return "; ".join(f"{one.address}: {one.name}, {one.reason}" for one in each)

    @property
    def wire(self) -> str:  # type: ignore[override]
        """How frames travel, e.g. ``raw+encoded``."""
        return "+".join(dict.fromkeys(member.transport.wire for member in self._members))

    @property
    def wire_reason(self) -> str:  # type: ignore[override]
        """Why, for each server."""
        each = (member.transport for member in self._members)
        return "; ".join(f"{one.address}: {one.wire}, {one.wire_reason}" for one in each)

    def infer(
        self,
        model: str,
        batch: Frame,
        *,
        timeout_s: float,
        cancellation: Cancellation | None = None,
    ) -> Frame:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        with self._turn() as transport:
            return transport.infer(model, batch, timeout_s=timeout_s, cancellation=cancellation)

    def ask(self, question: Question, model: str = "", *, timeout_s: float) -> Any:
        """See :class:`~rt4ksr_client.transports.base.Transport`; one server answers for all."""
        with self._turn() as transport:
            return transport.ask(question, model, timeout_s=timeout_s)

    def decide(self, *, timeout_s: float) -> None:
        """See :class:`~rt4ksr_client.transports.base.Transport`; skips servers that are down."""
        for member in self._members:
            with contextlib.suppress(ServerUnreachableError):
                member.transport.decide(timeout_s=timeout_s)

    def close(self) -> None:
        """Close every transport."""
        for member in self._members:
            member.transport.close()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[Transport]:
        member = self._take()
        try:
            yield member.transport
        except (ServerUnreachableError, ModelNotReadyError):
            member.resting_until_s = time.monotonic() + REST_S
            raise
        else:
            member.resting_until_s = 0.0
        finally:
            with self._lock:
                member.in_flight -= 1

    def _take(self) -> _Member:
        with self._lock:
            now_s = time.monotonic()
            member = min(self._members, key=lambda one: one.order(now_s))
            self._calls += 1
            member.last_call = self._calls
            member.in_flight += 1
            return member
