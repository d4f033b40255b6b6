"""Inference messages of the KServe protocol, with their one big field copied as little as possible.

Protobuf's own code copies a tensor twice on the way in and twice on the way out. A bytes field is
its key, its length and its content, so the tensor is put behind the serialised rest of the message,
and a response is taken apart where it lies. Format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from rt4ksr_client.errors import ServerError
from rt4ksr_client.transports.base import NO_PARAMETERS, Parameters, Tensor

__all__ = ["decode_response", "encode_request", "request_header"]

_LENGTH_DELIMITED = 2
_VARINT_BYTES = 10
_RAW_INPUT_FIELD = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_RAW_OUTPUT_FIELD = service_pb2.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER


def request_header(
    model: str, tensor: Tensor, wanted: str, parameters: Parameters = NO_PARAMETERS
) -> Any:
    """Return a ``ModelInferRequest`` for ``tensor``, without its content."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    request.outputs.add(name=wanted)
    for key, value in parameters.items():
        if isinstance(value, int):
            request.parameters[key].int64_param = value
        else:
            request.parameters[key].string_param = value
    return request


def encode_request(header: Any, content: bytes | memoryview) -> bytes:
    """Return the serialised request; one copy of ``content``."""
    key = _varint(_RAW_INPUT_FIELD << 3 | _LENGTH_DELIMITED)
    return b"".join([header.SerializeToString(), key, _varint(len(content)), content])


def decode_response(message: bytes, wanted: str) -> Tensor:
    """Return the output ``wanted`` of a serialised ``ModelInferResponse``; a view of it.

    Raises:
        ServerError: it holds no such output.

    """
    header, content = bytearray(), memoryview(b"")
    for field, start, end, content_start in _fields(message):
        if field == _RAW_OUTPUT_FIELD:
            content = memoryview(message)[content_start:end]
        else:
            header += message[start:end]
    try:
        response = service_pb2.ModelInferResponse.FromString(bytes(header))
        found = [output for output in response.outputs if output.name == wanted]
        return Tensor(wanted, found[0].datatype, tuple(found[0].shape), content)
    except (DecodeError, IndexError) as exc:
        raise ServerError(f"the server's response holds no {wanted}: {exc}") from exc


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
