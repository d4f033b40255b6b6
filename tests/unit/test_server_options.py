from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from rt4ksr_client.contract import MODELS
from rt4ksr_client.errors import ServerError, ServerStartError
from rt4ksr_server import TritonServer, default_repository
from rt4ksr_server.cli import serve
from rt4ksr_server.options import ServerOptions
from rt4ksr_server.services import SERVICES


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


@pytest.mark.parametrize(
    ("blocks", "free_mib", "region_bytes"),
    [(128 << 10, 600, 33550336), (128 << 10, 64, 1 << 20), (0, 0, 33550336)],
    ids=["ample", "small", "unlimited"],
)
def test_regions_of_models_start_small_where_shared_memory_is(
    repository: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, free_mib: int, region_bytes: int
) -> None:
    found = SimpleNamespace(f_blocks=blocks, f_bavail=free_mib << 8, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: found)

    flags = options(repository).arguments("name", "name-", {"grpc": 1})

    assert f"--backend-config=python,shm-default-byte-size={region_bytes}" in flags
    assert f"--backend-config=python,shm-growth-byte-size={region_bytes}" in flags


def test_every_service_is_bound_to_the_given_address_only(repository: Path) -> None:
    flags = options(repository).arguments("name", "name-", {"grpc": 1, "http": 2, "metrics": 3})
    for service, port in (("grpc", 1), ("http", 2), ("metrics", 3)):
        assert f"--{service}-address=127.0.0.1" in flags
        assert f"--{service}-port={port}" in flags
    assert "--exit-timeout-secs=7" in flags


def test_a_service_without_a_port_is_turned_off_and_extra_flags_come_last(
    repository: Path,
) -> None:
    extra = options(repository, wanted_ports={"grpc": 0}, extra_args=("--log-verbose=1",))
    flags = extra.arguments("name", "name-", {"grpc": 1})
    assert flags[-3:] == ["--allow-http=false", "--allow-metrics=false", "--log-verbose=1"]


@pytest.mark.parametrize(
    ("host", "known", "passed"),
    [
        ("127.0.0.1", {"allow-client-shm"}, True),
        ("::1", {"allow-client-shm"}, True),
        ("127.0.0.1", {"id"}, False),
        ("0.0.0.0", {"allow-client-shm"}, False),
    ],
)
def test_shared_memory_is_allowed_where_it_has_to_be_and_only_to_this_machine(
    repository: Path, host: str, known: set[str], passed: bool
) -> None:
    flags = options(repository, host=host).arguments("name", "name-", {"grpc": 1}, known)

    assert ("--allow-client-shm=true" in flags) == passed


def test_the_number_of_networks_counts_models_with_a_graph(root: Path) -> None:
    shipped = root / "model_repository"
    assert options(shipped).network_count == len(MODELS)
    assert options(shipped, models=("rt4ksr_x2", "rt4ksr_x3")).network_count == 2
    assert options(shipped, models=("rt4ksr_x2_image",)).network_count == 1


def test_only_the_chosen_models_are_loaded(repository: Path) -> None:
    flags = options(repository, models=("model",)).arguments("name", "name-", {})

    assert flags[-2:] == ["--model-control-mode=explicit", "--load-model=model"]
    with pytest.raises(ServerStartError, match="holds no model 'other'"):
        options(repository, models=("model", "other"))


def test_a_folder_that_is_not_a_model_repository_is_rejected_by_name(tmp_path: Path) -> None:
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
        (
            {"extra_args": ("--grpc-use-ssl=true",), "wanted_ports": {"grpc": 0}},
            "--grpc-use-ssl=true: give an HTTP port",
        ),
    ],
)
def test_arguments_that_cannot_work_are_rejected(
    repository: Path, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(ServerStartError, match=reason):
        options(repository, **changes)


def test_a_server_that_was_not_started_has_no_log_and_no_address(repository: Path) -> None:
    server = TritonServer(repository)
    server.stop()
    with pytest.raises(ServerError, match="has not been started"):
        server.log_tail()
    with pytest.raises(ServerError, match="does not serve grpc"):
        _ = server.grpc_url


def test_the_repository_in_the_current_folder_takes_precedence_over_the_shipped_one(
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


def test_a_bad_repository_is_an_error_of_one_line_without_a_traceback(tmp_path: Path) -> None:
    command = "from rt4ksr_client.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", command, "serve", f"--model-repository={tmp_path / 'nowhere'}"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"rt4ksr: error: model repository {tmp_path / 'nowhere'} does not exist: "
        "name a folder of models\n"
    )
