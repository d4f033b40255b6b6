"""Encoded frames as tensors, broken answers, and what a link's speed leads to."""

from __future__ import annotations

import struct
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest

from rt4ksr_client.call import Call
from rt4ksr_client.contract import UPSCALED_PICTURE_NAME
from rt4ksr_client.errors import ServerError
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports import Route, Transport
from rt4ksr_client.transports.base import ForwardingTransport
from rt4ksr_client.transports.encoded import (
    EncodedTransport,
    decode_frame,
    encode_frame,
    pictures_tensor,
)
from rt4ksr_client.transports.link_speed import FrameCost, WireTimes
from rt4ksr_client.transports.messages import InferRequest, InferResponse, Tensor

FRAME = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
PNG = encode_frame(FRAME, "png")
MODEL = ServedModel("rt4ksr_x2", 1, 1, 0, 1, "", "")


class Answering(ForwardingTransport):
    """Answers every request with the same bytes; keeps what was sent."""

    def __init__(self, content: bytes) -> None:
        self.address = "nowhere"
        self.route = Route("grpc", "a test")
        self.content = content
        self.sent: list[InferRequest] = []

    def infer(self, request: InferRequest, call: Call) -> InferResponse:
        self.sent.append(request)
        return InferResponse(
            [
                Tensor.from_content(output.name, "BYTES", (1, 1), self.content)
                for output in request.outputs
            ]
        )

    def target(self, call: Call) -> AbstractContextManager[Transport]:
        raise NotImplementedError

    def close(self) -> None:
        pass


def element(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
def test_a_frame_goes_to_the_endpoint_of_its_model_with_the_clients_own_quality(
    format_: Any,
) -> None:
    inner = Answering(element(encode_frame(FRAME, format_)))

    (answer,) = EncodedTransport(inner, format_).upscale(MODEL, (FRAME[np.newaxis],), Call(1))

    assert answer.shape == (1, *FRAME.shape)
    (request,) = inner.sent
    (tensor,) = request.inputs
    assert request.model == "rt4ksr_x2_image"
    assert (tensor.name, tensor.datatype, tensor.shape) == ("picture", "BYTES", (1, 1))
    assert bytes(tensor.content) == element(encode_frame(FRAME, format_))
    quality = {"jpeg": {"quality": 95}, "webp": {"quality": 90}, "png": {}}[format_]
    assert request.parameters == {"format": format_, **quality}


def test_several_pictures_are_concatenated_with_their_lengths() -> None:
    tensor = pictures_tensor([b"one", b"", b"three"])

    assert tensor.shape == (3, 1)
    assert bytes(tensor.content) == element(b"one") + element(b"") + element(b"three")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "got 0"),
        (b"\x01", "truncated"),
        (element(PNG)[:-1], "truncated"),
        (struct.pack("<I", 2**32 - 1), "truncated"),
        (element(PNG) * 2, "got 2"),
        (element(PNG[:-30]), "holds no picture"),
        (element(encode_frame(FRAME, "jpeg")), "holds no picture"),
        (element(b"<svg/>"), "holds no picture"),
    ],
    ids=["nothing", "half a length", "short", "endless", "two", "cut png", "jpeg", "svg"],
)
def test_an_answer_without_a_picture_is_a_server_error(content: bytes, reason: str) -> None:
    transport = EncodedTransport(Answering(content), "png")

    with pytest.raises(ServerError, match=reason):
        transport.upscale(MODEL, (FRAME[np.newaxis],), Call(1))


def test_png_is_exact() -> None:
    np.testing.assert_array_equal(decode_frame(PNG, "png"), FRAME)


def test_a_gigabit_is_slower_than_jpeg_and_ten_are_not() -> None:
    cost = FrameCost(codec_s_per_px=15e-9, bytes_per_px=0.2)

    one, ten = WireTimes.of(8e-9, cost), WireTimes.of(0.8e-9, cost)

    assert (one.encoded_is_faster, ten.encoded_is_faster) == (True, False)
    assert one.raw_ms == pytest.approx(1920 * 1080 * 5 * 3 * 8e-6)
    assert one.encoded_ms == pytest.approx(1920 * 1080 * 5 * (15e-6 + 0.2 * 8e-6))
    assert str(one) == (
        "a frame to 4K takes 249 ms raw at the 125 MB/s of this link, 172 ms encoded"
    )


def test_a_link_too_fast_to_measure_is_raw() -> None:
    assert not WireTimes.of(0.0, FrameCost(15e-9, 0.2)).encoded_is_faster


def test_the_output_is_named_in_the_contract() -> None:
    assert UPSCALED_PICTURE_NAME == "upscaled_picture"


def test_requests_for_anything_but_frames_are_passed_on() -> None:
    inner = Answering(b"")
    planes = [
        Tensor.from_array(name, np.zeros((1, 4, 4), np.uint16)) for name in ("luma", "chroma")
    ]
    request = InferRequest("video", planes, [])

    EncodedTransport(inner, "png").infer(request, Call(1))

    assert inner.sent == [request]
