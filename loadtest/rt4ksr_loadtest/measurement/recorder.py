"""Counts what happens in one process; see :class:`Recorder`."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, Final

import msgspec
import psutil

from rt4ksr_loadtest.measurement.latency import LatencyHistogram
from rt4ksr_loadtest.measurement.timeline import Second

__all__ = ["NO_SERVER", "Recorder"]

NO_SERVER: Final = frozenset({"unreachable", "TLS", "not ready"})
"""Kinds of failure that mean that no server answers."""


class Recorder:
    """Counts the requests of this process by second, until :meth:`take`."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.users = 0
        self._seconds: defaultdict[int, Second] = defaultdict(Second)
        self._latencies: defaultdict[int, LatencyHistogram] = defaultdict(LatencyHistogram)
        self._lateness: defaultdict[int, LatencyHistogram] = defaultdict(LatencyHistogram)
        self._process = psutil.Process()
        self._cpu_s = self._used_cpu_s()

    def offered(self, at_s: float) -> None:
        """Count a request that was sent, or due, at the wall-clock time ``at_s``."""
        self._seconds[int(at_s)].offered += 1

    def begun(self) -> None:
        """Count a request as in flight, until :meth:`right` or :meth:`failed`."""
        self.in_flight += 1

    def late(self, late_s: float) -> None:
        """Count by how much a request of the open loop was sent after it was due."""
        self._lateness[int(time.time())].record(late_s)

    def right(self, latency_s: float, frames: float, wire_bytes: int) -> None:
        """Count a correct answer and its latency."""
        self.in_flight -= 1
        now_s = time.time()
        second = self._seconds[int(now_s)]
        second.right += 1
        second.frames += frames
        second.wire_bytes += wire_bytes
        self._latencies[int(now_s)].record(latency_s)
        second.right_from_s = second.right_from_s or now_s
        second.right_to_s = now_s

    def failed(self, kind: str) -> None:
        """Count a request without a correct answer."""
        self.in_flight -= 1
        now_s = time.time()
        second = self._seconds[int(now_s)]
        second.failures[kind] = second.failures.get(kind, 0) + 1
        if kind in NO_SERVER:
            second.gone_from_s = second.gone_from_s or now_s
            second.gone_to_s = now_s

    def sample(self) -> None:
        """Record the state of this process; to be called once a second."""
        second = self._seconds[int(time.time())]
        used_s = self._used_cpu_s()
        second.cpu_s["process"] = second.cpu_s.get("process", 0.0) + used_s - self._cpu_s
        self._cpu_s = used_s
        second.in_flight, second.users = self.in_flight, self.users
        second.memory_bytes = self._process.memory_info().rss

    def take(self) -> dict[int, dict[str, Any]]:
        """Return the seconds counted since the last call, in a form that can be sent."""
        for number in {*self._latencies, *self._lateness}:
            second = self._seconds[number]
            second.latencies = self._latencies[number].pack()
            second.lateness = self._lateness[number].pack()
        taken = {number: msgspec.to_builtins(second) for number, second in self._seconds.items()}
        for counted in (self._seconds, self._latencies, self._lateness):
            counted.clear()
        return taken

    def _used_cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
