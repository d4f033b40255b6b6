"""Whether one particular tritonserver is ready."""

from __future__ import annotations

import http.client
import json
from typing import Final

import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

__all__ = ["is_ready"]

_PROBE_TIMEOUT_S: Final = 2.0


def is_ready(
    server_id: str, *, grpc_url: str | None, http_url: str | None, metrics_url: str | None
) -> bool:
    """Return whether the server started with ``--id=server_id`` is ready at all of these.

    It has loaded all its models then. tritonserver opens gRPC, HTTP and the metrics in this order,
    so the last two of those it has are asked. Its name is asked for as well: while ours loads,
    another server could answer at its port.
    """
    if http_url is not None:
        ready = _is_ready_by_http(http_url, server_id)
    else:
        ready = grpc_url is not None and _is_ready_by_grpc(grpc_url, server_id)
    return ready and (metrics_url is None or _has_metrics(metrics_url))


def _is_ready_by_http(url: str, server_id: str) -> bool:
    connection = http.client.HTTPConnection(url, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/v2/health/ready")
        response = connection.getresponse()
        response.read()
        if response.status != http.HTTPStatus.OK:
            return False
        connection.request("GET", "/v2")
        name: object = json.load(connection.getresponse())["name"]
        return name == server_id
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return False
    finally:
        connection.close()


def _is_ready_by_grpc(url: str, server_id: str) -> bool:
    # A proxy for the outside world has no business with a server on this machine.
    client = triton_grpc.InferenceServerClient(url, channel_args=[("grpc.enable_http_proxy", 0)])
    try:
        ready = client.is_server_ready(client_timeout=_PROBE_TIMEOUT_S)
        name: object = client.get_server_metadata(client_timeout=_PROBE_TIMEOUT_S).name
        return bool(ready) and name == server_id
    except InferenceServerException:
        return False
    finally:
        client.close()


def _has_metrics(url: str) -> bool:
    connection = http.client.HTTPConnection(url, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
