"""How to reach a server: the settings that every client, command and load test shares."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, Literal, get_args
from urllib.parse import quote, urlsplit

from rt4ksr_client.contract import DEFAULT_PICTURE_FORMAT, PictureFormat, Priority
from rt4ksr_client.security import DEFAULT_SECURITY, Security

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
    "grpcs": ("auto", "grpc", "shm", "cuda_shm"),
    "http": ("auto", "http"),
    "https": ("auto", "http"),
    "dns": ("auto", "grpc"),
}
"""Transports that fit a URL's scheme."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "grpcs": 443}


@dataclass(frozen=True)
class Endpoint:
    """One server of a connection.

    ``address`` is ``host:port``, or ``dns:///name:port`` for gRPC. ``transport`` is what to use;
    ``auto`` means shared memory where the server can map it, else gRPC. ``reason``: why, as a
    phrase. ``is_tls``: whether the connection is encrypted. ``path`` precedes HTTP's paths: empty,
    or such as ``/prefix``.
    """

    address: str
    transport: TransportName
    reason: str
    is_tls: bool = False
    path: str = ""
    security: Security = DEFAULT_SECURITY

    def __str__(self) -> str:
        """Return what messages call it: ``host:port``, or a URL where that says more."""
        if not self.is_tls and not self.path:
            return self.address
        scheme = "http" if self.transport == "http" else "grpc"
        return f"{scheme}{'s' if self.is_tls else ''}://{self.address}{self.path}"

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
    def resolve(
        cls,
        url: str,
        transport: TransportName,
        wire: WireName,
        security: Security = DEFAULT_SECURITY,
    ) -> Endpoint:
        """Resolve one server's URL and the requested transport to the transport to use.

        Raises:
            ValueError: a malformed address, or a transport or wire that does not fit it.

        """
        scheme, address, path = _split(url)
        if transport not in _BY_SCHEME[scheme]:
            raise ValueError(
                f"{url!r}: a {scheme} address does not go with transport {transport!r}"
            )
        is_tls = scheme in ("grpcs", "https")

        def endpoint(transport: TransportName, reason: str) -> Endpoint:
            return cls(address, transport, reason, is_tls, path, security)

        given = endpoint("http" if scheme in ("http", "https") else "grpc", "given by the address")
        if transport in ("shm", "cuda_shm"):
            if wire == "encoded":
                raise ValueError(
                    f"wire 'encoded' does not go with transport {transport!r}: use grpc or http"
                )
            if is_tls and not given.is_loopback:
                raise ValueError(
                    f"{url!r}: transport {transport!r} needs a server on this host: with TLS, give "
                    "it as localhost"
                )
        if transport != "auto":
            return endpoint(transport, "requested")
        # A gateway on another host could lead to a server that shares no memory with this one.
        if given.transport == "http" or scheme == "dns" or (is_tls and not given.is_loopback):
            return given
        if wire == "encoded":
            return endpoint("grpc", "encoded frames need no shared memory")
        return endpoint("auto", "not decided yet")


@dataclass(frozen=True)
class Connection:
    """The address of one or several servers, and how to talk to them. Nothing is sent yet.

    Args:
        url: ``host:port`` of the server's gRPC port, ``http://host:port`` of its HTTP port, the
            same with TLS as ``grpcs://host:port`` and ``https://host:port/prefix``,
            ``dns:///name:port`` for all servers behind a name, or several separated by commas. The
            default port is 443 with TLS, and 80 for ``http://``.
        transport: ``auto`` (shared memory where the server can map it, otherwise the address's
            protocol), ``grpc``, ``http``, ``shm`` or ``cuda_shm``.
        wire: ``raw`` sends pixels, ``encoded`` sends pictures both ways, over gRPC or HTTP.
            ``auto`` sends pixels through shared memory; elsewhere it measures the link at the
            first call and encodes where that is faster. Frames in 4:2:0 always travel raw.
        wire_format: format of encoded frames: ``jpeg`` (quality 95) and ``webp`` (90) are lossy,
            ``png`` is exact and slow.
        timeout_s: deadline per request in seconds, including retries.
        max_request_px: largest picture sent in one piece, in pixels before upscaling.
        security: CA, client certificate and request headers; the same for all servers.
        priority: ``high`` goes before everything ``normal`` in the server's queue.

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
    security: Security = DEFAULT_SECURITY
    priority: Priority = "normal"

    def __post_init__(self) -> None:
        """Reject settings that cannot work."""
        for name in ("timeout_s", "max_request_px"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        choices = {
            "transport": TransportName,
            "wire": WireName,
            "wire_format": PictureFormat,
            "priority": Priority,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(allowed))}, "
                    f"got {getattr(self, name)!r}"
                )
        if not isinstance(self.security, Security):
            raise ValueError(f"security must be a Security, not {type(self.security).__name__}")
        # Neither is repeated in an error, a log or a report: they may be secrets.
        if "@" in self.url:
            raise ValueError(
                "an address takes no user and password: send an authorization header instead, with "
                "header_file (--header-file)"
            )
        if "?" in self.url or "#" in self.url:
            raise ValueError("an address takes no query: send headers instead")
        _ = self.endpoints

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The servers, in the order of the URL."""
        return tuple(
            Endpoint.resolve(url.strip(), self.transport, self.wire, self.security)
            for url in self.url.split(",")
        )

    def unencrypted(self) -> list[str]:
        """Return a warning for each server to which credentials travel without encryption."""
        names, has_files = self.security.secret_names, self.security.ca_file is not None
        has_files |= self.security.cert_file is not None
        if names:
            what = f"the headers {', '.join(names)} are sent without encryption"
        else:
            what = "the connection is not encrypted, although TLS files are given"
        return [
            f"{endpoint}: {what}: use https:// or grpcs://"
            for endpoint in self.endpoints
            if not endpoint.is_tls and not endpoint.is_loopback and (names or has_files)
        ]


def _split(url: str) -> tuple[str, str, str]:
    """Return scheme, ``host:port`` and path of a URL."""
    scheme, separator, rest = url.partition("://")
    if url.startswith("dns:///"):
        scheme, rest = "dns", url.removeprefix("dns:///")
    elif not separator:
        scheme, rest = "", url
    elif scheme not in ("grpc", "grpcs", "http", "https"):
        raise ValueError(
            f"{url!r}: the scheme must be grpc://, grpcs://, http://, https:// or dns:///"
        )
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(scheme)
        is_complete = parts.netloc.endswith(f":{port}") or parts.port is None
    except ValueError:
        host, port, is_complete = None, None, False
    if not host or not port or not is_complete or not url.isprintable() or " " in url:
        raise ValueError(f"{url!r}: expected an address like {DEFAULT_URL} or https://host/prefix/")
    path = quote(parts.path.rstrip("/"), safe="/%:!$&'()*+;=~")
    if path and scheme not in ("http", "https"):
        raise ValueError(
            f"{url!r}: a path goes with http:// and https:// only: gRPC has none before its own"
        )
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return scheme, f"dns:///{address}" if scheme == "dns" else address, path
