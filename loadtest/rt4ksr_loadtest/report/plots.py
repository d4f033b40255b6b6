"""The plots of one run, and of two runs on top of each other, called A and B."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from rt4ksr_loadtest.measurement.latency import Distribution, read_distribution
from rt4ksr_loadtest.report.drawing import (
    BAD,
    FIRST,
    INK,
    MUTED,
    SECOND,
    draw_failures,
    draw_histogram,
    draw_over_time,
    draw_percentiles,
    draw_steps,
    drawing,
    from_zero,
    latency_axis,
    time_axis,
)
from rt4ksr_loadtest.result import RunResult, Step

__all__ = [
    "overlay_distributions",
    "overlay_steps",
    "overlay_timelines",
    "plot_distribution",
    "plot_knee",
    "plot_machines",
    "plot_timeline",
]


_MEBI = 2**20
_GIBI = 2**30
_LABELS = (("A", FIRST), ("B", SECOND))


def plot_timeline(result: RunResult) -> Markup:
    """Draw throughput, latency and, if there were any, failures over the time of the run."""
    intervals = result.intervals
    failed = any(i.failures for i in intervals)
    heights = (1.9, 1.9, 0.9) if failed else (1.9, 1.9)
    with drawing(*heights, share_x=True, description="Throughput and latency over time") as plot:
        throughput, latency = plot.panels[:2]
        throughput.set_title("4K frames/s")
        if result.settings.load_model == "open":
            draw_over_time(throughput, intervals, lambda i: i.offered_fps, MUTED, "offered", "--")
        draw_over_time(throughput, intervals, lambda i: i.goodput_fps, FIRST, "correct answers")
        from_zero(throughput)
        latency.set_title("latency, ms")
        draw_over_time(latency, intervals, lambda i: i.p50_ms or None, FIRST, "p50")
        draw_over_time(latency, intervals, lambda i: i.p99_ms or None, SECOND, "p99")
        latency_axis(latency, [v for i in intervals for v in (i.p50_ms, i.p99_ms) if v > 0])
        if failed:
            plot.panels[2].set_title("failures/s")
            draw_failures(plot.panels[2], intervals)
        _finish_time_axis(plot.panels, result)
    return plot.svg


def plot_machines(result: RunResult) -> Markup:
    """Draw requests in flight, CPU and memory over the time of the run."""
    intervals = result.intervals
    with drawing(1.5, 1.5, 1.5, share_x=True, description="Load and machines over time") as plot:
        flight, cpu, memory = plot.panels
        flight.set_title("requests")
        draw_over_time(flight, intervals, lambda i: i.users, MUTED, "users", "--")
        draw_over_time(flight, intervals, lambda i: i.in_flight, FIRST, "in flight")
        draw_over_time(flight, intervals, lambda i: i.pending, SECOND, "queued in server")
        cpu.set_title("CPU, cores")
        draw_over_time(cpu, intervals, lambda i: i.generator_cpu_cores, FIRST, "generator")
        draw_over_time(cpu, intervals, lambda i: i.server_cpu_cores, SECOND, "server")
        largest = max(
            (max(i.generator_memory_bytes, i.server_memory_bytes or 0) for i in intervals),
            default=0,
        )
        unit, name = (_GIBI, "GiB") if largest >= _GIBI else (_MEBI, "MiB")
        memory.set_title(f"memory, {name}")
        for label, colour, memory_bytes in (
            ("generator", FIRST, lambda i: i.generator_memory_bytes),
            ("server", SECOND, lambda i: i.server_memory_bytes),
        ):
            draw_over_time(memory, intervals, memory_bytes, colour, label, scale=1 / unit)
        for panel in plot.panels:
            from_zero(panel)
        _finish_time_axis(plot.panels, result)
    return plot.svg


def plot_distribution(distribution: Distribution) -> Markup:
    """Draw how many answers took how long, and the latency at each percentile."""
    with drawing(1.7, 2.6, description="Distribution of the latency") as plot:
        histogram, percentiles = plot.panels
        histogram.set_title("correct answers by latency")
        draw_histogram(histogram, distribution)
        draw_percentiles(percentiles, distribution, FIRST)
        latency_axis(percentiles, distribution.latencies_ms)
    return plot.svg


def plot_knee(result: RunResult) -> Markup:
    """Draw latency against throughput, a point for each step."""
    with drawing(3.2, description="Latency against throughput, by step") as plot:
        panel = plot.panels[0]
        draw_steps(panel, result.steps, lambda s: s.p50_ms, FIRST, "p50")
        draw_steps(panel, result.steps, lambda s: s.p99_ms, SECOND, "p99")
        unit = "users" if result.settings.load_model == "closed" else "requests/s offered"
        panel.set_title(f"latency, ms, at {unit}")
        knee = None if result.knee is None else result.steps[result.knee]
        _mark_steps(panel, result.steps, knee)
        panel.set_xlabel("goodput, 4K frames/s")
        panel.set_xlim(0, 1.12 * max((s.goodput_fps for s in result.steps), default=0) or 1)
        latencies_ms = [v for s in result.steps for v in (s.p50_ms, s.p99_ms) if v > 0]
        latency_axis(panel, latencies_ms, headroom=1.2)
    return plot.svg


def _finish_time_axis(panels: Sequence[Axes], result: RunResult) -> None:
    """Shade warm-up and outages, and label the time."""
    intervals = result.intervals
    start_s = intervals[0].start_s if intervals else 0.0
    end_s = intervals[-1].start_s + intervals[-1].length_s if intervals else 1.0
    warm = [i for i in intervals if i.warmup]
    for panel in panels:
        if warm:
            warm_end_s = warm[-1].start_s + warm[-1].length_s
            panel.axvspan(warm[0].start_s, warm_end_s, color=MUTED, alpha=0.18, linewidth=0)
        for outage in result.outages:
            outage_end_s = outage.start_s + outage.length_s
            panel.axvspan(outage.start_s, outage_end_s, color=BAD, alpha=0.22, linewidth=0)
    panels[0].set_xlim(start_s, end_s)
    time_axis(panels[-1].xaxis, end_s)


def _mark_steps(panel: Axes, steps: Sequence[Step], knee: Step | None) -> None:
    """Label each step with its level, and put a ring around the knee."""
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
    if knee is None or not knee.goodput_fps:
        return
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


def overlay_timelines(runs: Sequence[RunResult]) -> Markup:
    """Draw throughput and p99 of both runs over their time, warm-up included."""
    with drawing(2.0, 2.0, share_x=True, description="Both runs over time") as plot:
        throughput, latency = plot.panels
        for run, (label, colour) in zip(runs, _LABELS, strict=True):
            draw_over_time(throughput, run.intervals, lambda i: i.goodput_fps, colour, label)
            draw_over_time(latency, run.intervals, lambda i: i.p99_ms or None, colour, label)
        throughput.set_title("correct answers, 4K frames/s")
        latency.set_title("p99 latency, ms")
        from_zero(throughput)
        latency_axis(latency, [i.p99_ms for run in runs for i in run.intervals if i.p99_ms])
        ends_s = [i.start_s + i.length_s for run in runs for i in run.intervals]
        throughput.set_xlim(0, max(ends_s, default=1.0))
        time_axis(latency.xaxis, max(ends_s, default=1.0))
    return plot.svg


def overlay_distributions(runs: Sequence[RunResult]) -> Markup:
    """Draw the latency at each percentile of both runs; empty if neither had a correct answer.

    Raises:
        LoadTestError: a result's latency histogram cannot be read.

    """
    distributions = [read_distribution(run.latency.histogram) for run in runs]
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
    """Draw p99 against throughput of both runs by step; empty if neither has steps."""
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
