"""What happened second by second, added up over all processes, in constant memory.

The last :data:`RECENT_S` seconds are kept one by one. Older ones are added to each :class:`Window`
they fall into, and to intervals that get longer as the run does: a run of days takes no more memory
than one of minutes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from rt4ksr_loadtest.measurement.latency import PackedHistogram
from rt4ksr_loadtest.result import Outage

__all__ = ["MOST_INTERVALS", "RECENT_S", "Second", "ServerSecond", "Span", "Timeline", "Window"]

RECENT_S: Final = 300
MOST_INTERVALS: Final = 600

Number = TypeVar("Number", int, float)


class ServerSecond(msgspec.Struct):
    """What the server did between two readings of its statistics, and its state at the second one.

    ``counts``: growth of ``success``, ``fail``, ``executions``, ``batched`` and of each stage's
    nanoseconds, over the models under test; empty if it was not read. States that the server does
    not report are None or have no readings.
    """

    counts: dict[str, int] = {}
    pending_max: int | None = None
    memory_bytes_max: int | None = None
    cpu_cores_sum: float = 0.0
    cpu_readings: int = 0
    gpu_share_sum: float = 0.0
    gpu_readings: int = 0
    gpu_power_w_sum: float = 0.0
    gpu_memory_bytes_max: int | None = None

    def add(self, other: ServerSecond) -> None:
        """Add an earlier or later second."""
        self.counts = _sum_by_key(self.counts, other.counts)
        self.pending_max = _extreme(max, self.pending_max, other.pending_max)
        for name in ("memory_bytes_max", "gpu_memory_bytes_max"):
            setattr(self, name, _extreme(max, getattr(self, name), getattr(other, name)))
        for name in ("cpu_cores_sum", "cpu_readings"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("gpu_share_sum", "gpu_power_w_sum", "gpu_readings"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def cpu_cores(self) -> float | None:
        """Mean number of busy cores."""
        return self.cpu_cores_sum / self.cpu_readings if self.cpu_readings else None

    @property
    def gpu_share(self) -> float | None:
        """Mean utilisation of the GPUs, 0 to 1."""
        return self.gpu_share_sum / self.gpu_readings if self.gpu_readings else None

    @property
    def gpu_power_w(self) -> float | None:
        """Mean power of all GPUs together, in watts."""
        return self.gpu_power_w_sum / self.gpu_readings if self.gpu_readings else None


class Second(msgspec.Struct):
    """One second, by the wall clock, of one process or of several.

    ``latencies`` are those of correct answers, in the second in which they arrived; ``lateness`` is
    the time from being due to being sent. ``offered`` counts requests in the second in which they
    were sent (closed loop) or due (open loop). ``frames`` is the output of correct answers in 4K
    frames. ``cpu_s`` is processor time by process. ``gone_*`` and ``right_*`` are the wall-clock
    times of the first and last failure for lack of a server, and of the first and last correct
    answer.
    """

    offered: int = 0
    right: int = 0
    failures: dict[str, int] = {}
    frames: float = 0.0
    wire_bytes: int = 0
    latencies: PackedHistogram = PackedHistogram()
    lateness: PackedHistogram = PackedHistogram()
    in_flight: int = 0
    users: int = 0
    memory_bytes: int = 0
    cpu_s: dict[str, float] = {}
    gone_from_s: float | None = None
    gone_to_s: float | None = None
    right_from_s: float | None = None
    right_to_s: float | None = None
    server: ServerSecond = msgspec.field(default_factory=ServerSecond)

    def add(self, other: Second) -> None:
        """Add what another process recorded in the same second."""
        for name in ("offered", "right", "frames", "wire_bytes", "latencies", "lateness"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("in_flight", "users", "memory_bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures = _sum_by_key(self.failures, other.failures)
        self.cpu_s = _sum_by_key(self.cpu_s, other.cpu_s)
        self.gone_from_s = _extreme(min, self.gone_from_s, other.gone_from_s)
        self.gone_to_s = _extreme(max, self.gone_to_s, other.gone_to_s)
        self.right_from_s = _extreme(min, self.right_from_s, other.right_from_s)
        self.right_to_s = _extreme(max, self.right_to_s, other.right_to_s)
        self.server.add(other.server)

    @property
    def failed(self) -> int:
        """Failures of every kind."""
        return sum(self.failures.values())

    @property
    def cpu_s_total(self) -> float:
        """Processor time of all processes."""
        return sum(self.cpu_s.values())


class Span(Second):
    """The sum of several seconds. States (``in_flight``, ``users``, ``memory_bytes``) are sums too,
    to be divided by ``seconds``.
    """

    seconds: int = 0
    memory_bytes_max: int = 0

    def append(self, second: Second) -> None:
        """Add a second."""
        self.add(second)
        self.seconds += 1
        self.memory_bytes_max = max(self.memory_bytes_max, second.memory_bytes)

    def extend(self, later: Span) -> None:
        """Add the seconds of another span."""
        self.add(later)
        self.seconds += later.seconds
        self.memory_bytes_max = max(self.memory_bytes_max, later.memory_bytes_max)


@dataclass
class Window:
    """Whole seconds from ``first`` up to ``end``, which may be set until it is RECENT_S ago.

    ``older`` is the sum of those that are no longer kept one by one.
    """

    first: int
    end: float = math.inf
    older: Span = field(default_factory=Span)

    def __contains__(self, second: int) -> bool:
        """Whether ``second`` is in the window."""
        return self.first <= second < self.end


@dataclass
class Intervals:
    """A run cut into at most :data:`MOST_INTERVALS` spans of equal length, a power of two."""

    first: int
    length_s: int = 1
    spans: list[Span] = field(default_factory=list)

    def add(self, second: int, counts: Second) -> None:
        """Add a second; one before the first is ignored."""
        while (index := (second - self.first) // self.length_s) >= MOST_INTERVALS:
            self._halve()
        if index >= 0:
            self.spans += [Span() for _ in range(index + 1 - len(self.spans))]
            self.spans[index].append(counts)

    def _halve(self) -> None:
        for left, right in zip(self.spans[::2], self.spans[1::2], strict=False):
            left.extend(right)
        self.spans = self.spans[::2]
        self.length_s *= 2


@dataclass
class Outages:
    """The times from a failure for lack of a server to the next correct answer."""

    found: list[tuple[float, float]] = field(default_factory=list)
    gone_s: float | None = None

    def add(self, second: Second) -> None:
        """Look at the next second."""
        if self.gone_s is None:
            self.gone_s = second.gone_from_s
        elif second.right_from_s is not None and second.right_to_s is not None:
            gone_to_s = second.gone_to_s or 0.0
            if second.right_to_s > gone_to_s:
                self.found.append((self.gone_s, max(second.right_from_s, gone_to_s)))
                self.gone_s = None


class Timeline:
    """The seconds of a run.

    Args:
        start_s: wall-clock time of the start.
        measured_from_s: wall-clock time of the end of the warm-up.

    """

    def __init__(self, start_s: float, measured_from_s: float) -> None:
        self.start_s = start_s
        self.measured_from_s = measured_from_s
        self.workers: set[str] = set()
        self._recent: dict[int, Second] = {}
        self._intervals = Intervals(math.floor(start_s))
        self._outages = Outages()
        self._measured = Window(math.floor(measured_from_s))
        self._steady = Window(math.ceil(measured_from_s))
        self._windows = [self._measured, self._steady]
        self._memory_bytes_max = 0
        self._opened: dict[int, Window] = {}

    def absorb(self, worker: str, seconds: Mapping[int, Mapping[str, Any]]) -> None:
        """Add what ``worker`` recorded since the last time, as its recorder returned it."""
        self.workers.add(worker)
        for number, values in seconds.items():
            second = msgspec.convert(values, Second)
            second.cpu_s = {worker: second.cpu_s_total}
            self._recent.setdefault(int(number), Second()).add(second)
        self._fold_old_seconds()

    def absorb_server(self, read_s: float, seen: ServerSecond) -> None:
        """Add what the server did in the second or so before ``read_s``, the time of the reading.

        Readings are due as seconds begin, so it is of the second before.
        """
        number = max(math.floor(self.start_s), math.floor(read_s - 0.5))
        self._recent.setdefault(number, Second()).server.add(seen)

    def stop(self, stop_s: float) -> None:
        """Say when the load stopped."""
        self._steady.end = math.floor(stop_s)

    def window(self, start_s: float, end_s: float = math.inf) -> Window:
        """Return the window of the whole seconds between two times; the same for the same start.

        Ask first no later than RECENT_S after the start; older seconds would be missing.
        """
        first = math.ceil(start_s)
        if first not in self._opened:
            self._opened[first] = Window(first)
            self._windows.append(self._opened[first])
        if end_s != math.inf:
            self._opened[first].end = math.floor(end_s)
        return self._opened[first]

    def total(self, window: Window) -> Span:
        """Return the sum of the seconds of ``window``."""
        span = copy.deepcopy(window.older)
        for number in sorted(self._recent):
            if number in window:
                span.append(self._recent[number])
        return span

    @property
    def memory_bytes_max(self) -> int:
        """Most memory that all processes together used in a second, warm-up included."""
        recent = [second.memory_bytes for second in self._recent.values()]
        return max([self._memory_bytes_max, *recent])

    @property
    def measured(self) -> Span:
        """The sum from the second in which the warm-up ended to the last answer."""
        return self.total(self._measured)

    @property
    def steady(self) -> Span:
        """The sum of the whole seconds from the end of the warm-up until the load stopped."""
        return self.total(self._steady)

    def recent(self, start: int, end: int) -> list[Second]:
        """Return the seconds from ``start`` up to ``end``, empty ones included.

        Those before the last RECENT_S are no longer known, and empty.
        """
        return [self._recent.get(number, Second()) for number in range(start, end)]

    def intervals(self) -> Intervals:
        """Return the run in intervals, warm-up included."""
        intervals = copy.deepcopy(self._intervals)
        for number in sorted(self._recent):
            intervals.add(number, self._recent[number])
        return intervals

    def outages(self) -> tuple[Outage, ...]:
        """Return the outages until now."""
        outages = copy.deepcopy(self._outages)
        for number in sorted(self._recent):
            outages.add(self._recent[number])
        found = outages.found
        if outages.gone_s is not None:
            found.append((outages.gone_s, max(self._recent) + 1))
        return tuple(
            Outage(start_s=gone_s - self.start_s, length_s=back_s - gone_s)
            for gone_s, back_s in found
        )

    def _fold_old_seconds(self) -> None:
        horizon = max(self._recent, default=0) - RECENT_S
        for number in sorted(number for number in self._recent if number < horizon):
            second = self._recent.pop(number)
            self._intervals.add(number, second)
            self._outages.add(second)
            self._memory_bytes_max = max(self._memory_bytes_max, second.memory_bytes)
            for window in self._windows:
                if number in window:
                    window.older.append(second)


def _sum_by_key(first: Mapping[str, Number], second: Mapping[str, Number]) -> dict[str, Number]:
    total = dict(first)
    for key, value in second.items():
        total[key] = total[key] + value if key in total else value
    return total


def _extreme(
    choose: Callable[[Iterable[Number]], Number], first: Number | None, second: Number | None
) -> Number | None:
    known = [value for value in (first, second) if value is not None]
    return choose(known) if known else None
