"""Ports on one address: free ones, and a clear word about those that are taken."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

from rt4ksr_client.errors import ServerStartError

__all__ = ["is_free", "resolve_ports"]


def resolve_ports(host: str, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return ``wanted`` (service name to port) with every 0 replaced by a free port.

    All are bound at the same time and released on return. That leaves a moment in which another
    program may take a port, so a caller has to be ready to ask again. Raises
    :class:`ServerStartError` naming the service and the port if one cannot be bound.
    """
    with contextlib.ExitStack() as sockets:
        # Given ports first, so that no free one is picked that is asked for by number.
        in_order = sorted(wanted.items(), key=lambda item: item[1] == 0)
        bound = {
            service: sockets.enter_context(_bound(host, port, service)).getsockname()[1]
            for service, port in in_order
        }
    return {service: bound[service] for service in wanted}


def is_free(host: str, port: int) -> bool:
    """Return whether ``port`` can be bound on ``host`` now."""
    try:
        _bound(host, port, "").close()
    except ServerStartError:
        return False
    return True


def _bound(host: str, port: int, service: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    # As servers do: a connection that has just been closed does not count as a port in use.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1)  # until then, Linux would let others bind it too
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ServerStartError(
            f"cannot serve {service} on port {port} of {host}: {reason}"
        ) from error
    return listener
