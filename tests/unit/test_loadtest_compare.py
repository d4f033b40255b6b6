"""The comparison of two load tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest.cli import compare_command
from rt4ksr_loadtest.report import compare_page, compare_runs
from rt4ksr_loadtest.result import RunResult, write_result
from support import loadtest_samples as samples

SLOWER: dict[str, Any] = {"latency_ms": 300.0, "fps": 12.0}


def compared(folder: Path, a: RunResult, b: RunResult, *options: str) -> Result:
    write_result(a, folder / "a" / "result.json")
    write_result(b, folder / "b" / "result.json")
    arguments = [str(folder / "a"), str(folder / "b"), *options]
    return CliRunner().invoke(compare_command, arguments)


def page_of(a: RunResult, b: RunResult, name: str = "b") -> str:
    return compare_page(compare_runs(a, b, ("a", name), 0.05), a, b)


def test_the_same_run_twice_is_no_regression(tmp_path: Path) -> None:
    outcome = compared(tmp_path, samples.run(), samples.run())

    assert outcome.exit_code == 0
    assert "B is not worse than A by more than 5 %" in outcome.output
    assert "differ in more than the server" not in outcome.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_worse_run_exits_with_1_and_its_missed_verdicts(tmp_path: Path) -> None:
    outcome = compared(tmp_path, samples.run(), samples.run(**SLOWER))

    assert outcome.exit_code == 1
    assert re.search(r"✘ goodput: 12\.\d+ frames/s \(at least 17\.\d+ frames/s\)", outcome.output)
    assert "✘ p99 latency" in outcome.output
    assert "✔ failures" in outcome.output
    assert "B is worse than A by more than 5 %" in outcome.output


def test_a_better_run_passes(tmp_path: Path) -> None:
    assert compared(tmp_path, samples.run(**SLOWER), samples.run()).exit_code == 0


def test_the_margin_is_that_of_the_option(tmp_path: Path) -> None:
    outcome = compared(tmp_path, samples.run(), samples.run(**SLOWER), "--noise", "0.6")

    assert outcome.exit_code == 0
    assert "by more than 60 %" in outcome.output


def test_changes_are_in_percent_of_the_first_run() -> None:
    a = samples.run()
    b = replace(a, totals=replace(a.totals, goodput_fps=a.totals.goodput_fps * 1.5))

    figures = {row[0]: row for row in compare_runs(a, b, ("a", "b"), 0.05).figures}
    assert figures["goodput, 4K frames/s"][3] == "+50.0 %"
    assert figures["generator CPU, cores"][3] == "+0.0 %"


def test_differences_of_settings_and_machines_are_listed() -> None:
    a, b = samples.run(), samples.run(transport="http", url="10.0.0.1:8001")
    b = replace(b, machine=replace(b.machine, generator_cores=2))

    differences = compare_runs(a, b, ("a", "b"), 0.05).differences
    assert [name for name, _, _ in differences] == ["transport", "generator"]
    assert differences[0] == ("transport", "grpc", "http")
    assert compare_runs(a, a, ("a", "b"), 0.05).differences == ()
    assert "Differences" in page_of(a, b)
    assert "differ in more than the server" in page_of(a, b)


def test_warnings_of_both_runs_are_shown(tmp_path: Path) -> None:
    limited = replace(samples.run(), warnings=("The load generator is the limit",))

    assert "warning: A: The load generator is the limit" in (
        " ".join(compared(tmp_path, limited, samples.run()).output.split())
    )
    assert "B: The load generator is the limit" in page_of(samples.run(), limited)


def test_the_page_has_both_runs_in_each_plot_and_needs_nothing_else(tmp_path: Path) -> None:
    page_path = tmp_path / "page" / "compare.html"
    outcome = compared(
        tmp_path, samples.saturating(), samples.saturating((4, 8, 12, 14)), "-o", str(page_path)
    )
    page = page_path.read_text(encoding="utf-8")
    plots = re.findall(r"<svg .*?</svg>", page, re.DOTALL)

    assert f"{page_path}: open it in a browser" in outcome.output.replace("\n", "")
    assert len(plots) == 3
    assert all("var(--first)" in plot and "var(--second)" in plot for plot in plots)
    assert not re.search(r'<script|(src|href)="(?!#)|url\(http', page)


def test_runs_with_little_to_compare_make_a_page() -> None:
    bare, knee = samples.nothing_right(), samples.saturating()

    for a, b in ((bare, bare), (knee, bare)):
        page = page_of(a, b)
        assert "Over time" in page
        assert not re.search(r">\s*(nan|inf|None)\b", page)


def test_markup_in_names_is_escaped(tmp_path: Path) -> None:
    evil = samples.run(transport="[red]<b>x</b>", frames="\x1b[2Jgone")

    assert "[red]<b>x</b>" in compared(tmp_path, samples.run(), evil).output
    assert "\x1b" not in compared(tmp_path, samples.run(), evil).output
    assert "<b>x" not in page_of(samples.run(), evil, "<b>x</b>")


def test_unreadable_results_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text("{}")

    for path, said in ((tmp_path / "nowhere", "cannot be read"), (tmp_path / "a", "not a load")):
        outcome = CliRunner().invoke(compare_command, [str(path), str(path)])
        assert isinstance(outcome.exception, LoadTestError)
        assert said in str(outcome.exception)


def test_the_page_does_not_overwrite_a_result(tmp_path: Path) -> None:
    result = tmp_path / "a" / "result.json"
    outcome = compared(tmp_path, samples.run(), samples.run(), "-o", str(result))

    assert isinstance(outcome.exception, LoadTestError)
    assert result.read_text().startswith("{")
    outcome = compared(tmp_path, samples.run(), samples.run(), "-o", str(result), "--overwrite")
    assert isinstance(outcome.exception, LoadTestError)
    assert result.read_text().startswith("{")


def test_a_page_that_exists_is_only_replaced_on_demand(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")

    kept = compared(tmp_path, samples.run(), samples.run(), "-o", str(page))

    assert "page.html: the file exists: --overwrite replaces it" in str(kept.exception)
    assert page.read_text() == "mine"
    compared(tmp_path, samples.run(), samples.run(), "-o", str(page), "--overwrite")
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("noise", ["-0.1", "1", "nan"])
def test_an_impossible_margin_is_rejected(tmp_path: Path, noise: str) -> None:
    outcome = compared(tmp_path, samples.run(), samples.run(), "--noise", noise)

    assert isinstance(outcome.exception, LoadTestError)
