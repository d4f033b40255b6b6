"""HTTP through urllib3: a JSON header, and raw tensors behind it."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import quote

import numpy as np
import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ClosedPoolError, HTTPError, ProtocolError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Endpoint
from rt4ksr_client.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ServerError,
    ServerUnreachableError,
)
from rt4ksr_client.transports.base import Route, Transport, explain, unreachable
from rt4ksr_client.transports.messages import InferRequest, InferResponse, Tensor
from rt4ksr_client.transports.status_codes import error_for_http

__all__ = ["HttpTransport", "error_for_exception"]

_HEADER_LENGTH: Final = "Inference-Header-Content-Length"
_CHUNK_BYTES: Final = 4 << 20
_LONGEST_ERROR_BYTES: Final = 1 << 16
_LONGEST_JSON_BYTES: Final = 64 << 20
_CONNECT_TIMEOUT_S: Final = 5.0
_END_TIMEOUT_S: Final = 0.1
_MOST_IDLE_CONNECTIONS: Final = 256

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


@dataclass
class _Exchange:
    """One request and its response. :meth:`abort` ends it from another thread."""

    endpoint: Endpoint
    call: Call
    method: str
    path: str
    body: Sequence[bytes | memoryview] = ()
    headers: dict[str, str] = field(default_factory=dict)
    sock: socket.socket | None = None
    response: http.client.HTTPResponse | None = None
    reused_connection: bool = False

    def attach(self, sock: socket.socket) -> None:
        """Use ``sock`` from now on."""
        self.sock = sock
        # A cancellation before this line has found no socket to shut down.
        self.call.raise_if_cancelled()

    def abort(self) -> None:
        """End what blocks on the socket."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

    def read(self, size_bytes: int) -> bytes:
        """Return the next ``size_bytes`` of the response."""
        content = self._ready().read(size_bytes)
        if len(content) < size_bytes:
            raise http.client.IncompleteRead(content, size_bytes - len(content))
        return content

    def read_all(self, at_most_bytes: int) -> bytes:
        """Return the rest of the response, cut at ``at_most_bytes``."""
        content = self._ready().read(at_most_bytes)
        missing = self._ready().length or 0
        if len(content) < at_most_bytes and missing:
            raise http.client.IncompleteRead(content, missing)
        return content

    def read_into(self, buffer: memoryview) -> None:
        """Fill ``buffer`` with what comes next; no copy in between."""
        while buffer:
            received = self._ready().readinto(buffer[:_CHUNK_BYTES])
            if not received:
                raise http.client.IncompleteRead(b"", len(buffer))
            buffer = buffer[received:]

    def finish(self) -> bool:
        """Return whether the response was read to its end: then the connection can be reused."""
        assert self.sock is not None  # noqa: S101 - see _ready
        assert self.response is not None  # noqa: S101
        if self.response.isclosed():
            return True
        with contextlib.suppress(OSError, http.client.HTTPException):
            # The end of a chunked response is only seen by reading on.
            self.sock.settimeout(_END_TIMEOUT_S)
            return not self.response.read(1) and self.response.isclosed()
        return False

    def _ready(self) -> http.client.HTTPResponse:
        """Return the response, with the seconds left as its timeout."""
        assert self.sock is not None  # noqa: S101 - connected before there is a response
        assert self.response is not None  # noqa: S101 - nobody reads before there is one
        self.sock.settimeout(self.call.required_s())
        return self.response


_exchange: ContextVar[_Exchange] = ContextVar("rt4ksr_http_exchange")
"""What the connection that urllib3 picks works for."""


class _Connection(HTTPConnection):
    """A connection that keeps the deadline of an exchange, and can be shut down by it."""

    def request(self, *args: Any, **options: Any) -> None:
        exchange = _exchange.get()
        exchange.reused_connection = not self.is_closed
        if self.sock is not None:
            exchange.attach(self.sock)
        super().request(*args, **options)

    def response_class(self, *args: Any, **options: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        # urllib3's own response can only be read through copies.
        response = http.client.HTTPResponse(*args, **options)
        _exchange.get().response = response
        return response

    def _new_conn(self) -> socket.socket:
        # urllib3's own cannot be ended from another thread.
        exchange = _exchange.get()
        try:
            return _connect(exchange)
        except OSError as exc:
            raise unreachable(exchange.endpoint.address) from exc


class HttpTransport(Transport):
    """Tensors as raw bytes behind a JSON header.

    Connections are kept alive, one for each call in flight. They belong to the process that opened
    them: after a fork, the child opens its own. Proxies in the environment are ignored.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.address = endpoint.address
        self.route = Route("http", endpoint.reason)
        self._endpoint = endpoint
        self._pool = self._new_pool()
        self._pid = os.getpid()

    def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        header = _request_header(request)
        contents = [tensor.content for tensor in request.inputs]
        exchange = _Exchange(
            self._endpoint,
            call,
            "POST",
            f"{_model_path(request.model)}/infer",
            [header, *contents],
            {
                _HEADER_LENGTH: str(len(header)),
                "Content-Length": str(len(header) + sum(map(len, contents))),
            },
        )
        return self._run(exchange, _receive_outputs, request.model)

    def server_metadata(self, call: Call) -> dict[str, Any]:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        metadata: dict[str, Any] = self._ask("/v2", call)
        return metadata

    def repository_index(self, call: Call) -> list[dict[str, Any]]:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        models: list[dict[str, Any]] = self._ask("/v2/repository/index", call, method="POST")
        return models

    def model_config(self, model: str, call: Call) -> dict[str, Any]:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        config: dict[str, Any] = self._ask(f"{_model_path(model)}/config", call, model=model)
        return config

    def model_statistics(self, call: Call, *, model: str = "") -> list[dict[str, Any]]:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        path = _model_path(model) if model else "/v2/models"
        rows: list[dict[str, Any]] = self._ask(f"{path}/stats", call, model=model)["model_stats"]
        return rows

    def model_ready(self, model: str, call: Call) -> bool:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        try:
            self._ask(f"{_model_path(model)}/ready", call)
        except InvalidRequestError:
            return False
        return True

    def close(self) -> None:
        """Close the idle connections; one in use is closed by its call."""
        self._pool.close()

    def _ask(self, path: str, call: Call, *, method: str = "GET", model: str = "") -> Any:
        return self._run(_Exchange(self._endpoint, call, method, path), _receive_json, model)

    def _run(
        self, exchange: _Exchange, receive: Callable[[_Exchange], Answer], model: str
    ) -> Answer:
        """Send the request and return what ``receive`` reads from the response."""
        try:
            outcome = self._send(exchange, receive)
        except ServerUnreachableError:
            raise
        except ServerError as exc:
            raise explain(exc, self, model, exchange.call) from exc
        if isinstance(outcome, ServerError):
            raise explain(outcome, self, model, exchange.call)
        return outcome

    def _send(
        self, exchange: _Exchange, receive: Callable[[_Exchange], Answer]
    ) -> Answer | ServerError:
        """Return what ``receive`` reads, or the error for the status of the response."""
        token = _exchange.set(exchange)
        try:
            with contextlib.ExitStack() as unless_complete:
                with exchange.call.stopping(exchange.abort):
                    response = self._open(exchange)
                    unless_complete.callback(response.close)
                    is_ok = response.status == http.client.OK
                    outcome = receive(exchange) if is_ok else _receive_error(exchange)
                    is_complete = exchange.finish()
                if is_complete:
                    unless_complete.pop_all()
                    response.release_conn()
            return outcome
        except (HTTPError, OSError, http.client.HTTPException) as exc:
            raise error_for_exception(exc, self.address, exchange.call.timeout_s) from exc
        finally:
            _exchange.reset(token)

    def _open(self, exchange: _Exchange) -> urllib3.BaseHTTPResponse:
        """Send the request and return the response as far as its headers."""
        try:
            return self._request(exchange, self._own_pool())
        except ProtocolError as exc:
            if not (exchange.reused_connection and isinstance(_cause(exc), ConnectionError)):
                raise
            # Servers and proxies close connections that are idle for long, and a request may cross
            # that. Nothing was answered, and the other idle connections are no better.
            logger.info(
                "%s: an idle connection was closed; sending the request again", self.address
            )
            self._pool = self._new_pool()
            return self._request(exchange, self._pool)

    def _request(
        self, exchange: _Exchange, pool: urllib3.HTTPConnectionPool
    ) -> urllib3.BaseHTTPResponse:
        return pool.urlopen(
            exchange.method,
            exchange.path,
            exchange.body or None,  # type: ignore[arg-type] # urllib3 sends memoryviews too
            exchange.headers,
            retries=False,
            redirect=False,
            timeout=urllib3.Timeout(total=exchange.call.required_s()),
            preload_content=False,
            decode_content=False,
        )

    def _own_pool(self) -> urllib3.HTTPConnectionPool:
        """Return this process's pool: a fork must not use its parent's sockets."""
        if self._pid != os.getpid():
            self._pool, self._pid = self._new_pool(), os.getpid()
        return self._pool

    def _new_pool(self) -> urllib3.HTTPConnectionPool:
        pool = urllib3.HTTPConnectionPool(
            self._endpoint.host, self._endpoint.port, maxsize=_MOST_IDLE_CONNECTIONS
        )
        pool.ConnectionCls = _Connection
        return pool


def _connect(exchange: _Exchange) -> socket.socket:
    endpoint, call = exchange.endpoint, exchange.call
    failure = OSError(f"{endpoint.host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            exchange.attach(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(min(_CONNECT_TIMEOUT_S, call.required_s()))
            sock.connect(address)
            sock.settimeout(call.required_s())
        except BaseException as exc:
            sock.close()
            if not isinstance(exc, OSError):
                raise
            failure = exc
        else:
            return sock
    raise failure


def error_for_exception(exc: Exception, address: str, timeout_s: float) -> ServerError:
    """Return the error for what a socket, :mod:`http.client` or urllib3 raised."""
    cause = _cause(exc)
    if isinstance(cause, (TimeoutError, Urllib3TimeoutError)):
        return DeadlineExceededError(f"no answer within {timeout_s:g} s")
    if isinstance(cause, ClosedPoolError):
        return ServerError("this client is closed: open another one")
    return ServerUnreachableError(
        f"{address}: the server, or a proxy before it, closed the connection without a complete "
        f"answer: {str(cause) or type(cause).__name__}"
    )


def _cause(exc: Exception) -> Exception:
    """Return what urllib3 wrapped."""
    wrapped = exc.args[1] if isinstance(exc, ProtocolError) and len(exc.args) > 1 else exc
    return wrapped if isinstance(wrapped, Exception) else exc


def _model_path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _request_header(request: InferRequest) -> bytes:
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
            "parameters": {"binary_data_size": tensor.nbytes},
        }
        for tensor in request.inputs
    ]
    outputs = [
        {"name": output.name, "parameters": {"binary_data": True}} for output in request.outputs
    ]
    header = {"parameters": dict(request.parameters), "inputs": inputs, "outputs": outputs}
    return json.dumps(header).encode()


def _receive_outputs(exchange: _Exchange) -> InferResponse:
    """Read an inference response, its tensors straight into one buffer."""
    assert exchange.response is not None  # noqa: S101 - its status was read
    try:
        header = json.loads(exchange.read(int(exchange.response.headers[_HEADER_LENGTH])))
        facts = [
            (
                str(output["name"]),
                str(output["datatype"]),
                [int(size) for size in output["shape"]],
                int(output["parameters"]["binary_data_size"]),
            )
            for output in header["outputs"]
        ]
        sizes_bytes = [size_bytes for *_, size_bytes in facts]
        if min(sizes_bytes, default=0) < 0:
            raise ValueError(f"a negative size in {sizes_bytes}")
        buffer = np.empty(sum(sizes_bytes), np.uint8).data
    except (TypeError, ValueError, KeyError, MemoryError, RecursionError) as exc:
        raise ServerError(f"the server's response holds no tensors: {exc!r}") from exc
    exchange.read_into(buffer)
    outputs = []
    for name, datatype, shape, size_bytes in facts:
        outputs.append(Tensor.from_content(name, datatype, shape, buffer[:size_bytes]))
        buffer = buffer[size_bytes:]
    return InferResponse(outputs)


def _receive_json(exchange: _Exchange) -> Any:
    body = exchange.read_all(_LONGEST_JSON_BYTES)
    try:
        return json.loads(body) if body else {}
    except (ValueError, RecursionError) as exc:
        raise ServerError(f"the server's response is not JSON: {exc}") from exc


def _receive_error(exchange: _Exchange) -> ServerError:
    """Return the error for the status of the response, with the server's text."""
    assert exchange.response is not None  # noqa: S101 - its status was read
    body = exchange.read_all(_LONGEST_ERROR_BYTES)
    try:
        text = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        text = body[:200].decode(errors="replace")
    return error_for_http(exchange.response.status, text)
