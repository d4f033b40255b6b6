from __future__ import annotations

import http
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from rt4ksr_client import errors
from rt4ksr_client.calls import Cancellation
from rt4ksr_client.contract import INPUT_NAME, OUTPUT_NAME
from rt4ksr_client.errors import (
    DeadlineExceededError,
    MissingExtraError,
    ServerError,
    ServerUnreachableError,
)
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports import (
    FleetTransport,
    GrpcTransport,
    HttpTransport,
    Question,
    ServedModel,
    ShmTransport,
    Transport,
    TransportName,
    open_transport,
    regions,
    wire,
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
    with open_transport(url, transport) as opened:
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
        open_transport(url, transport)


def test_cuda_shared_memory_without_cuda_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"tritonclient\[cuda\]"):
        open_transport("host:1", "cuda_shm")


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
    assert type(error_for_os(raised, "host:1")) is expected


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
        open_transport(silent_address, name) as transport,
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
        open_transport(closed_address, name) as transport,
        pytest.raises(ServerUnreachableError, match="rt4ksr serve"),
    ):
        transport.infer("rt4ksr_x2", SMALL, timeout_s=5)


@pytest.mark.parametrize("name", ["grpc", "http", "shm"])
def test_closing_twice_is_harmless(name: TransportName, closed_address: str) -> None:
    transport = open_transport(closed_address, name)
    transport.close()
    transport.close()


# The wire


def test_a_request_is_what_protobuf_reads() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)[:, :, ::-1]

    message = wire.encode_request(wire.request_header("rt4ksr_x2", batch.shape), batch)

    request = service_pb2.ModelInferRequest.FromString(message)
    assert request.model_name == "rt4ksr_x2"
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        (INPUT_NAME, "UINT8", [2, 5, 7, 3])
    ]
    assert list(request.raw_input_contents) == [batch.tobytes()]


def response(shape: tuple[int, ...], content: bytes, name: str = OUTPUT_NAME) -> bytes:
    message = service_pb2.ModelInferResponse(model_name="rt4ksr_x2", model_version="1", id="7")
    message.parameters["a"].string_param = "b"
    message.outputs.add(name=name, datatype="UINT8", shape=shape)
    message.raw_output_contents.append(content)
    serialised: bytes = message.SerializeToString()
    return serialised


@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (3, 11, 13, 3), (1, 500, 400, 3)])
def test_a_response_of_protobuf_is_read_without_a_copy(shape: tuple[int, ...]) -> None:
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    message = response(shape, batch.tobytes())

    decoded = wire.decode_response(message)

    np.testing.assert_array_equal(decoded, batch)
    assert np.shares_memory(decoded, np.frombuffer(message, np.uint8))


def test_a_response_cut_anywhere_or_garbled_is_an_error_of_ours() -> None:
    shape = (1, 4, 4, 3)
    message = response(shape, bytes(math.prod(shape)))

    for cut in range(len(message)):
        with pytest.raises(ServerError):
            wire.decode_response(message[:cut])
    random = np.random.default_rng(0)
    for _ in range(2000):
        garbled = bytearray(message)
        garbled[random.integers(0, 60)] = random.integers(0, 256)
        try:
            wire.decode_response(bytes(garbled))
        except ServerError:
            continue


@pytest.mark.parametrize(
    "message",
    [response((1, 4, 4, 3), b"short"), response((1, 1, 1, 3), b"123", name="other"), b""],
    ids=["short", "other", "empty"],
)
def test_a_response_without_the_picture_is_an_error_of_ours(message: bytes) -> None:
    with pytest.raises(ServerError, match="holds no picture"):
        wire.decode_response(message)


# Shared memory


def test_region_names_are_unique_and_their_owner_lives() -> None:
    names = {regions.unique_name() for _ in range(100)}

    assert len(names) == 100
    assert not any(map(regions.is_leftover, names))


def test_the_names_that_a_killed_process_left_are_removed() -> None:
    code = (
        "import time; from rt4ksr_client.transports import regions;"
        "print(regions.SystemRegion(4096).name, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        name = process.stdout.readline().decode().strip()
        path = Path("/dev/shm", name)
        try:
            regions.remove_leftover_names()
            assert path.exists(), "its owner lives"
        finally:
            process.kill()
    assert regions.is_leftover(name)

    regions.remove_leftover_names()

    assert not path.exists()


@pytest.mark.parametrize(
    "name", ["rt4ksr-0-1", "rt4ksr_client_1_2", "rt4ksr_client_0_999999999_1_0_ab", "x_1_2_3_4_5"]
)
def test_what_is_not_ours_or_cannot_be_seen_from_here_is_no_leftover(name: str) -> None:
    assert not regions.is_leftover(name)


def test_another_process_with_the_same_id_does_not_hide_a_leftover() -> None:
    prefix, namespace, pid, start, number, token = regions.unique_name().rsplit("_", 5)
    earlier = f"{prefix}_{namespace}_{pid}_{int(start) - 1}_{number}_{token}"

    assert regions.is_leftover(earlier)
    assert int(pid) == os.getpid()


def test_a_region_that_does_not_fit_leaves_no_name() -> None:
    before = set(Path("/dev/shm").iterdir())

    with pytest.raises(OSError, match=r"\w"):
        regions.SystemRegion(1 << 60)

    ours = {path for path in set(Path("/dev/shm").iterdir()) - before if "client" in path.name}
    assert not ours


# Several servers


class Local(Transport):
    """Answers at once with its number, or fails."""

    name = "local"
    reason = "a test"

    def __init__(self, number: int) -> None:
        self.address = f"server{number}:1"
        self.number = number
        self.alive = True
        self.hold: threading.Event | None = None

    def infer(
        self,
        model: str,
        batch: Frame,
        *,
        timeout_s: float,
        cancellation: Cancellation | None = None,
    ) -> Frame:
        if self.hold is not None:
            self.hold.wait(10)
        return np.full_like(batch, self.ask(Question.SERVER, timeout_s=timeout_s))

    def ask(self, question: Question, model: str = "", *, timeout_s: float) -> Any:
        if not self.alive:
            raise ServerUnreachableError("down")
        return self.number

    def close(self) -> None:
        self.alive = False


def answers(fleet: FleetTransport, count: int) -> list[int]:
    return [int(fleet.infer("m", SMALL, timeout_s=1).flat[0]) for _ in range(count)]


def test_work_goes_round() -> None:
    fleet = FleetTransport([Local(0), Local(1), Local(2)])

    assert sorted(answers(fleet, 9)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_least_busy_server_gets_the_work() -> None:
    members = [Local(0), Local(1)]
    fleet = FleetTransport(members)
    members[0].hold = threading.Event()
    busy = threading.Thread(target=answers, args=(fleet, 1))
    busy.start()
    time.sleep(0.05)

    assert answers(fleet, 4) == [1, 1, 1, 1]

    members[0].hold.set()
    busy.join(10)


def test_a_server_that_failed_rests_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rt4ksr_client.transports.fleet.REST_S", 0.2)
    members = [Local(0), Local(1)]
    fleet = FleetTransport(members)
    members[0].alive = False

    with pytest.raises(ServerUnreachableError):
        answers(fleet, 2)
    assert answers(fleet, 4) == [1, 1, 1, 1]

    members[0].alive = True
    time.sleep(0.25)
    assert 0 in answers(fleet, 2)


def test_where_all_servers_are_down_each_is_still_tried() -> None:
    members = [Local(0), Local(1)]
    fleet = FleetTransport(members)
    fleet.close()
    for _ in range(3):
        with pytest.raises(ServerUnreachableError):
            answers(fleet, 1)

    members[1].alive = True
    for _ in range(2):
        try:
            assert answers(fleet, 1) == [1]
            break
        except ServerUnreachableError:
            continue
    else:
        pytest.fail("the server that came back was not tried")


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


@pytest.mark.parametrize("key", ["scale", "size_multiple", "halo_px"])
@pytest.mark.parametrize("value", [None, "", "two", "-1"])
def test_a_model_that_is_not_ours_is_refused(key: str, value: str | None) -> None:
    with pytest.raises(ServerError, match="not one of rt4ksr-triton's"):
        ServedModel.from_config(config(**{key: value}))
