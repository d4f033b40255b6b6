"""Which transport an address and a wish lead to."""

from __future__ import annotations

import importlib
from typing import Final

from rt4ksr_client.connection import Connection, WireName
from rt4ksr_client.contract import PictureFormat
from rt4ksr_client.transports.base import Transport

__all__ = ["open_transport"]

# Each imported only when it is used: none needs what another one does.
_CLASSES: Final = {
    "auto": ("rt4ksr_client.transports.auto", "AutoTransport"),
    "grpc": ("rt4ksr_client.transports.grpc", "GrpcTransport"),
    "http": ("rt4ksr_client.transports.http", "HttpTransport"),
    "shm": ("rt4ksr_client.transports.shm", "ShmTransport"),
    "cuda_shm": ("rt4ksr_client.transports.cuda_shm", "CudaShmTransport"),
}

_SHARED_MEMORY: Final = ("shm", "cuda_shm")

_BY_SCHEME: Final[dict[str, dict[str, str]]] = {
    "": {name: name for name in _CLASSES},
    "grpc": {name: name for name in _CLASSES if name != "http"},
    "http": {"auto": "http", "http": "http"},
    "dns": {"auto": "grpc", "grpc": "grpc"},
}
"""For each scheme, what each ``transport`` argument that goes with it means."""


def open_transport(connection: Connection) -> Transport:
    """Return the way to the server or servers of ``connection``; nothing is sent yet.

    Raises:
        ValueError: a malformed address, or a transport or wire that does not go with it.

    """
    transport, wire, format_ = connection.transport, connection.wire, connection.wire_format
    ways = [_on_wire(url.strip(), transport, wire, format_) for url in connection.url.split(",")]
    if len(ways) == 1:
        return ways[0]
    from rt4ksr_client.transports.fleet import FleetTransport

    return FleetTransport(ways)


def _on_wire(url: str, transport: str, wire: WireName, format_: PictureFormat) -> Transport:
    if wire == "raw":
        return _open_one(url, transport)
    if wire == "auto":
        from rt4ksr_client.transports.auto_wire import AutoWireTransport

        return AutoWireTransport(_open_one(url, transport), format_)
    from rt4ksr_client.transports.encoded import EncodedTransport

    if transport == "auto":
        scheme, _ = _parsed(url)
        transport = "http" if scheme == "http" else "grpc"
    way = None if transport in _SHARED_MEMORY else _open_one(url, transport).messages()
    if way is None:
        raise ValueError(
            f"wire 'encoded' does not go with transport {transport!r}: use grpc or http"
        )
    return EncodedTransport(way, format_)


def _open_one(url: str, transport: str) -> Transport:
    scheme, address = _parsed(url)
    means = _BY_SCHEME[scheme].get(transport)
    if means is None:
        raise ValueError(f"{url!r}: a {scheme} address does not go with transport {transport!r}")
    module, name = _CLASSES[means]
    opened: Transport = getattr(importlib.import_module(module), name)(address)
    if transport == "auto" and means != "auto":
        opened.reason = "the address says so"
    return opened


def _parsed(url: str) -> tuple[str, str]:
    """Return scheme and address."""
    if url.startswith("dns:///"):
        return "dns", url
    scheme, separator, address = url.rpartition("://")
    if separator and scheme not in ("grpc", "http"):
        raise ValueError(f"{url!r}: the scheme must be grpc://, http:// or dns:///")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{url!r}: expected an address like 127.0.0.1:8001")
    return scheme, address
