"""Frames of 4:2:0 video in the SDK, with a network in this process instead of a server."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from rt4ksr_client import AsyncUpscaler, ServedModel, Upscaler, Yuv420
from rt4ksr_client.call import Call
from rt4ksr_client.contract import INPUTS, OUTPUTS
from rt4ksr_client.errors import PictureError
from rt4ksr_client.frames import Planes
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_client.transports import Route, Transport
from rt4ksr_client.transports.messages import InferRequest, InferResponse, Tensor
from rt4ksr_client.video.planes import from_video_frame, samples

EIGHT = ServedModel("rt4ksr_x2_video", 2, 2, 4, 8, "", "", colours="yuv420")
SIXTEEN = dataclasses.replace(EIGHT, name="rt4ksr_x2_video16", bits=16)
THREE = dataclasses.replace(SIXTEEN, name="rt4ksr_x3_video16", scale=3)
RGB = dataclasses.replace(EIGHT, name="rt4ksr_x2", colours="rgb")
Network = Callable[[Planes, int], Planes]


def nearest(planes: Planes, scale: int) -> Planes:
    return tuple(plane.repeat(scale, axis=1).repeat(scale, axis=2) for plane in planes)


def mixing(planes: Planes, scale: int) -> Planes:
    """Each value depends on luma and chroma 4 pixels around it and on the phase of 2."""
    luma, chroma = planes
    _, height, width, _ = luma.shape
    together = np.concatenate([luma, *nearest((chroma,), 2)], axis=-1).astype(np.int64)
    padded = np.pad(together, ((0, 0), (4, 4), (4, 4), (0, 0)))
    mixed = sum(
        (dy * 31 + dx * 17 + 1) * padded[:, dy : dy + height, dx : dx + width]
        for dy in range(9)
        for dx in range(9)
    )
    assert isinstance(mixed, np.ndarray)
    mixed[:, ::2, 1::2] += 91
    mixed += mixed.sum(axis=-1, keepdims=True)
    values = (mixed % (1 << 8 * luma.dtype.itemsize)).astype(luma.dtype)
    return nearest((values[..., :1], values[:, ::2, ::2, 1:]), scale)


class Local(Transport):
    """Answers with ``network``; fails if what is sent breaks the contract."""

    def __init__(self, model: ServedModel, network: Network) -> None:
        self.address = "here"
        self.route = Route("grpc", "a test")
        self.model = model
        self._network = network
        self.sent: list[Planes] = []

    def served_model(self, model: str, call: Call) -> ServedModel:
        return self.model

    def infer(self, request: InferRequest, call: Call) -> InferResponse:
        assert [t.name for t in request.inputs] == [t.name for t in INPUTS[self.model.colours]]
        batch = tuple(tensor.data for tensor in request.inputs)
        assert self.model.violation([plane.shape for plane in batch]) is None
        assert {tensor.datatype for tensor in request.inputs} == {self.model.datatype}
        self.sent.append(batch)
        answer = self._network(batch, self.model.scale)
        names = [tensor.name for tensor in OUTPUTS[self.model.colours]]
        return InferResponse([Tensor.from_array(n, a) for n, a in zip(names, answer, strict=True)])

    def close(self) -> None:
        pass

    server_metadata = repository_index = model_config = model_statistics = model_ready = (  # type: ignore[assignment]
        lambda *_, **__: pytest.fail("not asked here")
    )


@contextmanager
def opened(
    monkeypatch: pytest.MonkeyPatch,
    model: ServedModel,
    network: Network = nearest,
    **settings: Any,
) -> Iterator[tuple[Upscaler, Local]]:
    local = Local(model, network)
    monkeypatch.setattr("rt4ksr_client.upscaler.open_transport", lambda connection: local)
    with Upscaler(**settings) as upscaler:
        yield upscaler, local


def random_planes(height: int, width: int, bits: int = 8, seed: int = 0) -> Yuv420:
    rng = np.random.default_rng(seed)
    dtype = np.dtype(f"u{bits // 8}")
    halves = -(-height // 2), -(-width // 2), 2
    return Yuv420(
        rng.integers(0, 1 << bits, (height, width), dtype=dtype),
        rng.integers(0, 1 << bits, halves, dtype=dtype),
    )


def enlarged(frame: Yuv420, scale: int = 2) -> Yuv420:
    """What the nearest network makes of it, with the border of an odd side cut off."""
    luma, chroma = nearest(
        (frame.luma[np.newaxis, ..., np.newaxis], frame.chroma[np.newaxis]), scale
    )
    height, width = luma.shape[1:3]
    return Yuv420(luma[0, ..., 0], chroma[0, : -(-height // 2), : -(-width // 2)])


def assert_equal(one: Yuv420, other: Yuv420) -> None:
    for a, b in ((one.luma, other.luma), (one.chroma, other.chroma)):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


SIZES = [(1, 1), (1, 2), (2, 1), (3, 5), (64, 48), (63, 47), (64, 47)]


@pytest.mark.parametrize("model", [EIGHT, SIXTEEN, THREE], ids=lambda model: model.name)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_planes_of_any_size_come_back_larger(
    monkeypatch: pytest.MonkeyPatch, model: ServedModel, size: tuple[int, int]
) -> None:
    frame = random_planes(*size, model.bits)

    with opened(monkeypatch, model) as (upscaler, _):
        assert_equal(upscaler.upscale(frame), enlarged(frame, model.scale))


@pytest.mark.parametrize("model", [EIGHT, SIXTEEN, THREE], ids=lambda model: model.name)
@pytest.mark.parametrize("size", [(61, 83), (62, 84), (9, 200), (201, 8)], ids=str)
@pytest.mark.parametrize("max_request_px", [1, 300, 1000])
def test_tiles_give_the_same_planes_as_the_whole_frame(
    monkeypatch: pytest.MonkeyPatch,
    model: ServedModel,
    size: tuple[int, int],
    max_request_px: int,
) -> None:
    if max_request_px == 1 and size[0] > 60:
        size = size[0] // 4, size[1] // 4
    frame = random_planes(*size, model.bits)

    with opened(monkeypatch, model, mixing) as (upscaler, local):
        whole = upscaler.upscale(frame)
        assert len(local.sent) == 1
    with opened(monkeypatch, model, mixing, max_request_px=max_request_px) as (upscaler, local):
        assert_equal(upscaler.upscale(frame), whole)
        assert len(local.sent) > 1


def test_a_servers_limit_on_a_side_cuts_planes_into_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = random_planes(201, 333)

    with opened(monkeypatch, EIGHT, mixing) as (upscaler, _):
        whole = upscaler.upscale(frame)
    narrow = dataclasses.replace(EIGHT, max_side_px=96)
    with opened(monkeypatch, narrow, mixing) as (upscaler, local):
        assert_equal(upscaler.upscale(frame), whole)
    assert max(max(luma.shape[1:3]) for luma, _ in local.sent) <= 96


@pytest.mark.parametrize("model", [EIGHT, SIXTEEN], ids=lambda model: model.name)
@pytest.mark.parametrize("max_request_px", [500, 100_000])
def test_planes_need_not_be_contiguous(
    monkeypatch: pytest.MonkeyPatch, model: ServedModel, max_request_px: int
) -> None:
    every_second = random_planes(80, 120, model.bits)
    mirrored = random_planes(41, 61, model.bits)
    transposed = random_planes(40, 60, model.bits)
    read_only = random_planes(40, 60, model.bits)
    read_only.luma.flags.writeable = read_only.chroma.flags.writeable = False
    views = [
        Yuv420(every_second.luma[::2, 1::2], every_second.chroma[::2, 1::2]),
        Yuv420(mirrored.luma[:, ::-1], mirrored.chroma[::-1, :, ::-1]),
        Yuv420(transposed.luma.T, transposed.chroma.transpose(1, 0, 2)),
        Yuv420(read_only.luma[3:], read_only.chroma[1:]),
    ]

    with opened(monkeypatch, model, mixing, max_request_px=max_request_px) as (upscaler, _):
        for view in views:
            copy = Yuv420(view.luma.copy(), view.chroma.copy())
            assert_equal(upscaler.upscale(view), upscaler.upscale(copy))


def test_map_over_planes_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [random_planes(20 + index, 30, seed=index) for index in range(9)]

    with opened(monkeypatch, EIGHT) as (upscaler, _):
        for frame, large in zip(frames, upscaler.map(iter(frames)), strict=True):
            assert_equal(large, enlarged(frame))


def test_asyncio_takes_planes_and_video_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [random_planes(20, 31, seed=index) for index in range(5)]
    shown = video_frame("yuv420p")
    local = Local(EIGHT, nearest)
    monkeypatch.setattr("rt4ksr_client.upscaler.open_transport", lambda connection: local)

    async def work() -> tuple[list[Yuv420], list[VideoFrame], Yuv420, VideoFrame]:
        async with AsyncUpscaler() as upscaler:
            planes = [large async for large in upscaler.map(frames)]
            videos = [large async for large in upscaler.map([shown, shown])]
            return planes, videos, await upscaler.upscale(frames[0]), await upscaler.upscale(shown)

    planes, videos, one, video = asyncio.run(work())
    for frame, large in zip([*frames, frames[0]], [*planes, one], strict=True):
        assert_equal(large, enlarged(frame))
    for shown_large in (*videos, video):
        assert_equal(from_video_frame(shown_large), enlarged(from_video_frame(shown)))


# PyAV's frames


def video_frame(pixel_format: str, width: int = 50, height: int = 38) -> VideoFrame:
    """A frame of noise."""
    rng = np.random.default_rng(0)
    frame = VideoFrame(width, height, pixel_format)
    depth = max(component.bits for component in frame.format.components)
    shift = 16 - depth if pixel_format.startswith("p0") else 0
    for index, plane in enumerate(frame.planes):
        channels = 3 if pixel_format == "rgb24" else 2 if len(frame.planes) == 2 and index else 1
        view = samples(plane, depth, channels)
        view[:] = rng.integers(0, 1 << depth, view.shape) << shift
    return frame


@pytest.mark.parametrize(
    ("pixel_format", "answered"),
    [
        ("yuv420p", "yuv420p"),
        ("nv12", "yuv420p"),
        ("yuvj420p", "yuv420p"),
        ("yuv420p10le", "yuv420p10le"),
        ("p010le", "yuv420p10le"),
        ("yuv420p12le", "yuv420p12le"),
        ("yuv422p", "yuv420p"),
        ("yuv444p10le", "yuv420p10le"),
        ("gray", "yuv420p"),
        ("rgb24", "yuv420p"),
    ],
)
@pytest.mark.parametrize("timed", [True, False], ids=["timed", "no times"])
def test_a_video_frame_comes_back_as_one_with_its_times_and_tags(
    monkeypatch: pytest.MonkeyPatch, pixel_format: str, answered: str, timed: bool
) -> None:
    frame = video_frame(pixel_format)
    if timed:
        frame.pts, frame.time_base = 1234, Fraction(1, 90_000)
    frame.color_primaries, frame.color_trc = 9, 16
    if pixel_format != "rgb24":
        frame.colorspace = 9
    planes = from_video_frame(frame)
    model = EIGHT if planes.luma.dtype == np.uint8 else SIXTEEN

    with opened(monkeypatch, model) as (upscaler, _):
        large = upscaler.upscale(frame)

    assert (large.format.name, large.width, large.height) == (answered, 100, 76)
    assert_equal(from_video_frame(large), enlarged(planes))
    assert (large.pts, large.time_base) == (frame.pts, frame.time_base)
    assert (int(large.color_primaries), int(large.color_trc)) == (9, 16)
    assert int(large.colorspace) == (1 if pixel_format == "rgb24" else 9)
    is_full = pixel_format == "yuvj420p"
    assert int(large.color_range) == (ColorRange.JPEG if is_full else ColorRange.MPEG)


def test_the_planes_of_a_video_frame_arrive_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    for pixel_format, model, shift in (("yuv420p", EIGHT, 0), ("yuv420p10le", SIXTEEN, 6)):
        frame = video_frame(pixel_format)
        depth = 8 if model is EIGHT else 10
        luma, u, v = (samples(plane, depth) for plane in frame.planes)

        with opened(monkeypatch, model) as (upscaler, local):
            upscaler.upscale(frame)

        ((sent_luma, sent_chroma),) = local.sent
        np.testing.assert_array_equal(sent_luma[0, ..., 0], luma << shift)
        np.testing.assert_array_equal(sent_chroma[0], np.stack([u, v], axis=-1) << shift)


def test_an_odd_video_frame_is_enlarged_to_even_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = video_frame("yuv420p", 51, 37)

    with opened(monkeypatch, THREE_OF_8) as (upscaler, _):
        large = upscaler.upscale(frame)

    assert (large.width, large.height) == (154, 112)  # 153 x 111, and 4:2:0 has even sides


THREE_OF_8 = dataclasses.replace(THREE, bits=8)


def test_map_over_decoded_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = []
    for pts in range(5):
        frame = video_frame("yuv420p")
        frame.pts, frame.time_base = pts, Fraction(1, 25)
        frames.append(frame)

    with opened(monkeypatch, EIGHT) as (upscaler, _):
        assert [large.pts for large in upscaler.map(frames)] == [0, 1, 2, 3, 4]


# What is not for the model


@pytest.mark.parametrize(
    ("model", "image", "message"),
    [
        (RGB, random_planes(8, 8), "takes RGB pictures of 8 bits, not 4:2:0 .* 8 bits.*x2_video,"),
        (EIGHT, np.zeros((8, 8, 3), np.uint8), "takes 4:2:0 .*, not RGB pictures.*rt4ksr_x2,"),
        (EIGHT, random_planes(8, 8, 16), "frames of 8 bits, not .* of 16 bits.*x2_video16"),
        (SIXTEEN, random_planes(8, 8), "frames of 16 bits, not .* of 8 bits.*rt4ksr_x2_video,"),
        (RGB, video_frame("yuv420p"), "takes RGB pictures"),
        (EIGHT, video_frame("yuv420p10le"), "not 4:2:0 video frames of 16 bits"),
        (SIXTEEN, video_frame("nv12"), "not 4:2:0 video frames of 8 bits"),
    ],
)
def test_frames_of_another_kind_than_the_models_are_rejected_with_the_models_for_them(
    monkeypatch: pytest.MonkeyPatch, model: ServedModel, image: Any, message: str
) -> None:
    with (
        opened(monkeypatch, model) as (upscaler, local),
        pytest.raises(PictureError, match=message),
    ):
        upscaler.upscale(image)
    assert not local.sent


def zeros(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("luma", "chroma", "message"),
    [
        (zeros(8, 8), zeros(4, 4), r"\(4, 4, 2\), U and V last, got \(4, 4\)"),
        (zeros(8, 8), zeros(1, 1, 2), r"got \(1, 1, 2\)"),
        (zeros(9, 8), zeros(4, 4, 2), r"8x9 goes with chroma of the shape \(5, 4, 2\)"),
        (zeros(8, 8), zeros(2, 4, 4), "U and V last"),
        (zeros(8, 8, 1), zeros(4, 4, 2), r"luma of the shape \(H, W\)"),
        (zeros(0, 8), zeros(0, 4, 2), r"luma of the shape \(H, W\)"),
        (zeros(8, 8), zeros(4, 4, 2, dtype=np.uint16), "got uint8 and uint16"),
        (zeros(8, 8, dtype=np.float32), zeros(4, 4, 2, dtype=np.float32), "both be uint8"),
        (zeros(8, 8, dtype=np.int16), zeros(4, 4, 2, dtype=np.int16), "both be uint8"),
        (zeros(8, 8, dtype=">u2"), zeros(4, 4, 2, dtype=">u2"), "both be uint8"),
        ([[0, 0], [0, 0]], zeros(1, 1, 2), "got list and uint8"),
        (zeros(8, 8), None, "got uint8 and NoneType"),
    ],
)
def test_planes_that_do_not_fit_one_another_are_rejected(
    luma: Any, chroma: Any, message: str
) -> None:
    with pytest.raises(PictureError, match=message):
        Yuv420(luma, chroma)


def test_a_model_that_takes_other_colours_than_before_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame, picture = random_planes(8, 8), zeros(8, 8, 3)

    with opened(monkeypatch, RGB, url="host:1", wire="encoded") as (upscaler, local):
        upscaler.upscale(picture)
        local.model = EIGHT
        with pytest.warns(PictureWarning, match="travel raw"):
            assert_equal(upscaler.upscale(frame), enlarged(frame))
        local.model = RGB
        assert upscaler.upscale(picture).shape == (16, 16, 3)
        local.model = EIGHT
        upscaler.upscale(frame)  # no second warning


def test_encoded_frames_of_video_are_said_to_travel_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch, EIGHT, url="host:1", wire="encoded") as (upscaler, _):
        with pytest.warns(PictureWarning, match="'rt4ksr_x2_video' takes 4:2:0 planes.*raw"):
            upscaler.upscale(random_planes(8, 8))
        upscaler.upscale(random_planes(8, 8))
    with opened(monkeypatch, RGB, url="host:1", wire="encoded") as (upscaler, _):
        upscaler.upscale(zeros(8, 8, 3))
