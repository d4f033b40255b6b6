"""Which transport an address leads to, and what can go wrong on the way."""

from __future__ import annotations

import http
import socket
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from rt4ksr_client import errors
from rt4ksr_client.connection import Connection, TransportName
from rt4ksr_client.errors import (
    DeadlineExceededError,
    MissingExtraError,
    ServerError,
    ServerUnreachableError,
)
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports import (
    FleetTransport,
    GrpcTransport,
    HttpTransport,
    ShmTransport,
    Transport,
    open_transport,
)
from rt4ksr_client.transports.auto import AutoTransport
from rt4ksr_client.transports.failures import (
    GRPC_ERRORS,
    HTTP_ERRORS,
    error_for_grpc,
    error_for_http,
    error_for_os,
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
        ("host:1", "shm", ShmTransport),
        ("dns:///servers:1", "auto", GrpcTransport),
        ("a:1,b:2", "grpc", FleetTransport),
        ("a:1, http://b:2", "auto", FleetTransport),
    ],
)
def test_address_and_wish_lead_to_a_transport(
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
def test_an_address_or_a_wish_that_leads_nowhere_is_refused(url: str, transport: Any) -> None:
    with pytest.raises(ValueError, match=r"transport|scheme|address"):
        open_transport(Connection(url, transport))


def test_cuda_shared_memory_without_cuda_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"tritonclient\[cuda\]"):
        open_transport(Connection("host:1", "cuda_shm"))


# What goes wrong


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


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (TimeoutError("timed out"), DeadlineExceededError),
        (ConnectionRefusedError("no"), ServerUnreachableError),
        (ConnectionResetError(), ServerUnreachableError),
        (BrokenPipeError(), ServerUnreachableError),
        (socket.gaierror("unknown name"), ServerUnreachableError),
        (http.client.RemoteDisconnected("gone"), ServerUnreachableError),
        (http.client.IncompleteRead(b"", 5), ServerUnreachableError),
    ],
)
def test_what_a_socket_raises_becomes_one_of_our_errors(
    raised: Exception, expected: type[ServerError]
) -> None:
    assert type(error_for_os(raised)) is expected


def test_every_error_of_a_server_is_used() -> None:
    """A new one belongs into the tables, or here with its reason."""
    elsewhere = {errors.WrongScaleError}  # the client's own comparison
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


@pytest.mark.parametrize("name", ["grpc", "http", "shm", "auto"])
def test_a_server_that_says_nothing_ends_at_the_deadline(
    name: TransportName, silent_address: str
) -> None:
    begin_s = time.monotonic()
    with (
        open_transport(Connection(silent_address, name)) as transport,
        pytest.raises((DeadlineExceededError, ServerUnreachableError)),
    ):
        transport.infer("rt4ksr_x2", SMALL, timeout_s=0.3)
    # Over gRPC, a probe follows that may take 2 s.
    assert time.monotonic() - begin_s < 5


@pytest.mark.parametrize("name", ["grpc", "http", "shm", "auto"])
def test_where_nobody_listens_it_says_how_to_start_a_server(
    name: TransportName, closed_address: str
) -> None:
    with (
        open_transport(Connection(closed_address, name)) as transport,
        pytest.raises(ServerUnreachableError, match="rt4ksr serve"),
    ):
        transport.infer("rt4ksr_x2", SMALL, timeout_s=5)


@pytest.mark.parametrize("name", ["grpc", "http", "shm"])
def test_closing_twice_is_harmless(name: TransportName, closed_address: str) -> None:
    transport = open_transport(Connection(closed_address, name))
    transport.close()
    transport.close()


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
def test_a_longest_side_that_leaves_no_room_is_refused(side: str) -> None:
    with pytest.raises(ServerError, match="not one of rt4ksr-triton's"):
        ServedModel.from_config(config(max_side_px=side))


@pytest.mark.parametrize("key", ["scale", "size_multiple", "halo_px"])
@pytest.mark.parametrize("value", [None, "", "two", "-1"])
def test_a_model_that_is_not_ours_is_refused(key: str, value: str | None) -> None:
    with pytest.raises(ServerError, match="not one of rt4ksr-triton's"):
        ServedModel.from_config(config(**{key: value}))
