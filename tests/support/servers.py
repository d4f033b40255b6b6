"""Model repositories for tests, and running servers that tests with equal needs share."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tritonclient.grpc import model_config_pb2

from rt4ksr_client.contract import DEFAULT_MODELS, ModelSpec
from rt4ksr_server import TritonServer
from support.nearest_models import nearest_config, nearest_graph, write_model

ConfigEdit = Callable[[model_config_pb2.ModelConfig], object]


class RepositoryFactory(Protocol):
    """Writes a repository of nearest-neighbour models into a new folder and returns the folder.

    ``edit`` may change each config before it is written.
    """

    def __call__(
        self, specs: Iterable[ModelSpec] = DEFAULT_MODELS.values(), *, edit: ConfigEdit = ...
    ) -> Path: ...


class ServerFactory(Protocol):
    """Lends a running server that serves what ``repository`` holds; ``with`` gives it back.

    A test that asks for the contents, models and flags of an earlier one gets the same server. It
    may therefore not stop it, and sees the statistics that earlier tests left.
    """

    def __call__(
        self, repository: Path, *, models: Iterable[str] = (), extra_args: Iterable[str] = ()
    ) -> contextlib.AbstractContextManager[TritonServer]: ...


def write_nearest_repository(folder: Path, specs: Iterable[ModelSpec], edit: ConfigEdit) -> None:
    """Write a nearest-neighbour model for each of ``specs`` into ``folder``."""
    for spec in specs:
        config = nearest_config(spec)
        edit(config)
        write_model(folder, config, nearest_graph(spec))


def content_hash(folder: Path) -> str:
    """Return a hash of the paths and contents of all files in ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


@dataclass
class _Shared:
    server: TritonServer
    users: int = 0


class ServerPool:
    """Running servers by configuration; at most ``max_idle`` of them run with nobody using them.

    The least recently used idle server is stopped first. Use it as a context manager.
    """

    def __init__(self, max_idle: int = 3) -> None:
        self._max_idle = max_idle
        self._running: dict[object, _Shared] = {}  # the least recently used first

    @contextlib.contextmanager
    def lend(
        self, repository: Path, *, models: Iterable[str] = (), extra_args: Iterable[str] = ()
    ) -> Iterator[TritonServer]:
        """See :class:`ServerFactory`."""
        models, extra_args = tuple(models), tuple(extra_args)
        key = (content_hash(repository), models, extra_args)
        shared = self._running.pop(key, None)
        if shared is None or not is_running(shared.server):
            server = TritonServer(repository, models=models, extra_args=extra_args)
            shared = _Shared(server.start())
        self._running[key] = shared
        shared.users += 1
        try:
            yield shared.server
        finally:
            shared.users -= 1
            self._stop_idle(self._max_idle)

    def __enter__(self) -> ServerPool:
        """Return the pool itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop every idle server."""
        self._stop_idle(0)

    def _stop_idle(self, kept: int) -> None:
        idle = [key for key, shared in self._running.items() if not shared.users]
        for key in idle[: len(idle) - kept]:
            self._running.pop(key).server.stop()


def is_running(server: TritonServer) -> bool:
    """Whether the process of ``server`` is alive, and not a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
