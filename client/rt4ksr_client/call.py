"""Limits of a call: its deadline, and its cancellation from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rt4ksr_client.contract import PRIORITIES, Priority
from rt4ksr_client.errors import DeadlineExceededError
from rt4ksr_client.tracing import trace_headers

__all__ = ["Call", "Cancellation"]

_LOCK_POLL_S = 0.05


class Cancellation:
    """Cancels calls from another thread: those in flight and those that follow.

    A cancelled call raises :class:`concurrent.futures.CancelledError` in its own thread.

    Args:
        timeout_s: seconds from now after which nobody wants an answer any more: calls end, and a
            request that still waits in the server's queue is rejected there.

    """

    def __init__(self, timeout_s: float | None = None) -> None:
        self.end_s = None if timeout_s is None else time.monotonic() + timeout_s
        """When calls end, on the monotonic clock; None for their own deadlines."""
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._stops: list[Callable[[], object]] = []

    def cancel(self) -> None:
        """Cancel for good; calling it twice is harmless."""
        with self._lock:
            self._cancelled.set()
            stops = tuple(self._stops)
        for stop in stops:
            stop()

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """Have :meth:`cancel` call ``stop`` while the block runs; it must be thread-safe.

        Whatever exception ``stop`` provokes in the block becomes ``CancelledError``.
        """
        with self._lock:
            self.raise_if_cancelled()
            self._stops.append(stop)
        try:
            yield
        except Exception:
            self.raise_if_cancelled()
            raise
        finally:
            with self._lock:
                self._stops.remove(stop)

    def sleep(self, duration_s: float) -> None:
        """Sleep, but not beyond :meth:`cancel`."""
        self._cancelled.wait(duration_s)
        self.raise_if_cancelled()

    def raise_if_cancelled(self) -> None:
        """Raise ``CancelledError`` after :meth:`cancel`."""
        if self._cancelled.is_set():
            raise CancelledError


class Call:
    """One call with all its requests and retries: ends at a deadline, or when it is cancelled.

    ``trace_headers`` go with each of its requests: the trace context of the thread that made it.

    Args:
        timeout_s: seconds from now to the deadline.
        cancellation: ends the call from another thread, or earlier; None if nothing will.
        priority: before which requests it goes in the server's queue.

    """

    def __init__(
        self,
        timeout_s: float,
        cancellation: Cancellation | None = None,
        priority: Priority = "normal",
    ) -> None:
        now_s = time.monotonic()
        end_s = None if cancellation is None else cancellation.end_s
        self.timeout_s = timeout_s if end_s is None else min(timeout_s, max(0.0, end_s - now_s))
        self.cancellation = cancellation
        self.trace_headers = trace_headers()
        self._priority = priority
        self._end_s = now_s + self.timeout_s

    def left_s(self) -> float:
        """Return the seconds to the deadline, negative after it."""
        return self._end_s - time.monotonic()

    def parameters(self) -> dict[str, str | int]:
        """Return the parameters of a request that the server queues it by; none by default."""
        found: dict[str, str | int] = {}
        if self._priority != "normal":
            found["priority"] = PRIORITIES[self._priority]
        if self.cancellation is not None and self.cancellation.end_s is not None:
            found["timeout"] = max(1, round(self.left_s() * 1e6))  # microseconds
        return found

    def required_s(self, what: str = "") -> float:
        """Return the seconds to the deadline.

        Args:
            what: names what was waited for; leave it empty if the caller adds that context.

        Raises:
            DeadlineExceededError: the deadline has passed.
            CancelledError: the call was cancelled.

        """
        self.raise_if_cancelled()
        left_s = self.left_s()
        if left_s <= 0:
            about = f"{what}: " if what else ""
            raise DeadlineExceededError(f"{about}no answer within {self.timeout_s:g} s")
        return left_s

    def raise_if_cancelled(self) -> None:
        """Raise ``CancelledError`` if the call was cancelled."""
        if self.cancellation is not None:
            self.cancellation.raise_if_cancelled()

    def stopping(self, stop: Callable[[], object]) -> AbstractContextManager[None]:
        """Have a cancellation call ``stop``; see :meth:`Cancellation.stopping`."""
        return nullcontext() if self.cancellation is None else self.cancellation.stopping(stop)

    def sleep(self, duration_s: float) -> None:
        """Sleep, but not beyond a cancellation."""
        if self.cancellation is None:
            time.sleep(duration_s)
        else:
            self.cancellation.sleep(duration_s)

    @contextmanager
    def holding(self, lock: threading.Lock, what: str) -> Iterator[None]:
        """Hold ``lock`` during the block, waiting for it as long as the call may.

        Raises:
            DeadlineExceededError: the deadline came first; ``what`` names what was waited for.
            CancelledError: the call was cancelled while it waited.

        """
        while not lock.acquire(timeout=min(_LOCK_POLL_S, self.required_s(what))):
            pass
        try:
            yield
        finally:
            lock.release()

    def probe(self, timeout_s: float) -> Call:
        """Return a call for a side question: a deadline of its own, the same cancellation."""
        return Call(timeout_s, self.cancellation)
