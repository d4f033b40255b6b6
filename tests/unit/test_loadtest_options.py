"""The table of load-test options: on the command line, under Locust and in its web form."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rt4ksr_client.cli.security import FILE_OPTIONS
from rt4ksr_client.connection import Connection
from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest import cli
from rt4ksr_loadtest.destination import check_destination
from rt4ksr_loadtest.options import OPTIONS, LoadOptions
from rt4ksr_loadtest.result import check_vacant
from support.loadtest_options import FormParser, parse_options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scale", "5"), "give 2, 3"),
        (("--scale", "2:0"), "weights must be positive"),
        (("--check-share", "2"), "within 0..1"),
        (("--tile-px", "33"), "even and at least 128"),
        (("--frame-size", "big"), "WIDTHxHEIGHT"),
        (("--frame-size", "100x100"), "at least 128"),
        (("--fps", "-3"), "positive"),
        (("--fps", "many"), "--fps many: "),
        (("--duration", "soon"), "--duration soon: expected seconds"),
        (("--request-timeout", "0"), "must be positive"),
        (("--slo", "/nothing.toml"), "cannot be read"),
        (("--slo-error-share", "2"), "within 0..1"),
    ],
)
def test_invalid_options_are_rejected(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(LoadTestError, match=message):
        parse_options(*words)


def test_options_choose_the_loop_and_the_mix() -> None:
    closed = parse_options("--scale", "2:3,3:1", "--duration", "2m", "-u", "4")
    opened = parse_options("--fps", "24", "-u", "4", "--slo-p99-ms", "200")

    assert closed.shares == {"rt4ksr_x2": 0.75, "rt4ksr_x3": 0.25}
    assert closed.duration_s == 120
    assert not closed.is_open
    assert opened.is_open
    assert opened.rate_fps_per_user == 6
    assert opened.objectives.p99_ms == 200
    assert parse_options("--model", "mine").shares == {"mine": 1.0}
    assert parse_options("--model", "rt4ksr_x2:3, rt4ksr_x2_video").shares == {
        "rt4ksr_x2": 0.75,
        "rt4ksr_x2_video": 0.25,
    }
    assert opened.connection == Connection("127.0.0.1:8001", timeout_s=60)


def test_durations_have_units() -> None:
    texts = ("90", "90s", "10m", "1h")

    assert [parse_options("--duration", text).duration_s for text in texts] == [90, 90, 600, 3600]


def test_every_option_is_on_both_command_lines_and_in_the_form() -> None:
    parser = FormParser()
    command = {p.name: p for p in cli.loadtest.params if isinstance(p, click.Option)}

    for row in OPTIONS:
        assert row.flag in command[row.name].opts
        assert command[row.name].help == row.help
        assert parser.help[row.name] == row.help
        # Locust asks for users there; files are those of the generator's machine.
        assert (row.name in parser.form) is (
            row.flag != "--profile" and row.flag not in FILE_OPTIONS
        )
    assert {p.name for p in cli.loadtest.params} - {row.name for row in OPTIONS} == {
        *("url", "local", "model_repository", "users", "processes", "overwrite", "verbose"),
        "headers",
    }
    from_table = [field for field in fields(LoadOptions) if field.metadata]
    assert len(from_table) == len(OPTIONS)


def test_values_from_the_form_are_read_as_on_the_command_line() -> None:
    parsed = FormParser().parse_args([])
    assert all(isinstance(value, str) for name, value in vars(parsed).items() if name in NAMES)
    for name, text in {"duration": "10m", "fps": "2.5", "transport": "grpc"}.items():
        # as Locust does it, see locust/web.py
        setattr(parsed, name, type(getattr(parsed, name))(text))

    options = parse_options(parsed=parsed)

    assert (options.duration_s, options.rate_fps, options.transport) == (600, 2.5, "grpc")


NAMES = {row.name for row in OPTIONS}


def fake_locust(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Locust is started with, instead of starting it; it exits with 7."""
    passed: list[str] = []

    def run_locust(arguments: Sequence[str], headers: Sequence[str]) -> int:
        passed.extend(arguments)
        return 7

    monkeypatch.setattr(cli, "run_locust", run_locust)
    return passed


def test_the_command_passes_options_to_locust(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = fake_locust(monkeypatch)
    words = ["--url", "there:1", "--profile", "ramp", "--fps", "24", "--warm-up", "2m", "-vv"]

    assert CliRunner().invoke(cli.loadtest, words).exit_code == 7
    assert {"--host=there:1", "--users=8", "--load-profile=ramp", "--fps=24"} <= set(passed)
    assert {"--warm-up=2m", "--step=10s", "--loglevel=DEBUG"} <= set(passed)
    parser = FormParser()
    ours = [word for word in passed if not word.startswith(("--host", "--loglevel"))]
    assert parse_options(parsed=parser.parse_args(ours)).rate_fps == 24


@pytest.mark.parametrize(
    ("words", "users"),
    [
        ((), 2),
        (("--fps", "5"), 1),
        (("--profile", "spike"), 8),
        (("--profile", "saturate"), 32),
        (("--profile", "saturate", "--users", "3"), 3),
    ],
)
def test_the_number_of_users_fits_the_profile(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], users: int
) -> None:
    passed = fake_locust(monkeypatch)

    CliRunner().invoke(cli.loadtest, words)

    assert f"--users={users}" in passed


def test_the_command_rejects_invalid_values_as_usage_errors() -> None:
    outcome = CliRunner().invoke(cli.loadtest, ["--duration", "soon"])

    assert outcome.exit_code == 2
    assert "'soon': expected seconds, e.g. 90, 120s, 10m or 1h" in outcome.output


@pytest.mark.parametrize("name", ["result.json", "report.html", "report.md"])
def test_results_of_another_run_are_only_replaced_on_demand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    passed = fake_locust(monkeypatch)
    (tmp_path / name).write_text("earlier")

    kept = CliRunner().invoke(cli.loadtest, ["--out", str(tmp_path)])

    assert f"{name}: the file exists: --overwrite replaces it, --out" in str(kept.exception)
    assert not passed
    replaced = CliRunner().invoke(cli.loadtest, ["--out", str(tmp_path), "--overwrite"])
    assert replaced.exit_code == 7
    assert f"--out={tmp_path}" in passed


def test_locust_keeps_the_memory_of_frames_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environments = []

    class Ended:
        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            environments.append(env)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Ended)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    cli.run_locust([])
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000")
    cli.run_locust([])

    thresholds = [environment["MALLOC_MMAP_THRESHOLD_"] for environment in environments]
    assert thresholds == [str(32 << 20), "1000"]
    assert all(environment["PATH"] == os.environ["PATH"] for environment in environments)


def test_headers_reach_locust_in_its_environment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    class Ended:
        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            started.append((command, env))

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Ended)
    monkeypatch.setenv("RT4KSR_HEADERS", "model-id: x")
    monkeypatch.setenv("RT4KSR_CA_FILE", "/the/ca.pem")
    CliRunner().invoke(cli.loadtest, ["--header", "authorization: s3cret"])

    ((command, environment),) = started
    assert environment["RT4KSR_HEADERS"] == "model-id: x\nauthorization: s3cret"
    assert not any("s3cret" in word for word in command)
    assert "--ca-file=/the/ca.pem" in command


def test_headers_and_files_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "headers").write_text("authorization: s3cret")
    monkeypatch.setenv("RT4KSR_HEADERS", "model-id: x")
    monkeypatch.setenv("RT4KSR_HEADER_FILE", str(tmp_path / "headers"))

    options = parse_options()

    assert options.connection.security.request_headers() == {
        "model-id": "x",
        "authorization": "s3cret",
    }
    assert "s3cret" not in repr(options)


def test_headers_cannot_be_sent_elsewhere_from_the_web_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "headers").write_text("authorization: s3cret")
    words = ("--header-file", str(tmp_path / "headers"))
    given = replace(parse_options(*words), url="https://server")

    check_destination(replace(given, users=9), given)
    with pytest.raises(LoadTestError, match="headers are for https://server: start Locust with"):
        check_destination(replace(given, url="https://elsewhere"), given)
    with pytest.raises(LoadTestError, match="other files for TLS or headers"):
        check_destination(replace(given, header_file=None), given)
    without = replace(given, header_file=None)
    check_destination(replace(without, url="https://elsewhere"), without)


def test_help_has_no_percent_sign_for_argparse_to_interpret() -> None:
    assert not [row.flag for row in OPTIONS if "%" in row.help]
    assert isinstance(FormParser(), argparse.ArgumentParser)


def test_these_tests_do_without_locust() -> None:
    assert "locust" not in sys.modules  # it would patch the sockets and locks of every later test


def test_a_folder_with_a_result_is_not_vacant(tmp_path: Path) -> None:
    check_vacant(tmp_path / "new")
    (tmp_path / "result.json").touch()
    with pytest.raises(LoadTestError, match="there is a result: give another folder"):
        check_vacant(tmp_path)
