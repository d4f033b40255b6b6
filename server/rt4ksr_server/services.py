"""The gRPC, HTTP and metrics services of one tritonserver: their ports, addresses and readiness."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from rt4ksr_client.errors import ServerError, ServerStartError

__all__ = ["SERVICES", "Services", "address_flag", "is_free", "numeric_address"]

SERVICES: Final = ("grpc", "http", "metrics")
"""In the order in which tritonserver opens them."""

PROBE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True)
class Services:
    """Services by name, each on a port of ``host``, the numeric address that tritonserver binds."""

    host: str
    ports: Mapping[str, int]

    @classmethod
    def on_free_ports(cls, host: str, wanted: Mapping[str, int]) -> Services:
        """Return the services of ``wanted`` (name to port), each port 0 replaced by a free one.

        All ports are bound at the same time and released on return. Another program may take one
        before tritonserver does: see :meth:`lost_ports`.

        Raises:
            ServerStartError: a port that cannot be bound, named with its service.

        """
        with contextlib.ExitStack() as sockets:
            # Fixed ports first, so that none of them is handed out as a free one.
            in_order = sorted(wanted.items(), key=lambda item: item[1] == 0)
            bound = {
                service: sockets.enter_context(listen(host, port, service)).getsockname()[1]
                for service, port in in_order
            }
        return cls(host, {service: bound[service] for service in wanted})

    def lost_ports(self, wanted: Mapping[str, int]) -> bool:
        """Whether another program has taken a port that :meth:`on_free_ports` chose."""
        return any(
            wanted[service] == 0 and not is_free(self.host, port)
            for service, port in self.ports.items()
        )

    def url(self, service: str) -> str:
        """Return ``host:port`` for clients on this machine.

        Raises:
            ServerError: this service is turned off.

        """
        if service not in self.ports:
            raise ServerError(f"this TritonServer does not serve {service}")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"[{host}]:{self.ports[service]}" if ":" in host else f"{host}:{self.ports[service]}"

    def are_ready(self, server_id: str) -> bool:
        """Return whether the tritonserver started with ``--id=server_id`` answers at all of them.

        It has loaded all its models then. The two services that it opens last are asked. Its name
        is checked because another server could answer at the port while this one still loads.
        """
        ready = self.http_is_ready if "http" in self.ports else self.grpc_is_ready
        if not ready(server_id):
            return False
        return "metrics" not in self.ports or get(self.url("metrics"), "/metrics") is not None

    def http_is_ready(self, server_id: str) -> bool:
        """Return whether the server at the HTTP port is ready and has this name."""
        url = self.url("http")
        if get(url, "/v2/health/ready") is None:
            return False
        try:
            name: object = json.loads(get(url, "/v2") or b"null")["name"]
        except (ValueError, LookupError, TypeError):
            return False
        return name == server_id

    def grpc_is_ready(self, server_id: str) -> bool:
        """Return whether the server at the gRPC port is ready and has this name."""
        no_proxy = [("grpc.enable_http_proxy", 0)]  # a proxy cannot reach this machine's loopback
        client = triton_grpc.InferenceServerClient(self.url("grpc"), channel_args=no_proxy)
        try:
            ready = client.is_server_ready(client_timeout=PROBE_TIMEOUT_S)
            name: object = client.get_server_metadata(client_timeout=PROBE_TIMEOUT_S).name
            return bool(ready) and name == server_id
        except InferenceServerException:
            return False
        finally:
            client.close()


def numeric_address(host: str) -> str:
    """Return the IP address of ``host``: a name, or an address with or without brackets.

    tritonserver binds numeric addresses only. Of several addresses, the first IPv4 one.

    Raises:
        ServerStartError: the name has no address, or the address is a link-local one.

    """
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ServerStartError(
            f"cannot serve on host {host!r}: {getattr(error, 'strerror', None) or error}: name an "
            "address of this machine, such as 127.0.0.1, ::1 or 0.0.0.0"
        ) from error
    # A stable sort: false comes first.
    address = str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])
    # Such an address needs the name of an interface, which neither service takes.
    if ":" in address and ipaddress.ip_address(address.partition("%")[0]).is_link_local:
        raise ServerStartError(
            f"cannot serve on host {host!r}: tritonserver cannot bind a link-local address: name "
            "another one, or :: for all"
        )
    return address


def address_flag(service: str, address: str) -> str:
    """Return the flag that binds ``service`` to a numeric address.

    gRPC takes an IPv6 address in brackets; HTTP and metrics, which are libevent's, with a prefix.
    """
    if ipaddress.ip_address(address).version == 6:
        address = f"[{address}]" if service == "grpc" else f"ipv6:{address}"
    return f"--{service}-address={address}"


def get(url: str, path: str) -> bytes | None:
    """Return the body that ``http://url/path`` answers with status 200, otherwise None."""
    connection = http.client.HTTPConnection(url, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status == http.HTTPStatus.OK else None


def listen(host: str, port: int, service: str) -> socket.socket:
    """Return a socket that listens on ``port`` of ``host``; ``service`` is for the error.

    Raises:
        ServerStartError: the port is taken, or the address is not this machine's.

    """
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
            f"cannot serve {service} on port {port} of {host}: {reason}: "
            "choose another port, or 0 for a free one"
        ) from error
    return listener


def is_free(host: str, port: int) -> bool:
    """Return whether ``port`` can be bound on ``host`` now."""
    try:
        listen(host, port, "").close()
    except ServerStartError:
        return False
    return True
