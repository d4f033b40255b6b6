"""The style of the plots and the curves they are made of.

Plots are SVG that takes its colours from the page, so that light and dark mode both fit.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MultipleLocator,
    NullFormatter,
    NullLocator,
)

from rt4ksr_loadtest.measurement.latency import Distribution
from rt4ksr_loadtest.result import Interval, Step

__all__ = [
    "BAD",
    "CARD",
    "FIRST",
    "INK",
    "MUTED",
    "SECOND",
    "Drawing",
    "draw_failures",
    "draw_histogram",
    "draw_over_time",
    "draw_percentiles",
    "draw_steps",
    "drawing",
    "from_zero",
    "latency_axis",
    "time_axis",
]

INK = "#010203"
MUTED = "#020304"
GRID = "#030405"
CARD = "#040506"
FIRST = "#050607"
SECOND = "#060708"
BAD = "#070809"
_VARIABLES: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    CARD: "var(--card)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    BAD: "var(--bad)",
}
"""Stand-ins: matplotlib has no CSS variables, so these colours are replaced in its SVG."""

_STYLE: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.borderaxespad": 0,
    "legend.borderpad": 0,
    "legend.columnspacing": 1,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.5,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "rt4ksr",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.color": MUTED,
    "ytick.labelsize": 9,
}
_WIDTH_IN = 5.6
_NO_METADATA: Final = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_UNITS: Final[tuple[tuple[int, str], ...]] = ((3600, "hours"), (60, "minutes"), (1, "seconds"))
_STEPS: Final = (1, 2, 4, 6, 12, 24, 48, 168)
_MOST_TICKS = 8
_MANY = 200
"""With more intervals, lines are thin so that they do not fill the plot."""
_PERCENTILES = [2, *(10.0**nines for nines in range(1, 8))]
"""Labels of the percentile plot: one in so many answers is slower."""
_WIDE_RANGE = 20.0
"""Ratio of largest to smallest latency from which the scale is logarithmic."""
_VERY_WIDE_RANGE = 500.0
"""Ratio from which there is room for powers of ten only."""


class Drawing:
    """A figure with one panel below the other, and its SVG once it is rendered."""

    def __init__(self, heights_in: list[float], share_x: bool) -> None:
        self._figure = Figure(figsize=(_WIDTH_IN, sum(heights_in)))
        grid = self._figure.subplots(
            len(heights_in),
            1,
            sharex=share_x,
            squeeze=False,
            gridspec_kw={"height_ratios": heights_in},
        )
        self.panels: list[Axes] = list(grid[:, 0])
        self.svg = Markup()

    def render(self, description: str) -> None:
        """Fill ``svg``; ``description`` is for screen readers."""
        buffer = io.StringIO()
        self._figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
        text = buffer.getvalue()
        for colour, variable in _VARIABLES.items():
            text = text.replace(colour, variable)
        label = Markup('<svg role="img" aria-label="{}" ').format(description)
        # matplotlib escapes texts; the prolog before <svg is not HTML.
        self.svg = label + Markup(text[text.index("<svg ") + 5 :])  # noqa: S704 - see above


@contextmanager
def drawing(*heights_in: float, description: str, share_x: bool = False) -> Iterator[Drawing]:
    """Yield a drawing with a panel of each height, in our style; rendered at the end."""
    with matplotlib.rc_context(_STYLE):
        figure = Drawing(list(heights_in), share_x)
        yield figure
        for panel in figure.panels:
            handles, _ = panel.get_legend_handles_labels()
            if handles:  # above the panel, right of its title, where nothing is drawn
                panel.legend(loc="lower right", bbox_to_anchor=(1, 1.03), ncols=len(handles))
        figure.render(description)


def time_axis(axis: Axis, end_s: float) -> None:
    """Label ``axis``, which is in seconds, in the unit that suits a run of this length."""
    unit_s, name = next(unit for unit in _UNITS if end_s > 3 * unit[0] or unit[0] == 1)
    axis.set_label_text(name)
    if unit_s > 1:
        steps_s = [unit_s * count for count in _STEPS]
        step_s = next((s for s in steps_s if end_s / s <= _MOST_TICKS), steps_s[-1])
        axis.set_major_locator(MultipleLocator(step_s))
        axis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds / unit_s:g}"))


def draw_over_time(
    panel: Axes,
    intervals: Sequence[Interval],
    value: Callable[[Interval], float | None],
    colour: str,
    label: str,
    style: str = "-",
    scale: float = 1.0,
) -> None:
    """Draw ``value`` times ``scale`` as a level over each interval.

    None leaves a gap; nothing is drawn if all are None.
    """
    values = [value(i) for i in intervals]
    if values and not any(v is not None for v in values):
        return
    levels = [level for v in values for level in [math.nan if v is None else v * scale] * 2]
    # Clocks of several processes: an interval ends no later than the next begins.
    next_starts_s = [*(i.start_s for i in intervals[1:]), math.inf]
    times_s = [
        time_s
        for i, next_s in zip(intervals, next_starts_s, strict=False)
        for time_s in (i.start_s, min(i.start_s + i.length_s, next_s))
    ]
    width = 1.5 if len(intervals) <= _MANY else 0.9
    panel.plot(times_s, levels, style, color=colour, label=label, linewidth=width)


def draw_failures(panel: Axes, intervals: Sequence[Interval]) -> None:
    """Draw the failures per second of each interval as bars."""
    failed = [i for i in intervals if i.failures and i.length_s > 0]
    panel.bar(
        [i.start_s for i in failed],
        [i.failures / i.length_s for i in failed],
        [i.length_s for i in failed],
        align="edge",
        color=BAD,
        linewidth=0,
    )


def draw_percentiles(
    panel: Axes, distribution: Distribution, colour: str, label: str | None = None
) -> None:
    """Draw the latency at each percentile; each further nine is as wide as the last."""
    # No answer is slower than the slowest: a share of 0, which a logarithmic axis cannot show.
    shares = np.maximum(distribution.slower_than(), 0.5 / max(1, distribution.total))
    one_in = [1.0, *(1 / shares)]
    latencies_ms = [distribution.latencies_ms[0], *distribution.latencies_ms]
    panel.step(one_in, latencies_ms, color=colour, label=label, where="pre")
    panel.set_title("latency at percentile, ms")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(_PERCENTILES))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda one_in, _: f"{100 - 100 / one_in:.10g} %"))
    panel.set_xlim(left=1)


def draw_steps(
    panel: Axes, steps: Sequence[Step], value: Callable[[Step], float], colour: str, label: str
) -> None:
    """Draw ``value`` (ms) over goodput, in the order of the steps; without those of no goodput."""
    drawn = [step for step in steps if step.goodput_fps > 0]
    panel.plot(
        [step.goodput_fps for step in drawn],
        [value(step) for step in drawn],
        "o-",
        color=colour,
        label=label,
        markersize=5,
        markeredgecolor=CARD,
        markeredgewidth=1,
    )


def from_zero(panel: Axes, headroom: float = 1.08) -> None:
    """Start the y axis of ``panel`` at 0; it ends at 1 if there is nothing above 0."""
    largest = panel.dataLim.y1
    panel.set_ylim(0, headroom * largest if 0 < largest < math.inf else 1)


def latency_axis(panel: Axes, latencies_ms: Sequence[float], headroom: float = 1.08) -> None:
    """Give ``panel`` a y axis from 0, or a logarithmic one if latencies differ much."""
    smallest, largest = min(latencies_ms, default=1.0), max(latencies_ms, default=1.0)
    if smallest <= 0 or largest / smallest < _WIDE_RANGE:
        from_zero(panel, headroom)
        return
    panel.set_yscale("log")
    subs = (1.0, 2.0, 5.0) if largest / smallest < _VERY_WIDE_RANGE else (1.0,)
    panel.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    panel.yaxis.set_major_formatter(FuncFormatter(_latency_tick))
    panel.yaxis.set_minor_formatter(NullFormatter())


def draw_histogram(panel: Axes, distribution: Distribution) -> None:
    """Draw how many answers took how long, on a logarithmic axis if latencies differ much."""
    # A latency below 1 µs counts as 0, which a logarithmic axis cannot show.
    latencies_ms = np.maximum(distribution.latencies_ms, 0.001)
    bins = min(40, max(8, int(2 * math.sqrt(distribution.total))))
    # A thousandth wider than the data, so that equal latencies have a bin too.
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
        panel.xaxis.set_major_formatter(FuncFormatter(_latency_tick))
        panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel("ms")


def _latency_tick(latency_ms: float, _: object) -> str:
    return f"{latency_ms:,.0f}" if latency_ms >= 1 else f"{latency_ms:g}"
