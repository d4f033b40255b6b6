"""A real tritonserver as a context manager."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from rt4ksr_client.errors import ServerError, ServerStartError
from rt4ksr_server.device import Device, DeviceName, device_of_binary, device_of_wheel
from rt4ksr_server.installation import Installation
from rt4ksr_server.options import ServerOptions
from rt4ksr_server.process import SupervisedProcess
from rt4ksr_server.services import SERVICES, Services, numeric_address

__all__ = ["TritonServer"]

ATTEMPTS: Final = 3
POLL_INTERVAL_S: Final = 0.05

logger = logging.getLogger(__name__)


class TritonServer:
    """A tritonserver that serves ``model_repository`` while the ``with`` block runs.

    >>> with TritonServer("model_repository") as server:  # doctest: +SKIP
    ...     Upscaler(server.grpc_url, scale=2).upscale(picture)

    Leaving the block (or :meth:`stop`) lets requests in flight finish for up to
    ``exit_timeout_s`` seconds, then ends them; with nothing in flight it takes less than a second.
    Nothing outlives the program that started it, not even if that program is killed: no process,
    no shared memory, no temporary file.

    Args:
        model_repository: a folder with one folder per model.
        models: names of the models to load; default: all. With names, anyone who can reach the
            server can load the others.
        host: the address to bind, IPv4 or IPv6, or a name of this machine. ``0.0.0.0`` (or ``::``)
            accepts connections from other machines.
        grpc_port: 0 picks a free port, None turns gRPC off.
        http_port: 0 picks a free port, None turns HTTP off.
        metrics_port: 0 picks a free port, None turns the Prometheus metrics off.
        binary: the tritonserver to run; default: the one on PATH, otherwise the one of the
            ``nvidia-pytriton`` wheel, which needs inputs, outputs and backend in each model's
            ``config.pbtxt``.
        device: ``cuda`` runs the networks on the first GPU, ``cpu`` on the CPU; ``auto`` falls back
            to the CPU where the GPU cannot be used, and :attr:`device` says why.
        start_timeout_s: how long it may take until every model is ready, in seconds.
        exit_timeout_s: how long requests in flight may take to finish at the end, in seconds.
        extra_args: further flags of tritonserver.
        log: gets each line of its log, from another thread.

    Raises:
        ServerStartError: an argument that cannot work.

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
        device: DeviceName = "auto",
        start_timeout_s: float = 120.0,
        exit_timeout_s: float = 10.0,
        extra_args: Sequence[str] = (),
        log: Callable[[str], object] | None = None,
    ) -> None:
        address = numeric_address(host)
        wanted = zip(SERVICES, (grpc_port, http_port, metrics_port), strict=True)
        self._options = ServerOptions(
            model_repository=Path(model_repository).absolute(),
            host=address,
            wanted_ports={service: port for service, port in wanted if port is not None},
            start_timeout_s=start_timeout_s,
            exit_timeout_s=exit_timeout_s,
            extra_args=tuple(extra_args),
            models=tuple(models),
            device=device,
        )
        self._device: Device | None = None
        self._binary = binary
        self._log = log
        self._services = Services(address, {})
        self._process: SupervisedProcess | None = None

    def start(self) -> TritonServer:
        """Start it and wait until every model is ready; ``with`` does so.

        A server that was stopped, or ended by itself, can be started again.

        Raises:
            ServerStartError: there is no tritonserver, a port is taken, the wanted GPU cannot be
                used, or it did not become ready in time; with the last lines of its log.

        """
        if self._process is not None and self._process.poll() is None:
            raise ServerStartError("this TritonServer is already running: stop it first")
        installation = Installation.find(self._binary)
        self._device = self._choose_device(installation)
        known_flags = installation.known_flags()
        deadline_s = time.monotonic() + self._options.start_timeout_s
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                self._start_once(installation, self._device, known_flags, deadline_s)
                break
            except ServerStartError:
                if not attempts_left or not self._services.lost_ports(self._options.wanted_ports):
                    raise
                logger.warning("Starting again: another program took a port that was free")
        return self

    def stop(self) -> None:
        """Drain and end it; nothing is left when this returns. Stopping twice is harmless."""
        if self._process is not None and self._process.poll() is None:
            start_s = time.monotonic()
            self._process.stop()
            logger.info("tritonserver stopped in %.1f s", time.monotonic() - start_s)

    def wait(self) -> None:
        """Wait until it ends by itself.

        Raises:
            ServerError: it did; with the last lines of its log.

        """
        process = self._started()
        status = process.wait()
        raise ServerError(f"tritonserver ended with status {status}{explained(process)}")

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
        return self._services.url("grpc")

    @property
    def http_url(self) -> str:
        """``host:port`` for HTTP clients, without ``http://``."""
        return self._services.url("http")

    @property
    def metrics_url(self) -> str:
        """``host:port`` of the Prometheus metrics; their path is ``/metrics``."""
        return self._services.url("metrics")

    @property
    def device(self) -> str:
        """What the networks run on, in words; for the CPU, why not on a GPU."""
        if self._device is None:
            raise ServerError("this TritonServer has not been started: call start(), or use with")
        return self._device.description

    @property
    def pid(self) -> int:
        """Process id of tritonserver itself."""
        return self._started().pid

    def log_tail(self, lines: int = 30) -> str:
        """Return the last lines of its log, also after its end."""
        return "\n".join(self._started().log.tail(lines))

    def _started(self) -> SupervisedProcess:
        if self._process is None:
            raise ServerError("this TritonServer has not been started: call start(), or use with")
        return self._process

    def _choose_device(self, installation: Installation) -> Device:
        options = self._options
        if installation.wheel is None:
            device = device_of_binary(options.device)
        else:
            device = device_of_wheel(options.device, options.network_count)
        logger.info("Networks run on: %s", device.description)
        return device

    def _start_once(
        self,
        installation: Installation,
        device: Device,
        known_flags: frozenset[str],
        deadline_s: float,
    ) -> None:
        options = self._options
        name = f"rt4ksr-{uuid.uuid4().hex}"
        self._process = None
        self._services = Services.on_free_ports(options.host, options.wanted_ports)
        process = SupervisedProcess.start(
            installation,
            # The last of a flag counts, and so the caller's own.
            [
                *device.flags,
                *options.arguments(name, f"{name}-", self._services.ports, known_flags),
            ],
            environment=device.environment,
            ports=self._services.ports,
            region_prefix=f"{name}-",
            exit_timeout_s=options.exit_timeout_s,
            log=self._log,
        )
        try:
            while not self._services.are_ready(name):
                status = process.poll()
                if status is not None:
                    process.wait()
                    raise ServerStartError(
                        f"tritonserver ended with status {status}{explained(process)}"
                    )
                if time.monotonic() > deadline_s:
                    raise ServerStartError(
                        f"tritonserver was not ready within {options.start_timeout_s:g} s: allow "
                        f"it more, or load fewer models{explained(process)}"
                    )
                time.sleep(POLL_INTERVAL_S)
        except BaseException:
            process.stop()
            raise
        self._process = process
        logger.info("tritonserver %d is ready: %s", process.pid, dict(self._services.ports))


def explained(process: SupervisedProcess) -> str:
    """Return the end of an error message: what the log says about the reason."""
    lines = process.log.explanation()
    return f"; its last lines:\n{lines}" if lines else ", without printing anything"
