"""Bounds of a call: how long it may take, and a way to end it from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

from rt4ksr_client.errors import DeadlineExceededError

__all__ = ["Cancellation", "Deadline"]


class Deadline:
    """A moment in the future, by the monotonic clock."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end_s = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """Seconds until then, negative afterwards."""
        return self._end_s - time.monotonic()

    def required_s(self, what: str = "") -> float:
        """Return the seconds left.

        Raises:
            DeadlineExceededError: there are none; ``what`` names what was waited for, unless who
                catches the error does.

        """
        left_s = self.left_s
        if left_s <= 0:
            about = f"{what}: " if what else ""
            raise DeadlineExceededError(f"{about}no answer within {self.timeout_s:g} s")
        return left_s


class Cancellation:
    """Ends calls that run in other threads; for good, once :meth:`cancel` was called.

    Where a call is ended, it raises :class:`concurrent.futures.CancelledError` in its own thread.
    """

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._stops: list[Callable[[], object]] = []

    def cancel(self) -> None:
        """End every call under way, and every later one."""
        with self._lock:
            self._cancelled.set()
            stops = tuple(self._stops)
        for stop in stops:
            stop()

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """Have :meth:`cancel` call ``stop`` while the block runs; it must be safe from any thread.

        Whatever the stopped call raises in the block, what comes out is ``CancelledError``.
        """
        with self._lock:
            self._raise_if_cancelled()
            self._stops.append(stop)
        try:
            yield
        except Exception:
            self._raise_if_cancelled()
            raise
        finally:
            with self._lock:
                self._stops.remove(stop)

    def sleep(self, duration_s: float) -> None:
        """Sleep, but not beyond :meth:`cancel`."""
        self._cancelled.wait(duration_s)
        self._raise_if_cancelled()

    def _raise_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise CancelledError
