"""The report as one page of HTML that needs nothing else: no file, no network, no script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rt4ksr_loadtest.report import rows, words
from rt4ksr_loadtest.report.distribution import distribution_of
from rt4ksr_loadtest.report.plots import (
    plot_distribution,
    plot_knee,
    plot_machines,
    plot_timeline,
)
from rt4ksr_loadtest.result import RunResult

__all__ = ["fill", "run_page"]


def run_page(result: RunResult) -> str:
    """Return the page of one run.

    Raises:
        LoadTestError: the result's latency histogram cannot be read.

    """
    return fill(
        "run.html",
        result=result,
        headline=rows.headline(result),
        where=words.where(result),
        load=words.load_in_words(result),
        timeline=plot_timeline(result),
        timeline_caption=words.timeline_caption(result),
        machines=plot_machines(result),
        knee=plot_knee(result) if result.steps else "",
        distribution=_distribution(result),
        split=rows.server_split(result),
        server_told=any(i.server_cpu_cores is not None for i in result.intervals),
        failures=rows.failures(result),
        outages=rows.outages(result),
        steps=rows.steps(result),
        window=rows.window(result),
        server=rows.server(result),
        generator=rows.generator(result),
        settings=rows.settings(result),
        machine=rows.machine(result),
    )


def fill(template: str, **values: Any) -> str:
    """Return ``template`` with ``values``, all but Markup escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("ms", "percent", "verdict_line", "verdict_summary"):
        environment.filters[name] = getattr(words, name)
    return environment.get_template(template).render(**values)


def _distribution(result: RunResult) -> Markup:
    distribution = distribution_of(result.latency)
    return plot_distribution(distribution) if distribution.counts else Markup()
