"""Our figures in Locust's web page: a tab with live columns, and a page of charts at ``/4k``."""

from __future__ import annotations

import json
import math
import time
from typing import Any, Final

from flask import Blueprint, Response, request
from locust.web import WebUI

from rt4ksr_loadtest.collect import percentile_ms
from rt4ksr_loadtest.run import LoadRun
from rt4ksr_loadtest.web_page import PAGE

__all__ = ["extend", "live_row", "live_series"]

KEY: Final = "rt4ksr"
WINDOW_S: Final = 10
CHART_S: Final = 300
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
    """Return the last ``WINDOW_S`` seconds, as the tab's columns want them."""
    end_s = math.floor(run.stop_s or time.time())
    start_s = max(end_s - WINDOW_S, math.ceil(run.start_s))
    slot = run.collected.between(start_s, end_s)
    length_s = max(1, end_s - start_s)
    seconds = run.probe.seconds if run.probe else {}
    cores = [seconds[s].cpu_cores for s in range(start_s, end_s) if s in seconds]
    server_cores = [value for value in cores if value is not None]
    megapixels = slot.frames * 3840 * 2160 / 1e6
    return {
        "goodput": round(slot.frames / length_s, 2),
        "megapixels": round(megapixels / length_s, 1),
        "p50": round(percentile_ms(slot.latencies_us, 50), 1),
        "p99": round(percentile_ms(slot.latencies_us, 99), 1),
        "failed": round(slot.failed / length_s, 2),
        "wire": round(slot.wire_bytes / 1e6 / length_s, 1),
        "generator": round(slot.cpu_s / length_s, 2),
        "server": round(sum(server_cores) / len(server_cores), 2) if server_cores else "",
    }


def live_series(run: LoadRun) -> dict[str, Any]:
    """Return the last ``CHART_S`` seconds, one value each; ``names`` says what they are."""
    end_s = math.floor(run.stop_s or time.time())
    seconds = range(max(end_s - CHART_S, math.ceil(run.start_s)), end_s)
    slots = [run.collected.between(second, second + 1) for second in seconds]
    return {
        "seconds": [second - math.floor(run.start_s) for second in seconds],
        "warm_up_s": run.options.warm_up_s,
        "offered": [slot.offered for slot in slots],
        "goodput": [round(slot.frames, 3) for slot in slots],
        "failures": [slot.failed for slot in slots],
        "p50": [percentile_ms(slot.latencies_us, 50) for slot in slots],
        "p99": [percentile_ms(slot.latencies_us, 99) for slot in slots],
        "row": live_row(run),
        "titles": COLUMNS,
    }
