"""The options of a server, the tritonserver command line they stand for, and its repository."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rt4ksr_client.contract import PictureParameter
from rt4ksr_client.errors import ServerStartError
from rt4ksr_server.device import DEVICES, DeviceName
from rt4ksr_server.services import SERVICES, address_flag
from rt4ksr_server.supervisor import SHARED_MEMORY_DIRECTORY

__all__ = ["ServerOptions", "default_repository", "shipped_repository"]

# One 1080p frame and its 4K answer take 31.1 MB of a model instance's shared memory region. It
# starts this large and grows by as much. Where /dev/shm is small, as in Docker, it starts small and
# grows by what a frame takes.
REGION_BYTES: Final = 32 * 1024 * 1024 - 4096
SMALL_REGION_BYTES: Final = 1024 * 1024
AMPLE_BYTES: Final = 512 * 1024 * 1024
REPOSITORY: Final = "model_repository"
OWN_FLAGS: Final = frozenset(
    ["--model-repository", "--model-store", "--exit-timeout-secs", "--id"]
    + [f"--{service}-{what}" for service in SERVICES for what in ("port", "address")]
    + [f"--allow-{service}" for service in SERVICES]
)
"""Flags that are arguments of TritonServer."""


@dataclass(frozen=True)
class ServerOptions:
    """The validated arguments of :class:`~rt4ksr_server.TritonServer`; ``host`` is numeric.

    Raises:
        ServerStartError: a folder that is not a model repository, a timeout that is not positive,
            no service to serve, an unknown device, or an extra flag that is an argument already.

    """

    model_repository: Path
    host: str
    wanted_ports: Mapping[str, int]
    start_timeout_s: float
    exit_timeout_s: float
    extra_args: tuple[str, ...]
    models: tuple[str, ...] = ()
    device: DeviceName = "auto"

    def __post_init__(self) -> None:
        """Reject what tritonserver would reject later and less clearly."""
        repository = self.model_repository
        if not repository.is_dir():
            what = "is not a folder" if repository.exists() else "does not exist"
            raise ServerStartError(f"model repository {repository} {what}: name a folder of models")
        if not os.access(repository, os.R_OK | os.X_OK):
            raise ServerStartError(f"model repository {repository} cannot be read by this user")
        folders = sorted(entry.name for entry in repository.iterdir() if entry.is_dir())
        if not folders:
            raise ServerStartError(
                f"model repository {repository} holds no model folder: make one with rt4ksr export"
            )
        for name in self.models:
            if name not in folders:
                raise ServerStartError(
                    f"{repository} holds no model {name!r}: choose from {', '.join(folders)}"
                )
        if self.start_timeout_s <= 0 or self.exit_timeout_s <= 0:
            raise ServerStartError("start_timeout_s and exit_timeout_s must be positive")
        if self.device not in DEVICES:
            raise ServerStartError(f"device {self.device!r}: choose from {', '.join(DEVICES)}")
        if not {"grpc", "http"} & set(self.wanted_ports):
            raise ServerStartError("a server needs gRPC, HTTP or both: give a port for one of them")
        for flag in self.extra_args:
            if flag.partition("=")[0] in OWN_FLAGS:
                raise ServerStartError(f"{flag}: use the argument of TritonServer for this")
            if flag.startswith("--grpc-use-ssl") and "http" not in self.wanted_ports:
                raise ServerStartError(
                    f"{flag}: give an HTTP port, too, to ask whether it is ready"
                )

    def arguments(
        self,
        server_id: str,
        region_prefix: str,
        ports: Mapping[str, int],
        known_flags: Container[str] = (),
    ) -> list[str]:
        """Return the tritonserver flags for a server on ``ports``.

        ``known_flags`` are those that it knows; the others here exist since release 24.10.
        ``region_prefix`` starts the names of the shared memory regions between tritonserver and its
        Python backend.
        """
        region_bytes = REGION_BYTES if has_ample_shared_memory() else SMALL_REGION_BYTES
        flags = [
            f"--id={server_id}",
            f"--model-repository={self.model_repository}",
            f"--exit-timeout-secs={max(1, round(self.exit_timeout_s))}",
            f"--backend-config=python,shm-region-prefix-name={region_prefix}",
            f"--backend-config=python,shm-default-byte-size={region_bytes}",
            f"--backend-config=python,shm-growth-byte-size={region_bytes}",
            # By default, gRPC keeps eight requests with their answers as large as they ever were.
            "--grpc-infer-allocation-pool-size=0",
        ]
        # From 26.04 on, clients get no shared memory by default. Those of other machines must not:
        # they could name regions of this one.
        if "allow-client-shm" in known_flags and ipaddress.ip_address(self.host).is_loopback:
            flags.append("--allow-client-shm=true")
        if "http" in ports:
            flags.append(f"--http-header-forward-pattern={PictureParameter.HEADERS}")
        for service in SERVICES:
            if service in ports:
                flags += [address_flag(service, self.host), f"--{service}-port={ports[service]}"]
            else:
                flags.append(f"--allow-{service}=false")
        if self.models:
            flags.append("--model-control-mode=explicit")
            flags += [f"--load-model={name}" for name in self.models]
        return [*flags, *self.extra_args]

    @property
    def network_count(self) -> int:
        """How many models with a graph are loaded, at least one."""
        names = self.models or [entry.name for entry in self.model_repository.iterdir()]
        return max(1, sum(any((self.model_repository / n).glob("*/*.onnx")) for n in names))


def has_ample_shared_memory() -> bool:
    """Return whether /dev/shm has room for regions of the usual size of all models."""
    try:
        found = os.statvfs(SHARED_MEMORY_DIRECTORY)
    except OSError:
        return False
    is_unlimited = found.f_blocks == 0
    return is_unlimited or found.f_bavail * found.f_frsize >= AMPLE_BYTES


def default_repository() -> Path:
    """Return ``model_repository`` in the current folder, otherwise the one this project ships."""
    here = Path(REPOSITORY)
    return here if here.is_dir() else shipped_repository()


def shipped_repository() -> Path:
    """Return the ``model_repository`` that came with this package, installed or in a checkout."""
    package = Path(__file__).parent
    installed, checkout = package / REPOSITORY, package.parents[1] / REPOSITORY
    return installed if installed.is_dir() else checkout
