"""Pieces of plots that the plots of one run and of two have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from rt4ksr_loadtest.report.distribution import Distribution
from rt4ksr_loadtest.report.drawing import CARD, FIRST
from rt4ksr_loadtest.result import Interval, Step

__all__ = [
    "draw_histogram",
    "draw_percentiles",
    "draw_steps",
    "from_zero",
    "latency_axis",
    "over_time",
]

_MANY = 200
"""From this number of intervals on, lines are thin so that they do not fill the plot."""
_PERCENTILES = [2, *(10.0**nines for nines in range(1, 8))]
"""Where the percentile plot is labelled: one in how many answers is slower."""
_WIDE_RANGE = 20.0
"""From this ratio of largest to smallest on, latencies stand on a logarithmic scale."""
_VERY_WIDE_RANGE = 500.0
"""From here on there is room for powers of ten only."""


def over_time(
    panel: Axes,
    intervals: Sequence[Interval],
    value: Callable[[Interval], float],
    colour: str,
    label: str,
    style: str = "-",
) -> None:
    """Draw ``value`` as the level that it had over each interval; NaN leaves a gap."""
    starts_s = [*(i.start_s for i in intervals), math.inf]
    # Clocks of several processes: an interval ends at the latest where the next begins.
    times = [
        time_s
        for i, next_s in zip(intervals, starts_s[1:], strict=True)
        for time_s in (i.start_s, min(i.start_s + i.length_s, next_s))
    ]
    levels = [v for i in intervals for v in [value(i)] * 2]
    width = 1.5 if len(intervals) <= _MANY else 0.9
    panel.plot(times, levels, style, color=colour, label=label, linewidth=width)


def draw_percentiles(
    panel: Axes, distribution: Distribution, colour: str, label: str | None = None
) -> None:
    """Draw the latency at each percentile; every nine more is as wide as the last."""
    # The slowest answer is slower than all others: a share of 0, which has no place on this axis.
    shares = np.maximum(distribution.slower_than(), 0.5 / max(1, distribution.total))
    one_in = [1.0, *(1 / shares)]
    latencies_ms = [distribution.latencies_ms[0], *distribution.latencies_ms]
    panel.step(one_in, latencies_ms, color=colour, label=label, where="pre")
    panel.set_title("latency at percentile, ms")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(_PERCENTILES))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _percentile(x)))
    panel.set_xlim(left=1)


def draw_steps(
    panel: Axes, steps: Sequence[Step], value: Callable[[Step], float], colour: str, label: str
) -> None:
    """Draw ``value`` (ms) over goodput, in the order of the steps; those without any left out."""
    told = [step for step in steps if step.goodput_fps > 0]
    panel.plot(
        [step.goodput_fps for step in told],
        [value(step) for step in told],
        "o-",
        color=colour,
        label=label,
        markersize=5,
        markeredgecolor=CARD,
        markeredgewidth=1,
    )


def from_zero(panel: Axes, headroom: float = 1.08) -> None:
    """Let the y axis of ``panel`` begin at 0; where all is 0, or nothing is, it ends at 1."""
    largest = panel.dataLim.y1
    panel.set_ylim(0, headroom * largest if 0 < largest < math.inf else 1)


def latency_axis(panel: Axes, latencies_ms: Sequence[float], headroom: float = 1.08) -> None:
    """Give ``panel`` a y axis from 0, or a logarithmic one if the latencies are far apart."""
    smallest, largest = min(latencies_ms, default=1.0), max(latencies_ms, default=1.0)
    if smallest <= 0 or largest / smallest < _WIDE_RANGE:
        from_zero(panel, headroom)
        return
    panel.set_yscale("log")
    subs = (1.0, 2.0, 5.0) if largest / smallest < _VERY_WIDE_RANGE else (1.0,)
    panel.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: _tick(ms)))
    panel.yaxis.set_minor_formatter(NullFormatter())


def draw_histogram(panel: Axes, distribution: Distribution) -> None:
    """Draw how many answers took how long; the latency has a logarithmic axis if it varies much."""
    # The histogram counts in microseconds, and the axis may be logarithmic: there is no 0.
    latencies_ms = np.maximum(distribution.latencies_ms, 0.001)
    bins = min(40, max(8, int(2 * math.sqrt(distribution.total))))
    # A thousandth wider than the data, so that answers that all took the same have a bin too.
    smallest, largest = latencies_ms[0] * 0.999, latencies_ms[-1] * 1.001
    is_wide = largest / smallest >= _WIDE_RANGE
    edges = (np.geomspace if is_wide else np.linspace)(smallest, largest, bins + 1)
    counts, _ = np.histogram(latencies_ms, edges, weights=distribution.counts)
    panel.bar(
        edges[:-1],
        counts,
        np.diff(edges),
        align="edge",
        color=FIRST,
        edgecolor=CARD,
        linewidth=0.8,
    )
    panel.grid(visible=False, axis="x")
    if is_wide:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: _tick(ms)))
        panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel("ms")


def _percentile(inverse: float) -> str:
    return f"{100 - 100 / inverse:.10g} %"


def _tick(latency_ms: float) -> str:
    return f"{latency_ms:,.0f}" if latency_ms >= 1 else f"{latency_ms:g}"
