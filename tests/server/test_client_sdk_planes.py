"""The SDK and the command line with models of 4:2:0 video on a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from click.testing import CliRunner, Result
from PIL import Image

from rt4ksr_client import AsyncUpscaler, Upscaler, Yuv420
from rt4ksr_client.cli import cli
from rt4ksr_client.connection import TransportName
from rt4ksr_client.contract import MODELS, ModelSpec, image_endpoint
from rt4ksr_client.errors import PictureError
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_client.video.planes import from_video_frame
from rt4ksr_server import TritonServer
from support.nearest_models import add_endpoints, nearest
from support.servers import RepositoryFactory, ServerFactory
from support.videos import make_video

RGB = MODELS["rt4ksr_x2"]
VIDEO = [spec for spec in MODELS.values() if spec.colours == "yuv420"]


@pytest.fixture(scope="module")
def server(
    server_with: ServerFactory, nearest_repository: RepositoryFactory
) -> Iterator[TritonServer]:
    """A server of models of both colours, with the image endpoint of the RGB one."""
    repository = nearest_repository(
        [RGB, *VIDEO], edit=lambda config: setattr(config, "max_batch_size", 2)
    )
    add_endpoints(repository, [RGB.name])
    with server_with(repository) as running:
        yield running


def random_planes(height: int, width: int, bits: int, seed: int = 0) -> Yuv420:
    rng = np.random.default_rng(seed)
    dtype = np.dtype(f"u{bits // 8}")
    halves = -(-height // 2), -(-width // 2), 2
    return Yuv420(
        rng.integers(0, 1 << bits, (height, width), dtype=dtype),
        rng.integers(0, 1 << bits, halves, dtype=dtype),
    )


def assert_enlarged(large: Yuv420, frame: Yuv420, scale: int) -> None:
    luma = nearest(frame.luma[np.newaxis], scale)[0]
    chroma = nearest(frame.chroma[np.newaxis], scale)[0]
    rows, columns = (-(-side // 2) for side in luma.shape)
    np.testing.assert_array_equal(large.luma, luma)
    np.testing.assert_array_equal(large.chroma, chroma[:rows, :columns])
    assert large.luma.dtype == large.chroma.dtype == frame.luma.dtype


@pytest.mark.parametrize("name", ["grpc", "http", "shm"])
@pytest.mark.parametrize("model", VIDEO, ids=lambda spec: spec.name)
def test_planes_come_back_larger_on_every_transport(
    server: TritonServer, model: ModelSpec, name: TransportName
) -> None:
    url = server.http_url if name == "http" else server.grpc_url
    frames = [random_planes(*size, model.bits) for size in [(1, 1), (63, 97), (270, 480)]]
    views = [Yuv420(f.luma[:, ::-1], f.chroma[:, ::-1]) for f in frames]
    with Upscaler(url, model=model.name, transport=name, timeout_s=30) as upscaler:
        for frame in (*frames, *views):
            assert_enlarged(upscaler.upscale(frame), frame, model.scale)
        for frame, large in zip(frames, upscaler.map(frames), strict=True):
            assert_enlarged(large, frame, model.scale)
    with Upscaler(url, model=model.name, transport=name, max_request_px=1000) as upscaler:
        assert_enlarged(upscaler.upscale(frames[1]), frames[1], model.scale)


def test_decoded_frames_go_in_and_frames_to_encode_come_out(
    server: TritonServer, tmp_path: Path
) -> None:
    path = make_video(tmp_path / "clip.mkv", frames=5, pixel_format="yuv420p10le")
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))

    async def upscaled() -> list[VideoFrame]:
        async with AsyncUpscaler(server.grpc_url, model="rt4ksr_x3_video16") as upscaler:
            return [large async for large in upscaler.map(frames)]

    found = asyncio.run(upscaled())

    for frame, large in zip(frames, found, strict=True):
        assert_enlarged(from_video_frame(large), from_video_frame(frame), 3)
        assert (large.pts, large.time_base) == (frame.pts, frame.time_base)
        assert large.format.name == "yuv420p10le"


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_planes_travel_raw_on_an_encoded_wire_and_pictures_encoded(
    server: TritonServer, scheme: str
) -> None:
    url = f"{scheme}{server.http_url if scheme else server.grpc_url}"
    frame = random_planes(20, 30, 8)
    with (
        Upscaler(url, model="rt4ksr_x2_video", wire="encoded") as upscaler,
        pytest.warns(PictureWarning, match="travel raw"),
    ):
        assert_enlarged(upscaler.upscale(frame), frame, 2)
    with Upscaler(url, model=RGB.name, wire="encoded", wire_format="png") as upscaler:
        picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        np.testing.assert_array_equal(upscaler.upscale(picture), nearest(picture[None], 2)[0])
        names = {model.name for model in upscaler.status().models}
    assert image_endpoint(RGB.name) in names


# Commands


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def test_status_shows_the_colours_and_bits_of_each_model(server: TritonServer) -> None:
    text = run("status", "--url", server.grpc_url).stdout
    told = json.loads(run("status", "--url", server.grpc_url, "--json").stdout)

    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    served = {model["name"]: model["served"] for model in told["models"]}
    assert "RGB, 8 bits" in lines[RGB.name]
    assert (served[RGB.name]["colours"], served[RGB.name]["bits"]) == ("rgb", 8)
    for spec in VIDEO:
        assert f"4:2:0, {spec.bits} bits" in lines[spec.name]
        assert served[spec.name]["colours"] == "yuv420"
        assert served[spec.name]["bits"] == spec.bits


@pytest.mark.parametrize("command", ["upscale", "compare"])
def test_pictures_are_rejected_early_by_a_model_of_video(
    server: TritonServer, tmp_path: Path, command: str
) -> None:
    source, target = tmp_path / "album" / "a.png", tmp_path / "out"
    source.parent.mkdir()
    Image.new("RGB", (16, 12)).save(source)
    Image.new("RGB", (16, 12)).save(source.with_name("b.png"))
    cases = [(source, target.with_suffix(".png"))]
    if command == "upscale":
        cases.append((source.parent, target))

    for given, output in cases:
        result = run(
            command, given, "-o", output, "--url", server.grpc_url, "--model", "rt4ksr_x2_video"
        )

        assert isinstance(result.exception, PictureError)
        assert "those are for rt4ksr_x2, rt4ksr_x3" in str(result.exception)
        assert {path.name for path in tmp_path.rglob("*")} == {"album", "a.png", "b.png"}


def test_video_is_rejected_early_by_a_model_of_pictures(
    server: TritonServer, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "clip.mkv", frames=2)

    result = run("video", clip, "--url", server.grpc_url, "--model", RGB.name)

    assert isinstance(result.exception, PictureError)
    assert "those are for rt4ksr_x2_video" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mkv"]
