"""Which transport an address leads to, and what can go wrong on the way."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import pytest
import urllib3
from urllib3.exceptions import ClosedPoolError, ProtocolError, ReadTimeoutError
from urllib3.exceptions import SSLError as Urllib3SslError

from rt4ksr_client import errors
from rt4ksr_client.call import Call, Cancellation
from rt4ksr_client.connection import Connection, Endpoint, TransportName, WireName
from rt4ksr_client.errors import (
    DeadlineExceededError,
    MissingExtraError,
    ServerError,
    ServerUnreachableError,
    TlsError,
)
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports import Transport, open_transport
from rt4ksr_client.transports.encoded import EncodedTransport
from rt4ksr_client.transports.fleet import FleetTransport
from rt4ksr_client.transports.grpc import GrpcTransport
from rt4ksr_client.transports.http import HttpTransport
from rt4ksr_client.transports.http_pool import error_for_exception
from rt4ksr_client.transports.negotiation import (
    AutoTransport,
    AutoWireTransport,
    NegotiatedTransport,
)
from rt4ksr_client.transports.shared_memory import SharedMemoryTransport
from rt4ksr_client.transports.status_codes import (
    GRPC_ERRORS,
    HTTP_ERRORS,
    error_for_grpc,
    error_for_http,
)


@pytest.mark.parametrize(
    ("url", "transport", "expected"),
    [
        ("host:1", "auto", AutoTransport),
        ("grpc://host:1", "auto", AutoTransport),
        ("host:1", "grpc", GrpcTransport),
        ("host:1", "http", HttpTransport),
        ("http://host:1", "auto", HttpTransport),
        ("http://host:1", "http", HttpTransport),
        ("[::1]:1", "grpc", GrpcTransport),
        ("http://host:1/", "auto", HttpTransport),
        ("host:1/", "grpc", GrpcTransport),
        ("host:1", "shm", SharedMemoryTransport),
        ("dns:///servers:1", "auto", GrpcTransport),
        ("a:1,b:2", "grpc", FleetTransport),
        ("a:1, http://b:2", "auto", FleetTransport),
    ],
)
def test_url_and_transport_name_resolve_to_a_transport(
    url: str, transport: TransportName, expected: type[Transport]
) -> None:
    with open_transport(Connection(url, transport)) as opened:
        assert type(opened) is expected


@pytest.mark.parametrize(
    ("url", "transport"),
    [
        ("", "auto"),
        ("host", "auto"),
        ("host:", "auto"),
        (":8001", "auto"),
        ("host:0", "auto"),
        ("host:65536", "auto"),
        ("host:port", "auto"),
        ("ftp://host:1", "auto"),
        ("a:1,", "auto"),
        ("http://host:1", "grpc"),
        ("http://host:1", "shm"),
        ("grpc://host:1", "http"),
        ("dns:///servers:1", "shm"),
        ("host:1", "pigeon"),
    ],
)
def test_a_malformed_url_or_an_unsuitable_transport_is_rejected(url: str, transport: Any) -> None:
    with pytest.raises(ValueError, match=r"transport|scheme|address"):
        Connection(url, transport)


@pytest.mark.parametrize(
    ("wire", "url", "expected"),
    [
        ("encoded", "host:1", EncodedTransport),
        ("encoded", "http://host:1", EncodedTransport),
        ("auto", "host:1", AutoWireTransport),
        ("auto", "http://host:1", AutoWireTransport),
        ("encoded", "a:1,b:2", FleetTransport),
    ],
)
def test_the_wire_wraps_the_transport(wire: WireName, url: str, expected: type[Transport]) -> None:
    with open_transport(Connection(url, wire=wire)) as opened:
        assert type(opened) is expected
        assert opened.route.wire in ("auto", "encoded")


@pytest.mark.parametrize(
    ("address", "host", "port", "is_loopback"),
    [
        ("127.0.0.1:8001", "127.0.0.1", 8001, True),
        ("127.1.2.3:1", "127.1.2.3", 1, True),
        ("localhost:1", "localhost", 1, True),
        ("[::1]:1", "::1", 1, True),
        ("dns:///localhost:1", "localhost", 1, True),
        ("10.0.0.1:1", "10.0.0.1", 1, False),
        ("[2001:db8::1]:1", "2001:db8::1", 1, False),
        ("localhost.example.org:1", "localhost.example.org", 1, False),
    ],
)
def test_an_endpoint_knows_its_host_and_whether_it_is_loopback(
    address: str, host: str, port: int, is_loopback: bool
) -> None:
    endpoint = Endpoint(address, "grpc", "a test")

    assert (endpoint.host, endpoint.port, endpoint.is_loopback) == (host, port, is_loopback)


def test_the_transport_and_its_reason_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "rt4ksr_client"):
        open_transport(Connection("http://host:1")).close()
        open_transport(Connection("host:1", "grpc")).close()

    assert [record.getMessage() for record in caplog.records] == [
        "host:1: transport http: given by the address",
        "host:1: transport grpc: requested",
    ]


def test_cuda_shared_memory_without_cuda_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"tritonclient\[cuda\]"):
        open_transport(Connection("host:1", "cuda_shm"))


# What goes wrong

POOL = urllib3.HTTPConnectionPool("host")


def test_every_grpc_status_becomes_one_of_our_errors() -> None:
    assert set(GRPC_ERRORS) <= set(grpc.StatusCode.__members__)
    for name in grpc.StatusCode.__members__:
        error = error_for_grpc(name, "the words")
        assert isinstance(error, ServerError)
        assert "the words" in str(error)
        assert type(error) is not ServerError or name in str(error)


def test_every_http_status_becomes_one_of_our_errors() -> None:
    assert set(HTTP_ERRORS) <= {int(status) for status in http.HTTPStatus}
    for status in http.HTTPStatus:
        error = error_for_http(status, "the words")
        assert isinstance(error, ServerError)
        assert "the words" in str(error)
        assert type(error) is not ServerError or str(int(status)) in str(error)


def caused(exc: Exception, cause: Exception) -> Exception:
    exc.__cause__ = cause
    return exc


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (TimeoutError("timed out"), DeadlineExceededError),
        (ReadTimeoutError(POOL, "", "late"), DeadlineExceededError),
        (ProtocolError("Connection aborted.", TimeoutError()), DeadlineExceededError),
        (OSError(errno.ETIMEDOUT, "lost"), ServerUnreachableError),
        (caused(ReadTimeoutError(POOL, "", "late"), TimeoutError()), DeadlineExceededError),
        (
            caused(ReadTimeoutError(POOL, "", "late"), OSError(errno.ETIMEDOUT, "lost")),
            ServerUnreachableError,
        ),
        (ProtocolError("", OSError(errno.ETIMEDOUT, "lost")), ServerUnreachableError),
        (Urllib3SslError(ssl.SSLError("bad record")), TlsError),
        (ssl.SSLEOFError(8, "unexpected eof"), ServerUnreachableError),
        (ConnectionRefusedError("no"), ServerUnreachableError),
        (ConnectionResetError(), ServerUnreachableError),
        (BrokenPipeError(), ServerUnreachableError),
        (socket.gaierror("unknown name"), ServerUnreachableError),
        (http.client.RemoteDisconnected("gone"), ServerUnreachableError),
        (http.client.IncompleteRead(b"", 5), ServerUnreachableError),
        (ProtocolError("Connection aborted.", ConnectionResetError()), ServerUnreachableError),
        (ClosedPoolError(POOL, "Pool is closed."), ServerError),
    ],
)
def test_socket_and_urllib3_exceptions_become_our_errors(
    raised: Exception, expected: type[ServerError]
) -> None:
    error = error_for_exception(raised, Endpoint("host:1", "http", "a test"), 3)

    assert type(error) is expected
    assert not str(error).endswith(" ")


def test_every_server_error_belongs_to_a_status() -> None:
    """A new one belongs into the tables, or here with its reason."""
    # The client's own comparison, and a status that means much else.
    elsewhere = {errors.WrongScaleError, errors.SharedMemoryError}
    subclasses = set(ServerError.__subclasses__())

    assert subclasses - elsewhere == {*GRPC_ERRORS.values(), *HTTP_ERRORS.values()}


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def closed_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


SMALL = np.zeros((1, 2, 2, 3), np.uint8)
MODEL = ServedModel("rt4ksr_x2", 2, 2, 16, 8, "", "")


@pytest.mark.parametrize("name", ["grpc", "http", "shm", "auto"])
def test_a_call_to_a_silent_server_ends_at_the_deadline(
    name: TransportName, silent_address: str
) -> None:
    begin_s = time.monotonic()
    with (
        open_transport(Connection(silent_address, name)) as transport,
        pytest.raises((DeadlineExceededError, ServerUnreachableError)),
    ):
        transport.upscale(MODEL, (SMALL,), Call(0.3))
    # Over gRPC, a probe follows that may take 2 s.
    assert time.monotonic() - begin_s < 5


@pytest.mark.parametrize("name", ["grpc", "http", "shm", "auto"])
def test_the_error_for_a_closed_port_says_how_to_start_a_server(
    name: TransportName, closed_address: str
) -> None:
    with (
        open_transport(Connection(closed_address, name)) as transport,
        pytest.raises(ServerUnreachableError, match="rt4ksr serve"),
    ):
        transport.upscale(MODEL, (SMALL,), Call(5))


@pytest.fixture
def http_address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    serving.join(10)
    server.server_close()


@pytest.mark.parametrize("name", ["grpc", "auto", "shm"])
def test_a_port_that_speaks_http_is_named(name: TransportName, http_address: str) -> None:
    with (
        open_transport(Connection(http_address, name)) as transport,
        pytest.raises(ServerError, match=f"speaks HTTP, not gRPC: use http://{http_address}"),
    ):
        transport.served_model("rt4ksr_x2", Call(10))


def test_a_port_that_speaks_grpc_is_named() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with (
        open_transport(Connection(f"http://{address}/")) as transport,
        pytest.raises(ServerError, match=f"speaks gRPC, not HTTP: use grpc://{address}"),
    ):
        transport.served_model("rt4ksr_x2", Call(10))
    server.stop(0).wait(10)


QUESTIONS: dict[str, Callable[[Transport, Call], object]] = {
    "negotiate": lambda transport, call: transport.negotiate(call),
    "served_model": lambda transport, call: transport.served_model("rt4ksr_x2", call),
    "server_metadata": lambda transport, call: transport.server_metadata(call),
    "repository_index": lambda transport, call: transport.repository_index(call),
    "model_statistics": lambda transport, call: transport.model_statistics(call),
    "model_ready": lambda transport, call: transport.model_ready("rt4ksr_x2", call),
    "upscale": lambda transport, call: transport.upscale(MODEL, (SMALL,), call),
}


ROUTES: list[tuple[TransportName, WireName]] = [
    ("grpc", "raw"),
    ("http", "raw"),
    ("shm", "raw"),
    ("auto", "raw"),
    ("grpc", "encoded"),
    ("http", "encoded"),
    ("grpc", "auto"),
    ("http", "auto"),
    ("auto", "auto"),
]


@pytest.mark.parametrize(
    ("name", "wire", "question"),
    [
        (name, wire, question)
        for name, wire in ROUTES
        for question in QUESTIONS
        if question != "negotiate" or "auto" in (name, wire)  # else nothing is asked
    ],
)
def test_a_first_call_to_a_silent_server_can_be_cancelled(
    name: TransportName, wire: WireName, question: str, silent_address: str
) -> None:
    cancellation = Cancellation()
    transport = open_transport(Connection(silent_address, name, wire))
    threading.Timer(0.1, cancellation.cancel).start()
    begin_s = time.monotonic()

    with pytest.raises(CancelledError):
        QUESTIONS[question](transport, Call(30, cancellation))
    transport.close()

    assert time.monotonic() - begin_s < 5


@pytest.mark.parametrize("name", ["grpc", "http", "auto"])
def test_a_call_that_waits_for_another_ones_first_contact_can_be_cancelled(
    name: TransportName, silent_address: str
) -> None:
    mine, other = Cancellation(), Cancellation()
    transport = open_transport(Connection(silent_address, name, "auto"))
    deciding = threading.Thread(target=negotiate_until_cancelled, args=(transport, other))
    deciding.start()
    threading.Timer(0.2, mine.cancel).start()
    begin_s = time.monotonic()

    with pytest.raises(CancelledError):
        transport.negotiate(Call(30, mine))
    waited_s = time.monotonic() - begin_s
    other.cancel()
    deciding.join(10)
    transport.close()

    assert waited_s < 5
    assert not deciding.is_alive()


def negotiate_until_cancelled(transport: Transport, cancellation: Cancellation) -> None:
    with pytest.raises(CancelledError):
        transport.negotiate(Call(30, cancellation))


@pytest.mark.parametrize("name", ["grpc", "http", "shm"])
def test_closing_twice_is_harmless(name: TransportName, closed_address: str) -> None:
    transport = open_transport(Connection(closed_address, name))
    transport.close()
    transport.close()


@pytest.mark.parametrize(("name", "wire"), ROUTES)
@pytest.mark.parametrize("question", [name for name in QUESTIONS if name != "negotiate"])
def test_use_after_close_is_an_error_of_ours(
    name: TransportName, wire: WireName, question: str, closed_address: str
) -> None:
    transport = open_transport(Connection(closed_address, name, wire))
    transport.close()

    with pytest.raises(ServerError, match="this client is closed: open another one"):
        QUESTIONS[question](transport, Call(5))


@pytest.mark.parametrize("name", ["grpc", "shm"])
def test_closing_ends_a_call_in_flight_with_an_error_of_ours(
    name: TransportName, silent_address: str
) -> None:
    transport = open_transport(Connection(silent_address, name))
    threading.Timer(0.3, transport.close).start()
    begin_s = time.monotonic()

    with pytest.raises(ServerError):
        transport.upscale(MODEL, (SMALL,), Call(20))

    assert time.monotonic() - begin_s < 15


class Choosing(NegotiatedTransport):
    """Chooses when it is told to."""

    def __init__(self, chosen: Transport) -> None:
        super().__init__("host:1")
        self.begun, self.proceed = threading.Event(), threading.Event()
        self.choice = chosen

    def choose(self, call: Call) -> Transport:
        self.begun.set()
        self.proceed.wait(10)
        return self.choice


def test_closing_while_a_first_call_decides_closes_what_it_chooses(closed_address: str) -> None:
    chosen = GrpcTransport(Endpoint(closed_address, "grpc", "a test"))
    transport = Choosing(chosen)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(transport.negotiate, Call(10))
        transport.begun.wait(10)
        transport.close()
        transport.proceed.set()
        with pytest.raises(ServerError, match="closed"):
            first.result(10)

    with pytest.raises(ServerError, match="closed"):
        chosen.server_metadata(Call(5))


# What a model says about itself

PARAMETERS = {"scale": "3", "size_multiple": "2", "halo_px": "16", "weights_sha256": "ab"}


def config(**changes: str | None) -> dict[str, Any]:
    values = {key: value for key, value in {**PARAMETERS, **changes}.items() if value is not None}
    return {
        "name": "m",
        "max_batch_size": 8,
        "parameters": {key: {"string_value": value} for key, value in values.items()},
    }


def test_a_model_is_read_from_its_config() -> None:
    assert ServedModel.from_config(config()) == ServedModel("m", 3, 2, 16, 8, "ab", "")
    assert ServedModel.from_config(config(max_side_px="2080")).max_side_px == 2080


@pytest.mark.parametrize("side", ["", "two", "-1", "32"])
def test_a_longest_side_without_room_between_two_halos_is_rejected(side: str) -> None:
    with pytest.raises(ServerError, match="not one of rt4ksr-triton's"):
        ServedModel.from_config(config(max_side_px=side))


@pytest.mark.parametrize("key", ["scale", "size_multiple", "halo_px"])
@pytest.mark.parametrize("value", [None, "", "two", "-1"])
def test_a_model_of_another_project_is_rejected(key: str, value: str | None) -> None:
    with pytest.raises(ServerError, match="not one of rt4ksr-triton's"):
        ServedModel.from_config(config(**{key: value}))


def test_the_proxy_of_the_environment_is_named_where_it_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    endpoint = Endpoint("192.0.2.1:8001", "grpc", "a test")

    with (
        GrpcTransport(endpoint) as transport,
        pytest.raises(ServerUnreachableError) as failed,
    ):
        transport.server_metadata(Call(5))

    said = "through the proxy http://127.0.0.1:9 (http_proxy): name the host in no_proxy"
    assert said in str(failed.value)
    monkeypatch.setenv("no_proxy", "192.0.2.1")
    assert GrpcTransport(endpoint).proxy == ""
