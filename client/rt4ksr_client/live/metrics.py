"""The statistics of a live stream for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rt4ksr_client.live.statistics import LiveStatistics

__all__ = ["StreamCollector"]

FRAMES: Final = {
    "in": "frames_in",
    "network": "by_network",
    "interpolated": "interpolated",
    "held": "held",
    "dropped": "dropped",
    "late": "late",
    "failed": "failed",
}
"""Value of the label, and the field of the snapshot."""


class StreamCollector(Collector):
    """Reads the totals of ``statistics`` whenever Prometheus asks."""

    def __init__(self, statistics: LiveStatistics) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        total = self._statistics.total()
        frames = CounterMetricFamily(
            "rt4ksr_live_frames", "Frames by what became of them", labels=["outcome"]
        )
        for outcome, name in FRAMES.items():
            frames.add_metric([outcome], getattr(total, name))
        yield frames
        yield CounterMetricFamily(
            "rt4ksr_live_reconnects", "Source or output opened again", value=total.reconnects
        )
        yield GaugeMetricFamily(
            "rt4ksr_live_requests_in_flight", "Requests under way", value=total.in_flight
        )
        latency = GaugeMetricFamily(
            "rt4ksr_live_latency_seconds",
            "From decoded to encoded, since the start",
            labels=["quantile"],
        )
        for quantile, value in (("0.5", total.latency_p50_ms), ("0.99", total.latency_p99_ms)):
            if value is not None:
                latency.add_metric([quantile], value / 1000)
        yield latency
