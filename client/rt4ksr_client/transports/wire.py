"""Inference messages of the KServe protocol, with their one big field copied as little as possible.

Protobuf's own code copies a frame twice on the way in and twice on the way out. A bytes field is
its key, its length and its content, so the frame is put behind the serialised rest of the message,
and a response is taken apart where it lies. Format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from rt4ksr_client.contract import INPUT_NAME, OUTPUT_NAME, WIRE_DATATYPE
from rt4ksr_client.errors import ServerError
from rt4ksr_client.frames import Frame

__all__ = ["decode_response", "encode_request", "request_header"]

_LENGTH_DELIMITED = 2
_VARINT_BYTES = 10
_RAW_INPUT_FIELD = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_RAW_OUTPUT_FIELD = service_pb2.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER


def request_header(model: str, shape: tuple[int, ...]) -> Any:
    """Return a ``ModelInferRequest`` for one batch of ``shape``, without the batch."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name=INPUT_NAME, datatype=WIRE_DATATYPE, shape=shape)
    request.outputs.add(name=OUTPUT_NAME)
    return request


def encode_request(header: Any, batch: Frame) -> bytes:
    """Return the serialised request; one copy of ``batch``."""
    content = np.ascontiguousarray(batch)
    key = _varint(_RAW_INPUT_FIELD << 3 | _LENGTH_DELIMITED)
    return b"".join([header.SerializeToString(), key, _varint(content.nbytes), content.data])


def decode_response(message: bytes) -> Frame:
    """Return the batch in a serialised ``ModelInferResponse``; a read-only view of it.

    Raises:
        ServerError: it holds no such batch.

    """
    header, content = bytearray(), memoryview(b"")
    for field, start, end, content_start in _fields(message):
        if field == _RAW_OUTPUT_FIELD:
            content = memoryview(message)[content_start:end]
        else:
            header += message[start:end]
    try:
        response = service_pb2.ModelInferResponse.FromString(bytes(header))
        shapes = [tuple(out.shape) for out in response.outputs if out.name == OUTPUT_NAME]
        return np.frombuffer(content, np.uint8).reshape(shapes[0])
    except (DecodeError, IndexError, ValueError) as exc:
        raise ServerError(f"the server's response holds no picture: {exc}") from exc


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield ``(field, start, end, content_start)`` of each top-level field, all by length."""
    start = 0
    while start < len(message):
        key, at = _read_varint(message, start)
        if key & 7 != _LENGTH_DELIMITED:
            raise ServerError("the server's response is not a ModelInferResponse")
        length, at = _read_varint(message, at)
        if at + length > len(message):
            raise ServerError("the server's response is cut off")
        yield key >> 3, start, at + length, at
        start = at + length


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(message[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ServerError("the server's response is cut off")
