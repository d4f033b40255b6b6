"""HTML pages that need nothing else: no file, no network, no script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rt4ksr_loadtest.measurement.latency import read_distribution
from rt4ksr_loadtest.report import tables, wording
from rt4ksr_loadtest.result import RunResult

__all__ = ["render", "run_page"]


def run_page(result: RunResult) -> str:
    """Return the page of one run.

    Raises:
        LoadTestError: the result's latency histogram cannot be read.

    """
    from rt4ksr_loadtest.report import plots  # imports matplotlib, which takes half a second

    distribution = read_distribution(result.latency.histogram)
    return render(
        "run.html",
        result=result,
        headline=tables.headline(result),
        headline_caption=wording.describe_headline(result),
        load=wording.describe_load(result),
        timeline=plots.plot_timeline(result),
        timeline_caption=wording.timeline_caption(result),
        machines=plots.plot_machines(result),
        knee=plots.plot_knee(result) if result.steps else "",
        distribution=plots.plot_distribution(distribution) if distribution.counts else Markup(),
        split=tables.server_split(result),
        server_reported=any(i.server_cpu_cores is not None for i in result.intervals),
        failures=tables.failures(result),
        outages=tables.outages(result),
        steps=tables.steps(result),
        window=tables.window(result),
        server=tables.server(result),
        generator=tables.generator(result),
        settings=tables.settings(result),
        machine=tables.machine(result),
    )


def render(template: str, **values: Any) -> str:
    """Return ``template`` with ``values``, escaped unless they are Markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("ms", "percent", "verdict_line", "verdict_summary"):
        environment.filters[name] = getattr(wording, name)
    return environment.get_template(template).render(**values)
