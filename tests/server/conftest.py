from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2

from rt4ksr_client import Upscaler
from rt4ksr_client.contract import DEFAULT_MODELS, MODELS, ModelSpec, auto_endpoint
from rt4ksr_export.repository import auto_files, publish
from rt4ksr_server import TritonServer
from support.entrypoint import KEY, NEWER, OWN, container_flags
from support.nearest_models import add_endpoints
from support.servers import (
    ConfigEdit,
    RepositoryFactory,
    ServerFactory,
    ServerPool,
    write_nearest_repository,
)
from support.tls import TOKEN, Authority, Gateway, gateway_to


def batches_of_two(config: model_config_pb2.ModelConfig) -> None:
    config.max_batch_size = 2


@pytest.fixture(scope="session")
def nearest_repository(tmp_path_factory: pytest.TempPathFactory) -> RepositoryFactory:
    """Write repositories: ``nearest_repository()``, ``nearest_repository(specs, edit=...)``."""

    def write(
        specs: Iterable[ModelSpec] = DEFAULT_MODELS.values(),
        *,
        edit: ConfigEdit = lambda config: None,
    ) -> Path:
        folder = tmp_path_factory.mktemp("repository")
        write_nearest_repository(folder, specs, edit)
        return folder

    return write


@pytest.fixture(scope="session")
def server_with() -> Iterator[ServerFactory]:
    """Lend a running server: ``with server_with(nearest_repository([X2])) as server:``.

    Tests with equal repositories and flags share one. For a server that the test stops, kills or
    starts on a given port, use ``TritonServer``.
    """
    with ServerPool() as pool:
        yield pool.lend


@pytest.fixture(scope="module")
def nearest_server(
    server_with: ServerFactory, nearest_repository: RepositoryFactory
) -> Iterator[TritonServer]:
    """A running server with the default model of each scale."""
    with server_with(nearest_repository()) as server:
        yield server


@pytest.fixture(scope="module")
def endpoint_server(
    server_with: ServerFactory, nearest_repository: RepositoryFactory
) -> Iterator[TritonServer]:
    """A running server with the image endpoint of each default model, and one that chooses."""
    repository = nearest_repository(edit=batches_of_two)
    add_endpoints(repository, [spec.name for spec in DEFAULT_MODELS.values()])
    publish(auto_files(2), repository, auto_endpoint(2))
    with server_with(repository) as server:
        yield server


@pytest.fixture(scope="module")
def production(
    server_with: ServerFactory, nearest_repository: RepositoryFactory, production_flags: list[str]
) -> Iterator[TritonServer]:
    """A running server with the flags of the container, and ``entrypoint.KEY``."""
    repository = nearest_repository(edit=batches_of_two)
    add_endpoints(repository, ["rt4ksr_x2"])
    with server_with(repository, extra_args=production_flags) as server:
        yield server


@pytest.fixture(scope="session")
def production_flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of the container as this machine's tritonserver takes them."""
    folder = tmp_path_factory.mktemp("entrypoint")
    (folder / "key").write_text(KEY)
    flags = container_flags(folder, env={"RT4KSR_ADMIN_KEY_FILE": str(folder / "key")})
    return [f"--{name}={value}" for name, value in flags.items() if name not in OWN | NEWER]


@pytest.fixture(scope="module")
def video_server(
    server_with: ServerFactory, nearest_repository: RepositoryFactory
) -> Iterator[TritonServer]:
    """A running server with the nearest-neighbour models for video, of 8 and 16 bits."""
    specs = [spec for spec in MODELS.values() if spec.content == "video"]
    with server_with(nearest_repository(specs)) as server:
        yield server


@pytest.fixture(scope="module")
def video_upscaler(video_server: TritonServer) -> Iterator[Upscaler]:
    """An x2 upscaler of video of 8 bits."""
    with Upscaler(video_server.grpc_url, model="rt4ksr_x2_video", timeout_s=30) as opened:
        yield opened


@pytest.fixture(scope="module")
def upscaler(nearest_server: TritonServer) -> Iterator[Upscaler]:
    """An x2 upscaler of the nearest-neighbour server."""
    with Upscaler(nearest_server.grpc_url, scale=2, timeout_s=30) as opened:
        yield opened


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority, which certified this host."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def gateway(nearest_server: TritonServer, authority: Authority) -> Iterator[Gateway]:
    """HTTPS, a path prefix, and a token that it asks for."""
    with gateway_to(
        nearest_server.http_url, authority, prefix="/sr", authorization=TOKEN
    ) as running:
        yield running


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "headers"
    file.write_text(f"authorization: {TOKEN}\n")
    return file
