"""What an attacker can do who reaches a server with the flags of the container."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from rt4ksr_client.contract import INPUT_NAME, MAX_INPUT_PX, OUTPUT_NAME, WIRE_DATATYPE
from rt4ksr_server import TritonServer
from support.fuzzing import mutated, resident_bytes, sent_by_the_thousand
from support.nearest_models import infer, nearest

pytestmark = pytest.mark.server

MODEL = "rt4ksr_x2"
FRAME = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(1, 8, 6, 3)
FUZZED = 5000  # over each of gRPC and HTTP
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(autouse=True)
def answers_the_next_request(production: TritonServer) -> Iterator[None]:
    """Whatever a test did, the server answers the next one as it should."""
    yield
    np.testing.assert_array_equal(infer(production, MODEL, FRAME), nearest(FRAME, 2))


def message(shape: tuple[int, ...], raw: bytes) -> bytes:
    """A request over gRPC, with a shape that may be a lie."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name=INPUT_NAME, datatype=WIRE_DATATYPE, shape=shape)
    request.outputs.add(name=OUTPUT_NAME)
    request.raw_input_contents.append(raw)
    content: bytes = request.SerializeToString()
    return content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/repository/index", {}),
        (f"/v2/repository/models/{MODEL}/load", {}),
        (f"/v2/repository/models/{MODEL}/unload", {}),
        ("/v2/logging", {"log_verbose_level": 9}),
        ("/v2/trace/setting", {"trace_file": "/tmp/trace"}),
        ("/v2/systemsharedmemory/region/mine/unregister", {}),
    ],
)
def test_administrative_calls_are_rejected_over_http(
    path: str, body: dict[str, Any], production: TritonServer
) -> None:
    connection = http.client.HTTPConnection(production.http_url, timeout=10)
    connection.request("POST", path, json.dumps(body))
    answer = connection.getresponse()

    assert answer.status == 403, answer.read()
    connection.close()


def test_shared_memory_of_another_program_cannot_be_registered(production: TritonServer) -> None:
    region = SharedMemory(create=True, size=4096)
    try:
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name="theirs", key=f"/{region.name}", byte_size=4096
        )
        with grpc.insecure_channel(production.grpc_url) as channel:
            register = channel.unary_unary(
                "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
                request_serializer=type(request).SerializeToString,
            )
            with pytest.raises(grpc.RpcError, match="restricted"):
                register(request, timeout=10)
    finally:
        region.close()
        region.unlink()


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1 << 20, 1 << 20, 3),
        (1, 1 << 31, 1 << 31, 3),
        (1, 1 << 62, 4, 3),
        (1, -8, 6, 3),  # two negative ones: see docs/security.md
        (1, 0, 6, 3),
        (1, 8, 6),
        (1, 8, 6, 3, 1),
        (8, 6, 3),
        (9, 8, 6, 3),
        (1, 8, 6, 4),
        (1, 1, 48, 3),
        (),
    ],
    ids=str,
)
def test_a_shape_that_contradicts_the_data_is_rejected(
    shape: tuple[int, ...], production: TritonServer
) -> None:
    before = resident_bytes(production)
    with (
        grpc.insecure_channel(production.grpc_url) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        channel.unary_unary(INFER)(message(shape, FRAME.tobytes()), timeout=10)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert resident_bytes(production) - before < 32 * 2**20


def test_a_frame_beyond_the_limit_is_rejected_by_the_server(production: TritonServer) -> None:
    side = 2 + int(MAX_INPUT_PX**0.5)

    with pytest.raises(InferenceServerException, match=f"more than {MAX_INPUT_PX} pixels a frame"):
        infer(production, MODEL, np.zeros((1, side, side, 3), np.uint8))


def over_grpc(server: TritonServer, seed: int, count: int) -> int:
    """Send mutated requests; return how many were answered as if nothing was."""
    rng, answered = random.Random(seed), 0
    valid = message(FRAME.shape, FRAME.tobytes())
    with grpc.insecure_channel(server.grpc_url) as channel:
        send = channel.unary_unary(INFER)
        for _ in range(count):
            try:
                send(mutated(valid, rng), timeout=20)
                answered += 1
            except grpc.RpcError as refused:
                assert refused.code() is not grpc.StatusCode.UNAVAILABLE, refused
    return answered


def over_http(server: TritonServer, seed: int, count: int) -> int:
    """Send mutated bodies; return how many were answered as if nothing was."""
    rng, answered = random.Random(seed), 0
    tensor: dict[str, object] = {
        "name": INPUT_NAME,
        "datatype": WIRE_DATATYPE,
        "shape": FRAME.shape,
    }
    tensor["parameters"] = {"binary_data_size": FRAME.nbytes}
    header = json.dumps({"inputs": [tensor]}).encode()
    connection = http.client.HTTPConnection(server.http_url, timeout=20)
    for _ in range(count):
        head = mutated(header, rng) if rng.random() < 0.7 else header
        length = rng.choice((len(head), len(head), len(head), 0, len(head) + 1, 1 << 40, -1))
        connection.request(
            "POST",
            f"/v2/models/{MODEL}/infer",
            mutated(head + FRAME.tobytes(), rng) if rng.random() < 0.5 else head + FRAME.tobytes(),
            {"Inference-Header-Content-Length": str(length)},
        )
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 400, 413, 500), answer.status
        answered += answer.status == 200
    connection.close()
    return answered


@pytest.mark.parametrize("way", [over_grpc, over_http])
def test_the_server_survives_thousands_of_broken_requests(
    way: Callable[[TritonServer, int, int], int],
    production: TritonServer,
    broken_inputs: Callable[[int], int],
) -> None:
    total = broken_inputs(FUZZED)

    answered = sent_by_the_thousand(way, production, total)

    assert 0 < answered < total  # some changes do no harm, but most do
