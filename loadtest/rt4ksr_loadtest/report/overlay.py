"""The plots of two runs on top of each other; A and B, because their names can be of any length."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from rt4ksr_loadtest.report.curves import (
    draw_percentiles,
    draw_steps,
    from_zero,
    latency_axis,
    over_time,
)
from rt4ksr_loadtest.report.distribution import distribution_of
from rt4ksr_loadtest.report.drawing import FIRST, SECOND, drawing, time_axis
from rt4ksr_loadtest.result import RunResult

__all__ = ["overlay_distributions", "overlay_steps", "overlay_timelines"]

_LABELS = (("A", FIRST), ("B", SECOND))


def overlay_timelines(runs: Sequence[RunResult]) -> Markup:
    """Throughput and p99 of both runs over their time, warm-up included."""
    with drawing(2.0, 2.0, share_x=True, description="Both runs over time") as plot:
        throughput, latency = plot.panels
        for run, (label, colour) in zip(runs, _LABELS, strict=True):
            over_time(throughput, run.intervals, lambda i: i.goodput_fps, colour, label)
            over_time(latency, run.intervals, lambda i: i.p99_ms or math.nan, colour, label)
        throughput.set_title("right answers, 4K frames/s")
        latency.set_title("p99 latency, ms")
        from_zero(throughput)
        latency_axis(latency, [i.p99_ms for run in runs for i in run.intervals if i.p99_ms])
        ends_s = [i.start_s + i.length_s for run in runs for i in run.intervals]
        throughput.set_xlim(0, max(ends_s, default=1.0))
        time_axis(latency.xaxis, max(ends_s, default=1.0))
    return plot.svg


def overlay_distributions(runs: Sequence[RunResult]) -> Markup:
    """Latency at each percentile of both runs; empty where neither had a right answer.

    Raises:
        LoadTestError: a result's latency histogram cannot be read.

    """
    distributions = [distribution_of(run.latency) for run in runs]
    if not any(d.counts for d in distributions):
        return Markup()
    with drawing(3.2, description="Latency of both runs at each percentile") as plot:
        panel = plot.panels[0]
        for distribution, (label, colour) in zip(distributions, _LABELS, strict=True):
            if distribution.counts:
                draw_percentiles(panel, distribution, colour, label)
        latency_axis(panel, [ms for d in distributions for ms in d.latencies_ms])
    return plot.svg


def overlay_steps(runs: Sequence[RunResult]) -> Markup:
    """The p99 against throughput of both runs by step; empty where neither has steps."""
    steps = [step for run in runs for step in run.steps if step.goodput_fps > 0]
    if not steps:
        return Markup()
    with drawing(3.2, description="Latency of both runs against throughput") as plot:
        panel = plot.panels[0]
        for run, (label, colour) in zip(runs, _LABELS, strict=True):
            if run.steps:
                draw_steps(panel, run.steps, lambda s: s.p99_ms, colour, label)
        panel.set(title="p99 latency, ms", xlabel="goodput, 4K frames/s")
        panel.set_xlim(0, 1.12 * max(step.goodput_fps for step in steps))
        latency_axis(panel, [step.p99_ms for step in steps])
    return plot.svg
