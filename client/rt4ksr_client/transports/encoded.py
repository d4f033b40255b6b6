"""Frames as encoded pictures: a fifteenth of the bytes as JPEG, exact as PNG."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import numpy as np

from rt4ksr_client import files
from rt4ksr_client.call import Call
from rt4ksr_client.contract import (
    INPUT_NAME,
    OUTPUT_NAME,
    PICTURE_DATATYPE,
    PICTURE_NAME,
    UPSCALED_PICTURE_NAME,
    PictureFormat,
    PictureParameter,
    image_endpoint,
)
from rt4ksr_client.errors import PictureError, ServerError
from rt4ksr_client.frames import Frame
from rt4ksr_client.pictures import FrameImage, pixels_of
from rt4ksr_client.transports.base import ForwardingTransport, Route, Transport
from rt4ksr_client.transports.messages import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    Tensor,
)

__all__ = ["EncodedTransport", "decode_frame", "encode_frame", "pictures_tensor", "split_pictures"]

_LENGTH: Final = struct.Struct("<I")


class EncodedTransport(ForwardingTransport):
    """Sends frames over ``transport`` to the model's image endpoint, in the format ``format_``.

    Both directions use that format at this client's own quality. A lossless one gives exactly what
    raw frames give. Requests for anything but frames are passed on as they are.
    """

    def __init__(self, transport: Transport, format_: PictureFormat) -> None:
        self.address = transport.address
        route = transport.route
        self.route = Route(
            route.transport, route.transport_reason, "encoded", f"{format_}, requested"
        )
        self._transport = transport
        self._format = format_
        self._parameters: dict[str, str | int] = {PictureParameter.FORMAT: format_}
        options = files.FORMATS[format_.upper()]
        if "quality" in options:
            self._parameters[PictureParameter.QUALITY] = options["quality"]

    def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        if [tensor.name for tensor in request.inputs] != [INPUT_NAME]:
            return self._transport.infer(request, call)
        batch = request.inputs[0].data
        encoded = InferRequest(
            image_endpoint(request.model),
            [pictures_tensor([encode_frame(frame, self._format) for frame in batch])],
            [RequestedOutput(UPSCALED_PICTURE_NAME)],
            {**self._parameters, **request.parameters},
        )
        response = self._transport.infer(encoded, call)
        pictures = split_pictures(response.output(UPSCALED_PICTURE_NAME))
        frames = [decode_frame(picture, self._format) for picture in pictures]
        if len(frames) != len(batch):
            raise ServerError(
                f"{self.address}: expected {len(batch)} upscaled pictures, got {len(frames)}"
            )
        upscaled = frames[0][np.newaxis] if len(frames) == 1 else np.stack(frames)
        return InferResponse([Tensor.from_array(OUTPUT_NAME, upscaled)])

    def target(self, call: Call) -> AbstractContextManager[Transport]:
        """See :class:`~rt4ksr_client.transports.base.ForwardingTransport`."""
        return nullcontext(self._transport)

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()


def encode_frame(frame: Frame, format_: PictureFormat) -> bytes:
    """Return ``frame``, uint8 ``(H, W, 3)``, as a file."""
    return files.encode(FrameImage(frame), format_.upper())


def decode_frame(picture: bytes, format_: PictureFormat) -> Frame:
    """Return the picture in a file as uint8 ``(H, W, 3)``.

    Raises:
        ServerError: there is none in it.

    """
    try:
        image = files.decode(io.BytesIO(picture), "the response", formats=(format_.upper(),))
    except PictureError as exc:
        raise ServerError(f"the server's response holds no picture: {exc}") from exc
    return pixels_of(image if image.mode == "RGB" else image.convert("RGB"))


def pictures_tensor(pictures: Sequence[bytes]) -> Tensor:
    """Return the input of an image endpoint: each picture preceded by its length."""
    content = b"".join(part for one in pictures for part in (_LENGTH.pack(len(one)), one))
    return Tensor.from_content(PICTURE_NAME, PICTURE_DATATYPE, (len(pictures), 1), content)


def split_pictures(tensor: Tensor) -> list[bytes]:
    """Return the pictures in the answer of an image endpoint.

    Raises:
        ServerError: it is truncated.

    """
    content, pictures, at = tensor.content, [], 0
    while at < len(content):
        try:
            (length,) = _LENGTH.unpack_from(content, at)
        except struct.error as exc:
            raise ServerError("the server's response is truncated") from exc
        at += _LENGTH.size + length
        if at > len(content):
            raise ServerError("the server's response is truncated")
        pictures.append(bytes(content[at - length : at]))
    return pictures
