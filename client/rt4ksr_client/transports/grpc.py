"""gRPC: one connection, shared by all threads."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any, Final
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # not in typeshed

import grpc
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Endpoint
from rt4ksr_client.errors import ServerError
from rt4ksr_client.transports.base import Route, Transport, closed, explain
from rt4ksr_client.transports.forking import ProcessBound
from rt4ksr_client.transports.messages import InferRequest, InferResponse
from rt4ksr_client.transports.protobuf import decode_response, encode_request
from rt4ksr_client.transports.status_codes import error_for_grpc
from rt4ksr_client.transports.tls import diagnose

__all__ = ["GrpcTransport"]

_SERVICE: Final = "/inference.GRPCInferenceService/"

_PROBE_TIMEOUT_S: Final = 1.0

_OPTIONS: Final = (
    # gRPC's own limit is 4 MB a message; a 4K frame has 25.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Otherwise all clients of a process would share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # By default gRPC waits up to two minutes before it tries a restarted server again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Despite its name, how long one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # A host that has vanished is noticed this long after the first byte it does not acknowledge, by
    # TCP's user timeout, which comes with keepalive. The pings are as rare as Triton tolerates.
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_time_ms", 310_000),
    # For `dns:///name`, where a name stands for several servers.
    ("grpc.lb_policy_name", "round_robin"),
)


_inherited: Final[list[grpc.Channel]] = []
"""Channels of the parent process, kept because gRPC would close them with their last reference."""


class GrpcTransport(Transport, ProcessBound):
    """Tensors as raw bytes in gRPC messages. A forked process opens its own connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.address = str(endpoint)
        self.route = Route("grpc", endpoint.reason)
        self._options = [*_OPTIONS]
        if endpoint.is_loopback:
            self._options.append(("grpc.enable_http_proxy", 0))
        else:
            self.proxy = proxy_for(endpoint.host)
        if host := endpoint.security.request_headers().get("host"):
            self._options.append(("grpc.default_authority", host))
        self._credentials = None
        if endpoint.is_tls:
            self._credentials = grpc.ssl_channel_credentials(*endpoint.security.grpc_pem())
        self._lock = threading.Lock()
        self._opened: grpc.Channel | None = None
        self._closed = False
        self._answered = False
        self._endpoint = endpoint
        self.watch_forks()

    def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        try:
            return decode_response(self.send(encode_request(request), call))
        except ServerError as exc:
            raise explain(exc, self, request.model, call) from exc

    def send(self, request: bytes, call: Call) -> bytes:
        """Send a serialised ``ModelInferRequest``, return the serialised response."""
        method = self._channel().unary_unary(f"{_SERVICE}ModelInfer")
        response: bytes = self._invoke(method, request, call)
        return response

    def control(self, method: str, request: Any, call: Call) -> Any:
        """Call ``method`` of Triton's gRPC service with a protobuf message, return the reply."""
        reply_type = getattr(service_pb2, f"{method}Response")
        multicallable = self._channel().unary_unary(
            _SERVICE + method, type(request).SerializeToString, reply_type.FromString
        )
        return self._invoke(multicallable, request, call)

    def server_metadata(self, call: Call) -> dict[str, Any]:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        return self._ask("ServerMetadata", service_pb2.ServerMetadataRequest(), call)

    def repository_index(self, call: Call) -> list[dict[str, Any]]:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        reply = self._ask("RepositoryIndex", service_pb2.RepositoryIndexRequest(), call)
        models: list[dict[str, Any]] = reply["models"]
        return models

    def model_config(self, model: str, call: Call) -> dict[str, Any]:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        reply = self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=model), call, model)
        config: dict[str, Any] = reply["config"]
        return config

    def model_statistics(self, call: Call, *, model: str = "") -> list[dict[str, Any]]:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        request = service_pb2.ModelStatisticsRequest(name=model)
        rows: list[dict[str, Any]] = self._ask("ModelStatistics", request, call, model)[
            "model_stats"
        ]
        return rows

    def model_ready(self, model: str, call: Call) -> bool:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        reply = self._ask("ModelReady", service_pb2.ModelReadyRequest(name=model), call)
        return bool(reply["ready"])

    def close(self) -> None:
        """Close the channel, which ends the calls in flight."""
        with self._lock:
            self._closed = True
            if self._opened is not None:
                self._opened.close()

    def start_afresh(self) -> None:
        """See :class:`~rt4ksr_client.transports.forking.ProcessBound`."""
        self._lock = threading.Lock()
        if self._opened is not None:
            _inherited.append(self._opened)
            self._opened = None

    def _channel(self) -> grpc.Channel:
        with self._lock:
            if self._closed:
                raise closed()
            if self._opened is None:
                address, options = self._endpoint.address, self._options
                if self._credentials is None:
                    self._opened = grpc.insecure_channel(address, options)
                else:
                    self._opened = grpc.secure_channel(address, self._credentials, options)
            return self._opened

    def _ask(self, method: str, request: Any, call: Call, model: str = "") -> dict[str, Any]:
        try:
            reply = self.control(method, request, call)
        except ServerError as exc:
            raise explain(exc, self, model, call) from exc
        answer: dict[str, Any] = MessageToDict(
            reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return answer

    def _invoke(self, method: grpc.UnaryUnaryMultiCallable, request: Any, call: Call) -> Any:
        headers = self._endpoint.security.request_headers()
        headers.pop("host", None)  # an option of the channel
        metadata = {**call.trace_headers, **headers}
        options = {"timeout": call.required_s(), "metadata": tuple(metadata.items())}
        try:
            if call.cancellation is None:
                # Takes 10 ms less for a 4K frame than a future, which wakes a thread of gRPC's.
                answer = method(request, **options)
                self._answered = True
                return answer
            future = method.future(request, **options)
            try:
                with call.stopping(future.cancel):
                    answer = future.result()
                    self._answered = True
                    return answer
            finally:
                future.cancel()
        except grpc.RpcError as exc:
            if self._closed:
                raise closed() from exc
            if exc.code() is grpc.StatusCode.UNAVAILABLE and (fault := self._fault(exc, call)):
                raise fault from exc
            text = self._endpoint.security.hide(exc.details() or "")
            raise error_for_grpc(exc.code().name, text, headers) from exc
        except ValueError as exc:  # what a closed channel raises
            if self._closed:
                raise closed() from exc
            raise

    def _fault(self, exc: grpc.RpcError, call: Call) -> ServerError | None:
        """Return what keeps this client and the server from understanding each other, if known."""
        if self._answered and "handshake" not in (exc.details() or "").lower():
            return None
        if not self._endpoint.is_tls and speaks_http(self._endpoint):
            return ServerError(
                f"this port speaks HTTP, not gRPC: use http://{self.address}, or the server's "
                "gRPC port (8001 by default)"
            )
        return diagnose(self._endpoint, call, http2=True)


def speaks_http(endpoint: Endpoint) -> bool:
    """Return whether HTTP/1 is spoken at the port: Triton's HTTP port just hangs up on gRPC."""
    try:
        with socket.create_connection((endpoint.host, endpoint.port), _PROBE_TIMEOUT_S) as sock:
            sock.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return sock.recv(7).startswith(b"HTTP/1.")
    except OSError:
        return False


def proxy_for(host: str) -> str:
    """Return the HTTP proxy that gRPC takes to ``host``, and the variable; empty if none.

    As in gRPC's documentation of environment variables. A password in it is left out.
    """
    excluded = first_of("no_grpc_proxy", "no_proxy")[1]
    if proxy_bypass_environment(host, {"no": excluded}):
        return ""
    name, address = first_of("grpc_proxy", "https_proxy", "http_proxy")
    scheme, slashes, rest = address.rpartition("//")
    return f"{scheme}{slashes}{rest.rpartition('@')[2]} ({name})" if address else ""


def first_of(*names: str) -> tuple[str, str]:
    """Return name and value of the first environment variable that is set; empty if none."""
    return next(((name, os.environ[name]) for name in names if os.environ.get(name)), ("", ""))
