"""What happens to the SDK's user when servers or clients are killed, restarted or overloaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import model_config_pb2

from rt4ksr_client import Upscaler
from rt4ksr_client.call import Call
from rt4ksr_client.connection import Connection, TransportName
from rt4ksr_client.errors import (
    DeadlineExceededError,
    OverloadedError,
    ServerUnreachableError,
)
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports import open_transport
from rt4ksr_server import TritonServer
from support.processes import becomes_true, free_port
from support.servers import RepositoryFactory, ServerFactory

pytestmark = pytest.mark.server

TRANSPORTS: tuple[TransportName, ...] = ("grpc", "http", "shm")


def numbered(count: int) -> Iterator[Frame]:
    for number in range(count):
        yield np.full((90, 160, 3), number, np.uint8)


def address(server: TritonServer, name: TransportName) -> str:
    return server.http_url if name == "http" else server.grpc_url


@pytest.mark.parametrize("name", TRANSPORTS)
def test_with_one_of_two_servers_killed_every_frame_arrives_once_and_in_order(
    nearest_repository: RepositoryFactory, nearest_server: TritonServer, name: TransportName
) -> None:
    with TritonServer(nearest_repository()) as doomed:
        url = f"{address(doomed, name)},{address(nearest_server, name)}"
        with Upscaler(url, transport=name) as upscaler:
            arrived = []
            for upscaled in upscaler.map(numbered(200)):
                arrived.append(int(upscaled[0, 0, 0]))
                assert (upscaled == arrived[-1]).all()
                if len(arrived) == 50:
                    os.kill(doomed.pid, signal.SIGKILL)

    assert arrived == list(range(200))


@pytest.mark.parametrize("name", ["grpc", "http", "shm", "auto"])
def test_with_one_of_two_servers_stopped_at_most_one_call_waits(
    nearest_repository: RepositoryFactory, nearest_server: TritonServer, name: TransportName
) -> None:
    with TritonServer(nearest_repository()) as hung:
        url = f"{address(hung, name)},{address(nearest_server, name)}"
        with Upscaler(url, transport=name, timeout_s=3) as upscaler:
            for frame in numbered(4):
                upscaler.upscale(frame)
            os.kill(hung.pid, signal.SIGSTOP)
            waited = 0
            try:
                for frame in numbered(60):
                    time.sleep(0.1)
                    try:
                        np.testing.assert_array_equal(upscaler.upscale(frame)[0, 0], frame[0, 0])
                    except DeadlineExceededError:
                        waited += 1
            finally:
                os.kill(hung.pid, signal.SIGCONT)

    assert waited <= 1


@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_server_restarted_in_the_middle_costs_time_and_no_frame(
    nearest_repository: RepositoryFactory, name: TransportName, caplog: pytest.LogCaptureFixture
) -> None:
    ports: dict[str, Any] = {"grpc_port": free_port(), "http_port": free_port()}
    repository = nearest_repository()
    # It would wait for the connections that an HTTP client keeps.
    first = TritonServer(repository, exit_timeout_s=1, **ports).start()
    try:
        with (
            Upscaler(address(first, name), transport=name) as upscaler,
            ThreadPoolExecutor(1) as thread,
        ):
            results = upscaler.map(numbered(60))
            arrived = [int(next(results)[0, 0, 0]) for _ in range(20)]
            first.stop()
            rest = thread.submit(lambda: [int(upscaled[0, 0, 0]) for upscaled in results])
            assert becomes_true(lambda: "retry in" in caplog.text)
            with TritonServer(repository, **ports):
                arrived += rest.result(60)
    finally:
        first.stop()

    assert arrived == list(range(60))


def test_a_server_that_is_gone_for_good_is_reported(
    nearest_repository: RepositoryFactory,
) -> None:
    with TritonServer(nearest_repository()) as server:
        upscaler = Upscaler(server.grpc_url, timeout_s=1)
        results = upscaler.map(numbered(60))
        next(results)
    begin_s = time.monotonic()

    with upscaler, pytest.raises(ServerUnreachableError, match="rt4ksr serve"):
        list(results)
    assert time.monotonic() - begin_s < 10


@pytest.mark.parametrize("name", TRANSPORTS)
def test_requests_to_a_full_queue_are_retried(
    nearest_repository: RepositoryFactory, server_with: ServerFactory, name: TransportName
) -> None:
    def narrow(config: model_config_pb2.ModelConfig) -> None:
        config.max_batch_size = 1
        config.dynamic_batching.default_queue_policy.max_queue_size = 1

    frame = np.zeros((540, 960, 3), np.uint8)
    with server_with(nearest_repository(edit=narrow)) as server:
        url = address(server, name)
        with open_transport(Connection(url, name)) as transport, ThreadPoolExecutor(8) as threads:
            model = transport.served_model("rt4ksr_x2", Call(30))
            calls = [
                threads.submit(transport.upscale, model, (frame[np.newaxis],), Call(30))
                for _ in range(24)
            ]
            refused = [call for call in calls if isinstance(call.exception(), OverloadedError)]
            assert refused, "without trying again, some are refused"
            assert all(isinstance(c.exception(), OverloadedError | None) for c in calls)
            del calls, refused
        with Upscaler(url, transport=name) as upscaler:
            assert sum(1 for _ in upscaler.map([frame] * 24, in_flight=8)) == 24


# Clients that die

_CLIENT = """
import sys
import numpy as np
from rt4ksr_client import Upscaler
upscaler = Upscaler(sys.argv[1], transport="shm")
for _ in upscaler.map(np.zeros((540, 960, 3), np.uint8) for _ in range(10**6)):
    print("frame", flush=True)
"""


@pytest.mark.parametrize(
    "signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name
)
def test_a_killed_client_leaves_nothing_for_long(
    nearest_server: TritonServer, signal_number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CLIENT, nearest_server.grpc_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as client:
        assert client.stdout is not None
        for _ in range(5):
            client.stdout.readline()
        begin_s = time.monotonic()
        client.send_signal(signal_number)
        client.wait(20)

    assert time.monotonic() - begin_s < 5
    if signal_number == signal.SIGINT:  # the others end it between two lines, wherever it is
        assert not names_left(client.pid)
    assert not left_at(nearest_server, client.pid)
    assert not names_left(client.pid)


def test_the_next_client_removes_a_region_that_was_never_registered(
    nearest_server: TritonServer,
) -> None:
    make = "from rt4ksr_client.transports.regions import SystemRegion; SystemRegion(4096)"
    with subprocess.Popen([sys.executable, "-c", make]) as client:
        assert client.wait(20) == 0
    assert len(names_left(client.pid)) == 1
    assert not left_at(nearest_server, client.pid)
    assert not names_left(client.pid)


def names_left(pid: int) -> list[str]:
    """What is left of ``pid`` in /dev/shm."""
    return [path.name for path in Path("/dev/shm").iterdir() if f"_{pid}_" in path.name]


def left_at(server: TritonServer, pid: int) -> list[str]:
    """What the server still maps of ``pid``, up to a second after the next client started."""

    def names() -> list[str]:
        with Upscaler(server.grpc_url) as upscaler:
            assert upscaler.transport_name == "shm"
        with triton.InferenceServerClient(server.grpc_url) as client:
            regions = client.get_system_shared_memory_status().regions
        return [name for name in regions if f"_{pid}_" in name]

    # A request of the killed client may be under way.
    return [] if becomes_true(lambda: not names(), timeout_s=1) else names()
