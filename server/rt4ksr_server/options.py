"""What a server is asked to do, and the tritonserver command line that says so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rt4ksr_client.contract import PictureParameter
from rt4ksr_client.errors import ServerStartError

__all__ = ["SERVICES", "ServerOptions", "default_repository", "shipped_repository"]

SERVICES: Final = ("grpc", "http", "metrics")

# One 1080p frame and its 4K answer take 31.1 MB of a model instance's shared memory region. It
# starts this large and grows by as much; two such regions still fit in Docker's 64 MB /dev/shm.
_REGION_BYTES: Final = 32 * 1024 * 1024 - 4096
# What a request to the image endpoint may say in a header, where its body is the picture itself.
_FORWARDED_HEADERS: Final = f"(?i)({PictureParameter.FORMAT}|{PictureParameter.QUALITY})"
_REPOSITORY: Final = "model_repository"
_OWN_FLAGS: Final = frozenset(
    ["--model-repository", "--model-store", "--exit-timeout-secs", "--id"]
    + [f"--{word}-{what}" for word in SERVICES for what in ("port", "address")]
    + [f"--allow-{word}" for word in SERVICES]
)


@dataclass(frozen=True)
class ServerOptions:
    """The validated arguments of :class:`~rt4ksr_server.TritonServer`.

    Raises :class:`ServerStartError` for a folder that is no model repository, for timeouts that
    are not positive, when no service is left, and for an extra flag that is an argument already.
    """

    model_repository: Path
    host: str
    wanted_ports: Mapping[str, int]
    start_timeout_s: float
    exit_timeout_s: float
    extra_args: tuple[str, ...]
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what tritonserver would refuse later and less clearly."""
        _check_repository(self.model_repository)
        if self.start_timeout_s <= 0 or self.exit_timeout_s <= 0:
            raise ServerStartError("start_timeout_s and exit_timeout_s must be positive")
        if not {"grpc", "http"} & set(self.wanted_ports):
            raise ServerStartError("a server needs gRPC, HTTP or both")
        for name in self.models:
            if not (self.model_repository / name).is_dir():
                raise ServerStartError(f"{self.model_repository} holds no model {name!r}")
        for flag in self.extra_args:
            if flag.partition("=")[0] in _OWN_FLAGS:
                raise ServerStartError(f"{flag}: use the argument of TritonServer for this")

    @property
    def client_host(self) -> str:
        """The address a client on this machine uses, in the form that goes before ``:port``."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"[{host}]" if ":" in host else host

    def arguments(self, server_id: str, region_prefix: str, ports: Mapping[str, int]) -> list[str]:
        """Return the tritonserver flags for a server on ``ports``.

        Every flag exists since release 24.10; ``region_prefix`` starts the names of the shared
        memory regions between tritonserver and its Python backend.
        """
        flags = [
            f"--id={server_id}",
            f"--model-repository={self.model_repository}",
            f"--exit-timeout-secs={max(1, round(self.exit_timeout_s))}",
            f"--backend-config=python,shm-region-prefix-name={region_prefix}",
            f"--backend-config=python,shm-default-byte-size={_REGION_BYTES}",
            f"--backend-config=python,shm-growth-byte-size={_REGION_BYTES}",
        ]
        if "http" in ports:
            flags.append(f"--http-header-forward-pattern={_FORWARDED_HEADERS}")
        for service in SERVICES:
            if service in ports:
                flags += [f"--{service}-address={self.host}", f"--{service}-port={ports[service]}"]
            else:
                flags.append(f"--allow-{service}=false")
        if self.models:
            flags.append("--model-control-mode=explicit")
            flags += [f"--load-model={name}" for name in self.models]
        return [*flags, *self.extra_args]


def _check_repository(path: Path) -> None:
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise ServerStartError(f"model repository {path} {what}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ServerStartError(f"model repository {path} cannot be read")
    if not any(entry.is_dir() for entry in path.iterdir()):
        raise ServerStartError(f"model repository {path} holds no model folder")


def default_repository() -> Path:
    """Return ``model_repository`` in the current folder, else the one this project ships."""
    here = Path(_REPOSITORY)
    return here if here.is_dir() else shipped_repository()


def shipped_repository() -> Path:
    """Return the ``model_repository`` that came with this package, installed or in a checkout."""
    package = Path(__file__).parent
    installed, checkout = package / _REPOSITORY, package.parents[1] / _REPOSITORY
    return installed if installed.is_dir() else checkout
