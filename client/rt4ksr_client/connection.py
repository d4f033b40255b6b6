"""How to reach a server: the settings that every client, command and load test shares."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, Literal, get_args

from rt4ksr_client.contract import DEFAULT_PICTURE_FORMAT, PictureFormat

__all__ = [
    "DEFAULT_MAX_REQUEST_PX",
    "DEFAULT_TIMEOUT_S",
    "DEFAULT_URL",
    "Connection",
    "Endpoint",
    "TransportName",
    "WireName",
]

TransportName = Literal["auto", "grpc", "http", "shm", "cuda_shm"]
"""How requests reach the server; ``auto`` is decided at the first call."""

WireName = Literal["auto", "raw", "encoded"]
"""How frames travel: as raw pixels or as encoded pictures; ``auto`` is decided at the first
call."""

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 60.0

DEFAULT_MAX_REQUEST_PX = 2048 * 2048
"""Largest request, in pixels before upscaling: 12.6 MB, and 113 MB back at x3. Halos then cost 3 %
more pixels."""

_BY_SCHEME: Final[dict[str, tuple[TransportName, ...]]] = {
    "": ("auto", "grpc", "http", "shm", "cuda_shm"),
    "grpc": ("auto", "grpc", "shm", "cuda_shm"),
    "http": ("auto", "http"),
    "dns": ("auto", "grpc"),
}
"""Transports that fit a URL's scheme."""


@dataclass(frozen=True)
class Endpoint:
    """One server of a connection.

    ``address`` is ``host:port``, or ``dns:///name:port`` for gRPC. ``transport`` is what to use;
    ``auto`` means shared memory where the server can map it, else gRPC. ``reason``: why, as a
    phrase.
    """

    address: str
    transport: TransportName
    reason: str

    @property
    def host(self) -> str:
        """The host's name or IP address, without brackets."""
        return self.address.removeprefix("dns:///").rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.address.rpartition(":")[2])

    @property
    def is_loopback(self) -> bool:
        """Whether the address is this host's loopback interface."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @classmethod
    def resolve(cls, url: str, transport: TransportName, wire: WireName) -> Endpoint:
        """Resolve one server's URL and the requested transport to the transport to use.

        Raises:
            ValueError: a malformed address, or a transport or wire that does not fit it.

        """
        scheme, address = ("dns", url) if url.startswith("dns:///") else _split_scheme(url)
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{url!r}: expected an address like {DEFAULT_URL}")
        if transport not in _BY_SCHEME[scheme]:
            raise ValueError(
                f"{url!r}: a {scheme} address does not go with transport {transport!r}"
            )
        if wire == "encoded" and transport in ("shm", "cuda_shm"):
            raise ValueError(
                f"wire 'encoded' does not go with transport {transport!r}: use grpc or http"
            )
        if transport != "auto":
            return cls(address, transport, "requested")
        if scheme in ("http", "dns"):
            return cls(address, "http" if scheme == "http" else "grpc", "given by the address")
        if wire == "encoded":
            return cls(address, "grpc", "encoded frames need no shared memory")
        return cls(address, "auto", "not decided yet")


@dataclass(frozen=True)
class Connection:
    """The address of one or several servers, and how to talk to them. Nothing is sent yet.

    Args:
        url: ``host:port`` of the server's gRPC port, ``http://host:port`` of its HTTP port,
            ``dns:///name:port`` for all servers behind a name, or several separated by commas.
        transport: ``auto`` (shared memory where the server can map it, otherwise the address's
            protocol), ``grpc``, ``http``, ``shm`` or ``cuda_shm``.
        wire: ``raw`` sends pixels, ``encoded`` sends pictures both ways, over gRPC or HTTP.
            ``auto`` sends pixels through shared memory; elsewhere it measures the link at the
            first call and encodes where that is faster.
        wire_format: format of encoded frames: ``jpeg`` (quality 95) and ``webp`` (90) are lossy,
            ``png`` is exact and slow.
        timeout_s: deadline per request in seconds, including retries.
        max_request_px: largest picture sent in one piece, in pixels before upscaling.

    Raises:
        ValueError: a malformed address, a number that is not positive, or a transport or wire
            that is unknown or does not fit the address.

    """

    url: str = DEFAULT_URL
    transport: TransportName = "auto"
    wire: WireName = "raw"
    wire_format: PictureFormat = DEFAULT_PICTURE_FORMAT
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_request_px: int = DEFAULT_MAX_REQUEST_PX

    def __post_init__(self) -> None:
        """Reject settings that cannot work."""
        for name in ("timeout_s", "max_request_px"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        choices = {"transport": TransportName, "wire": WireName, "wire_format": PictureFormat}
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(allowed))}, "
                    f"got {getattr(self, name)!r}"
                )
        _ = self.endpoints

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The servers, in the order of the URL."""
        return tuple(
            Endpoint.resolve(url.strip(), self.transport, self.wire) for url in self.url.split(",")
        )


def _split_scheme(url: str) -> tuple[str, str]:
    scheme, separator, address = url.rpartition("://")
    if separator and scheme not in ("grpc", "http"):
        raise ValueError(f"{url!r}: the scheme must be grpc://, http:// or dns:///")
    return scheme, address.removesuffix("/")
