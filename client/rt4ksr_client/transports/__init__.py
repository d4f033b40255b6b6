"""Ways to a server, behind one small interface; each in a file of its own."""

from __future__ import annotations

from rt4ksr_client.transports.base import ServedModel, Transport
from rt4ksr_client.transports.grpc import GrpcTransport

__all__ = ["GrpcTransport", "ServedModel", "Transport", "open_transport"]


def open_transport(url: str) -> Transport:
    """Return the transport that ``url`` names: ``host:port`` or ``grpc://host:port``.

    Raises:
        ValueError: the address is not of that form.

    """
    scheme, separator, address = url.rpartition("://")
    if separator and scheme != "grpc":
        raise ValueError(f"{url!r}: the scheme must be grpc://")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{url!r}: expected an address like 127.0.0.1:8001")
    return GrpcTransport(address)
