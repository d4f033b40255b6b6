"""The ``rt4ksr`` program: its exit codes, its messages and its log."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import click
import pytest

from rt4ksr_client import cli
from rt4ksr_client.cli.options import verbose_option
from rt4ksr_client.errors import PictureError


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    return caught.value.code


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", ["upscale", "status", "compare"])
def test_every_picture_command_has_help_without_a_server(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(name, "--help") == 0
    assert "--transport" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("upscale",),
        ("upscale", "in.png", "--to", "huge"),
        ("upscale", "in.png", "a.png", "-o", "b.png"),
        ("upscale", "in.png", "--scale", "4"),
        ("nothing",),
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*arguments) == 2
    assert "Error:" in capsys.readouterr().err


def test_an_error_is_one_line_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.png"

    assert exit_code("upscale", str(missing)) == 1
    assert capsys.readouterr().err == f"rt4ksr: error: {missing}: there is no such file\n"


def test_debug_shows_the_error_itself(tmp_path: Path) -> None:
    with pytest.raises(PictureError):
        cli.main(["--debug", "upscale", str(tmp_path / "missing.png")])


@pytest.mark.parametrize(
    ("signal_number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_a_signal_unwinds_the_command_and_exits_as_shells_expect(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signal_number: signal.Signals,
    word: str,
) -> None:
    unwound = []

    @click.command()
    def signalled() -> None:
        try:
            signal.raise_signal(signal_number)
        finally:
            unwound.append("once")
            if signal_number == signal.SIGTERM:
                signal.raise_signal(signal_number)  # as `timeout` does; the cleanup goes on
            unwound.append("to the end")

    monkeypatch.setattr(cli, "load_command", lambda name: signalled)
    before = signal.getsignal(signal.SIGTERM)

    assert exit_code("status") == 128 + signal_number
    assert word in capsys.readouterr().err
    assert unwound == ["once", "to the end"]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.extras
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_log_and_examples(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(name, "--help") == 0
    out = capsys.readouterr().out
    assert "--verbose" in out
    assert f"rt4ksr {name}" in out.partition("Options:")[0].partition("\n")[2]


@pytest.mark.parametrize(
    ("arguments", "levels"),
    [
        (["status"], []),
        (["status", "-v"], ["INFO"]),
        (["-v", "status"], ["INFO"]),
        (["-v", "status", "-v"], ["INFO", "DEBUG"]),
        (["status", "-vv"], ["INFO", "DEBUG"]),
    ],
)
def test_the_log_is_printed_on_stderr_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    levels: list[str],
) -> None:
    @verbose_option
    @click.command()
    def logging_command() -> None:
        for package in ("rt4ksr_client.retry", "rt4ksr_server"):
            logging.getLogger(package).info("an information with \x1b")
            logging.getLogger(package).debug("a detail")

    monkeypatch.setattr(cli, "load_command", lambda name: logging_command)

    assert exit_code(*arguments) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == levels * 2
    assert all("information with \\x1b" in line for line in lines if "INFO" in line)
    assert not logging.getLogger("rt4ksr_client").isEnabledFor(logging.INFO)
