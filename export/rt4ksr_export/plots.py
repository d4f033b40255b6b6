"""Plots of scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rt4ksr_export.conditions import Condition
from rt4ksr_export.evaluation import AUTO_METHOD, Scored, with_gains

__all__ = ["plot_curve", "plot_gains"]


def plot_curve(
    scores: Sequence[Scored], baseline: str, conditions: Sequence[Condition], path: Path
) -> None:
    """Plot the mean gain of each method over the quality of JPEG, as a PNG at ``path``.

    Clean pictures are drawn at the right end.
    """
    from matplotlib.figure import Figure

    clean_at = 104
    places = {str(c): c.jpeg_quality or clean_at for c in conditions if _has_place(c)}
    curves: dict[str, list[tuple[int, float]]] = {}
    for (condition, method), _, gains in with_gains(scores, baseline, lambda s: s.psnr_rgb_db):
        if condition in places:
            curves.setdefault(method, []).append((places[condition], fmean(gains)))
    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    for method, points in curves.items():
        if method == AUTO_METHOD:
            axis.plot(*zip(*sorted(points), strict=True), "k--", linewidth=2.5, label=method)
        else:
            axis.plot(*zip(*sorted(points), strict=True), "o-", markersize=3, label=method)
    ticks = sorted(set(places.values()))
    axis.set_xticks(ticks, ["clean" if t == clean_at else str(t) for t in ticks], fontsize=7)
    axis.set(xlabel="quality of JPEG", ylabel=f"PSNR (RGB) above {baseline}, dB")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, format="png", dpi=100)


def _has_place(condition: Condition) -> bool:
    """Return whether a condition is a point of the curve."""
    return condition.jpeg_quality is not None or not condition.savings


def plot_gains(scores: Sequence[Scored], baseline: str, path: Path) -> None:
    """Plot each picture's gain over ``baseline``, by condition, as a PNG at ``path``."""
    from matplotlib.figure import Figure

    reference = {(s.condition, s.picture): s.psnr_rgb_db for s in scores if s.method == baseline}
    methods = [m for m in dict.fromkeys(s.method for s in scores) if m != baseline]
    conditions = list(dict.fromkeys(s.condition for s in scores))
    figure = Figure(figsize=(4 * len(conditions), 4), layout="constrained")
    axes = figure.subplots(1, len(conditions), sharey=True, squeeze=False)[0]
    for axis, condition in zip(axes, conditions, strict=True):
        for method in methods:
            gains = sorted(
                s.psnr_rgb_db - reference[condition, s.picture]
                for s in scores
                if (s.condition, s.method) == (condition, method)
            )
            axis.plot(gains, "o-", label=method)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(title=condition, xlabel="pictures, by gain")
    axes[0].set_ylabel(f"PSNR (RGB) above {baseline}, dB")
    axes[0].legend()
    figure.savefig(path, format="png", dpi=100)
