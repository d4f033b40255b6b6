"""How our plots look: SVG that takes its colours from the page, so that light and dark both fit."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator

__all__ = ["BAD", "CARD", "FIRST", "INK", "MUTED", "SECOND", "Drawing", "drawing", "time_axis"]

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
"""Stand-ins: matplotlib knows no CSS variables, so these colours are replaced in what it wrote."""

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


class Drawing:
    """A figure of panels below one another, and the SVG it becomes."""

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
        """Fill ``svg``; ``description`` is for those who cannot see it."""
        buffer = io.StringIO()
        self._figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
        text = buffer.getvalue()
        for colour, variable in _VARIABLES.items():
            text = text.replace(colour, variable)
        label = Markup('<svg role="img" aria-label="{}" ').format(description)
        # matplotlib escapes what it writes; before <svg comes a prolog that HTML does not know.
        self.svg = label + Markup(text[text.index("<svg ") + 5 :])  # noqa: S704


@contextmanager
def drawing(*heights_in: float, description: str, share_x: bool = False) -> Iterator[Drawing]:
    """Yield a drawing with a panel for each height, in our style; rendered at the end."""
    with matplotlib.rc_context(_STYLE):
        figure = Drawing(list(heights_in), share_x)
        yield figure
        for panel in figure.panels:
            _legend(panel)
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


def _legend(panel: Axes) -> None:
    handles, _ = panel.get_legend_handles_labels()
    if handles:
        # Above the panel, at the right of its title: nothing drawn can be below it.
        panel.legend(loc="lower right", bbox_to_anchor=(1, 1.03), ncols=len(handles))
