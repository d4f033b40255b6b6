"""HTTP against servers and proxies that close, stall, chunk and lie."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest

from rt4ksr_client.call import Call, Cancellation
from rt4ksr_client.connection import Connection
from rt4ksr_client.contract import OUTPUT_NAME
from rt4ksr_client.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
)
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports import Transport, open_transport
from rt4ksr_client.transports.messages import InferRequest, RequestedOutput, Tensor
from support.http_servers import (
    Peer,
    ScriptedServer,
    error_response,
    response_of,
    split_response,
)

MODEL = ServedModel("m", 1, 1, 0, 1, "", "")
FRAME = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(1, 4, 6, 3)
GOOD = response_of({OUTPUT_NAME: FRAME})
READY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@contextlib.contextmanager
def serving(script: Callable[[int, Peer], object]) -> Iterator[tuple[ScriptedServer, Transport]]:
    with (
        ScriptedServer(script) as server,
        open_transport(Connection(f"http://{server.address}")) as transport,
    ):
        yield server, transport


def upscale(transport: Transport, timeout_s: float = 10) -> None:
    (upscaled,) = transport.upscale(MODEL, (FRAME,), Call(timeout_s))
    np.testing.assert_array_equal(upscaled, FRAME)


def answer(peer: Peer, response: bytes = GOOD) -> bool:
    """Answer one request; False if the client has closed the connection."""
    if peer.read_request() is None:
        return False
    peer.send(response)
    return True


def answer_all(number: int, peer: Peer) -> None:
    while answer(peer):
        pass


# Connections are kept, and survive whoever closes them


def test_one_connection_serves_call_after_call() -> None:
    with serving(answer_all) as (server, transport):
        for _ in range(5):
            upscale(transport)

    assert server.connections == 1


def test_an_error_of_the_server_costs_no_connection() -> None:
    def script(number: int, peer: Peer) -> None:
        while answer(peer, error_response(400, "no")):
            pass

    with serving(script) as (server, transport):
        for _ in range(3):
            with pytest.raises(InvalidRequestError, match=r"127.0.0.1:\d+: m: no"):
                upscale(transport)

    assert server.connections == 1


@pytest.mark.parametrize("end", [Peer.close, Peer.reset], ids=["closed", "reset"])
def test_a_connection_closed_while_it_was_idle_is_replaced(end: Callable[[Peer], None]) -> None:
    def script(number: int, peer: Peer) -> None:
        answer(peer)
        end(peer)

    with serving(script) as (server, transport):
        for _ in range(4):
            upscale(transport)
            time.sleep(0.02)

    assert server.connections == 4


@pytest.mark.parametrize("end", [Peer.close, Peer.reset], ids=["closed", "reset"])
@pytest.mark.parametrize("read", [True, False], ids=["request read", "request not read"])
def test_a_connection_closed_as_the_next_request_comes_is_replaced(
    end: Callable[[Peer], None], read: bool
) -> None:
    def script(number: int, peer: Peer) -> None:
        if number == 0:
            answer(peer)
            if read:
                peer.read_request()
            else:
                peer.sock.recv(1)
            end(peer)
        else:
            answer_all(number, peer)

    with serving(script) as (server, transport):
        for _ in range(3):
            upscale(transport)

    assert server.connections == 2


def test_many_stale_connections_cost_each_call_one_retry() -> None:
    together = threading.Barrier(8)

    def script(number: int, peer: Peer) -> None:
        if number < 8:
            peer.read_request()
            together.wait(10)
            peer.send(GOOD)
            peer.sock.recv(1)
            peer.reset()
        else:
            answer_all(number, peer)

    with serving(script) as (_, transport), ThreadPoolExecutor(8) as threads:
        for _ in range(2):
            list(threads.map(lambda _: upscale(transport), range(8)))


def test_a_server_that_always_closes_before_it_answers_is_unreachable_not_overloaded() -> None:
    requests = []

    def script(number: int, peer: Peer) -> None:
        request = peer.read_request()
        if request is not None and request[0].startswith("POST"):
            requests.append(request)
        if request is not None and "ready" in request[0]:
            peer.send(READY)
        peer.close()

    with (
        serving(script) as (_, transport),
        pytest.raises(ServerUnreachableError, match="closed the connection"),
    ):
        upscale(transport)

    assert len(requests) == 1


def test_a_fresh_connection_is_not_retried_here_and_a_stale_one_once() -> None:
    requests = []

    def script(number: int, peer: Peer) -> None:
        if number == 0:
            answer(peer)
        requests.append(peer.read_request())
        peer.close()

    with serving(script) as (server, transport):
        upscale(transport)
        with pytest.raises(ServerUnreachableError):
            upscale(transport)

    assert (server.connections, len(requests)) == (2, 2)


@pytest.mark.parametrize(
    "headers",
    [("Connection: close",), ("Connection: close", "Server: proxy")],
)
def test_connection_close_is_respected(headers: tuple[str, ...]) -> None:
    def script(number: int, peer: Peer) -> None:
        answer(peer, response_of({OUTPUT_NAME: FRAME}, *headers))
        peer.close()

    with serving(script) as (server, transport):
        for _ in range(3):
            upscale(transport)

    assert server.connections == 3


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n",
    ],
)
def test_an_answer_may_end_with_its_connection(head: str) -> None:
    body = json.dumps({"name": "triton", "version": "2", "extensions": []}).encode()

    def script(number: int, peer: Peer) -> None:
        answer(peer, f"{head.format(len(body))}\r\n".encode() + body)
        peer.close()

    with serving(script) as (server, transport):
        for _ in range(3):
            assert transport.server_metadata(Call(5))["name"] == "triton"

    assert server.connections == 3


def test_an_error_may_end_with_its_connection() -> None:
    def script(number: int, peer: Peer) -> None:
        answer(peer, b'HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\n{"error": "no"}')
        peer.close()

    with serving(script) as (_, transport), pytest.raises(InvalidRequestError, match="m: no"):
        upscale(transport)


@pytest.mark.parametrize("sizes", [(1,), (7, 100_000), (64,)])
def test_a_proxy_may_send_the_answer_in_chunks(sizes: tuple[int, ...]) -> None:
    def script(number: int, peer: Peer) -> None:
        while answer(peer, split_response(GOOD, sizes)):
            pass

    with serving(script) as (server, transport):
        for _ in range(3):
            upscale(transport)

    assert server.connections == 1


def test_surplus_bytes_are_not_read_as_the_next_answer() -> None:
    def script(number: int, peer: Peer) -> None:
        while answer(peer, GOOD + b"surplus"):
            pass

    with serving(script) as (_, transport):
        for _ in range(3):
            upscale(transport)


# Answers that are cut, late or wrong


@pytest.mark.parametrize("end", [Peer.close, Peer.reset], ids=["closed", "reset"])
def test_a_truncated_answer_is_a_server_error_but_not_overloaded(
    end: Callable[[Peer], None],
) -> None:
    cuts = iter(range(0, len(GOOD), 7))

    def script(number: int, peer: Peer) -> None:
        peer.read_request()
        peer.send(GOOD[: next(cuts)])
        end(peer)

    with serving(script) as (_, transport):
        for _ in range(0, len(GOOD), 7):
            with pytest.raises(ServerError) as failure:
                upscale(transport)
            assert not isinstance(failure.value, OverloadedError)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{",
        b"{}",
        b'{"outputs": 5}',
        b'{"outputs": [{"name": "upscaled"}]}',
        b'{"outputs": [{"name": "upscaled", "datatype": "UINT8", "shape": ["x"]}]}',
        json.dumps(
            {
                "outputs": [
                    {
                        "name": "upscaled",
                        "datatype": "UINT8",
                        "shape": [1],
                        "parameters": {"binary_data_size": size},
                    }
                    for size in (-5, 10)
                ]
            }
        ).encode(),
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"outputs": [{"name": "upscaled", "datatype": "UINT8", "shape": [Infinity]}]}',
    ],
    ids=[
        "empty",
        "list",
        "cut",
        "nothing",
        "number",
        "half",
        "shape",
        "size",
        "deep",
        "text",
        "infinite",
    ],
)
def test_a_malformed_header_is_a_server_error(header: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: {len(header)}\r\n"

    def script(number: int, peer: Peer) -> None:
        answer(peer, f"{head}Content-Length: {len(header)}\r\n\r\n".encode() + header)

    with serving(script) as (_, transport), pytest.raises(ServerError, match=r"holds no"):
        upscale(transport)


def test_a_web_page_as_an_answer_is_a_server_error() -> None:
    page = b"<html>welcome to the hotel</html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page)

    with serving(lambda number, peer: answer(peer, head + page)) as (_, transport):
        with pytest.raises(ServerError, match="holds no tensors"):
            upscale(transport)
        with pytest.raises(ServerError):
            transport.server_metadata(Call(5))


def test_a_gateways_error_page_is_an_unreachable_server() -> None:
    body = b"<html>502 Bad Gateway</html>"
    head = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\n\r\n" % len(body)

    def script(number: int, peer: Peer) -> None:
        while answer(peer, head + body):
            pass

    with (
        serving(script) as (_, transport),
        pytest.raises(ServerUnreachableError, match="no Triton server answers"),
    ):
        upscale(transport)


@pytest.mark.parametrize(
    ("ready", "expected"),
    [(READY, OverloadedError), (error_response(400, "loading"), ModelNotReadyError)],
)
def test_a_503_means_overloaded_or_not_ready(ready: bytes, expected: type[ServerError]) -> None:
    def script(number: int, peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            peer.send(ready if "ready" in request[0] else error_response(503, "full"))

    with serving(script) as (_, transport), pytest.raises(expected):
        upscale(transport)


def test_a_refusal_of_a_large_request_is_read_although_it_was_not_sent() -> None:
    frame = np.zeros((1, 3000, 3000, 3), np.uint8)

    def script(number: int, peer: Peer) -> None:
        peer.sock.recv(100)
        peer.send(error_response(413, "too large"))
        time.sleep(0.2)
        peer.reset()

    with serving(script) as (_, transport), pytest.raises(InvalidRequestError, match="too large"):
        transport.upscale(MODEL, (frame,), Call(10))


@pytest.mark.parametrize("sent", [0, 30, len(GOOD) - 20], ids=["nothing", "head", "most"])
def test_a_call_to_a_stalled_server_ends_at_the_deadline(sent: int) -> None:
    def script(number: int, peer: Peer) -> None:
        peer.read_request()
        peer.send(GOOD[:sent])
        time.sleep(5)

    with serving(script) as (server, transport):
        begin_s = time.monotonic()
        with pytest.raises(DeadlineExceededError) as late:
            upscale(transport, 0.3)
        assert time.monotonic() - begin_s < 2
    assert str(late.value) == f"{server.address}: m: no answer within 0.3 s"


def test_a_call_to_a_server_that_does_not_read_ends_at_the_deadline() -> None:
    frame = np.zeros((1, 4000, 4000, 3), np.uint8)

    with serving(lambda number, peer: time.sleep(5)) as (_, transport):
        begin_s = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            transport.upscale(MODEL, (frame,), Call(0.3))
        assert time.monotonic() - begin_s < 2


@pytest.mark.parametrize("sent", [None, 0, 30, len(GOOD) - 20])
def test_a_call_can_be_cancelled_at_every_stage(sent: int | None) -> None:
    def script(number: int, peer: Peer) -> None:
        if sent is not None:
            peer.read_request()
            peer.send(GOOD[:sent])
        time.sleep(5)

    frame = FRAME if sent is not None else np.zeros((1, 4000, 4000, 3), np.uint8)
    cancellation = Cancellation()
    with serving(script) as (_, transport):
        threading.Timer(0.1, cancellation.cancel).start()
        begin_s = time.monotonic()
        with pytest.raises(CancelledError):
            transport.upscale(MODEL, (frame,), Call(30, cancellation))
        assert time.monotonic() - begin_s < 2


def test_connecting_can_be_cancelled() -> None:
    cancellation = Cancellation()
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # the queue is full then: the kernel drops further attempts
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        transport = stack.enter_context(open_transport(Connection(url)))
        threading.Timer(0.2, cancellation.cancel).start()
        begin_s = time.monotonic()
        with pytest.raises(CancelledError):
            transport.upscale(MODEL, (FRAME,), Call(30, cancellation))

    assert time.monotonic() - begin_s < 2


# Tensors, copies, processes


def test_several_tensors_go_out_and_come_back() -> None:
    luma = np.arange(48, dtype=np.uint16).reshape(1, 6, 8)
    chroma = np.arange(15, dtype=np.uint8).reshape(1, 3, 5)
    received: list[bytes] = []

    def script(number: int, peer: Peer) -> None:
        request = peer.read_request()
        assert request is not None
        received.append(request[1])
        peer.send(response_of({"chroma": chroma, "luma": luma}))

    request = InferRequest(
        "video/1",
        [Tensor.from_array("luma", luma), Tensor.from_array("chroma", chroma[:, ::-1])],
        [RequestedOutput("luma"), RequestedOutput("chroma")],
        {"frames": 1},
    )
    with serving(script) as (_, transport):
        response = transport.infer(request, Call(5))

    np.testing.assert_array_equal(response.output("luma").to_array(), luma)
    np.testing.assert_array_equal(response.output("chroma").to_array(), chroma)
    assert response.output("luma").to_array().dtype == np.uint16
    header, _, _ = received[0].partition(b"}]}")
    assert received[0].endswith(luma.tobytes() + chroma[:, ::-1].tobytes())
    assert b'"UINT16"' in header
    with pytest.raises(ServerError, match="holds no alpha"):
        response.output("alpha")


def test_the_answer_is_received_into_one_writable_buffer() -> None:
    with serving(answer_all) as (_, transport):
        (upscaled,) = transport.upscale(MODEL, (FRAME,), Call(5))

    assert upscaled.flags.writeable
    assert not upscaled.flags.owndata


def test_a_forked_process_opens_its_own_connections() -> None:
    with serving(answer_all) as (server, transport):
        upscale(transport)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                upscale(transport)
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        upscale(transport)

    assert os.waitstatus_to_exitcode(status) == 0
    assert server.connections == 2


def test_proxies_in_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(answer_all) as (_, transport):
        upscale(transport)


def test_use_after_close_is_a_server_error() -> None:
    with serving(answer_all) as (_, transport):
        upscale(transport)
        transport.close()
        with pytest.raises(ServerError, match="closed"):
            upscale(transport)
