"""Counts and latencies of a live stream, in memory that does not grow."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any, Final

import numpy as np

__all__ = ["Latencies", "LiveStatistics", "Snapshot"]

LONGEST_MS: Final = 10_000


class Latencies:
    """A histogram of milliseconds."""

    def __init__(self) -> None:
        self._counts = np.zeros(LONGEST_MS + 1, np.int64)

    def add(self, duration_s: float) -> None:
        """Count one; from 10 s on all are alike."""
        self._counts[min(LONGEST_MS, max(0, round(duration_s * 1000)))] += 1

    def percentile_ms(self, percent: float) -> float | None:
        """Return the milliseconds that ``percent`` of all do not exceed; None without any."""
        total = int(self._counts.sum())
        if not total:
            return None
        return float(np.searchsorted(self._counts.cumsum(), np.ceil(total * percent / 100)))


@dataclass(frozen=True)
class Snapshot:
    """A stream in the last ``seconds_s``: frames by what became of them, and latencies in ms.

    ``latency_*_ms`` is from decoded to encoded; ``network_p50_ms`` from sent to answered. Stages
    are their share of the time: what one thread spends on them.
    """

    seconds_s: float
    frames_in: int
    by_network: int
    interpolated: int
    held: int
    dropped: int
    late: int
    failed: int
    reconnects: int
    clock_jumps: int
    in_flight: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    network_p50_ms: float | None
    stage_shares: Mapping[str, float]

    @property
    def network_share(self) -> float | None:
        """Share of the frames shown that the network has upscaled, 0 to 1."""
        shown = self.by_network + self.interpolated
        return self.by_network / shown if shown else None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, ready for JSON."""
        return {**asdict(self), "network_share": self.network_share}

    def __str__(self) -> str:
        """Say it in a line."""
        per_s = 1 / self.seconds_s if self.seconds_s else 0.0

        def ms(value: float | None) -> str:
            return "-" if value is None else f"{value:.0f}"

        stages = " ".join(f"{name} {share:.0%}" for name, share in self.stage_shares.items())
        return (
            f"{self.frames_in * per_s:.1f} frames/s: network {self.by_network * per_s:.1f}, "
            f"interpolated {self.interpolated * per_s:.1f}, dropped {self.dropped * per_s:.1f} | "
            f"latency {ms(self.latency_p50_ms)} / {ms(self.latency_p99_ms)} ms (p50 / p99), "
            f"network {ms(self.network_p50_ms)} ms | {stages}"
        )


COUNTS: Final = (
    "frames_in",
    "by_network",
    "interpolated",
    "held",
    "dropped",
    "late",
    "failed",
    "reconnects",
    "clock_jumps",
)
STAGES: Final = ("decode", "interpolate", "encode", "write")


class LiveStatistics:
    """Counts what becomes of the frames of a stream. May be used from several threads."""

    def __init__(self) -> None:
        self.in_flight = 0
        """Requests under way."""
        self._lock = threading.Lock()
        self._begin_s = self._since_s = monotonic()
        self._totals = dict.fromkeys(COUNTS, 0)
        self._before = dict(self._totals)
        self._stage_s = dict.fromkeys(STAGES, 0.0)
        self._stage_before_s = dict(self._stage_s)
        self._latency, self._network = Latencies(), Latencies()
        self._recent_latency, self._recent_network = Latencies(), Latencies()

    def count(self, what: str, number: int = 1) -> None:
        """Count frames or events by their name in :class:`Snapshot`."""
        with self._lock:
            self._totals[what] += number

    def encoded(self, latency_s: float) -> None:
        """Note how long after decoding a frame was encoded."""
        with self._lock:
            self._latency.add(latency_s)
            self._recent_latency.add(latency_s)

    def answered(self, duration_s: float) -> None:
        """Note how long an answer has taken."""
        with self._lock:
            self._network.add(duration_s)
            self._recent_network.add(duration_s)

    def spent(self, stage: str, duration_s: float) -> None:
        """Note the time that one of the stages took."""
        with self._lock:
            self._stage_s[stage] += duration_s

    def total(self) -> Snapshot:
        """Return everything since the beginning."""
        with self._lock:
            return self._snapshot(
                monotonic() - self._begin_s,
                self._totals,
                self._stage_s,
                self._latency,
                self._network,
            )

    def recent(self) -> Snapshot:
        """Return what has happened since the last call."""
        with self._lock:
            now_s = monotonic()
            snapshot = self._snapshot(
                now_s - self._since_s,
                {name: self._totals[name] - self._before[name] for name in COUNTS},
                {name: self._stage_s[name] - self._stage_before_s[name] for name in STAGES},
                self._recent_latency,
                self._recent_network,
            )
            self._since_s = now_s
            self._before, self._stage_before_s = dict(self._totals), dict(self._stage_s)
            self._recent_latency, self._recent_network = Latencies(), Latencies()
            return snapshot

    def _snapshot(
        self,
        seconds_s: float,
        counts: Mapping[str, int],
        stage_s: Mapping[str, float],
        latency: Latencies,
        network: Latencies,
    ) -> Snapshot:
        return Snapshot(
            seconds_s=seconds_s,
            **counts,
            in_flight=self.in_flight,
            latency_p50_ms=latency.percentile_ms(50),
            latency_p99_ms=latency.percentile_ms(99),
            network_p50_ms=network.percentile_ms(50),
            stage_shares={k: v / seconds_s if seconds_s else 0.0 for k, v in stage_s.items()},
        )
