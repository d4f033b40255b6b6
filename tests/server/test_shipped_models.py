"""The models in git, through a real tritonserver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from rt4ksr_client import Upscaler
from rt4ksr_client.call import Call
from rt4ksr_client.connection import Connection
from rt4ksr_client.contract import INPUT_NAME, MAX_SIDE_PX, MODELS, ModelSpec
from rt4ksr_client.errors import (
    InvalidRequestError,
    ModelNotReadyError,
    PictureError,
    ServerUnreachableError,
    WrongScaleError,
)
from rt4ksr_client.frames import Frame, Yuv420
from rt4ksr_client.transports import open_transport
from rt4ksr_export.colours import samples_to_codes, unpack, yuv420_samples
from rt4ksr_server import TritonServer
from support.servers import ServerFactory

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(server_with: ServerFactory, root: Path) -> Iterator[TritonServer]:
    with server_with(root / "model_repository") as running:
        yield running


PICTURES = {name: spec for name, spec in MODELS.items() if spec.colours == "rgb"}
VIDEO = {name: spec for name, spec in MODELS.items() if spec.colours == "yuv420"}


@pytest.fixture(params=PICTURES.values(), ids=list(PICTURES))
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    model: ModelSpec = request.param
    return model


@pytest.fixture
def upscaler(server: TritonServer, spec: ModelSpec) -> Iterator[Upscaler]:
    with Upscaler(server.grpc_url, model=spec.name) as opened:
        yield opened


def in_process(root: Path, spec: ModelSpec, frame: Frame) -> Frame:
    session = onnxruntime.InferenceSession(
        root / "model_repository" / spec.name / "1" / "model.onnx",
        providers=["CPUExecutionProvider"],
    )
    (upscaled,) = session.run(None, {INPUT_NAME: frame[np.newaxis]})
    frame_out: Frame = upscaled[0]
    return frame_out


def test_a_served_photograph_is_what_the_graph_gives_in_process(
    upscaler: Upscaler, spec: ModelSpec, root: Path, photograph: Path
) -> None:
    frame = np.asarray(Image.open(photograph))[200:400, 300:560]

    np.testing.assert_array_equal(upscaler.upscale(frame), in_process(root, spec, frame))


@pytest.mark.parametrize("name", VIDEO)
def test_served_planes_are_what_the_graph_gives_in_process(
    server: TritonServer, name: str, root: Path, photograph: Path
) -> None:
    pixels = np.asarray(Image.open(photograph))[200:400, 300:560]
    frame = unpack(samples_to_codes(yuv420_samples(pixels), "yuv420"))
    if VIDEO[name].bits == 16:
        wide: list[Any] = [p.astype(np.uint16) << 8 | 37 for p in (frame.luma, frame.chroma)]
        frame = Yuv420(*wide)
    session = onnxruntime.InferenceSession(
        root / "model_repository" / name / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    planes = {"luma": frame.luma[np.newaxis, ..., np.newaxis], "chroma": frame.chroma[np.newaxis]}

    with Upscaler(server.grpc_url, model=name) as upscaler:
        upscaled = upscaler.upscale(frame)

    luma, chroma = session.run(None, planes)
    assert upscaled.luma.dtype == frame.luma.dtype
    np.testing.assert_array_equal(upscaled.luma, luma[0, ..., 0])
    np.testing.assert_array_equal(upscaled.chroma, chroma[0])


def test_a_side_longer_than_a_request_may_have_makes_no_difference(
    upscaler: Upscaler, spec: ModelSpec, root: Path, photograph: Path
) -> None:
    frame = np.asarray(Image.open(photograph))[300:340].reshape(20, -1, 3)
    assert frame.shape[1] > MAX_SIDE_PX

    difference = np.abs(upscaler.upscale(frame).astype(int) - in_process(root, spec, frame))

    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.9999


def test_a_photograph_keeps_its_content(
    upscaler: Upscaler, spec: ModelSpec, photograph: Path
) -> None:
    small = Image.open(photograph).crop((300, 100, 620, 340))

    upscaled = upscaler.upscale(small)

    assert upscaled.size == (320 * spec.scale, 240 * spec.scale)
    back = np.asarray(upscaled.resize(small.size, Image.Resampling.BICUBIC), dtype=float)
    mean_square = float(((back - np.asarray(small)) ** 2).mean())
    assert 10 * np.log10(255**2 / mean_square) > 30


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 7), (33, 17), (64, 48)])
def test_any_size_is_upscaled(size: tuple[int, int], upscaler: Upscaler, spec: ModelSpec) -> None:
    height, width = size
    frame = np.full((height, width, 3), (200, 120, 40), np.uint8)

    upscaled = upscaler.upscale(frame)

    assert upscaled.shape == (height * spec.scale, width * spec.scale, 3)
    # A tiny picture is all border, where zero padding shows.
    assert np.abs(upscaled.astype(int).mean(axis=(0, 1)) - (200, 120, 40)).max() < 40


def test_an_odd_picture_is_its_even_neighbour_cropped(
    upscaler: Upscaler, spec: ModelSpec, photograph: Path
) -> None:
    odd = np.asarray(Image.open(photograph))[100:141, 100:163]
    even = np.pad(odd, ((0, 1), (0, 1), (0, 0)), mode="edge")

    np.testing.assert_array_equal(
        upscaler.upscale(odd), upscaler.upscale(even)[: 41 * spec.scale, : 63 * spec.scale]
    )


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "RGB"])
def test_a_picture_comes_back_with_its_gray_and_its_alpha(
    mode: str, upscaler: Upscaler, spec: ModelSpec, photograph: Path
) -> None:
    picture = Image.open(photograph).resize((64, 36)).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((64, 36)))
    expected = {"P": "RGB", "1": "L"}.get(mode, mode)

    upscaled = upscaler.upscale(picture.convert("RGB" if mode == "P" else mode).convert(mode))

    assert upscaled.mode == expected
    assert upscaled.size == (64 * spec.scale, 36 * spec.scale)


def test_the_client_reads_the_parameters_of_the_model(upscaler: Upscaler, spec: ModelSpec) -> None:
    served = upscaler.served_model

    assert (served.name, served.scale) == (spec.name, spec.scale)
    assert (served.size_multiple, served.halo_px) == (2, 16)
    assert served.max_side_px == MAX_SIDE_PX
    assert len(served.weights_sha256) == 64


def test_a_model_of_another_scale_is_rejected(server: TritonServer) -> None:
    with (
        Upscaler(server.grpc_url, model="rt4ksr_x2", scale=3) as upscaler,
        pytest.raises(WrongScaleError, match="x2, not x3"),
    ):
        upscaler.upscale(np.zeros((4, 4, 3), np.uint8))


def test_the_error_names_a_model_that_the_server_lacks(server: TritonServer) -> None:
    with (
        Upscaler(server.grpc_url, model="rt4ksr_x9") as upscaler,
        pytest.raises(ModelNotReadyError, match="rt4ksr_x9"),
    ):
        upscaler.upscale(np.zeros((4, 4, 3), np.uint8))


def test_if_no_server_answers_the_error_tells_how_to_start_one() -> None:
    with (
        Upscaler("127.0.0.1:9", timeout_s=5) as upscaler,
        pytest.raises(ServerUnreachableError, match="rt4ksr serve"),
    ):
        upscaler.upscale(np.zeros((4, 4, 3), np.uint8))


def test_an_odd_tensor_from_another_client_is_rejected_and_the_server_survives(
    server: TritonServer, spec: ModelSpec
) -> None:
    with open_transport(Connection(server.grpc_url, "grpc")) as transport:
        model = transport.served_model(spec.name, Call(20))
        with pytest.raises(InvalidRequestError, match=spec.name):
            transport.upscale(model, (np.zeros((1, 5, 4, 3), np.uint8),), Call(20))
        (answer,) = transport.upscale(model, (np.zeros((1, 4, 4, 3), np.uint8),), Call(20))
    assert answer.shape == (1, 4 * spec.scale, 4 * spec.scale, 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4), np.uint8), r"\(H, W, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(H, W, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ],
)
def test_an_array_that_is_not_a_frame_is_rejected_before_it_is_sent(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], message: str
) -> None:
    with Upscaler("127.0.0.1:9") as upscaler, pytest.raises(PictureError, match=message):
        upscaler.upscale(array)
