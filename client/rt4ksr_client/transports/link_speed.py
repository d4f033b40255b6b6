"""Measure a link, to know whether encoding and decoding a frame is faster than sending it raw.

The decode stage turns a small file into a large frame: a black PNG of a few kilobytes comes back
as megabytes. The time that takes beyond the same call without the frame is the link's, including
everything either side does to receive or send.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from rt4ksr_client.call import Call
from rt4ksr_client.contract import (
    CHANNELS,
    DECODE_STAGE,
    DEFAULT_MODELS,
    INPUT_NAME,
    SIDECAR_NAME,
    PictureFormat,
    PictureParameter,
)
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports.base import Transport
from rt4ksr_client.transports.encoded import decode_frame, encode_frame, pictures_tensor
from rt4ksr_client.transports.messages import InferRequest, RequestedOutput

__all__ = ["FrameCost", "WireTimes", "measure_link"]

_SIDES_PX: Final = (256, 1024, 2048)
"""Frames to fetch, from small to large: 0.2 to 12.6 MB."""
_LONG_ENOUGH_S: Final = 0.03
_TRIES: Final = 2
_SAMPLE_PX: Final = 512

_SPEC: Final = DEFAULT_MODELS[2]
_SENT_PX: Final = _SPEC.input_width_px * _SPEC.input_height_px
_FRAME_PX: Final = _SENT_PX * (1 + _SPEC.scale**2)
"""Pixels of a 1080p frame and its 4K answer."""


@dataclass(frozen=True)
class FrameCost:
    """Cost of encoded frames: seconds per pixel to encode and decode, bytes per pixel."""

    codec_s_per_px: float
    bytes_per_px: float

    @classmethod
    def measure(cls, format_: PictureFormat) -> FrameCost:
        """Encode and decode a sample with about as many bytes per pixel as a photograph."""
        rows, columns = np.mgrid[0:_SAMPLE_PX, 0:_SAMPLE_PX]
        shapes = 60 * np.sin(columns / 23)[..., None] * np.cos(rows / 17)[..., None]
        tint = np.array([20.0, 0.0, -20.0])
        noise = np.random.default_rng(0).normal(0, 2, (_SAMPLE_PX, _SAMPLE_PX, 1))
        sample: Frame = np.clip(128 + tint + shapes + noise, 0, 255).astype(np.uint8)
        duration_s = fastest_s(lambda: decode_frame(encode_frame(sample, format_), format_))
        pixels = _SAMPLE_PX**2
        return cls(duration_s / pixels, len(encode_frame(sample, format_)) / pixels)


@dataclass(frozen=True)
class WireTimes:
    """What a 1080p frame and its 4K answer take on the link, in milliseconds, raw and encoded."""

    raw_ms: float
    encoded_ms: float
    link_mb_per_s: float

    @classmethod
    def of(cls, link_s_per_byte: float, cost: FrameCost) -> WireTimes:
        """Return the times on a link of that speed."""
        sent_s_per_px = cost.bytes_per_px * link_s_per_byte
        return cls(
            raw_ms=1e3 * _FRAME_PX * CHANNELS * link_s_per_byte,
            encoded_ms=1e3 * _FRAME_PX * (sent_s_per_px + cost.codec_s_per_px),
            link_mb_per_s=1e-6 / max(link_s_per_byte, 1e-12),
        )

    @property
    def encoded_is_faster(self) -> bool:
        """Whether encoded frames take less time."""
        return self.encoded_ms < self.raw_ms

    def __str__(self) -> str:
        """Return them as a phrase."""
        return (
            f"a frame to 4K takes {self.raw_ms:.0f} ms raw at the {self.link_mb_per_s:.0f} MB/s "
            f"of this link, {self.encoded_ms:.0f} ms encoded"
        )


def measure_link(transport: Transport, format_: PictureFormat, call: Call) -> WireTimes:
    """Measure the link of ``transport`` and this machine's codec, in about half a second.

    Assumes that the server encodes and decodes as fast as this machine.

    Raises:
        ModelNotReadyError: the server has no image endpoint.
        ServerError: another reason not to answer.

    """
    s_per_byte = 0.0
    for side_px in _SIDES_PX:
        black = encode_frame(np.zeros((side_px, side_px, CHANNELS), np.uint8), "png")

        def fetch(output: str, picture: bytes = black) -> None:
            request = InferRequest(
                DECODE_STAGE,
                [pictures_tensor([picture])],
                [RequestedOutput(output)],
                {PictureParameter.FORMAT: "png"},
            )
            transport.infer(request, call)

        transfer_s = fastest_s(partial(fetch, INPUT_NAME))
        transfer_s -= fastest_s(partial(fetch, SIDECAR_NAME))
        s_per_byte = max(0.0, transfer_s) / (side_px**2 * CHANNELS)
        if transfer_s > _LONG_ENOUGH_S:
            break
    return WireTimes.of(s_per_byte, FrameCost.measure(format_))


def fastest_s(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few attempts."""
    times_s = []
    for _ in range(_TRIES):
        begin_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - begin_s)
    return min(times_s)
