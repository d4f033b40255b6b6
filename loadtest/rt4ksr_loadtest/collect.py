"""Adds up what all processes recorded, and makes a result of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from hdrh.histogram import HdrHistogram

from rt4ksr_loadtest.probe import STAGES, Probe, ServerSecond
from rt4ksr_loadtest.recorder import Slot
from rt4ksr_loadtest.result import (
    Generator,
    Interval,
    Latency,
    Outage,
    ServerWork,
    Step,
    Totals,
)

__all__ = ["FRAME_PX", "Collected", "Level"]

FRAME_PX: Final = 3840 * 2160
LONGEST_US: Final = 3_600_000_000
MOST_INTERVALS: Final = 600
BUSY_SHARE: Final = 0.9
"""Of one core: from here on a process of the generator delays what it measures."""

LATE_SHARE: Final = 0.1
"""Of the median latency: from here on what the generator is late by spoils it."""

KNEE_SHARE: Final = 0.95


@dataclass(frozen=True)
class Level:
    """A level of load, held from ``start_s`` to ``end_s`` (wall clock)."""

    level: float
    start_s: float
    end_s: float


@dataclass
class Collected:
    """The slots of all processes, by second of the wall clock."""

    slots: dict[int, Slot] = field(default_factory=dict)
    worker_cpu_s: dict[str, dict[int, float]] = field(default_factory=dict)

    def absorb(self, worker: str, slots: Mapping[int, Mapping[str, Any]]) -> None:
        """Add what ``worker`` recorded since the last time."""
        for second, values in slots.items():
            slot = msgspec.convert(values, Slot)
            cpu_s = self.worker_cpu_s.setdefault(worker, {})
            cpu_s[int(second)] = cpu_s.get(int(second), 0.0) + slot.cpu_s
            self.slots.setdefault(int(second), Slot()).add(slot)

    def between(self, start_s: float, end_s: float) -> Slot:
        """Return the sum of the whole seconds from ``start_s`` up to ``end_s``."""
        total = Slot()
        for second in sorted(self.slots):
            if math.ceil(start_s) <= second < math.floor(end_s):
                total.add(self.slots[second])
        return total

    def since(self, start_s: float) -> Slot:
        """Return the sum from the second of ``start_s`` on, to the very end."""
        total = Slot()
        for second in sorted(self.slots):
            if second >= math.floor(start_s):
                total.add(self.slots[second])
        return total

    def totals(self, start_s: float, stop_s: float) -> Totals:
        """Counts since ``start_s``; rates over the whole seconds up to ``stop_s``.

        What was under way when the load stopped is counted, but is no part of a rate.
        """
        everything, steady = self.since(start_s), self.between(start_s, stop_s)
        length_s = max(1, math.floor(stop_s) - math.ceil(start_s))
        size = everything.frames / everything.right if everything.right else 0.0
        return Totals(
            requests=everything.right + everything.failed,
            right=everything.right,
            failures=everything.failures,
            offered_fps=steady.offered * size / length_s,
            achieved_fps=(steady.right + steady.failed) * size / length_s,
            goodput_fps=steady.frames / length_s,
            output_mpx_per_s=steady.frames * FRAME_PX / 1e6 / length_s,
            wire_mb_per_s=steady.wire_bytes / 1e6 / length_s,
        )

    def generator(self, start_s: float, stop_s: float, *, is_open: bool) -> Generator:
        """Return what the load generator used, and whether that spoils the figures."""
        window = self.between(start_s, stop_s)
        length_s = max(1, math.floor(stop_s) - math.ceil(start_s))
        busiest = max(
            (
                sum(s for second, s in cpu.items() if start_s <= second < stop_s) / length_s
                for cpu in self.worker_cpu_s.values()
            ),
            default=0.0,
        )
        late_ms = percentile_ms(window.late_us, 99) if is_open else 0.0
        spoiled = late_ms > 10 and late_ms > LATE_SHARE * percentile_ms(window.latencies_us, 50)
        memory = [slot.memory_bytes for slot in self.slots.values()]
        return Generator(
            cpu_cores=window.cpu_s / length_s,
            busiest_worker_share=busiest,
            memory_bytes=max(memory, default=0),
            late_ms_p99=late_ms,
            is_limit=busiest > BUSY_SHARE or spoiled,
        )

    def intervals(
        self, start_s: float, measured_from_s: float, probe: Mapping[int, ServerSecond]
    ) -> tuple[Interval, ...]:
        """Cut the run into at most ``MOST_INTERVALS`` pieces."""
        if not self.slots:
            return ()
        first, last = math.floor(start_s), max(self.slots)
        length = max(1, math.ceil((last + 1 - first) / MOST_INTERVALS))
        return tuple(
            self._interval(second, length, start_s, measured_from_s, probe)
            for second in range(first, last + 1, length)
        )

    def _interval(
        self,
        second: int,
        length: int,
        start_s: float,
        measured_from_s: float,
        probe: Mapping[int, ServerSecond],
    ) -> Interval:
        slot = self.between(second, second + length)
        states = [probe[s] for s in range(second, second + length) if s in probe]
        samples = max(1, sum(1 for s in range(second, second + length) if s in self.slots))
        begin_s = max(0.0, second - start_s)
        length_s = second + length - start_s - begin_s  # the run begins within a second
        return Interval(
            start_s=begin_s,
            length_s=length_s,
            warmup=second < math.floor(measured_from_s),
            users=round(slot.users / samples),
            offered_fps=_frames(slot, slot.offered) / length_s,
            goodput_fps=slot.frames / length_s,
            failures=slot.failed,
            p50_ms=percentile_ms(slot.latencies_us, 50),
            p99_ms=percentile_ms(slot.latencies_us, 99),
            in_flight=round(slot.in_flight / samples),
            pending=_largest(state.pending for state in states),
            generator_cpu_cores=slot.cpu_s / length_s,
            server_cpu_cores=_mean(state.cpu_cores for state in states),
            server_memory_bytes=_largest(state.memory_bytes for state in states),
            generator_memory_bytes=round(slot.memory_bytes / samples),
        )

    def step(self, level: Level, start_s: float, settle_share: float = 0.2) -> Step:
        """Measure one level, its beginning left out."""
        begin_s = level.start_s + settle_share * (level.end_s - level.start_s)
        slot = self.between(begin_s, level.end_s)
        return Step(
            level=level.level,
            start_s=max(0.0, level.start_s - start_s),
            length_s=level.end_s - level.start_s,
            goodput_fps=slot.frames / max(1, math.floor(level.end_s) - math.ceil(begin_s)),
            p50_ms=percentile_ms(slot.latencies_us, 50),
            p99_ms=percentile_ms(slot.latencies_us, 99),
            right=slot.right,
            failures=slot.failed,
        )

    def outages(self, start_s: float) -> tuple[Outage, ...]:
        """Find the times from a failure for want of a server to the next right answer."""
        found: list[Outage] = []
        gone_s: float | None = None
        for second in sorted(self.slots):
            slot = self.slots[second]
            if gone_s is not None and slot.right_from_s is not None:
                if (
                    slot.gone_to_s is None
                    or slot.right_to_s is None
                    or slot.right_to_s > slot.gone_to_s
                ):
                    back_s = max(slot.right_from_s, slot.gone_to_s or 0.0)
                    found.append(Outage(start_s=gone_s - start_s, length_s=back_s - gone_s))
                    gone_s = None
            elif gone_s is None and slot.gone_from_s is not None:
                gone_s = slot.gone_from_s
        if gone_s is not None:
            end_s = max(self.slots) + 1
            found.append(Outage(start_s=gone_s - start_s, length_s=end_s - gone_s))
        return tuple(found)


def latency_of(latencies_us: Sequence[int]) -> Latency:
    """Return the percentiles of latencies, and their histogram."""
    histogram = HdrHistogram(1, LONGEST_US, 3)
    for latency_us in latencies_us:
        histogram.record_value(min(latency_us, LONGEST_US))
    encoded = histogram.encode()
    return Latency(
        p50_ms=percentile_ms(latencies_us, 50),
        p90_ms=percentile_ms(latencies_us, 90),
        p95_ms=percentile_ms(latencies_us, 95),
        p99_ms=percentile_ms(latencies_us, 99),
        max_ms=max(latencies_us, default=0) / 1e3,
        mean_ms=sum(latencies_us) / 1e3 / len(latencies_us) if latencies_us else 0.0,
        histogram=encoded.decode() if isinstance(encoded, bytes) else encoded,
    )


def percentile_ms(values_us: Sequence[int], percent: float) -> float:
    """Return the least value that ``percent`` of them do not exceed (nearest rank); 0 of none."""
    if not values_us:
        return 0.0
    rank = max(1, math.ceil(percent / 100 * len(values_us)))
    return sorted(values_us)[rank - 1] / 1e3


def server_work(probe: Probe, start_s: float) -> ServerWork | None:
    """Return what the server did since ``start_s``; None if it never told."""
    seconds = [seen for second, seen in probe.seconds.items() if second >= math.floor(start_s)]
    counts: Counter[str] = Counter()
    for seen in seconds:
        counts.update(seen.counts)
    if not any(seen.counts for seen in seconds):
        return None
    answered = max(1, counts["success"])
    means = [counts[stage] / 1e6 / answered for stage in STAGES]
    return ServerWork(
        success_count=counts["success"],
        failure_count=counts["fail"],
        execution_count=counts["executions"],
        mean_batch=counts["batched"] / counts["executions"] if counts["executions"] else 0.0,
        queue_ms=means[0],
        input_ms=means[1],
        infer_ms=means[2],
        output_ms=means[3],
        cpu_cores=_mean(seen.cpu_cores for seen in seconds),
        memory_bytes=_largest(seen.memory_bytes for seen in seconds),
        gpu_share=_mean(seen.gpu_share for seen in seconds),
        pending_max=_largest(seen.pending for seen in seconds),
    )


def knee_of(steps: Sequence[Step], p99_ms: float | None) -> int | None:
    """Return the first step with about the best goodput of those that keep the objective."""
    kept = [
        i
        for i, step in enumerate(steps)
        if step.goodput_fps > 0 and (p99_ms is None or step.p99_ms <= p99_ms)
    ]
    if not kept:
        return None
    best = max(steps[i].goodput_fps for i in kept)
    return next(i for i in kept if steps[i].goodput_fps >= KNEE_SHARE * best)


def _frames(slot: Slot, requests: int) -> float:
    """Return requests in frames; of the size of the right answers, else one each."""
    return requests * (slot.frames / slot.right if slot.right else 1.0)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _largest(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)
