"""The report of a load test: its page and its Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from msgspec.structs import replace

from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest.objectives import Objectives, judge
from rt4ksr_loadtest.report import run_page, run_summary, write_report
from rt4ksr_loadtest.report.drawing import FIRST, draw_over_time
from rt4ksr_loadtest.report.wording import NONE
from rt4ksr_loadtest.result import Outage, RunResult
from support import loadtest_samples as samples

EVIL = '<script>alert("1")</script>|`code`*_$x^2$&amp;' + "W" * 300
OPEN: dict[str, Any] = {"load_model": "open", "rate_fps": 20.0, "arrivals": "poisson"}


class _Page(HTMLParser):
    """The text that a reader sees, and everything that would be fetched or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self._styles = 0
        self.feed(page)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._styles += tag == "style"
        self.fetched += [
            value or ""
            for name, value in attrs
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#")
        ]

    def handle_endtag(self, tag: str) -> None:
        self._styles -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._styles:
            self.words.append(data)


def plots_in(page: str) -> dict[str, ElementTree.Element]:
    found = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    plots = [ElementTree.fromstring(text) for text in found]
    return {plot.attrib["aria-label"]: plot for plot in plots}


def texts_of(plot: ElementTree.Element) -> list[str]:
    return ["".join(e.itertext()) for e in plot.iter() if e.tag.endswith("}text")]


def without_requests() -> RunResult:
    bare = samples.nothing_right()
    totals = replace(bare.totals, requests=0, failures={}, offered_fps=0, achieved_fps=0)
    return replace(bare, totals=totals)


def of_an_idle_server() -> RunResult:
    server = samples.run(duration_s=6.0).server
    assert server is not None
    return replace(samples.nothing_right(), server=replace(server, success_count=0))


def with_markup_in_names() -> RunResult:
    return samples.run(
        profile=EVIL,
        url=EVIL,
        transport=EVIL,
        frames=EVIL,
        models={EVIL: 1.0},
        input_size_px={EVIL: (1920, 1080)},
    )


def every_step_failed() -> RunResult:
    return replace(samples.nothing_right(), steps=samples.saturating((0.0, 0.0)).steps)


def judged(run: RunResult, objectives: Objectives) -> RunResult:
    return replace(run, verdicts=judge(run, objectives))


WARNINGS = ("The load generator is the limit.", "One worker was lost.")
RESULTS: dict[str, Callable[[], RunResult]] = {
    "closed": samples.run,
    "open, outage": lambda: samples.run(outage=Outage(20, 7.5), failure_share=0.02, **OPEN),
    "judged, with warnings": lambda: replace(
        judged(samples.run(), Objectives(p99_ms=1e6, goodput_fps=1e3)), warnings=WARNINGS
    ),
    "nothing correct, judged": lambda: judged(samples.nothing_right(), Objectives(p99_ms=100)),
    "no request": without_requests,
    "no interval": lambda: replace(samples.nothing_right(), intervals=()),
    "one interval": lambda: samples.run(duration_s=1.0, warmup_s=0.0),
    "one answer": lambda: samples.run(duration_s=1.0, warmup_s=0.0, fps=0.01),
    "ten minutes": lambda: samples.run(duration_s=640.0),
    "four days": lambda: samples.run(duration_s=345_600.0, interval_s=600.0, fps=0.02),
    "nearly all failed": lambda: samples.run(failure_share=0.97),
    "latencies from 1 ms to minutes": lambda: samples.run(spread=2.5),
    "idle server": of_an_idle_server,
    "knee": samples.saturating,
    "no knee": lambda: samples.saturating(knee=None),
    "first step failed": lambda: samples.saturating(fps=(0.0, 5.0), knee=1),
    "every step failed": every_step_failed,
    "markup in names": with_markup_in_names,
}
RARE = {
    *("no request", "one answer", "latencies from 1 ms to minutes"),
    *("idle server", "no knee", "first step failed", "every step failed"),
}


@cache
def page_of(name: str) -> str:
    """The page of one of RESULTS, drawn once for all tests."""
    return run_page(RESULTS[name]())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in RARE)) for name in RESULTS],
)
def test_every_result_makes_a_page_with_plots_that_loads_nothing(name: str) -> None:
    page = page_of(name)
    parsed = _Page(page)

    assert "script" not in parsed.tags
    assert parsed.fetched == []
    assert "url(http" not in page
    assert {"Throughput and latency over time", "Load and machines over time"} <= set(
        plots_in(page)
    )
    assert not re.search(r"\b(nan|inf|None)\b", parsed.text)


@pytest.mark.parametrize("name", list(RESULTS))
def test_every_result_makes_markdown_with_complete_tables(name: str) -> None:
    summary = run_summary(RESULTS[name]())

    for block in summary.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(cells) <= 1, block
    assert not re.search(r"\b(nan|inf|None)\b", summary)


def test_markup_in_names_is_escaped() -> None:
    assert EVIL in _Page(page_of("markup in names")).text
    summary = run_summary(with_markup_in_names())
    assert not re.search(r"(?<!\\)<script", summary)
    assert not re.search(r"(?<!\\)`", summary)


def test_the_headline_shows_goodput_output_latency_and_failures() -> None:
    run = RESULTS["open, outage"]()
    text = _Page(page_of("open, outage")).text

    assert f"goodput {run.totals.goodput_fps:.1f} 4K frames/s" in text
    assert f"output {run.totals.output_mpx_per_s:.0f} megapixels/s" in text
    assert f"p50 latency {run.latency.p50_ms:.0f} ms" in text
    assert f"p99 latency {run.latency.p99_ms:.0f} ms" in text
    share = 1 - run.totals.right / run.totals.requests
    assert f"failures {100 * share:.2f}".rstrip("0") in text
    for kind, count in run.totals.failures.items():
        assert f"{kind} {count:,}" in text


def test_the_load_model_and_the_exactness_of_percentiles_are_described() -> None:
    closed, opened = page_of("closed"), page_of("open, outage")

    assert "Closed loop: 4 users each wait for an answer" in closed
    assert "from when a request was sent" in closed
    assert "Open loop: requests are due at 20.0 per second, at random (Poisson)" in opened
    assert "from when a request was due" in opened
    assert "Closed loop" not in opened
    for page in (closed, opened):
        assert "Percentiles are exact to 3 significant digits." in page
    assert "exact to 3 significant digits" in run_summary(RESULTS["closed"]())


def test_warnings_come_before_the_figures_in_their_order() -> None:
    name = "judged, with warnings"

    for report in (_Page(page_of(name)).text, run_summary(RESULTS[name]())):
        assert report.index("generator is the limit") < report.index("One worker was lost")
        assert report.index("One worker was lost") < report.index("goodput")


def test_verdicts_are_shown_with_the_measured_value() -> None:
    run = RESULTS["judged, with warnings"]()
    text, summary = _Page(page_of("judged, with warnings")).text, run_summary(run)

    assert "1 of 2 objectives missed" in text
    line = f"{run.totals.goodput_fps:.2f} frames/s (at least 1,000 frames/s)"
    assert f"✘ missed goodput {line}" in text
    assert f"| goodput | {line} | ✘ missed |" in summary
    assert "✔ met p99 latency" in text


def test_a_missing_latency_is_never_shown_as_zero() -> None:
    text = _Page(page_of("nothing correct, judged")).text

    assert f"p99 latency {NONE} no correct answer" in text
    assert "0 ms" not in text.replace("100 ms", "")


def test_outages_are_listed_and_shaded() -> None:
    page = page_of("open, outage")

    assert "after 20 s no server answered for 7.5 s" in _Page(page).text
    without = page_of("nearly all failed")
    shades = [plots_in(p)["Throughput and latency over time"] for p in (page, without)]
    spans = [len([e for e in plot.iter() if "opacity: 0.22" in str(e.attrib)]) for plot in shades]
    assert spans == [3, 0]  # one on each panel: throughput, latency, failures


def test_failures_have_a_panel_only_if_there_were_any() -> None:
    def titles(name: str) -> list[str]:
        return texts_of(plots_in(page_of(name))["Throughput and latency over time"])

    assert "failures/s" in titles("nearly all failed")
    assert "failures/s" not in titles("closed")


def test_the_time_axis_is_in_minutes_or_hours_in_long_runs() -> None:
    def texts(name: str) -> list[str]:
        return texts_of(plots_in(page_of(name))["Throughput and latency over time"])

    assert "seconds" in texts("closed")
    assert {"minutes", "10"} <= set(texts("ten minutes"))
    assert {"hours", "48"} <= set(texts("four days"))


def test_the_knee_is_marked_and_the_headline_shows_its_figures() -> None:
    page = page_of("knee")
    text = _Page(page).text

    assert "knee" in texts_of(plots_in(page)["Latency against throughput, by step"])
    assert "goodput 21.9 4K frames/s" in text
    assert "those at the knee: 8 users" in text
    assert "8 (knee)" in text


@pytest.mark.slow
def test_a_missing_knee_is_not_marked() -> None:
    no_knee = page_of("no knee")
    assert "knee" not in texts_of(plots_in(no_knee)["Latency against throughput, by step"])
    assert "No knee was found" in no_knee


def test_the_time_of_a_request_is_split_between_server_and_network() -> None:
    run = samples.run()
    assert run.server is not None
    server = run.server
    inside_ms = server.queue_ms + server.input_ms + server.infer_ms + server.output_ms
    text = _Page(page_of("closed")).text

    assert f"outside the server {run.latency.mean_ms - inside_ms:.1f} ms 19 %" in text
    assert f"seen by the client {run.latency.mean_ms:.0f} ms" in text
    assert "Time of a request" not in page_of("nothing correct, judged")


@pytest.mark.parametrize(
    ("gpus", "shown"),
    [
        (("79.6 GiB (GPU-1)", "79.6 GiB (GPU-2)"), "GPUs 2: 79.6 GiB (GPU-1), 79.6 GiB (GPU-2)"),
        ((), "GPUs none seen"),
        (None, "GPUs not known: the server's metrics could not be read"),
    ],
)
def test_the_report_tells_gpus_none_and_not_known_apart(
    gpus: tuple[str, ...] | None, shown: str
) -> None:
    run = samples.run()
    page = _Page(run_page(replace(run, machine=replace(run.machine, gpus=gpus)))).text

    assert shown in page
    assert "GPU memory, at most 6.00 GiB GPU power 312 W" in page


def test_overlapping_intervals_do_not_run_backwards() -> None:
    first, *rest = samples.run(duration_s=3.0, warmup_s=0.0).intervals
    panel = Figure().subplots()
    draw_over_time(panel, [replace(first, length_s=1.7), *rest], lambda i: i.goodput_fps, FIRST, "")

    times_s = np.asarray(panel.lines[0].get_xdata())
    assert times_s.tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 3.0]


def test_plots_take_their_colours_from_the_page() -> None:
    page = page_of("closed")

    for plot in re.findall(r"<svg .*?</svg>", page, re.DOTALL):
        assert "var(--first)" in plot
        assert not re.search(r"#[0-9a-f]{6}\b", plot)
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize("histogram", ["no", "HISTFAAA", "AAAA" * 20])
def test_a_damaged_histogram_is_a_load_test_error(histogram: str, tmp_path: Path) -> None:
    run = samples.run()
    damaged = replace(run, latency=replace(run.latency, histogram=histogram))

    with pytest.raises(LoadTestError, match="histogram cannot be read"):
        write_report(damaged, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_page_of_a_long_run_stays_small() -> None:
    assert len(page_of("ten minutes")) < 1_000_000


def test_both_files_are_written_to_a_new_folder_and_matplotlib_is_left_as_it_was(
    tmp_path: Path,
) -> None:
    folder, before = tmp_path / "new" / "results", dict(matplotlib.rcParams)

    assert write_report(samples.run(), folder) == folder / "report.html"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.md"]
    assert dict(matplotlib.rcParams) == before
    # The same result gives the same page.
    assert (folder / "report.html").read_text(encoding="utf-8") == page_of("closed")


@pytest.fixture
def page_is_drawn_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rt4ksr_loadtest.report.run_page", lambda result: page_of("closed"))


@pytest.mark.usefixtures("page_is_drawn_already")
def test_neither_file_is_written_if_one_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "report.md").mkdir()
    (tmp_path / "report.md" / "occupied").touch()

    with pytest.raises(LoadTestError, match="cannot be written"):
        write_report(samples.run(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


@pytest.mark.usefixtures("page_is_drawn_already")
def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(LoadTestError, match="cannot be written"):
        write_report(samples.run(), tmp_path / "file")
