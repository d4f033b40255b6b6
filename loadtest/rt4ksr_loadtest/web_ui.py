"""Our figures in Locust's web page: a tab with live figures, and a page of charts at ``/4k``."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, Final

from flask import Blueprint, Response, request
from locust.web import WebUI

from rt4ksr_loadtest.measurement.timeline import RECENT_S, Second, Span
from rt4ksr_loadtest.result import FRAME_PX
from rt4ksr_loadtest.run import LoadRun

__all__ = ["extend", "live_row", "live_series"]

PAGE: Final = Path(__file__).with_name("live.html").read_text(encoding="utf-8")
KEY: Final = "rt4ksr"
WINDOW_S: Final = 10
COLUMNS: Final = {
    "goodput": "4K frames/s",
    "megapixels": "output MP/s",
    "p50": "p50 ms",
    "p99": "p99 ms",
    "failed": "failures/s",
    "wire": "wire MB/s",
    "generator": "generator cores",
    "server": "server cores",
}


def extend(web_ui: WebUI, run: LoadRun) -> None:
    """Add the tab and the page."""
    structure = [{"key": key, "title": title} for key, title in COLUMNS.items()]
    app: Any = web_ui.app
    web_ui.template_args |= {
        "extended_tabs": [{"title": "4K", "key": KEY}],
        "extended_tables": [{"key": KEY, "structure": structure}],
    }
    blueprint = Blueprint(KEY, __name__)

    @blueprint.get("/4k")
    def page() -> str:
        return PAGE

    @blueprint.get("/4k/series")
    def series() -> Response:
        return Response(json.dumps(live_series(run)), mimetype="application/json")

    def add_row(response: Response) -> Response:
        if request.path == "/stats/requests" and response.is_json:
            row = {"key": KEY, "data": [live_row(run)]}
            response.set_data(json.dumps({**(response.json or {}), "extended_stats": [row]}))
        return response

    app.after_request(add_row)
    app.register_blueprint(blueprint)


def live_row(run: LoadRun) -> dict[str, Any]:
    """Return means of the last ``WINDOW_S`` seconds, one for each of ``COLUMNS``."""
    _, seconds = _last_seconds(run, WINDOW_S)
    total, length_s = Span(), max(1, len(seconds))
    for second in seconds:
        total.append(second)
    p50_ms, p99_ms = total.latencies.percentiles_ms(50, 99)
    server_cores = total.server.cpu_cores
    return {
        "goodput": round(total.frames / length_s, 2),
        "megapixels": round(total.frames * FRAME_PX / 1e6 / length_s, 1),
        "p50": round(p50_ms, 1),
        "p99": round(p99_ms, 1),
        "failed": round(total.failed / length_s, 2),
        "wire": round(total.wire_bytes / 1e6 / length_s, 1),
        "generator": round(total.cpu_s_total / length_s, 2),
        "server": "" if server_cores is None else round(server_cores, 2),
    }


def live_series(run: LoadRun) -> dict[str, Any]:
    """Return the last ``RECENT_S`` seconds, one value each; the charts draw them."""
    first, seconds = _last_seconds(run, RECENT_S)
    start_s = math.floor(run.timeline.start_s) if run.timeline else 0
    percentiles_ms = [second.latencies.percentiles_ms(50, 99) for second in seconds]
    return {
        "seconds": [first + i - start_s for i in range(len(seconds))],
        "warm_up_s": run.options.warm_up_s,
        "offered": [second.offered for second in seconds],
        "goodput": [round(second.frames, 3) for second in seconds],
        "failures": [second.failed for second in seconds],
        "p50": [p50_ms for p50_ms, _ in percentiles_ms],
        "p99": [p99_ms for _, p99_ms in percentiles_ms],
        "row": live_row(run),
        "titles": COLUMNS,
    }


def _last_seconds(run: LoadRun, count: int) -> tuple[int, list[Second]]:
    """Return the first and all of up to ``count`` whole seconds before now or the stop."""
    end = math.floor(run.stop_s or time.time())
    if run.timeline is None:
        return end, []
    first = max(end - count, math.ceil(run.timeline.start_s))
    return first, run.timeline.recent(first, end)
