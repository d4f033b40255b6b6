"""Several servers as one: the least busy gets the next call, one that fails rests.

One that missed a deadline gets no more calls until it has answered a question that no call waits
for.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass

from rt4ksr_client.call import Call, Cancellation
from rt4ksr_client.errors import (
    DeadlineExceededError,
    ModelNotReadyError,
    ServerError,
    ServerUnreachableError,
)
from rt4ksr_client.transports.base import ForwardingTransport, Route, Transport
from rt4ksr_client.transports.forking import ProcessBound

__all__ = ["FleetTransport"]

REST_S = 1.0
"""How long a server that failed gets no calls, unless all of them failed."""

LONGEST_REST_S = 60.0
"""How long a server rests at most that misses one deadline after the other."""

PROBE_TIMEOUT_S = 2.0

logger = logging.getLogger(__name__)


@dataclass
class _Member:
    transport: Transport
    in_flight: int = 0
    resting_until_s: float = 0.0
    last_call: int = 0
    missed: int = 0
    is_hung: bool = False

    def load(self, now_s: float) -> tuple[float, int, int]:
        """Return what the choice minimises: rest left, calls in flight, then whose turn it is."""
        rest_s = math.inf if self.is_hung else max(0.0, self.resting_until_s - now_s)
        return rest_s, self.in_flight, self.last_call


class FleetTransport(ForwardingTransport, ProcessBound):
    """Balances calls over ``transports``; the caller retries a call that fails.

    The next attempt goes to another server, because the one that failed rests.
    """

    def __init__(self, transports: Sequence[Transport]) -> None:
        self._members = [_Member(transport) for transport in transports]
        self._lock = threading.Lock()
        self._calls = 0
        self._closing = Cancellation()
        self.address = ",".join(transport.address for transport in transports)
        self.watch_forks()

    def start_afresh(self) -> None:
        """See :class:`~rt4ksr_client.transports.forking.ProcessBound`."""
        self._lock = threading.Lock()
        self._closing = Cancellation()
        for member in self._members:
            member.in_flight = 0
            member.is_hung = False  # the thread that asks it is the parent's

    @property
    def route(self) -> Route:  # type: ignore[override]
        """The routes to all servers, e.g. ``shm+grpc``, with the reason for each."""
        routes = [(member.transport.address, member.transport.route) for member in self._members]

        def names(name_of: Callable[[Route], str]) -> str:
            return "+".join(dict.fromkeys(name_of(route) for _, route in routes))

        def reasons(reason_of: Callable[[Route], str]) -> str:
            return "; ".join(f"{address}: {reason_of(route)}" for address, route in routes)

        return Route(
            names(lambda route: route.transport),
            reasons(lambda route: f"{route.transport}, {route.transport_reason}"),
            names(lambda route: route.wire),
            reasons(lambda route: f"{route.wire}, {route.wire_reason}"),
        )

    def negotiate(self, call: Call) -> Route:
        """See :class:`~rt4ksr_client.transports.base.Transport`; skips servers that are down."""
        for number, member in enumerate(self._members):
            share_s = call.required_s(self.address) / (len(self._members) - number)
            with contextlib.suppress(ServerUnreachableError, DeadlineExceededError):
                member.transport.negotiate(call.probe(share_s))
        return self.route

    def model_names(self, call: Call) -> set[str]:
        """See :class:`~rt4ksr_client.transports.base.Transport`; skips servers that are down."""
        found: set[str] | None = None
        for number, member in enumerate(self._members):
            share_s = call.required_s(self.address) / (len(self._members) - number)
            with contextlib.suppress(ServerUnreachableError, DeadlineExceededError):
                names = member.transport.model_names(call.probe(share_s))
                found = names if found is None else found & names
        return found or set()

    def close(self) -> None:
        """Close every transport."""
        self._closing.cancel()
        for member in self._members:
            member.transport.close()

    @contextlib.contextmanager
    def target(self, call: Call) -> Iterator[Transport]:
        """Lend the least busy server's transport; one that fails in the block rests."""
        with self._lock:
            now_s = time.monotonic()
            member = min(self._members, key=lambda one: one.load(now_s))
            self._calls += 1
            member.last_call = self._calls
            member.in_flight += 1
        try:
            yield member.transport
        except (ServerUnreachableError, ModelNotReadyError) as exc:
            member.resting_until_s = time.monotonic() + REST_S
            logger.warning("%s rests for %g s: %s", member.transport.address, REST_S, exc)
            raise
        except DeadlineExceededError:
            self._suspend(member)
            raise
        else:
            member.resting_until_s, member.missed = 0.0, 0
        finally:
            with self._lock:
                member.in_flight -= 1

    def _suspend(self, member: _Member) -> None:
        """Give a server that missed a deadline no calls until it answers."""
        with self._lock:
            if member.is_hung:
                return
            member.is_hung = True
            rest_s = min(REST_S * 2**member.missed, LONGEST_REST_S)
            member.missed += 1
        logger.warning(
            "%s missed a deadline: no calls for %g s, and until it answers",
            member.transport.address,
            rest_s,
        )
        # A daemon: the end of the program does not wait for a server that hangs.
        threading.Thread(
            target=self._await_answer, args=(member, rest_s, self._closing), daemon=True
        ).start()

    def _await_answer(self, member: _Member, rest_s: float, closing: Cancellation) -> None:
        with contextlib.suppress(CancelledError):
            while member.is_hung:
                closing.sleep(rest_s)
                with contextlib.suppress(ServerError):
                    member.transport.server_metadata(Call(PROBE_TIMEOUT_S, closing))
                    member.is_hung = False
                    logger.info("%s answers again", member.transport.address)
