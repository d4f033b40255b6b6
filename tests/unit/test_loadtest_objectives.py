"""Objectives of a load test, and the comparison with an earlier run."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest.objectives import (
    Objectives,
    figures_of,
    judge,
    judge_against,
    load_objectives,
)
from rt4ksr_loadtest.result import RunResult, Verdict, read_result, write_result
from support import loadtest_samples as samples


def toml(folder: Path, text: str) -> Path:
    path = folder / "objectives.toml"
    path.write_text(text)
    return path


def by_name(verdicts: tuple[Verdict, ...]) -> dict[str, Verdict]:
    return {verdict.objective: verdict for verdict in verdicts}


def with_figures(
    result: RunResult,
    *,
    goodput_fps: float | None = None,
    p50_ms: float | None = None,
    p99_ms: float | None = None,
) -> RunResult:
    totals, latency = result.totals, result.latency
    return replace(
        result,
        totals=replace(totals, goodput_fps=goodput_fps or totals.goodput_fps),
        latency=replace(latency, p50_ms=p50_ms or latency.p50_ms, p99_ms=p99_ms or latency.p99_ms),
    )


def with_failures(result: RunResult, count: int) -> RunResult:
    right = result.totals.requests - count
    return replace(result, totals=replace(result.totals, right=right, failures={"timeout": count}))


def test_objectives_are_read_from_toml_and_the_command_line_takes_precedence(
    tmp_path: Path,
) -> None:
    path = toml(tmp_path, "p99_ms = 200\ngoodput_fps = 24.0\n")

    assert load_objectives(path, p99_ms=150.0, goodput_fps=None) == Objectives(150.0, 24.0, None)
    assert load_objectives(None) == Objectives()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p99 = 200", "unknown: p99 (known: p99_ms, goodput_fps, error_share)"),
        ("p99_ms = '200'", "p99_ms must be a number"),
        ("p99_ms = true", "p99_ms must be a number"),
        ("p99_ms = 0", "p99_ms must be positive"),
        ("goodput_fps = -1", "goodput_fps must be positive"),
        ("goodput_fps = nan", "goodput_fps must be finite"),
        ("p99_ms = inf", "p99_ms must be finite"),
        ("error_share = 1.5", "error_share must be between 0 and 1"),
        ("p99_ms = ", "objectives.toml: "),
    ],
)
def test_impossible_limits_are_rejected(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(LoadTestError, match=r"objectives\.toml") as caught:
        load_objectives(toml(tmp_path, text))

    assert said in str(caught.value)


def test_a_missing_file_and_a_binary_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match=r"nowhere\.toml: cannot be read: No such file"):
        load_objectives(tmp_path / "nowhere.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LoadTestError, match=r"binary\.toml: "):
        load_objectives(binary)


def test_a_wrong_limit_on_the_command_line_is_an_error_too() -> None:
    with pytest.raises(LoadTestError, match="objectives: p99_ms must be positive"):
        load_objectives(None, p99_ms=-5.0)


def test_only_the_objectives_that_were_set_are_judged() -> None:
    assert judge(samples.run(), Objectives()) == ()
    assert [v.objective for v in judge(samples.run(), Objectives(goodput_fps=1))] == ["goodput"]


def test_an_objective_is_met_at_its_limit_and_missed_just_past_it() -> None:
    run = with_figures(samples.run(), goodput_fps=24.0, p99_ms=200.0)
    run = with_failures(run, run.totals.requests // 2)
    share = figures_of(run).error_share

    assert all(v.passed for v in judge(run, Objectives(200.0, 24.0, share)))
    missed = judge(run, Objectives(199.99, 24.01, share - 1e-6))
    assert [v.passed for v in missed] == [False] * 3
    assert [v.unit for v in missed] == ["ms", "frames/s", "%"]
    assert missed[2].measured == pytest.approx(100 * share)


def test_a_run_without_a_correct_answer_misses_every_objective() -> None:
    verdicts = judge(samples.nothing_right(), Objectives(p99_ms=1e9, goodput_fps=1, error_share=0))

    assert not any(verdict.passed for verdict in verdicts)
    assert "no correct answer" in verdicts[0].objective


def test_a_run_without_a_request_misses_its_objectives() -> None:
    run = samples.nothing_right()
    none = replace(run, totals=replace(run.totals, requests=0, failures={}))

    assert not any(v.passed for v in judge(none, Objectives(1e9, 1.0, 0.99)))


def test_verdicts_are_in_the_written_result(tmp_path: Path) -> None:
    run = samples.nothing_right()
    judged = replace(run, verdicts=judge(run, Objectives(200, 24, 0.01)))
    write_result(judged, tmp_path / "result.json")

    assert read_result(tmp_path) == judged
    assert not judged.passed


def test_a_run_with_a_knee_is_judged_at_the_knee() -> None:
    run = samples.saturating()
    assert run.knee is not None
    step = run.steps[run.knee]
    verdicts = judge(run, Objectives(step.p99_ms, step.goodput_fps, 0.0))

    assert all(verdict.passed for verdict in verdicts)
    assert all("at the knee" in verdict.objective for verdict in verdicts)


def test_failures_past_the_knee_do_not_count_and_those_at_it_do() -> None:
    run = samples.saturating()
    assert run.knee is not None
    past = with_step_failures(run, len(run.steps) - 1, 500)
    at_knee = with_step_failures(run, run.knee, 500)

    assert figures_of(past).error_share == 0
    share = figures_of(at_knee).error_share
    right = run.steps[run.knee].goodput_fps * run.steps[run.knee].length_s
    # In these samples a request is a whole frame.
    assert share == pytest.approx(500 / (500 + right), rel=0.01)


def with_step_failures(run: RunResult, index: int, count: int) -> RunResult:
    steps = list(run.steps)
    steps[index] = replace(steps[index], failures=count)
    return replace(run, steps=tuple(steps))


def test_a_run_is_no_regression_of_itself() -> None:
    for run in (samples.run(failure_share=0.02), samples.saturating(), samples.nothing_right()):
        assert all(verdict.passed for verdict in judge_against(run, run, 0.0))


def test_a_change_within_the_margin_passes_and_one_beyond_it_fails() -> None:
    earlier = with_figures(samples.run(), goodput_fps=20.0, p50_ms=100.0, p99_ms=200.0)
    slower = with_figures(earlier, goodput_fps=19.2, p50_ms=104.0, p99_ms=208.0)

    assert all(v.passed for v in judge_against(slower, earlier, 0.05))
    failed = judge_against(slower, earlier, 0.03)
    assert {v.objective for v in failed if not v.passed} == {
        "goodput",
        "p50 latency",
        "p99 latency",
    }
    assert all(v.passed for v in judge_against(earlier, slower, 0.0))


def test_the_first_failure_is_a_regression_whatever_the_margin() -> None:
    earlier = samples.run()
    verdicts = by_name(judge_against(with_failures(earlier, 1), earlier, 0.5))

    assert not verdicts["failures"].passed


def test_a_run_without_correct_answers_is_a_regression_and_a_later_one_with_some_is_not() -> None:
    good, bad = samples.run(), samples.nothing_right()

    assert not any(v.passed for v in judge_against(bad, good, 0.5))
    assert all(v.passed for v in judge_against(good, bad, 0.0))


@pytest.mark.parametrize("noise_share", [-0.01, 1.0, float("nan"), float("inf")])
def test_an_impossible_margin_is_rejected(noise_share: float) -> None:
    with pytest.raises(LoadTestError, match="noise margin"):
        judge_against(samples.run(), samples.run(), noise_share)
