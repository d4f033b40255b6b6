"""Transports to a server, all with the interface of :class:`Transport`, each in its own module.

A transport's module, and what it imports, is loaded when it is used.
"""

from rt4ksr_client.transports.base import Route, Transport
from rt4ksr_client.transports.opening import open_transport

__all__ = ["Route", "Transport", "open_transport"]
