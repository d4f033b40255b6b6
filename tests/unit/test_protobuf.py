"""Requests and responses as bytes: what protobuf reads, and answers that are broken."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from rt4ksr_client.contract import INPUT_NAME, OUTPUT_NAME
from rt4ksr_client.errors import ServerError
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports.messages import DTYPES, InferRequest, RequestedOutput, Tensor
from rt4ksr_client.transports.protobuf import decode_response, encode_request


def test_protobuf_reads_our_requests() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)[:, :, ::-1]
    depth = np.arange(12, dtype=np.uint16).reshape(1, 3, 4)
    inputs = [Tensor.from_array(INPUT_NAME, batch), Tensor.from_array("depth", depth)]
    outputs = [RequestedOutput(OUTPUT_NAME), RequestedOutput("other")]

    message = encode_request(
        InferRequest("rt4ksr_x2", inputs, outputs, {"format": "png", "quality": 7})
    )

    request = service_pb2.ModelInferRequest.FromString(message)
    assert request.model_name == "rt4ksr_x2"
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        (INPUT_NAME, "UINT8", [2, 5, 7, 3]),
        ("depth", "UINT16", [1, 3, 4]),
    ]
    assert [tensor.name for tensor in request.outputs] == [OUTPUT_NAME, "other"]
    assert request.parameters["format"].string_param == "png"
    assert request.parameters["quality"].int64_param == 7
    assert list(request.raw_input_contents) == [batch.tobytes(), depth.tobytes()]


def read(message: bytes) -> Frame:
    return decode_response(message).output(OUTPUT_NAME).to_array()


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
def test_a_response_is_read_without_a_copy(shape: tuple[int, ...]) -> None:
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    message = response(shape, batch.tobytes())

    decoded = read(message)

    np.testing.assert_array_equal(decoded, batch)
    assert np.shares_memory(decoded, np.frombuffer(message, np.uint8))


def test_a_truncated_or_corrupt_response_is_a_server_error() -> None:
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
def test_a_response_without_the_picture_is_a_server_error(message: bytes) -> None:
    with pytest.raises(ServerError, match="holds no"):
        read(message)


def test_several_outputs_are_read_by_name_without_a_copy() -> None:
    luma = np.arange(24, dtype=np.uint16).reshape(1, 4, 6)
    chroma = np.arange(7, dtype=np.uint8).reshape(1, 7)
    message = service_pb2.ModelInferResponse()
    for name, plane in (("chroma", chroma), ("luma", luma)):
        datatype = next(name for name, dtype in DTYPES.items() if dtype == plane.dtype)
        message.outputs.add(name=name, datatype=datatype, shape=plane.shape)
        message.raw_output_contents.append(plane.tobytes())
    serialised = message.SerializeToString()

    response = decode_response(serialised)

    for name, plane in (("luma", luma), ("chroma", chroma)):
        decoded = response.output(name).to_array()
        np.testing.assert_array_equal(decoded, plane)
        assert decoded.dtype == plane.dtype
        assert np.shares_memory(decoded, np.frombuffer(serialised, np.uint8))


def test_outputs_without_content_are_a_server_error() -> None:
    message = service_pb2.ModelInferResponse()
    message.outputs.add(name=OUTPUT_NAME, datatype="UINT8", shape=(1,))

    with pytest.raises(ServerError, match="1 outputs, 0 of them with content"):
        decode_response(message.SerializeToString())


def check_that_only_our_error_is_raised(message: bytes) -> None:
    try:
        for tensor in decode_response(message).outputs:
            assert tensor.to_array().nbytes == tensor.nbytes
    except ServerError:
        pass


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_nothing_but_a_server_error(message: bytes) -> None:
    check_that_only_our_error_is_raised(message)


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_a_corrupt_response_raises_nothing_but_a_server_error(
    changes: list[tuple[int, int]],
) -> None:
    message = bytearray(response((1, 4, 4, 3), bytes(48)))
    for place, value in changes:
        message[place % len(message)] = value

    check_that_only_our_error_is_raised(bytes(message))


SHAPES = st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple)


@given(st.lists(st.tuples(st.text(min_size=1), SHAPES, st.sampled_from(list(DTYPES)))), st.data())
def test_tensors_survive_a_round_trip_through_protobuf(
    rows: list[tuple[str, tuple[int, ...], str]], data: st.DataObject
) -> None:
    tensors = []
    for name, shape, datatype in rows:
        size_bytes = math.prod(shape) * DTYPES[datatype].itemsize
        content = data.draw(st.binary(min_size=size_bytes, max_size=size_bytes))
        tensors.append(Tensor.from_content(name, datatype, shape, content))

    request = service_pb2.ModelInferRequest.FromString(
        encode_request(InferRequest("m", tensors, []))
    )
    answer = service_pb2.ModelInferResponse(raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    decoded = decode_response(answer.SerializeToString()).outputs

    for sent, received in zip(tensors, decoded, strict=True):
        assert (sent.name, sent.datatype, sent.shape) == (
            received.name,
            received.datatype,
            received.shape,
        )
        np.testing.assert_array_equal(sent.to_array(), received.to_array())
