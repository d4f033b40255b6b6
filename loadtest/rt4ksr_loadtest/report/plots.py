"""The plots of one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from markupsafe import Markup
from matplotlib.axes import Axes

from rt4ksr_loadtest.report.curves import (
    draw_histogram,
    draw_percentiles,
    draw_steps,
    from_zero,
    latency_axis,
    over_time,
)
from rt4ksr_loadtest.report.distribution import Distribution
from rt4ksr_loadtest.report.drawing import BAD, FIRST, INK, MUTED, SECOND, drawing, time_axis
from rt4ksr_loadtest.result import Interval, RunResult, Step

__all__ = ["plot_distribution", "plot_knee", "plot_machines", "plot_timeline"]

_MEBI = 2**20
_GIBI = 2**30


def plot_timeline(result: RunResult) -> Markup:
    """Throughput, latency and, if there were any, failures over the time of the run."""
    intervals = result.intervals
    failed = any(i.failures for i in intervals)
    heights = (1.9, 1.9, 0.9) if failed else (1.9, 1.9)
    with drawing(*heights, share_x=True, description="Throughput and latency over time") as plot:
        throughput, latency = plot.panels[:2]
        throughput.set_title("4K frames/s")
        if result.settings.load_model == "open":
            over_time(throughput, intervals, lambda i: i.offered_fps, MUTED, "offered", "--")
        over_time(throughput, intervals, lambda i: i.goodput_fps, FIRST, "right answers")
        from_zero(throughput)
        latency.set_title("latency, ms")
        over_time(latency, intervals, lambda i: _of_right(i, i.p50_ms), FIRST, "p50")
        over_time(latency, intervals, lambda i: _of_right(i, i.p99_ms), SECOND, "p99")
        latency_axis(latency, [v for i in intervals for v in (i.p50_ms, i.p99_ms) if v > 0])
        if failed:
            plot.panels[2].set_title("failures/s")
            _bars(plot.panels[2], intervals)
        _mark(plot.panels, result)
    return plot.svg


def plot_machines(result: RunResult) -> Markup:
    """Requests under way, CPU and memory over the time of the run."""
    intervals = result.intervals
    with drawing(1.5, 1.5, 1.5, share_x=True, description="Load and machines over time") as plot:
        flight, cpu, memory = plot.panels
        flight.set_title("requests")
        over_time(flight, intervals, lambda i: i.users, MUTED, "users", "--")
        over_time(flight, intervals, lambda i: i.in_flight, FIRST, "under way")
        _if_told(flight, intervals, lambda i: i.pending, "queued in server")
        cpu.set_title("CPU, cores")
        over_time(cpu, intervals, lambda i: i.generator_cpu_cores, FIRST, "generator")
        _if_told(cpu, intervals, lambda i: i.server_cpu_cores, "server")
        largest = max(
            (max(i.generator_memory_bytes, i.server_memory_bytes or 0) for i in intervals),
            default=0,
        )
        unit, name = (_GIBI, "GiB") if largest >= _GIBI else (_MEBI, "MiB")
        memory.set_title(f"memory, {name}")
        over_time(memory, intervals, lambda i: i.generator_memory_bytes / unit, FIRST, "generator")
        _if_told(memory, intervals, lambda i: _scaled(i.server_memory_bytes, unit), "server")
        for panel in plot.panels:
            from_zero(panel)
        _mark(plot.panels, result)
    return plot.svg


def plot_distribution(distribution: Distribution) -> Markup:
    """How many answers took how long, and the latency at each percentile."""
    with drawing(1.7, 2.6, description="Distribution of the latency") as plot:
        histogram, percentiles = plot.panels
        histogram.set_title("right answers by latency")
        draw_histogram(histogram, distribution)
        draw_percentiles(percentiles, distribution, FIRST)
        latency_axis(percentiles, distribution.latencies_ms)
    return plot.svg


def plot_knee(result: RunResult) -> Markup:
    """Latency against throughput, a point for each step."""
    with drawing(3.2, description="Latency against throughput, by step") as plot:
        panel = plot.panels[0]
        draw_steps(panel, result.steps, lambda s: s.p50_ms, FIRST, "p50")
        draw_steps(panel, result.steps, lambda s: s.p99_ms, SECOND, "p99")
        unit = "users" if result.settings.load_model == "closed" else "requests/s asked for"
        panel.set_title(f"latency, ms, at {unit}")
        _levels(panel, result.steps)
        if result.knee is not None and result.steps[result.knee].goodput_fps > 0:
            _ring(panel, result.steps[result.knee])
        panel.set_xlabel("goodput, 4K frames/s")
        panel.set_xlim(0, 1.12 * max((s.goodput_fps for s in result.steps), default=0) or 1)
        latencies_ms = [v for s in result.steps for v in (s.p50_ms, s.p99_ms) if v > 0]
        latency_axis(panel, latencies_ms, headroom=1.2)
    return plot.svg


def _of_right(interval: Interval, latency_ms: float) -> float:
    return latency_ms if interval.goodput_fps > 0 else math.nan


def _scaled(value: int | None, unit: int) -> float | None:
    return None if value is None else value / unit


def _if_told(
    panel: Axes,
    intervals: Sequence[Interval],
    value: Callable[[Interval], float | None],
    label: str,
) -> None:
    def level(interval: Interval) -> float:
        told = value(interval)
        return math.nan if told is None else told

    if any(value(i) is not None for i in intervals):
        over_time(panel, intervals, level, SECOND, label)


def _bars(panel: Axes, intervals: Sequence[Interval]) -> None:
    failed = [i for i in intervals if i.failures and i.length_s > 0]
    panel.bar(
        [i.start_s for i in failed],
        [i.failures / i.length_s for i in failed],
        [i.length_s for i in failed],
        align="edge",
        color=BAD,
        linewidth=0,
    )


def _mark(panels: Sequence[Axes], result: RunResult) -> None:
    """Shade warm-up and outages, and label the time."""
    intervals = result.intervals
    start_s = intervals[0].start_s if intervals else 0.0
    end_s = intervals[-1].start_s + intervals[-1].length_s if intervals else 1.0
    for panel in panels:
        for warm_start_s, warm_end_s in _warmups(intervals):
            panel.axvspan(warm_start_s, warm_end_s, color=MUTED, alpha=0.18, linewidth=0)
        for outage in result.outages:
            outage_end_s = outage.start_s + outage.length_s
            panel.axvspan(outage.start_s, outage_end_s, color=BAD, alpha=0.22, linewidth=0)
    panels[0].set_xlim(start_s, end_s)
    time_axis(panels[-1].xaxis, end_s)


def _warmups(intervals: Sequence[Interval]) -> Iterator[tuple[float, float]]:
    for warmup, group in groupby(intervals, key=lambda i: i.warmup):
        if warmup:
            together = list(group)
            yield together[0].start_s, together[-1].start_s + together[-1].length_s


def _levels(panel: Axes, steps: Sequence[Step]) -> None:
    for step in steps:
        if step.goodput_fps > 0:
            panel.annotate(
                f"{step.level:.4g}",
                (step.goodput_fps, step.p50_ms),
                xytext=(8, -11),
                textcoords="offset points",
                color=MUTED,
                fontsize=8,
            )


def _ring(panel: Axes, knee: Step) -> None:
    panel.axvline(knee.goodput_fps, color=INK, linewidth=1, linestyle=":")
    for latency_ms in (knee.p50_ms, knee.p99_ms):
        panel.plot(knee.goodput_fps, latency_ms, "o", mfc="none", mec=INK, mew=1.5, ms=11)
    panel.annotate(
        "knee",
        (knee.goodput_fps, knee.p99_ms),
        xytext=(-9, 8),
        textcoords="offset points",
        ha="right",
        color=INK,
        fontweight="bold",
    )
