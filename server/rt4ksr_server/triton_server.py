"""A real tritonserver as a context manager."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from rt4ksr_client.errors import ServerError, ServerStartError
from rt4ksr_server.installation import find_installation
from rt4ksr_server.options import SERVICES, ServerOptions
from rt4ksr_server.ports import is_free, resolve_ports
from rt4ksr_server.process import SupervisedProcess
from rt4ksr_server.readiness import is_ready

__all__ = ["TritonServer"]

_ATTEMPTS: Final = 3
_POLL_INTERVAL_S: Final = 0.05
_SHOWN_LINES: Final = 30
_HELP: Final = "Usage: tritonserver"
_UNTELLING: Final = re.compile(r"I\d{4} |[|+]|Error: Failed to initialize NVML")


class TritonServer:
    """Runs tritonserver on ``model_repository`` for the duration of the ``with`` block.

    On exit, requests in flight get up to ``exit_timeout_s`` seconds to finish. Nothing outlives the
    program that started the server, even if that program is killed: no process, no shared memory,
    no temporary file.

    Examples:
        >>> with TritonServer("model_repository") as server:  # doctest: +SKIP
        ...     Upscaler(server.grpc_url, scale=2).upscale(picture)

    Args:
        model_repository: folder of models.
        models: names of the models to load; default: all. With names given, tritonserver also
            loads other models of the repository on request.
        host: address to bind.
        grpc_port: 0 chooses a free port; None turns the service off.
        http_port: likewise.
        metrics_port: likewise.
        binary: the tritonserver to run; default: the one on PATH, otherwise the one in the
            ``nvidia-pytriton`` wheel, which needs each model's ``config.pbtxt`` to be complete
            (inputs, outputs and backend).
        start_timeout_s: seconds until every model must be ready.
        exit_timeout_s: seconds that requests in flight get to finish.
        extra_args: further tritonserver flags.
        log: called with each line of the server's log, from another thread.

    Raises:
        ServerStartError: it did not become ready in time, with the last lines of its log; or
            arguments that cannot work.

    """

    def __init__(
        self,
        model_repository: str | os.PathLike[str],
        *,
        models: Sequence[str] = (),
        host: str = "127.0.0.1",
        grpc_port: int | None = 0,
        http_port: int | None = 0,
        metrics_port: int | None = 0,
        binary: str | os.PathLike[str] | None = None,
        start_timeout_s: float = 120.0,
        exit_timeout_s: float = 10.0,
        extra_args: Sequence[str] = (),
        log: Callable[[str], None] | None = None,
    ) -> None:
        wanted = zip(SERVICES, (grpc_port, http_port, metrics_port), strict=True)
        self._options = ServerOptions(
            model_repository=Path(model_repository).absolute(),
            host=host,
            wanted_ports={service: port for service, port in wanted if port is not None},
            start_timeout_s=start_timeout_s,
            exit_timeout_s=exit_timeout_s,
            extra_args=tuple(extra_args),
            models=tuple(models),
        )
        self._binary = binary
        self._log = log
        self._ports: Mapping[str, int] = {}
        self._process: SupervisedProcess | None = None

    def start(self) -> TritonServer:
        """Start it and wait until every model is ready. What ``with`` does."""
        if self._process is not None:
            raise ServerStartError("this TritonServer is running already")
        deadline_s = time.monotonic() + self._options.start_timeout_s
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                self._start_once(deadline_s)
                break
            except ServerStartError:
                if not attempts_left or not self._lost_a_port():
                    raise
        return self

    def stop(self) -> None:
        """Drain and end it; nothing is left when this returns. Stopping twice is harmless."""
        if self._process is not None:
            self._process.stop()

    def wait(self) -> None:
        """Wait until it ends by itself, and raise :class:`ServerError` with its last lines."""
        process = self._running()
        raise ServerError(f"tritonserver ended {_end_of(process, process.wait())}")

    def __enter__(self) -> TritonServer:
        """Start it."""
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()

    @property
    def grpc_url(self) -> str:
        """``host:port`` for gRPC clients."""
        return self._url("grpc")

    @property
    def http_url(self) -> str:
        """``host:port`` for HTTP clients, without ``http://``."""
        return self._url("http")

    @property
    def metrics_url(self) -> str:
        """``host:port`` of the Prometheus metrics; their path is ``/metrics``."""
        return self._url("metrics")

    @property
    def pid(self) -> int:
        """Process id of tritonserver itself."""
        return self._running().pid

    def log_tail(self, lines: int = _SHOWN_LINES) -> str:
        """Return the last lines of the log, also after the end."""
        return "\n".join(self._running().tail()[-lines:])

    def _running(self) -> SupervisedProcess:
        if self._process is None:
            raise ServerError("this TritonServer has not been started")
        return self._process

    def _url(self, service: str) -> str:
        if service not in self._ports:
            raise ServerError(f"this TritonServer does not serve {service}")
        return f"{self._options.client_host}:{self._ports[service]}"

    def _start_once(self, deadline_s: float) -> None:
        options = self._options
        name = f"rt4ksr-{uuid.uuid4().hex}"
        self._ports = resolve_ports(options.host, options.wanted_ports)
        self._process = SupervisedProcess(
            find_installation(self._binary),
            options.arguments(name, f"{name}-", self._ports),
            ports=self._ports,
            region_prefix=f"{name}-",
            exit_timeout_s=options.exit_timeout_s,
            log=self._log,
        )
        with contextlib.ExitStack() as undo:
            undo.callback(self._give_up)
            self._wait_until_ready(self._process, name, deadline_s)
            undo.pop_all()

    def _give_up(self) -> None:
        self.stop()
        self._process = None

    def _wait_until_ready(self, process: SupervisedProcess, name: str, deadline_s: float) -> None:
        urls = {
            f"{service}_url": self._url(service) if service in self._ports else None
            for service in SERVICES
        }
        while not is_ready(name, **urls):
            status = process.poll()
            if status is not None:
                process.wait()
                raise ServerStartError(f"tritonserver ended {_end_of(process, status)}")
            if time.monotonic() > deadline_s:
                timeout_s = self._options.start_timeout_s
                raise ServerStartError(
                    f"tritonserver was not ready within {timeout_s:g} s{_last_lines(process)}"
                )
            time.sleep(_POLL_INTERVAL_S)

    def _lost_a_port(self) -> bool:
        """Whether a port chosen by us was taken between the choice and tritonserver's bind."""
        return any(
            self._options.wanted_ports[service] == 0 and not is_free(self._options.host, port)
            for service, port in self._ports.items()
        )


def _end_of(process: SupervisedProcess, status: int) -> str:
    return f"with status {status}{_last_lines(process)}"


def _last_lines(process: SupervisedProcess) -> str:
    # What went wrong is rarely among the tables, the notices and the help that follow it.
    tail = list(itertools.takewhile(lambda line: not line.startswith(_HELP), process.tail()))
    telling = [line for line in tail if line and not _UNTELLING.match(line)]
    lines = (telling or tail)[-_SHOWN_LINES:]
    return "; its last lines:\n" + "\n".join(lines) if lines else ", without a word"
