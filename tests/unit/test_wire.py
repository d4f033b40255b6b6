"""Requests and responses as bytes: what protobuf reads, and answers that are broken."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from rt4ksr_client.contract import INPUT_NAME, OUTPUT_NAME
from rt4ksr_client.errors import ServerError
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports import wire
from rt4ksr_client.transports.base import Tensor


def test_a_request_is_what_protobuf_reads() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)[:, :, ::-1]

    sent = Tensor.of_frames(batch)
    header = wire.request_header("rt4ksr_x2", sent, OUTPUT_NAME, {"format": "png", "quality": 7})

    message = wire.encode_request(header, sent.content)

    request = service_pb2.ModelInferRequest.FromString(message)
    assert request.model_name == "rt4ksr_x2"
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        (INPUT_NAME, "UINT8", [2, 5, 7, 3])
    ]
    assert [tensor.name for tensor in request.outputs] == [OUTPUT_NAME]
    assert request.parameters["format"].string_param == "png"
    assert request.parameters["quality"].int64_param == 7
    assert list(request.raw_input_contents) == [batch.tobytes()]


def read(message: bytes) -> Frame:
    return wire.decode_response(message, OUTPUT_NAME).as_frames()


def response(
    shape: tuple[int, ...], content: bytes, name: str = OUTPUT_NAME, datatype: str = "UINT8"
) -> bytes:
    message = service_pb2.ModelInferResponse(model_name="rt4ksr_x2", model_version="1", id="7")
    message.parameters["a"].string_param = "b"
    message.outputs.add(name=name, datatype=datatype, shape=shape)
    message.raw_output_contents.append(content)
    serialised: bytes = message.SerializeToString()
    return serialised


@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (3, 11, 13, 3), (1, 500, 400, 3)])
def test_a_response_of_protobuf_is_read_without_a_copy(shape: tuple[int, ...]) -> None:
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    message = response(shape, batch.tobytes())

    decoded = read(message)

    np.testing.assert_array_equal(decoded, batch)
    assert np.shares_memory(decoded, np.frombuffer(message, np.uint8))


def test_a_response_cut_anywhere_or_garbled_is_an_error_of_ours() -> None:
    shape = (1, 4, 4, 3)
    message = response(shape, bytes(math.prod(shape)))

    for cut in range(len(message)):
        with pytest.raises(ServerError):
            read(message[:cut])
    random = np.random.default_rng(0)
    for _ in range(2000):
        garbled = bytearray(message)
        garbled[random.integers(0, 60)] = random.integers(0, 256)
        try:
            read(bytes(garbled))
        except ServerError:
            continue


@pytest.mark.parametrize(
    "message",
    [
        response((1, 4, 4, 3), b"short"),
        response((1, 1, 1, 3), b"123", name="other"),
        response((1, 1, 1, 3), b"123", datatype="BYTES"),
        b"",
    ],
    ids=["short", "other", "type", "empty"],
)
def test_a_response_without_the_picture_is_an_error_of_ours(message: bytes) -> None:
    with pytest.raises(ServerError, match="holds no"):
        read(message)
