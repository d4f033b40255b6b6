"""Which server a command uses, and when it starts one."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

import rt4ksr_server.installation
from rt4ksr_client.cli import server
from rt4ksr_client.cli.server import ServerChoice, StartPolicy, local_server
from rt4ksr_client.connection import Connection
from rt4ksr_client.errors import MissingExtraError, ServerStartError, ServerUnreachableError

STARTED = "127.0.0.1:1"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The models of each server that was started."""
    calls: list[Sequence[str]] = []

    @contextmanager
    def start(*, models: Sequence[str]) -> Iterator[str]:
        calls.append(models)
        yield STARTED

    monkeypatch.setattr(server, "local_server", start)
    return calls


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def silent(listening: str) -> str:
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_is_started_where_none_listens_and_says_so_in_one_line(
    loaded: list[Sequence[str]], silent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = Connection(silent, timeout_s=3)

    with ServerChoice(connection, start="if_absent").running(["rt4ksr_x2"]) as running:
        assert running == Connection(STARTED, timeout_s=3)

    assert loaded == [["rt4ksr_x2"]]
    line = f"rt4ksr: no server at {silent}: starting one for this call\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("start", ["if_absent", "never"])
def test_a_running_server_is_used(
    loaded: list[Sequence[str]],
    listening: str,
    capsys: pytest.CaptureFixture[str],
    start: StartPolicy,
) -> None:
    with ServerChoice(Connection(listening), start=start).running() as running:
        assert running.url == listening

    assert not loaded
    assert capsys.readouterr() == ("", "")


def test_no_server_is_started_instead_of_a_given_one(
    loaded: list[Sequence[str]], silent: str
) -> None:
    with ServerChoice(Connection(silent)).running() as running:
        assert running.url == silent

    assert not loaded


def test_encoded_frames_need_the_image_endpoint_too(
    loaded: list[Sequence[str]], silent: str
) -> None:
    choice = ServerChoice(Connection(silent, wire="encoded"), start="always")

    with choice.running(["rt4ksr_x2"]):
        assert loaded == [["rt4ksr_x2", "rt4ksr_x2_image"]]


def test_without_the_extra_the_error_names_both_remedies(
    monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    def find_none() -> None:
        raise ServerStartError("no tritonserver found")

    monkeypatch.setattr(rt4ksr_server.installation.Installation, "find", find_none)
    choice = ServerChoice(Connection(silent), start="if_absent")

    with pytest.raises(ServerUnreachableError) as caught, choice.running():
        pass

    assert silent in str(caught.value)
    assert "--url" in str(caught.value)
    assert "pip install 'rt4ksr-triton[server]'" in str(caught.value)


def test_local_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rt4ksr_server", None)

    with pytest.raises(MissingExtraError, match=r"rt4ksr-triton\[server\]"), local_server():
        pass
