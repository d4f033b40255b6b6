"""HTTP connections through urllib3 that keep a deadline, can be cancelled, and survive a fork."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ClosedPoolError, HTTPError, ProtocolError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Endpoint
from rt4ksr_client.errors import DeadlineExceededError, ServerError, ServerUnreachableError
from rt4ksr_client.transports.base import closed, unreachable

__all__ = ["Exchange", "HttpPool", "error_for_exception"]

_CHUNK_BYTES: Final = 4 << 20
_CONNECT_TIMEOUT_S: Final = 5.0
_END_TIMEOUT_S: Final = 0.1
_MOST_IDLE_CONNECTIONS: Final = 256

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


@dataclass
class Exchange:
    """One request and its response. ``sock`` and ``response`` are set as it proceeds.

    The methods that read raise OSError or :class:`http.client.HTTPException` where the connection
    fails, and what :meth:`Call.required_s` raises.
    """

    call: Call
    method: str
    path: str
    body: Sequence[bytes | memoryview] = ()
    headers: dict[str, str] = field(default_factory=dict)
    sock: socket.socket | None = None
    response: http.client.HTTPResponse | None = None
    on_used_connection: bool = False

    @property
    def status(self) -> int:
        """The response's status code."""
        return self.started().status

    def attach(self, sock: socket.socket) -> None:
        """Use ``sock`` from now on."""
        self.sock = sock
        # A cancellation before this line has found no socket to shut down.
        self.call.raise_if_cancelled()

    def abort(self) -> None:
        """End from another thread what blocks on the socket."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

    def started(self) -> http.client.HTTPResponse:
        """Return the response, whose headers have arrived."""
        if self.response is None:
            raise http.client.ResponseNotReady
        return self.response

    def read(self, size_bytes: int) -> bytes:
        """Return the next ``size_bytes`` of the response."""
        content = self._within_deadline().read(size_bytes)
        if len(content) < size_bytes:
            raise http.client.IncompleteRead(content, size_bytes - len(content))
        return content

    def read_rest(self, at_most_bytes: int) -> bytes:
        """Return the rest of the response, cut at ``at_most_bytes``."""
        response = self._within_deadline()
        content = response.read(at_most_bytes)
        if len(content) < at_most_bytes and response.length:
            raise http.client.IncompleteRead(content, response.length)
        return content

    def read_into(self, buffer: memoryview) -> None:
        """Fill ``buffer`` with what comes next, straight from the socket."""
        while buffer:
            received = self._within_deadline().readinto(buffer[:_CHUNK_BYTES])
            if not received:
                raise http.client.IncompleteRead(b"", len(buffer))
            buffer = buffer[received:]

    def finish(self) -> bool:
        """Return whether the response was read to its end, so that its connection can be reused."""
        response = self.started()
        if response.isclosed() or self.sock is None:
            return response.isclosed()
        with contextlib.suppress(OSError, http.client.HTTPException):
            # The end of a chunked response is only seen by reading on.
            self.sock.settimeout(_END_TIMEOUT_S)
            return not response.read(1) and response.isclosed()
        return False

    def _within_deadline(self) -> http.client.HTTPResponse:
        if self.sock is not None:
            self.sock.settimeout(self.call.required_s())
        return self.started()


_current: ContextVar[Exchange] = ContextVar("rt4ksr_http_exchange")
"""What the connection that urllib3 picks works for."""


class _Connection(HTTPConnection):
    """A connection that keeps the deadline of an exchange, and is shut down when that is aborted.

    A place for what both HTTP and HTTPS need: nothing here assumes a plain socket.
    """

    used = False

    def request(self, *args: Any, **options: Any) -> None:
        exchange = _current.get()
        exchange.on_used_connection, self.used = self.used, True
        if self.sock is not None:
            exchange.attach(self.sock)
        super().request(*args, **options)

    def close(self) -> None:
        self.used = False
        super().close()

    def response_class(self, *args: Any, **options: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        # urllib3's own response can only be read through copies.
        response = http.client.HTTPResponse(*args, **options)
        _current.get().response = response
        return response

    def _new_conn(self) -> socket.socket:
        # urllib3's own cannot be ended from another thread.
        return connect(self.host, self.port, _current.get())


class HttpPool:
    """Connections to one server, kept alive, one for each exchange under way.

    May be shared between threads. A connection belongs to the process that opened it: after a
    fork, the child opens its own. Proxies in the environment are ignored.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._pool = self._open()
        self._pid = os.getpid()
        self._closed = False

    def send(self, exchange: Exchange, receive: Callable[[Exchange], Answer]) -> Answer:
        """Send the request and return what ``receive`` reads from the response.

        A connection that turns out to be closed, before anything was answered, is replaced once.

        Raises:
            DeadlineExceededError: the deadline of the call came first.
            ServerUnreachableError: no connection, or one that ended before a complete answer.
            ServerError: the pool is closed.

        """
        token = _current.set(exchange)
        try:
            with contextlib.ExitStack() as unless_complete:
                with exchange.call.stopping(exchange.abort):
                    response = self._request(exchange)
                    unless_complete.callback(response.close)
                    answer = receive(exchange)
                    is_complete = exchange.finish()
                if is_complete:
                    unless_complete.pop_all()
                    response.release_conn()
            return answer
        except (HTTPError, OSError, http.client.HTTPException) as exc:
            address, timeout_s = self._endpoint.address, exchange.call.timeout_s
            raise error_for_exception(exc, address, timeout_s) from exc
        finally:
            _current.reset(token)

    def close(self) -> None:
        """Close the idle connections; one in use is closed by its exchange."""
        self._closed = True
        self._pool.close()

    def _request(self, exchange: Exchange) -> urllib3.BaseHTTPResponse:
        """Send the request and return the response as far as its headers."""
        if self._pid != os.getpid():
            self._pool, self._pid = self._open(), os.getpid()
        for is_retry in (False, True):
            if self._closed:
                raise closed()
            try:
                return self._pool.urlopen(
                    exchange.method,
                    exchange.path,
                    exchange.body or None,  # type: ignore[arg-type] # it sends memoryviews too
                    exchange.headers,
                    retries=False,
                    redirect=False,
                    timeout=urllib3.Timeout(total=exchange.call.required_s()),
                    preload_content=False,
                    decode_content=False,
                )
            except ProtocolError as exc:
                is_stale = exchange.on_used_connection and isinstance(_cause(exc), ConnectionError)
                if is_retry or not is_stale:
                    raise
                # Servers and proxies close connections that were idle for long, and a request may
                # cross that. The other idle connections are no better.
                logger.info(
                    "%s: an idle connection was closed; the request is sent again",
                    self._endpoint.address,
                )
                self._pool = self._open()
        raise AssertionError("the second attempt returns or raises")

    def _open(self) -> urllib3.HTTPConnectionPool:
        endpoint = self._endpoint
        pool = urllib3.HTTPConnectionPool(
            endpoint.host, endpoint.port, maxsize=_MOST_IDLE_CONNECTIONS
        )
        pool.ConnectionCls = _Connection
        return pool


def connect(host: str, port: int, exchange: Exchange) -> socket.socket:
    """Open a TCP connection for ``exchange``, which can abort it.

    Raises:
        ServerUnreachableError: nobody listens, or the host is not found.
        DeadlineExceededError: the deadline of the call came first.

    """
    failure = OSError(f"{host} has no address")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        addresses, failure = [], exc
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            exchange.attach(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(min(_CONNECT_TIMEOUT_S, exchange.call.required_s()))
            sock.connect(address)
            sock.settimeout(exchange.call.required_s())
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise unreachable(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") from failure


def error_for_exception(exc: Exception, address: str, timeout_s: float) -> ServerError:
    """Return the error for what a socket, :mod:`http.client` or urllib3 raised."""
    cause = _cause(exc)
    if isinstance(cause, (TimeoutError, Urllib3TimeoutError)):
        return DeadlineExceededError(f"no answer within {timeout_s:g} s")
    if isinstance(cause, ClosedPoolError):
        return closed()
    # HTTP/2, and so gRPC, begins with a SETTINGS frame: three bytes of length, then its type.
    if isinstance(cause, http.client.BadStatusLine) and cause.args[0][3:5] == "\x04\x00":
        return ServerError(
            f"this port speaks gRPC, not HTTP: use grpc://{address}, or the server's HTTP port "
            "(8000 by default)"
        )
    return ServerUnreachableError(
        f"{address}: the server, or a proxy before it, closed the connection without a complete "
        f"answer: {str(cause) or type(cause).__name__}"
    )


def _cause(exc: Exception) -> Exception:
    """Return what urllib3 wrapped."""
    wrapped = exc.args[1] if isinstance(exc, ProtocolError) and len(exc.args) > 1 else exc
    return wrapped if isinstance(wrapped, Exception) else exc
