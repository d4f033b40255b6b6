"""HTTP connections through urllib3 that keep a deadline, can be cancelled, and survive a fork."""

from __future__ import annotations

import contextlib
import errno
import http.client
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ClosedPoolError, HTTPError, ProtocolError
from urllib3.exceptions import SSLError as Urllib3SslError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Endpoint
from rt4ksr_client.errors import DeadlineExceededError, ServerError, ServerUnreachableError
from rt4ksr_client.transports.base import closed, unreachable
from rt4ksr_client.transports.tls import tls_error

__all__ = ["Exchange", "HttpPool", "error_for_exception"]

_CHUNK_BYTES: Final = 4 << 20
_CONNECT_TIMEOUT_S: Final = 5.0
_END_TIMEOUT_S: Final = 0.1
_MOST_IDLE_CONNECTIONS: Final = 256

_SOCKET_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # A host that has vanished is noticed after 20 s: while a request is sent by the user timeout,
    # while an answer is awaited by keepalive.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
)

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
    headers: dict[str, str] = field(default_factory=dict, repr=False)
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
                # Not SSLSocket.shutdown, after which the sending thread would go on unencrypted.
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

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

    For both HTTP and HTTPS: urllib3's own HTTPS connection would do a handshake that nothing ends.
    """

    endpoint: ClassVar[Endpoint]
    context: ClassVar[ssl.SSLContext | None]
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
        return connect(self.endpoint, self.context, _current.get())


class HttpPool:
    """Connections to one server, kept alive, one for each exchange under way.

    May be shared between threads. A connection belongs to the process that opened it: after a
    fork, the child opens its own. Proxies in the environment are ignored.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._context: ssl.SSLContext | None = None
        if endpoint.is_tls:
            self._context = endpoint.security.tls_context()
            self._context.set_alpn_protocols(["http/1.1"])
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
            raise error_for_exception(exc, self._endpoint, exchange.call.timeout_s) from exc
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
                    self._endpoint,
                )
                self._pool = self._open()
        raise AssertionError("the second attempt returns or raises")

    def _open(self) -> urllib3.HTTPConnectionPool:
        endpoint = self._endpoint
        pool = urllib3.HTTPConnectionPool(
            endpoint.host, endpoint.port, maxsize=_MOST_IDLE_CONNECTIONS
        )
        facts: dict[str, object] = {"endpoint": endpoint, "context": self._context}
        if endpoint.is_tls:
            facts["default_port"] = http.client.HTTPS_PORT  # a Host header does not name it
        pool.ConnectionCls = type("_ConnectionTo", (_Connection,), facts)
        return pool


def connect(
    endpoint: Endpoint, context: ssl.SSLContext | None, exchange: Exchange
) -> socket.socket:
    """Open a connection for ``exchange``, which can abort it; with TLS if there is a ``context``.

    Raises:
        ServerUnreachableError: nobody listens, the host is not found, or TLS fails.
        DeadlineExceededError: the deadline of the call came first.

    """
    failure = OSError(f"{endpoint.host} has no address")
    try:
        addresses = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError as exc:
        addresses, failure = [], exc
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            exchange.attach(sock)
            for level, name, value in _SOCKET_OPTIONS:
                sock.setsockopt(level, name, value)
            sock.settimeout(min(_CONNECT_TIMEOUT_S, exchange.call.required_s()))
            sock.connect(address)
            if context is not None:
                sock = start_tls(sock, endpoint, context, exchange)
            sock.settimeout(exchange.call.required_s())
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise unreachable(str(endpoint)) from failure


def start_tls(
    sock: socket.socket, endpoint: Endpoint, context: ssl.SSLContext, exchange: Exchange
) -> ssl.SSLSocket:
    """Return ``sock`` with TLS.

    Raises:
        TlsError: the server does not want it, or the certificate is rejected.

    """
    # Attached before the handshake: the plain socket is detached, and could not be aborted.
    encrypted = context.wrap_socket(
        sock, server_hostname=endpoint.host, do_handshake_on_connect=False
    )
    try:
        exchange.attach(encrypted)
        encrypted.settimeout(min(_CONNECT_TIMEOUT_S, exchange.call.required_s()))
        encrypted.do_handshake()
    except OSError as exc:
        encrypted.close()
        exchange.call.required_s()
        raise tls_error(exc, endpoint) from exc
    except BaseException:
        encrypted.close()
        raise
    return encrypted


def error_for_exception(exc: Exception, endpoint: Endpoint, timeout_s: float) -> ServerError:
    """Return the error for what a socket, :mod:`http.client` or urllib3 raised."""
    cause = _cause(exc)
    if isinstance(cause, TimeoutError) and cause.errno == errno.ETIMEDOUT:
        return ServerUnreachableError(f"{endpoint}: the connection was lost: {cause}")
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
        return tls_error(cause, endpoint)
    if isinstance(cause, (TimeoutError, Urllib3TimeoutError)):
        return DeadlineExceededError(f"no answer within {timeout_s:g} s")
    if isinstance(cause, ClosedPoolError):
        return closed()
    # HTTP/2, and so gRPC, begins with a SETTINGS frame: three bytes of length, then its type.
    if isinstance(cause, http.client.BadStatusLine) and cause.args[0][3:5] == "\x04\x00":
        return ServerError(
            f"this port speaks gRPC, not HTTP: use {'grpcs' if endpoint.is_tls else 'grpc'}://"
            f"{endpoint.address}, or the server's HTTP port (8000 by default)"
        )
    return ServerUnreachableError(
        f"{endpoint}: the server, or a proxy before it, closed the connection without a complete "
        f"answer: {str(cause) or type(cause).__name__}"
    )


def _cause(exc: Exception) -> Exception:
    """Return what urllib3 wrapped."""
    wrapped: object = exc
    if isinstance(exc, ProtocolError) and len(exc.args) > 1:
        wrapped = exc.args[1]
    elif isinstance(exc, Urllib3TimeoutError):
        wrapped = exc.__cause__
    elif isinstance(exc, Urllib3SslError) and exc.args:
        wrapped = exc.args[0]
    return wrapped if isinstance(wrapped, Exception) else exc
