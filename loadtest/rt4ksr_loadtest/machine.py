"""Facts about the machine that makes the load, and the server that bears it."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil

from rt4ksr_client.connection import Connection, TransportName
from rt4ksr_client.errors import ServerError
from rt4ksr_client.status import ServerStatus, read_status
from rt4ksr_client.transports import Transport, open_transport
from rt4ksr_loadtest.options import LoadOptions
from rt4ksr_loadtest.result import Machine

__all__ = ["machine_facts", "open_control", "server_facts"]

PACKAGES: Final = ("rt4ksr-triton", "locust", "gevent", "tritonclient", "grpcio", "numpy")
TIMEOUT_S: Final = 5.0


def server_facts(options: LoadOptions) -> ServerStatus:
    """Ask the first server of the address what it is.

    Raises:
        ServerError: no answer.

    """
    with open_control(options.url.split(",")[0].strip()) as transport:
        return read_status(transport, timeout_s=TIMEOUT_S)


def open_control(address: str) -> Transport:
    """Return a way to ask one server questions, without shared memory."""
    protocol: TransportName = "http" if address.startswith("http://") else "grpc"
    return open_transport(Connection(address, protocol))


def machine_facts(options: LoadOptions, server_on_this_host: bool) -> Machine:
    """Return them; a server that is gone by now says nothing."""
    try:
        server = server_facts(options)
    except ServerError:
        version, weights = "not known", {}
    else:
        version = server.version  # its name is made up anew at each start
        weights = {
            model.name: model.served.weights_sha256
            for model in server.models
            if model.served is not None and model.name in options.shares
        }
    return Machine(
        generator_cpu=_cpu_name(),
        generator_cores=psutil.cpu_count() or 1,
        generator_memory_bytes=psutil.virtual_memory().total,
        generator_system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in PACKAGES},
        server_version=version,
        server_on_this_host=server_on_this_host,
        model_weights_sha256=weights,
        gpus=(),
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
