from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from entrypoint_flags import KEY, NEWER, OWN, container_flags
from nearest_models import add_endpoints, nearest_config, nearest_graph, write_model
from tritonclient.grpc import model_config_pb2

from rt4ksr_client import Upscaler
from rt4ksr_client.contract import DEFAULT_MODELS, ModelSpec
from rt4ksr_server import TritonServer

RepositoryFactory = Callable[..., Path]


@pytest.fixture(scope="session")
def nearest_repository(tmp_path_factory: pytest.TempPathFactory) -> RepositoryFactory:
    """A factory of repositories: ``nearest_repository()``, ``nearest_repository(specs)``.

    ``edit`` may change each config before it is written.
    """

    def make(
        specs: Iterable[ModelSpec] = DEFAULT_MODELS.values(),
        *,
        edit: Callable[[model_config_pb2.ModelConfig], object] = lambda config: None,
    ) -> Path:
        repository = tmp_path_factory.mktemp("repository")
        for spec in specs:
            config = nearest_config(spec)
            edit(config)
            write_model(repository, config, nearest_graph(spec.scale))
        return repository

    return make


@pytest.fixture(scope="session")
def nearest_server(nearest_repository: RepositoryFactory) -> Iterator[TritonServer]:
    """A running server with the default model of each scale, shared by all tests."""
    with TritonServer(nearest_repository()) as server:
        yield server


@pytest.fixture(scope="session")
def endpoint_server(nearest_repository: RepositoryFactory) -> Iterator[TritonServer]:
    """A running server with the image endpoint of each default model, shared by all tests."""
    repository = nearest_repository(edit=lambda config: setattr(config, "max_batch_size", 2))
    add_endpoints(repository, [spec.name for spec in DEFAULT_MODELS.values()])
    with TritonServer(repository) as server:
        yield server


@pytest.fixture(scope="session")
def production(
    nearest_repository: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """A running server with the flags of the container, and ``entrypoint_flags.KEY``."""
    folder = tmp_path_factory.mktemp("entrypoint")
    (folder / "key").write_text(KEY)
    flags = container_flags(folder, env={"RT4KSR_ADMIN_KEY_FILE": str(folder / "key")})
    extra = [f"--{name}={value}" for name, value in flags.items() if name not in OWN | NEWER]
    repository = nearest_repository(edit=lambda config: setattr(config, "max_batch_size", 2))
    add_endpoints(repository, ["rt4ksr_x2"])
    with TritonServer(repository, extra_args=extra) as server:
        yield server


@pytest.fixture(scope="module")
def upscaler(nearest_server: TritonServer) -> Iterator[Upscaler]:
    """An x2 upscaler of the nearest-neighbour server."""
    with Upscaler(nearest_server.grpc_url, scale=2, timeout_s=30) as opened:
        yield opened
