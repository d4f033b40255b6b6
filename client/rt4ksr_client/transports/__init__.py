"""Ways to a server, behind one small interface; each in a file of its own.

A transport's module, and what it imports, is loaded when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rt4ksr_client.transports.base import Question, Route, Transport
from rt4ksr_client.transports.choice import open_transport

if TYPE_CHECKING:
    from rt4ksr_client.transports.fleet import FleetTransport
    from rt4ksr_client.transports.grpc import GrpcTransport
    from rt4ksr_client.transports.http import HttpTransport
    from rt4ksr_client.transports.shm import ShmTransport

__all__ = [
    "FleetTransport",
    "GrpcTransport",
    "HttpTransport",
    "Question",
    "Route",
    "ShmTransport",
    "Transport",
    "open_transport",
]

_HOMES = {
    "FleetTransport": "fleet",
    "GrpcTransport": "grpc",
    "HttpTransport": "http",
    "ShmTransport": "shm",
}


def __getattr__(name: str) -> Any:
    """Import a transport's module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
