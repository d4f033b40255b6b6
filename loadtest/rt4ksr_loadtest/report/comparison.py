"""Compares two runs: whether the second is worse than the first."""

from __future__ import annotations

from dataclasses import dataclass

from rt4ksr_loadtest.objectives import figures_of, judge_against
from rt4ksr_loadtest.report import tables
from rt4ksr_loadtest.report.html import render
from rt4ksr_loadtest.report.wording import NONE, number, percent
from rt4ksr_loadtest.result import RunResult, Verdict

__all__ = ["Comparison", "compare_page", "compare_runs"]

_MAY_DIFFER = {"measured", "ran for", "server"}
"""Settings that may differ in a fair comparison; often it is two servers that are compared."""


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Args:
        names: of the two runs, for display.
        noise_share: how much worse the second run may be, as a share of the first run's figures.
        figures: name, value of the first run, of the second, and the change.
        verdicts: of the second run against the first.
        differences: settings and facts about machines that differ, any of which may explain a
            change of the figures: name, of the first run, of the second.
        warnings: those of both runs.

    """

    names: tuple[str, str]
    noise_share: float
    figures: tuple[tuple[str, str, str, str], ...]
    verdicts: tuple[Verdict, ...]
    differences: tuple[tuple[str, str, str], ...]
    warnings: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        """Whether the second run is worse by more than the margin."""
        return not all(verdict.passed for verdict in self.verdicts)

    @property
    def summary(self) -> str:
        """One line on whether B got worse."""
        margin = percent(self.noise_share)
        if self.regressed:
            return f"✘ B is worse than A by more than {margin}"
        return f"✔ B is not worse than A by more than {margin}"


def compare_runs(
    earlier: RunResult, later: RunResult, names: tuple[str, str], noise_share: float
) -> Comparison:
    """Compare two runs; ``names`` are theirs, for display.

    Raises:
        LoadTestError: ``noise_share`` is not in [0, 1).

    """
    return Comparison(
        names=names,
        noise_share=noise_share,
        figures=_figures(earlier, later),
        verdicts=judge_against(later, earlier, noise_share),
        differences=_differences(earlier, later),
        warnings=tuple(
            f"{label}: {text}"
            for label, result in (("A", earlier), ("B", later))
            for text in result.warnings
        ),
    )


def compare_page(comparison: Comparison, earlier: RunResult, later: RunResult) -> str:
    """Return the HTML page of a comparison.

    Raises:
        LoadTestError: a result's latency histogram cannot be read.

    """
    from rt4ksr_loadtest.report import plots  # imports matplotlib, which takes half a second

    runs = (earlier, later)
    return render(
        "compare.html",
        comparison=comparison,
        started_at=tuple(run.started_at.replace("T", " ") for run in runs),
        timelines=plots.overlay_timelines(runs),
        distributions=plots.overlay_distributions(runs),
        steps=plots.overlay_steps(runs),
    )


def _figures(earlier: RunResult, later: RunResult) -> tuple[tuple[str, str, str, str], ...]:
    before, now = _figures_by_name(earlier), _figures_by_name(later)
    rows = []
    for name, first in before.items():
        second, change = now[name], NONE
        if first and second is not None:
            change = f"{100 * (second / first - 1):+.1f} %"
        first_text, second_text = (NONE if v is None else number(v) for v in (first, second))
        rows.append((name, first_text, second_text, change))
    return tuple(rows)


def _figures_by_name(result: RunResult) -> dict[str, float | None]:
    judged, server = figures_of(result), result.server
    served = server if server is not None and server.success_count else None
    return {
        "goodput, 4K frames/s": judged.goodput_fps,
        "p50 latency, ms": judged.p50_ms,
        "p99 latency, ms": judged.p99_ms,
        "failures, % of the requests": 100 * judged.error_share,
        "longest latency, ms": result.latency.max_ms if result.totals.right else None,
        "server, queue, ms": served.queue_ms if served else None,
        "server, input, ms": served.input_ms if served else None,
        "server, inference, ms": served.infer_ms if served else None,
        "server, output, ms": served.output_ms if served else None,
        "server CPU, cores": server.cpu_cores if server else None,
        "generator CPU, cores": result.generator.cpu_cores,
    }


def _differences(earlier: RunResult, later: RunResult) -> tuple[tuple[str, str, str], ...]:
    before = dict((*tables.settings(earlier), *tables.machine(earlier)))
    now = dict((*tables.settings(later), *tables.machine(later)))
    return tuple(
        (name, before.get(name, NONE), now.get(name, NONE))
        for name in dict.fromkeys((*before, *now))
        if name not in _MAY_DIFFER and before.get(name) != now.get(name)
    )
