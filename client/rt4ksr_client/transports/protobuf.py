"""Inference messages of the KServe protocol in protobuf, with tensors copied as little as possible.

Protobuf's own code copies a tensor twice on the way in and twice on the way out. A bytes field is
its key, its length and its content. Tensors are therefore appended to the serialised rest of the
request, and a response is sliced where it is. Format:
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from rt4ksr_client.errors import ServerError
from rt4ksr_client.transports.messages import InferRequest, InferResponse, Tensor

__all__ = ["decode_response", "encode_request", "request_message"]

_LENGTH_DELIMITED = 2
_VARINT_BYTES = 10
_RAW_INPUT_FIELD = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_RAW_OUTPUT_FIELD = service_pb2.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER


def request_message(request: InferRequest) -> Any:
    """Return a ``ModelInferRequest`` for ``request``, without the content of its inputs."""
    message = service_pb2.ModelInferRequest(model_name=request.model)
    for tensor in request.inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    for output in request.outputs:
        message.outputs.add(name=output.name)
    for key, value in request.parameters.items():
        if isinstance(value, int):
            message.parameters[key].int64_param = value
        else:
            message.parameters[key].string_param = value
    return message


def encode_request(request: InferRequest) -> bytes:
    """Return the serialised ``ModelInferRequest``; one copy of each input's content."""
    key = _encode_varint(_RAW_INPUT_FIELD << 3 | _LENGTH_DELIMITED)
    parts: list[bytes | memoryview] = [request_message(request).SerializeToString()]
    for tensor in request.inputs:
        parts += [key, _encode_varint(tensor.nbytes), tensor.content]
    return b"".join(parts)


def decode_response(message: bytes) -> InferResponse:
    """Return the outputs of a serialised ``ModelInferResponse``; views of it.

    Raises:
        ServerError: it is truncated, malformed, or has outputs without content.

    """
    header, contents = bytearray(), []
    for field, start, content_start, end in _fields(message):
        if field == _RAW_OUTPUT_FIELD:
            contents.append(memoryview(message)[content_start:end])
        else:
            header += message[start:end]
    try:
        outputs = service_pb2.ModelInferResponse.FromString(bytes(header)).outputs
    except DecodeError as exc:
        raise ServerError(f"the server's response is not a ModelInferResponse: {exc}") from exc
    if len(outputs) != len(contents):
        raise ServerError(
            f"the server's response holds no tensors: {len(outputs)} outputs, "
            f"{len(contents)} of them with content"
        )
    return InferResponse(
        [
            Tensor.from_content(output.name, output.datatype, output.shape, content)
            for output, content in zip(outputs, contents, strict=True)
        ]
    )


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield ``(field, start, content_start, end)`` of each top-level field, all by length."""
    start = 0
    while start < len(message):
        key, at = _decode_varint(message, start)
        if key & 7 != _LENGTH_DELIMITED:
            raise ServerError("the server's response is not a ModelInferResponse")
        length, content_start = _decode_varint(message, at)
        end = content_start + length
        if end > len(message):
            raise ServerError("the server's response is truncated")
        yield key >> 3, start, content_start, end
        start = end


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _decode_varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the value and the position after it."""
    value = 0
    for i, byte in enumerate(message[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ServerError("the server's response is truncated")
