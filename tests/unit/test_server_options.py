from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rt4ksr_client.errors import ServerError, ServerStartError
from rt4ksr_server import TritonServer, default_repository
from rt4ksr_server.cli import serve
from rt4ksr_server.installation import Installation, find_installation
from rt4ksr_server.options import SERVICES, ServerOptions
from rt4ksr_server.ports import is_free, resolve_ports
from rt4ksr_server.readiness import is_ready


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "repository" / "model").mkdir(parents=True)
    return tmp_path / "repository"


def options(repository: Path, **changes: Any) -> ServerOptions:
    arguments: dict[str, Any] = {
        "model_repository": repository,
        "host": "127.0.0.1",
        "wanted_ports": dict.fromkeys(SERVICES, 0),
        "start_timeout_s": 1.0,
        "exit_timeout_s": 7.0,
        "extra_args": (),
    }
    return ServerOptions(**{**arguments, **changes})


def test_every_service_is_bound_to_the_given_address_only(repository: Path) -> None:
    flags = options(repository).arguments("name", "name-", {"grpc": 1, "http": 2, "metrics": 3})
    for service, port in (("grpc", 1), ("http", 2), ("metrics", 3)):
        assert f"--{service}-address=127.0.0.1" in flags
        assert f"--{service}-port={port}" in flags
    assert "--exit-timeout-secs=7" in flags


def test_a_service_that_is_not_wanted_is_turned_off_and_extra_flags_come_last(
    repository: Path,
) -> None:
    extra = options(repository, wanted_ports={"grpc": 0}, extra_args=("--log-verbose=1",))
    flags = extra.arguments("name", "name-", {"grpc": 1})
    assert flags[-3:] == ["--allow-http=false", "--allow-metrics=false", "--log-verbose=1"]


def test_models_that_are_chosen_are_loaded_and_no_other(repository: Path) -> None:
    flags = options(repository, models=("model",)).arguments("name", "name-", {})

    assert flags[-2:] == ["--model-control-mode=explicit", "--load-model=model"]
    with pytest.raises(ServerStartError, match="holds no model 'other'"):
        options(repository, models=("model", "other"))


@pytest.mark.parametrize(
    ("host", "client_host"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("box", "box")],
)
def test_a_client_on_this_machine_gets_an_address_it_can_use(
    repository: Path, host: str, client_host: str
) -> None:
    assert options(repository, host=host).client_host == client_host


def test_a_folder_that_is_no_model_repository_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path, reason in (
        (tmp_path / "nowhere", "nowhere does not exist"),
        (file, "file is not a folder"),
        (tmp_path, "holds no model folder"),
    ):
        with pytest.raises(ServerStartError, match=reason):
            TritonServer(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"start_timeout_s": 0.0}, "must be positive"),
        ({"exit_timeout_s": -1.0}, "must be positive"),
        ({"wanted_ports": {"metrics": 0}}, "needs gRPC, HTTP or both"),
        ({"extra_args": ("--http-port=1",)}, "--http-port=1: use the argument"),
    ],
)
def test_arguments_that_cannot_work_are_refused(
    repository: Path, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(ServerStartError, match=reason):
        options(repository, **changes)


def test_free_ports_are_distinct_and_can_be_bound() -> None:
    ports = resolve_ports("127.0.0.1", dict.fromkeys(SERVICES, 0))
    assert list(ports) == list(SERVICES)
    assert len(set(ports.values())) == 3
    assert all(is_free("127.0.0.1", port) for port in ports.values())


def test_a_port_that_cannot_be_bound_is_named_with_its_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_free("127.0.0.1", port)
        with pytest.raises(ServerStartError, match=f"grpc on port {port}.*already in use"):
            resolve_ports("127.0.0.1", {"grpc": port})
    with pytest.raises(ServerStartError, match="http on port 70000"):
        resolve_ports("127.0.0.1", {"http": 70000})
    with pytest.raises(ServerStartError, match=r"port 0 of no-such-host\.invalid"):
        resolve_ports("no-such-host.invalid", {"http": 0})


def test_two_services_cannot_share_a_port() -> None:
    port = resolve_ports("127.0.0.1", {"grpc": 0})["grpc"]
    with pytest.raises(ServerStartError, match="already in use"):
        resolve_ports("127.0.0.1", {"grpc": port, "http": port})


def test_nothing_at_a_port_is_not_ready() -> None:
    port = resolve_ports("127.0.0.1", {"grpc": 0})["grpc"]
    url = f"127.0.0.1:{port}"
    assert not is_ready("name", grpc_url=None, http_url=url, metrics_url=None)
    assert not is_ready("name", grpc_url=url, http_url=None, metrics_url=None)


def test_a_tritonserver_on_the_path_comes_first_and_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "tritonserver"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_installation()
    assert found == Installation(binary)
    assert found.prepare(tmp_path) == ([], dict(os.environ))


def test_the_wheel_is_recognised_by_its_binary_too() -> None:
    by_default = find_installation()
    assert by_default.wheel is not None
    assert find_installation(by_default.binary) == by_default


def test_the_tritonserver_of_the_wheel_sees_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    _, environment = find_installation().prepare(tmp_path)

    assert environment["CUDA_VISIBLE_DEVICES"] == ""  # KIND_AUTO stays with the CPU


def test_a_server_that_was_not_started_says_so(repository: Path) -> None:
    server = TritonServer(repository)
    server.stop()
    with pytest.raises(ServerError, match="has not been started"):
        server.log_tail()
    with pytest.raises(ServerError, match="does not serve grpc"):
        _ = server.grpc_url


def test_the_repository_in_the_current_folder_comes_before_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_repository() == root / "model_repository"
    (tmp_path / "model_repository").mkdir()
    assert default_repository() == Path("model_repository")


def test_the_help_of_serve_shows_how_to_pass_flags_on() -> None:
    result = CliRunner().invoke(serve, ["--help"])
    assert result.exit_code == 0
    assert "\n    rt4ksr serve --grpc-port 9001 -- --log-verbose=1\n" in result.output


def test_a_bad_repository_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    command = "from rt4ksr_client.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", command, "serve", f"--model-repository={tmp_path / 'nowhere'}"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"rt4ksr: error: model repository {tmp_path / 'nowhere'} does not exist\n"
    )
