"""What the supervisor sees and removes, without a tritonserver."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rt4ksr_server import supervisor
from rt4ksr_server.supervisor import Spec
from support.processes import becomes_true

Ends = tuple[socket.socket, socket.socket, int]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Both ends of a TCP connection, the server's first, and the server's port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as client, listener.accept()[0] as server:
            yield server, client, address[1]


def idle(connection: socket.socket) -> bool:
    info = supervisor.tcp_info(connection)
    return info is not None and supervisor.is_idle(connection, info)


def test_data_that_nobody_has_read_is_seen_at_either_end(ends: Ends) -> None:
    server, client, port = ends
    assert supervisor.connections_holding_data({"http": port}) == [False, False]
    assert supervisor.connections_holding_data({"grpc": port + 1 & 0xFFFF}) == []

    server.sendall(b"answer")
    assert becomes_true(lambda: any(supervisor.connections_holding_data({"http": port})))

    client.recv(6)
    assert not any(supervisor.connections_holding_data({"http": port}))


def test_a_connection_is_idle_some_time_after_its_answer(ends: Ends) -> None:
    server, client, _ = ends
    assert becomes_true(lambda: idle(server), 2)  # without any request, too
    client.sendall(b"request")
    server.recv(7)
    time.sleep(supervisor.IDLE_S + 0.1)
    assert not idle(server)  # it has not been answered

    server.sendall(b"answer")
    client.recv(6)
    assert not idle(server)  # just now
    assert becomes_true(lambda: idle(server), 2)

    client.sendall(b"request")
    assert becomes_true(lambda: not idle(server), 2)


def test_the_first_request_of_a_connection_is_not_taken_for_idle(ends: Ends) -> None:
    server, client, _ = ends
    client.sendall(b"request")  # in the same millisecond as the connection
    server.recv(7)
    time.sleep(supervisor.IDLE_S + 0.1)
    assert not idle(server)


def test_an_answer_that_is_not_received_yet_keeps_a_connection(ends: Ends) -> None:
    server, client, _ = ends
    client.sendall(b"request")
    server.recv(7)
    time.sleep(0.05)
    server.setblocking(False)
    sent = server.send(bytes(64 * 1024 * 1024))
    time.sleep(supervisor.IDLE_S + 0.1)
    assert not idle(server)

    while sent > 0:
        sent -= len(client.recv(1024 * 1024))
    assert becomes_true(lambda: idle(server), 2)


def test_idle_connections_of_another_process_are_closed() -> None:
    """The process answers one request of each connection; one client sends another request."""
    program = (
        "import select, socket, time\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "print(listener.getsockname()[1], flush=True)\n"
        "poll = select.epoll()\n"
        "connections = [listener.accept()[0] for _ in range(2)]\n"
        "for connection in connections:\n"
        "    connection.recv(9)\n"
        "    time.sleep(0.05)\n"
        "    connection.sendall(b'answer')\n"
        "    poll.register(connection, select.EPOLLIN)\n"
        "poll.poll()\n"
        "print(flush=True)\n"
        "poll.unregister(connections[1])\n"
        "poll.poll()\n"
        "input()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as process:  # type: ignore[call-overload]
        port = int(process.stdout.readline())
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        for client in clients:
            client.sendall(b"request")
            assert client.recv(6) == b"answer"
        clients[1].sendall(b"request")  # in flight: the process does not read from it meanwhile
        process.stdout.readline()

        def close_idle() -> bool:
            return supervisor.close_idle_http_connections(process.pid, {"http": port})

        assert becomes_true(close_idle, 2)
        for client in clients:
            client.settimeout(0.2)
        assert clients[0].recv(1) == b""
        with pytest.raises(TimeoutError):
            clients[1].recv(1)
        assert supervisor.close_idle_http_connections(process.pid, {"grpc": port})
        process.communicate("\n", timeout=10)
        for client in clients:
            client.close()


def test_it_removes_its_own_leftovers_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_child(pid: int, options: int) -> None:
        raise ChildProcessError

    monkeypatch.setattr(supervisor, "SHARED_MEMORY_DIRECTORY", tmp_path)
    # It waits for its own children, of which pytest may have some.
    monkeypatch.setattr(
        os, "waitpid", lambda pid, options: (_ for _ in ()).throw(ChildProcessError)
    )
    for name in ("rt4ksr-1-region", "rt4ksr-2-region"):
        (tmp_path / name).touch()
    (tmp_path / "scratch" / "python").mkdir(parents=True)
    ours, theirs = tmp_path / "python_env_ours", tmp_path / "python_env_theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    spec = Spec([], 0, 1.0, {}, "rt4ksr-1-", str(tmp_path / "scratch"), True)

    supervisor.remove_leftovers(spec, {ours, theirs})  # which one is ours is not known
    assert ours.exists()
    (theirs / "environment").mkdir()
    supervisor.remove_leftovers(spec, {theirs})
    supervisor.remove_leftovers(spec, {ours})

    assert sorted(p.name for p in tmp_path.iterdir()) == ["python_env_theirs", "rt4ksr-2-region"]


def test_a_condition_lasts_from_when_it_holds_without_a_break() -> None:
    lasting = supervisor.Lasting()
    assert lasting.duration_s(False) == -1
    assert lasting.duration_s(True) < 0.05
    time.sleep(0.1)
    assert lasting.duration_s(True) >= 0.1
    assert lasting.duration_s(False) == -1
    assert lasting.duration_s(True) < 0.05
