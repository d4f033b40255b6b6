from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rt4ksr_client import Upscaler
from rt4ksr_client.connection import TransportName
from rt4ksr_client.contract import MODELS
from rt4ksr_client.errors import ServerError, ServerStartError
from rt4ksr_server import TritonServer
from rt4ksr_server.services import SERVICES, Services
from rt4ksr_server.supervisor import DISPOSABLE_STUB
from support.nearest_models import infer, nearest
from support.processes import (
    becomes_true,
    child_pids,
    free_port,
    group_is_gone,
    regions,
    server_name,
)
from support.servers import RepositoryFactory, ServerFactory
from support.slow_link import SlowLink

pytestmark = pytest.mark.server

X2 = MODELS["rt4ksr_x2"]
IMAGE = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)

# Starts a server from a thread that then ends, as a framework's worker thread might.
ORPHAN = """
import sys, threading, time
from rt4ksr_server import TritonServer
server = TritonServer(sys.argv[1])
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
print(server.pid, server.http_url, flush=True)
time.sleep(60)
"""


@pytest.fixture
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a server of this test, or of a program that it starts, puts its temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_stopped_server_leaves_no_process_no_shared_memory_and_no_file(
    nearest_repository: RepositoryFactory, temporary_folder: Path
) -> None:
    with TritonServer(nearest_repository([X2])) as server:
        pid, name = server.pid, server_name(server.http_url)
        assert np.array_equal(infer(server, X2.name, IMAGE), nearest(IMAGE, 2))
        assert child_pids(pid)
        assert regions(name)
        assert list(temporary_folder.iterdir())
    assert group_is_gone(pid)
    assert not regions(name)
    assert not list(temporary_folder.iterdir())
    server.stop()  # twice is harmless


def test_a_server_that_was_stopped_can_be_started_again(
    nearest_repository: RepositoryFactory,
) -> None:
    server = TritonServer(nearest_repository([X2]))
    pids = set()
    for _ in range(2):
        with server:
            pids.add(server.pid)
            assert np.array_equal(infer(server, X2.name, IMAGE), nearest(IMAGE, 2))
            with pytest.raises(ServerStartError, match="already running: stop it first"):
                server.start()
    assert len(pids) == 2
    assert all(map(group_is_gone, pids))


def test_killing_the_program_that_started_it_leaves_nothing(
    nearest_repository: RepositoryFactory, temporary_folder: Path
) -> None:
    command = [sys.executable, "-c", ORPHAN, str(nearest_repository([X2]))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        pid_text, http_url = program.stdout.readline().split()
        pid, name = int(pid_text), server_name(http_url)
        time.sleep(0.5)  # the thread that started it is long gone: it has to be still there
        assert child_pids(pid)
        assert list(temporary_folder.iterdir())
        program.kill()
    assert becomes_true(
        lambda: group_is_gone(pid) and not regions(name) and not list(temporary_folder.iterdir())
    )


def test_killing_its_supervisor_kills_it_and_its_stubs(
    nearest_repository: RepositoryFactory,
    temporary_folder: Path,  # pytest removes what nobody is left to remove there
) -> None:
    with TritonServer(nearest_repository([X2])) as server:
        name = server_name(server.http_url)
        (supervisor,) = (pid for pid in child_pids(os.getpid()) if server.pid in child_pids(pid))
        os.kill(supervisor, signal.SIGKILL)
        with pytest.raises(ServerError, match="tritonserver ended with status"):
            server.wait()
        assert becomes_true(lambda: group_is_gone(server.pid))
    for region in regions(name):  # nor these, whose names are of this server alone
        region.unlink()


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_stopping_lets_a_request_in_flight_finish(
    nearest_repository: RepositoryFactory, transport: TransportName
) -> None:
    def wait_in_the_queue(config: model_config_pb2.ModelConfig) -> None:
        config.dynamic_batching.max_queue_delay_microseconds = 1_500_000

    server = TritonServer(nearest_repository([X2], edit=wait_in_the_queue))
    with ThreadPoolExecutor(1) as pool, server, connected(server, transport) as upscaler:
        answer = pool.submit(upscaler.upscale, IMAGE[0])
        assert becomes_true(lambda: _pending_requests(server) == 1)
        server.stop()
        assert np.array_equal(answer.result(timeout=5), nearest(IMAGE, 2)[0])


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_stopping_waits_for_a_client_that_is_slow_to_receive(
    nearest_repository: RepositoryFactory, transport: TransportName
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    with (
        ThreadPoolExecutor(1) as pool,
        TritonServer(nearest_repository([X2])) as server,
        SlowLink(address_of(server, transport), bytes_per_s=8e6) as link,
        connected(server, transport, through=link.address) as upscaler,
    ):
        assert upscaler.served_model.scale == 2
        answer = pool.submit(upscaler.upscale, image)
        assert becomes_true(lambda: link.passed_bytes > 1e6)  # the answer, of 24.9 MB
        server.stop()
        assert np.array_equal(answer.result(timeout=1), nearest(image[None], 2)[0])


@pytest.mark.parametrize("transport", [None, "grpc", "http", "shm"])
def test_stopping_takes_less_than_a_second_when_no_request_is_in_flight(
    nearest_repository: RepositoryFactory, transport: TransportName | None
) -> None:
    image = np.zeros((1080, 1920, 3), np.uint8)
    durations_s: list[float] = []
    while not durations_s or (durations_s[-1] > 1 and len(durations_s) < 3):  # a busy machine
        with TritonServer(nearest_repository([X2])) as server, contextlib.ExitStack() as stack:
            pid, name = server.pid, server_name(server.http_url)
            if transport is not None:  # its connection stays open
                stack.enter_context(connected(server, transport)).upscale(image)
            start_s = time.monotonic()
            server.stop()
            durations_s.append(time.monotonic() - start_s)
        assert group_is_gone(pid)
        assert not regions(name)
    assert durations_s[-1] < 1


def test_stopping_finalizes_models_that_have_something_to_finalize(tmp_path: Path) -> None:
    finalized = tmp_path / "finalized"
    model = tmp_path / "repository" / "python_model" / "1" / "model.py"
    model.parent.mkdir(parents=True)
    model.write_text(
        "from pathlib import Path\n"
        "class TritonPythonModel:\n"
        "    def execute(self, requests): return []\n"
        f"    def finalize(self): Path({str(finalized)!r}).touch()\n"
    )
    config = model_config_pb2.ModelConfig(name="python_model", backend="python", max_batch_size=1)
    config.input.add(name="in", data_type=model_config_pb2.TYPE_UINT8, dims=[1])
    config.output.add(name="out", data_type=model_config_pb2.TYPE_UINT8, dims=[1])
    (model.parents[1] / "config.pbtxt").write_text(text_format.MessageToString(config))

    with TritonServer(tmp_path / "repository"):
        assert not finalized.exists()

    assert finalized.exists()


def test_models_of_this_project_have_nothing_to_finalize(endpoint_server: TritonServer) -> None:
    names = [Path(f"/proc/{pid}/comm").read_text() for pid in child_pids(endpoint_server.pid)]

    assert len(names) >= 4  # two networks and the two stages
    assert set(names) == {f"{DISPOSABLE_STUB}\n"}


def address_of(server: TritonServer, transport: TransportName) -> str:
    return server.http_url if transport == "http" else server.grpc_url


def connected(
    server: TritonServer, transport: TransportName, *, through: str | None = None
) -> Upscaler:
    address = through or address_of(server, transport)
    url = f"http://{address}" if transport == "http" else address
    return Upscaler(url, scale=2, transport=transport, timeout_s=20)


def _pending_requests(server: TritonServer) -> int:
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    match = re.search(r"^nv_inference_pending_request_count{.*} (\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else 0


def test_a_server_is_ready_when_each_of_its_services_answers(nearest_server: TritonServer) -> None:
    name, nobody = server_name(nearest_server.http_url), free_port()
    urls = [nearest_server.grpc_url, nearest_server.http_url, nearest_server.metrics_url]
    ports = {service: int(url.split(":")[1]) for service, url in zip(SERVICES, urls, strict=True)}

    def ready(name: str, **changed: int | None) -> bool:
        services = {key: port for key, port in (ports | changed).items() if port is not None}
        return Services("127.0.0.1", services).are_ready(name)

    assert ready(name)
    assert ready(name, http=None)
    assert not ready(name, http=nobody)
    assert not ready(name, metrics=nobody)
    assert not ready("another")


def test_two_servers_on_one_machine_do_not_see_each_other(
    nearest_server: TritonServer,
    nearest_repository: RepositoryFactory,
    server_with: ServerFactory,
) -> None:
    x3 = MODELS["rt4ksr_x3"]
    with server_with(nearest_repository([x3])) as other:
        assert other.grpc_url != nearest_server.grpc_url
        assert np.array_equal(infer(other, x3.name, IMAGE), nearest(IMAGE, 3))
        with pytest.raises(Exception, match="unknown model"):
            infer(other, X2.name, IMAGE)
    assert np.array_equal(infer(nearest_server, X2.name, IMAGE), nearest(IMAGE, 2))


def test_extra_flags_reach_tritonserver_and_its_log_reaches_the_caller(
    nearest_repository: RepositoryFactory,
) -> None:
    lines: list[str] = []
    flags = ("--model-control-mode=explicit", f"--load-model={X2.name}")
    with TritonServer(nearest_repository(), extra_args=flags, log=lines.append) as server:
        assert np.array_equal(infer(server, X2.name, IMAGE), nearest(IMAGE, 2))
        with pytest.raises(Exception, match="rt4ksr_x3"):
            infer(server, "rt4ksr_x3", IMAGE)
        assert any("loading: rt4ksr_x2" in line for line in lines)
        assert server.log_tail(3) == "\n".join(lines[-3:])


def test_the_log_names_binary_command_line_and_ports_but_no_key(
    nearest_repository: RepositoryFactory, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "--http-restricted-api=shared-memory:admin-key=s3cret"
    with (
        caplog.at_level(logging.INFO, "rt4ksr_server"),
        TritonServer(nearest_repository([X2]), extra_args=[secret]) as server,
    ):
        port = server.grpc_url.split(":")[1]
    messages = "\n".join(caplog.messages)
    assert re.search(r"^Using /.*/tritonserver", messages, re.MULTILINE)
    assert re.search(rf"^Starting .*--grpc-port={port} .*restricted-api=\.\.\.", messages, re.M)
    assert re.search(rf"^tritonserver \d+ is ready: .*'grpc': {port}", messages, re.MULTILINE)
    assert re.search(r"^tritonserver stopped in \d+\.\d s", messages, re.MULTILINE)
    assert "s3cret" not in messages


def test_a_log_function_that_fails_does_not_stop_the_server(
    nearest_repository: RepositoryFactory,
) -> None:
    def fails(line: str) -> None:
        raise BrokenPipeError

    with TritonServer(nearest_repository([X2]), log=fails) as server:
        assert np.array_equal(infer(server, X2.name, IMAGE), nearest(IMAGE, 2))
        assert "rt4ksr_x2" in server.log_tail(200)


def test_a_service_can_be_turned_off(nearest_repository: RepositoryFactory) -> None:
    with TritonServer(nearest_repository([X2]), http_port=None, metrics_port=None) as server:
        assert np.array_equal(infer(server, X2.name, IMAGE), nearest(IMAGE, 2))
        with pytest.raises(ServerError, match="does not serve http"):
            _ = server.http_url


def test_a_port_in_use_is_named_before_anything_starts(
    nearest_repository: RepositoryFactory,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerStartError, match=f"http on port {port} of 127.0.0.1: Address"):
            TritonServer(nearest_repository([X2]), http_port=port).start()


def test_a_free_port_lost_while_starting_is_replaced(
    nearest_repository: RepositoryFactory, caplog: pytest.LogCaptureFixture
) -> None:
    thieves: list[socket.socket] = []

    def take_its_port(line: str) -> None:
        if not thieves:
            host, port = server.http_url.split(":")
            thieves.append(socket.create_server((host, int(port))))

    server = TritonServer(nearest_repository([X2]), log=take_its_port)
    with server:
        assert np.array_equal(infer(server, X2.name, IMAGE), nearest(IMAGE, 2))
        assert not server.http_url.endswith(f":{thieves[0].getsockname()[1]}")
    thieves[0].close()
    assert [r.levelname for r in caplog.records if "Starting again" in r.message] == ["WARNING"]


def test_the_error_of_a_server_that_dies_at_start_up_names_the_reason(
    nearest_repository: RepositoryFactory,
) -> None:
    repository = nearest_repository([X2])
    (repository / X2.name / "1" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ServerStartError, match=r"ended with status 1.*\n(.*\n)*.*model\.onnx"):
        TritonServer(repository).start()


def test_an_unknown_flag_is_named(nearest_repository: RepositoryFactory) -> None:
    with pytest.raises(ServerStartError, match=r"unrecognized option .--no-such-flag"):
        TritonServer(nearest_repository([X2]), extra_args=("--no-such-flag=1",)).start()


def test_a_server_that_takes_too_long_to_start_is_stopped_and_leaves_nothing(
    nearest_repository: RepositoryFactory,
) -> None:
    before = set(threading.enumerate())
    server = TritonServer(nearest_repository([X2]), start_timeout_s=0.1)
    with pytest.raises(ServerStartError, match=r"not ready within 0\.1 s"):
        server.start()
    assert set(threading.enumerate()) == before
    with pytest.raises(ServerError, match="not been started"):
        _ = server.pid


def test_a_binary_that_is_not_a_program_is_rejected(nearest_repository: RepositoryFactory) -> None:
    with pytest.raises(ServerStartError, match="is not a program"):
        TritonServer(nearest_repository([X2]), binary=__file__).start()


def test_a_binary_that_cannot_be_executed_is_an_error(
    nearest_repository: RepositoryFactory, tmp_path: Path
) -> None:
    script = tmp_path / "tritonserver"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(ServerStartError, match=r"cannot run .*tritonserver: No such file"):
        TritonServer(nearest_repository([X2]), binary=script).start()
