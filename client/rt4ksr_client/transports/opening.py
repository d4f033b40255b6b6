"""Open the transports of a connection."""

from __future__ import annotations

import importlib
import logging
from typing import Final

from rt4ksr_client.connection import Connection, Endpoint
from rt4ksr_client.transports.base import Transport

__all__ = ["open_transport"]

# Each is imported only when it is used: none needs what another one does.
_CLASSES: Final = {
    "auto": ("negotiation", "AutoTransport"),
    "grpc": ("grpc", "GrpcTransport"),
    "http": ("http", "HttpTransport"),
    "shm": ("shared_memory", "SharedMemoryTransport"),
    "cuda_shm": ("cuda_shared_memory", "CudaSharedMemoryTransport"),
}

logger = logging.getLogger(__name__)


def open_transport(connection: Connection) -> Transport:
    """Return a transport to the server or servers of ``connection``; nothing is sent yet.

    Raises:
        MissingExtraError: the transport needs a package that is not installed.

    """
    transports = [_open(endpoint, connection) for endpoint in connection.endpoints]
    if len(transports) == 1:
        return transports[0]
    from rt4ksr_client.transports.fleet import FleetTransport

    return FleetTransport(transports)


def _open(endpoint: Endpoint, connection: Connection) -> Transport:
    module, name = _CLASSES[endpoint.transport]
    cls = getattr(importlib.import_module(f"rt4ksr_client.transports.{module}"), name)
    transport: Transport = cls(endpoint)
    if endpoint.transport != "auto":
        logger.info("%s: transport %s: %s", endpoint, endpoint.transport, endpoint.reason)
    if connection.wire == "auto":
        from rt4ksr_client.transports.negotiation import AutoWireTransport

        return AutoWireTransport(transport, connection.wire_format)
    if connection.wire == "encoded":
        from rt4ksr_client.transports.encoded import EncodedTransport

        return EncodedTransport(transport, connection.wire_format)
    return transport
