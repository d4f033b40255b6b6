"""The server a command talks to: the one at an address, or one that runs for the call only."""

from __future__ import annotations

import dataclasses
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal

import click

from rt4ksr_client.connection import Connection
from rt4ksr_client.contract import DEFAULT_MODELS, MODELS, Colours, image_endpoint
from rt4ksr_client.errors import (
    MissingExtraError,
    ModelNotReadyError,
    Rt4ksrError,
    ServerStartError,
    ServerUnreachableError,
)
from rt4ksr_client.model_choice import AUTO
from rt4ksr_client.security import DEFAULT_SECURITY
from rt4ksr_client.upscaler import DEFAULT_SCALE, Upscaler

__all__ = [
    "Models",
    "ServerChoice",
    "StartPolicy",
    "can_start_server",
    "is_listening",
    "local_server",
]

INSTALL_SERVER = "pip install 'rt4ksr-triton[server]'"

StartPolicy = Literal["never", "if_absent", "always"]
"""When a command starts a server of its own; ``if_absent``: when nothing listens at the URL."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ServerChoice:
    """The server that the options of a command ask for.

    ``model`` is a model asked for by name; None leaves the choice to the command.
    """

    connection: Connection
    model: str | None = None
    start: StartPolicy = "never"

    @contextmanager
    def running(self, models: Sequence[str] = ()) -> Iterator[Connection]:
        """Yield the way to a running server, started for the block if :attr:`start` says so.

        A server that is started loads ``models`` only. Default: all of its repository.

        Raises:
            ServerUnreachableError: there is no server, and none can be started.
            ServerStartError: the server did not become ready.

        """
        url = self.connection.url
        if self.start == "never" or (self.start == "if_absent" and is_listening(url)):
            yield self.connection
            return
        if self.start == "if_absent":
            if not can_start_server():
                raise ServerUnreachableError(
                    f"no Triton server answers at {url}: give the address of a running one with "
                    f"--url, or let this command start one: {INSTALL_SERVER}"
                )
            click.echo(f"rt4ksr: no server at {url}: starting one for this call", err=True)
        if self.connection.wire != "raw":
            models = [*models, *map(image_endpoint, models)]
        with local_server(models=models) as url:
            yield dataclasses.replace(self.connection, url=url, security=DEFAULT_SECURITY)

    @contextmanager
    def models(
        self, names: Sequence[str], scale: int | None, colours: Colours | None = "rgb"
    ) -> Iterator[Models]:
        """Yield the models ``names``, or the one asked for with ``--model`` instead.

        The server is contacted, or started, when a model is first used. A ``scale`` that is not
        None is checked against the models', and so are their ``colours``.
        """
        names = [self.model] if self.model else names
        with ExitStack() as stack:

            def connect() -> list[Upscaler]:
                connection = stack.enter_context(self.running(names))
                return [
                    stack.enter_context(_open_upscaler(connection, scale, name)) for name in names
                ]

            yield Models(connect, colours)

    @contextmanager
    def picture_models(self, scales: Sequence[int], scale: int | None) -> Iterator[Models]:
        """Yield upscalers that choose a model by picture, one for each of ``scales``.

        Or the one for ``--model``. Otherwise as :meth:`models`.
        """
        if self.model:
            with self.models([], scale) as models:
                yield models
            return
        names = [s.name for s in MODELS.values() if s.scale in scales and s.colours == "rgb"]
        with ExitStack() as stack:

            def connect() -> list[Upscaler]:
                connection = stack.enter_context(self.running(names))
                return [
                    stack.enter_context(_open_upscaler(connection, one, AUTO)) for one in scales
                ]

            yield Models(connect, "rgb")

    @contextmanager
    def observer(self) -> Iterator[Upscaler]:
        """Yield an upscaler to ask about the server; a server that is started loads all models."""
        name = self.model or DEFAULT_MODELS[DEFAULT_SCALE].name
        with self.running() as connection, _open_upscaler(connection, None, name) as upscaler:
            yield upscaler


class Models:
    """The models a command may use, in order of preference; those the server lacks are skipped.

    May be shared between threads after the first use.
    """

    def __init__(self, connect: Callable[[], Sequence[Upscaler]], colours: Colours | None) -> None:
        self._connect = connect
        self._colours = colours

    @cached_property
    def upscalers(self) -> Sequence[Upscaler]:
        """One for each model, whether the server has it or not."""
        return self._connect()

    @cached_property
    def first(self) -> Upscaler:
        """The upscaler of the first model that the server has; asked once.

        Raises:
            ModelNotReadyError: the server has none of the models.
            PictureError: a model takes frames of other colours.
            ServerError: no answer.

        """
        return next(self.served())

    @cached_property
    def by_scale(self) -> Mapping[int, Upscaler]:
        """Every model that the server has, by its scale; asked once.

        Raises:
            ModelNotReadyError: the server has none of the models.
            PictureError: a model takes frames of other colours.
            ServerError: no answer.

        """
        return {upscaler.served_model.scale: upscaler for upscaler in self.served()}

    def served(self) -> Iterator[Upscaler]:
        """Yield the upscaler of every model that the server has.

        Raises:
            ModelNotReadyError: the server has none of the models.
            PictureError: a model takes frames of other colours.
            ServerError: no answer.

        """
        found, missing = False, None
        for upscaler in self.upscalers:
            try:
                served = upscaler.fetch_served_model()
            except ModelNotReadyError as exc:
                logger.info("skipped a model: %s", exc)
                missing = exc
            else:
                if self._colours is not None:
                    served.check_takes(self._colours)
                found = True
                yield upscaler
        if missing is not None and not found:
            raise missing


@contextmanager
def local_server(model_repository: Path | None = None, models: Sequence[str] = ()) -> Iterator[str]:
    """Start a tritonserver on this machine, yield its gRPC address, stop it.

    Args:
        model_repository: default: ``./model_repository``, else the one shipped with this package.
        models: names of the models to load; those that the repository lacks are skipped. Default:
            all.

    Raises:
        MissingExtraError: the ``server`` extra is not installed.
        ServerStartError: it has none of ``models``, or did not become ready.

    """
    try:
        from rt4ksr_server import TritonServer, default_repository
    except ModuleNotFoundError as exc:
        raise MissingExtraError(
            f"--local needs {exc.name}: {INSTALL_SERVER}, or run without --local against a server"
        ) from exc
    repository = model_repository or default_repository()
    found = [name for name in models if (repository / name).is_dir()]
    with TritonServer(repository, models=found or models) as server:
        logger.info(
            "started tritonserver at %s with %s on %s", server.grpc_url, repository, server.device
        )
        yield server.grpc_url


def can_start_server() -> bool:
    """Whether a tritonserver is installed: by the ``server`` extra, or on PATH."""
    try:
        from rt4ksr_server.installation import Installation

        Installation.find()
    except (ModuleNotFoundError, ServerStartError):
        return False
    return True


def is_listening(url: str) -> bool:
    """Whether something accepts connections at ``host:port``."""
    host, _, port = url.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except ConnectionRefusedError:
        return False
    except OSError:
        return True  # a server may be there; connecting for the request says what is wrong


def _open_upscaler(connection: Connection, scale: int | None, model: str) -> Upscaler:
    try:
        return Upscaler.from_connection(connection, scale=scale, model=model)
    except ValueError as exc:
        raise Rt4ksrError(str(exc)) from exc
