"""Frames as encoded pictures: a fifteenth of the bytes as JPEG, and exact as PNG."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from rt4ksr_client import files
from rt4ksr_client.call import Cancellation, Deadline
from rt4ksr_client.contract import (
    PICTURE_DATATYPE,
    PICTURE_NAME,
    UPSCALED_PICTURE_NAME,
    PictureFormat,
    PictureParameter,
    image_endpoint,
)
from rt4ksr_client.errors import PictureError, ServerError
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports.base import MessageTransport, Parameters, Question, Tensor, Transport

__all__ = ["EncodedTransport", "decode_frame", "encode_frame", "pictures_tensor"]

_LENGTH = struct.Struct("<I")


class EncodedTransport(Transport):
    """Sends frames over ``way`` to the model's image endpoint, in the format ``format_``.

    Both directions use that format at this client's own quality. A lossless one gives exactly what
    a raw frame would have given.
    """

    wire = "encoded"

    def __init__(
        self, way: MessageTransport, format_: PictureFormat, reason: str = "asked for"
    ) -> None:
        self._way = way
        self._format = format_
        self.wire_reason = f"{format_}, {reason}"
        self.name, self.reason, self.address = way.name, way.reason, way.address

    def infer(
        self,
        model: str,
        batch: Frame,
        *,
        timeout_s: float,
        cancellation: Cancellation | None = None,
    ) -> Frame:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        deadline = Deadline(timeout_s)
        pictures = [encode_frame(frame, self._format) for frame in batch]
        answer = self._way.exchange(
            image_endpoint(model),
            pictures_tensor(pictures),
            UPSCALED_PICTURE_NAME,
            parameters=_parameters(self._format),
            timeout_s=deadline.required_s(self.address),
            cancellation=cancellation,
        )
        frames = [decode_frame(picture, self._format) for picture in _pictures(answer)]
        if len(frames) != len(batch):
            raise ServerError(f"the server's response holds {len(frames)} pictures")
        return frames[0][np.newaxis] if len(frames) == 1 else np.stack(frames)

    def ask(self, question: Question, model: str = "", *, timeout_s: float) -> Any:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        return self._way.ask(question, model, timeout_s=timeout_s)

    def close(self) -> None:
        """Close the way."""
        self._way.close()


def encode_frame(frame: Frame, format_: PictureFormat) -> bytes:
    """Return ``frame``, uint8 ``(H, W, 3)``, as a file."""
    return files.encode(Image.fromarray(frame), format_.upper())


def decode_frame(picture: bytes, format_: PictureFormat) -> Frame:
    """Return the picture in a file as uint8 ``(H, W, 3)``.

    Raises:
        ServerError: there is none in it.

    """
    try:
        image = files.decode(io.BytesIO(picture), "the response", formats=(format_.upper(),))
    except PictureError as exc:
        raise ServerError(f"the server's response holds no picture: {exc}") from exc
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def pictures_tensor(pictures: Sequence[bytes]) -> Tensor:
    """Return the request of an image endpoint: each picture behind its length."""
    content = b"".join(part for one in pictures for part in (_LENGTH.pack(len(one)), one))
    return Tensor(PICTURE_NAME, PICTURE_DATATYPE, (len(pictures), 1), content)


def _pictures(tensor: Tensor) -> list[bytes]:
    content, pictures, at = memoryview(tensor.content), [], 0
    while at < len(content):
        try:
            (length,) = _LENGTH.unpack_from(content, at)
        except struct.error as exc:
            raise ServerError("the server's response is cut off") from exc
        at += _LENGTH.size + length
        if at > len(content):
            raise ServerError("the server's response is cut off")
        pictures.append(bytes(content[at - length : at]))
    return pictures


def _parameters(format_: PictureFormat) -> Parameters:
    parameters: dict[str, str | int] = {PictureParameter.FORMAT: format_}
    if "quality" in files.FORMATS[format_.upper()]:
        parameters[PictureParameter.QUALITY] = files.FORMATS[format_.upper()]["quality"]
    return parameters
