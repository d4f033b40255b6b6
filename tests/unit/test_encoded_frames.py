"""Encoded frames as tensors, broken answers, and what a link's speed leads to."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from rt4ksr_client.call import Cancellation
from rt4ksr_client.contract import UPSCALED_PICTURE_NAME
from rt4ksr_client.errors import ServerError
from rt4ksr_client.transports import Question
from rt4ksr_client.transports.base import MessageTransport, Tensor
from rt4ksr_client.transports.encoded import (
    EncodedTransport,
    decode_frame,
    encode_frame,
    pictures_tensor,
)
from rt4ksr_client.transports.link import FrameCost, Verdict

FRAME = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
PNG = encode_frame(FRAME, "png")


class Answering(MessageTransport):
    """Answers every exchange with the same bytes; keeps what was sent."""

    name, reason, address = "grpc", "a test", "nowhere"

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.sent: list[tuple[str, Tensor, dict[str, Any]]] = []

    def exchange(
        self,
        model: str,
        tensor: Tensor,
        wanted: str,
        *,
        parameters: Any = None,
        timeout_s: float,
        cancellation: Cancellation | None = None,
    ) -> Tensor:
        self.sent.append((model, tensor, dict(parameters)))
        return Tensor(wanted, "BYTES", (1, 1), self.content)

    def ask(self, question: Question, model: str = "", *, timeout_s: float) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def element(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
def test_a_frame_goes_to_the_endpoint_of_its_model_with_the_clients_own_quality(
    format_: Any,
) -> None:
    way = Answering(element(encode_frame(FRAME, format_)))

    answer = EncodedTransport(way, format_).infer("rt4ksr_x2", FRAME[np.newaxis], timeout_s=1)

    assert answer.shape == (1, *FRAME.shape)
    ((model, tensor, parameters),) = way.sent
    assert model == "rt4ksr_x2_image"
    assert (tensor.name, tensor.datatype, tensor.shape) == ("picture", "BYTES", (1, 1))
    assert bytes(tensor.content) == element(encode_frame(FRAME, format_))
    quality = {"jpeg": {"quality": 95}, "webp": {"quality": 90}, "png": {}}[format_]
    assert parameters == {"format": format_, **quality}


def test_several_pictures_lie_behind_one_another() -> None:
    tensor = pictures_tensor([b"one", b"", b"three"])

    assert tensor.shape == (3, 1)
    assert bytes(tensor.content) == element(b"one") + element(b"") + element(b"three")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 pictures"),
        (b"\x01", "cut off"),
        (element(PNG)[:-1], "cut off"),
        (struct.pack("<I", 2**32 - 1), "cut off"),
        (element(PNG) * 2, "2 pictures"),
        (element(PNG[:-30]), "holds no picture"),
        (element(encode_frame(FRAME, "jpeg")), "holds no picture"),
        (element(b"<svg/>"), "holds no picture"),
    ],
    ids=["nothing", "half a length", "short", "endless", "two", "cut png", "jpeg", "svg"],
)
def test_an_answer_that_is_no_picture_is_the_servers_error(content: bytes, reason: str) -> None:
    transport = EncodedTransport(Answering(content), "png")

    with pytest.raises(ServerError, match=reason):
        transport.infer("rt4ksr_x2", FRAME[np.newaxis], timeout_s=1)


def test_png_is_exact() -> None:
    np.testing.assert_array_equal(decode_frame(PNG, "png"), FRAME)


def test_a_gigabit_is_slower_than_jpeg_and_ten_are_not() -> None:
    cost = FrameCost(codec_s_per_px=15e-9, bytes_per_px=0.2)

    one, ten = Verdict.of(8e-9, cost), Verdict.of(0.8e-9, cost)

    assert (one.encode, ten.encode) == (True, False)
    assert one.raw_ms == pytest.approx(1920 * 1080 * 5 * 3 * 8e-6)
    assert one.encoded_ms == pytest.approx(1920 * 1080 * 5 * (15e-6 + 0.2 * 8e-6))
    assert str(one) == (
        "a frame to 4K takes 249 ms raw at the 125 MB/s of this link, 172 ms encoded"
    )


def test_a_link_too_fast_to_measure_is_raw() -> None:
    assert not Verdict.of(0.0, FrameCost(15e-9, 0.2)).encode


def test_the_output_is_named_in_the_contract() -> None:
    assert UPSCALED_PICTURE_NAME == "upscaled_picture"
