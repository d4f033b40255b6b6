"""What happened, second by second: counted in each process, added up over all of them.

Everything in a :class:`Slot` can be added to another one's: that is what makes the figures of a
distributed run right. Percentiles are taken of all latencies together, in the end.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import psutil

__all__ = ["Recorder", "Slot"]

GONE = frozenset({"unreachable", "not ready"})
"""Kinds of failure that say that no server answers."""


class Slot(msgspec.Struct):
    """One second, by the wall clock, of one process or of several.

    ``latencies_us``: of right answers, in the second in which they came. ``offered`` counts
    requests in the second in which they were sent (closed loop) or due (open loop). ``frames``: of
    right answers, in output pixels of a 4K frame. ``late_us``: from being due to being sent.
    ``gone_from_s``, ``gone_to_s``, ``right_from_s``, ``right_to_s``: first and last time at which
    there was no server and a right answer.
    """

    offered: int = 0
    right: int = 0
    failures: dict[str, int] = {}
    frames: float = 0.0
    wire_bytes: int = 0
    latencies_us: list[int] = []
    late_us: list[int] = []
    in_flight: int = 0
    users: int = 0
    cpu_s: float = 0.0
    memory_bytes: int = 0
    gone_from_s: float | None = None
    gone_to_s: float | None = None
    right_from_s: float | None = None
    right_to_s: float | None = None

    def add(self, other: Slot) -> None:
        """Add what ``other`` counted."""
        for name in ("offered", "right", "frames", "wire_bytes", "in_flight", "users", "cpu_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.memory_bytes += other.memory_bytes
        self.failures = dict(Counter(self.failures) + Counter(other.failures))
        self.latencies_us += other.latencies_us
        self.late_us += other.late_us
        self.gone_from_s = _of(min, self.gone_from_s, other.gone_from_s)
        self.gone_to_s = _of(max, self.gone_to_s, other.gone_to_s)
        self.right_from_s = _of(min, self.right_from_s, other.right_from_s)
        self.right_to_s = _of(max, self.right_to_s, other.right_to_s)

    @property
    def failed(self) -> int:
        """Failures of every kind."""
        return sum(self.failures.values())


def _of(
    choose: Callable[[Iterable[float]], float], first: float | None, second: float | None
) -> float | None:
    times = [time_s for time_s in (first, second) if time_s is not None]
    return choose(times) if times else None


class Recorder:
    """Counts in this process."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}
        self._process = psutil.Process()
        self._cpu_s = self._used_cpu_s()
        self.in_flight = 0
        self.users = 0

    def offered(self, at_s: float) -> None:
        """Count a request that was sent, or due, at the wall-clock time ``at_s``."""
        self._slot(at_s).offered += 1

    def begun(self) -> None:
        """Count a request as under way."""
        self.in_flight += 1

    def late(self, late_s: float) -> None:
        """Note by how much a request was sent after it was due."""
        self._slot(time.time()).late_us.append(max(0, round(late_s * 1e6)))

    def right(self, latency_s: float, frames: float, wire_bytes: int) -> None:
        """Count a right answer."""
        self.in_flight -= 1
        now_s = time.time()
        slot = self._slot(now_s)
        slot.right += 1
        slot.frames += frames
        slot.wire_bytes += wire_bytes
        slot.latencies_us.append(max(1, round(latency_s * 1e6)))
        slot.right_from_s, slot.right_to_s = _widened(slot.right_from_s, now_s)

    def failed(self, kind: str) -> None:
        """Count a request without a right answer."""
        self.in_flight -= 1
        now_s = time.time()
        slot = self._slot(now_s)
        slot.failures[kind] = slot.failures.get(kind, 0) + 1
        if kind in GONE:
            slot.gone_from_s, slot.gone_to_s = _widened(slot.gone_from_s, now_s)

    def sample(self) -> None:
        """Note this process's state; to be called once a second."""
        slot = self._slot(time.time())
        used_s = self._used_cpu_s()
        slot.cpu_s += used_s - self._cpu_s
        self._cpu_s = used_s
        slot.in_flight, slot.users = self.in_flight, self.users
        slot.memory_bytes = self._process.memory_info().rss

    def take(self) -> dict[int, dict[str, Any]]:
        """Return what was counted since the last time, in a form that can be sent."""
        slots, self._slots = self._slots, {}
        return {second: msgspec.to_builtins(slot) for second, slot in slots.items()}

    def _slot(self, at_s: float) -> Slot:
        return self._slots.setdefault(int(at_s), Slot())

    def _used_cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def _widened(first_s: float | None, now_s: float) -> tuple[float, float]:
    return (now_s if first_s is None else first_s), now_s
