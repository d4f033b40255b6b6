"""Frames that travel encoded, through the SDK and the command, on a real tritonserver."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt4ksr_client import AsyncUpscaler, Upscaler
from rt4ksr_client.call import Call
from rt4ksr_client.cli import main
from rt4ksr_client.connection import Connection, TransportName
from rt4ksr_client.errors import DeadlineExceededError, ModelNotReadyError
from rt4ksr_client.frames import Frame
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports import open_transport
from rt4ksr_client.transports.link_speed import WireTimes, measure_link
from rt4ksr_server import TritonServer
from support.image_endpoint import answered
from support.nearest_models import add_endpoints
from support.processes import becomes_true

pytestmark = pytest.mark.server

SLOW, FAST = WireTimes(264, 90, 118), WireTimes(40, 90, 800)


@pytest.fixture(scope="module")
def photo(photograph: Path) -> Frame:
    """A detail of a photograph, of odd sizes."""
    return np.asarray(Image.open(photograph))[200:411, 300:601]


def doubled(frame: Frame) -> Frame:
    return frame.repeat(2, axis=0).repeat(2, axis=1)


def psnr_db(one: Frame, other: Frame) -> float:
    error = float(((one.astype(float) - other) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@pytest.fixture(params=["grpc", "http", "auto"])
def way(request: pytest.FixtureRequest, endpoint_server: TritonServer) -> tuple[str, TransportName]:
    name: TransportName = request.param
    return endpoint_server.http_url if name == "http" else endpoint_server.grpc_url, name


@pytest.fixture
def encoding(way: tuple[str, TransportName]) -> Iterator[Upscaler]:
    with Upscaler(way[0], scale=2, transport=way[1], wire="encoded", timeout_s=30) as upscaler:
        yield upscaler


def test_jpeg_differs_only_by_its_compression_loss(encoding: Upscaler, photo: Frame) -> None:
    upscaled = encoding.upscale(photo)

    assert psnr_db(upscaled, doubled(photo)) > 40
    assert (encoding.wire_name, encoding.wire_reason) == ("encoded", "jpeg, requested")
    assert encoding.transport_name in ("grpc", "http")


def test_png_gives_exactly_the_same_picture(way: tuple[str, TransportName], photo: Frame) -> None:
    url, name = way
    with Upscaler(url, scale=2, transport=name, wire="encoded", wire_format="png") as upscaler:
        np.testing.assert_array_equal(upscaler.upscale(photo), doubled(photo))


def test_webp_differs_only_by_its_compression_loss(
    endpoint_server: TritonServer, photo: Frame
) -> None:
    url = endpoint_server.grpc_url
    with Upscaler(url, scale=2, wire="encoded", wire_format="webp") as upscaler:
        assert psnr_db(upscaler.upscale(photo), doubled(photo)) > 30


def test_alpha_and_gray_are_upscaled_by_the_client_and_are_exact(
    encoding: Upscaler, endpoint_server: TritonServer, photo: Frame
) -> None:
    image = Image.fromarray(photo).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))

    upscaled = encoding.upscale(image)

    with Upscaler(endpoint_server.grpc_url, scale=2) as raw:
        exact = raw.upscale(image)
    np.testing.assert_array_equal(
        np.asarray(upscaled.getchannel("A")), np.asarray(exact.getchannel("A"))
    )
    assert encoding.upscale(image.convert("L")).mode == "L"


def test_tiles_are_sent_encoded_too(endpoint_server: TritonServer, photo: Frame) -> None:
    before = answered(endpoint_server, "rt4ksr_x2_image")
    with Upscaler(
        endpoint_server.grpc_url,
        scale=2,
        wire="encoded",
        wire_format="png",
        max_request_px=90 * 90,
    ) as upscaler:
        upscaled = upscaler.upscale(photo)

    np.testing.assert_array_equal(upscaled, doubled(photo))
    assert becomes_true(lambda: answered(endpoint_server, "rt4ksr_x2_image") - before >= 9)


def test_map_keeps_the_order_of_encoded_frames(encoding: Upscaler) -> None:
    frames = [np.full((8, 8, 3), value, np.uint8) for value in range(0, 250, 25)]

    upscaled = list(encoding.map(frames, in_flight=4))

    for frame, large in zip(frames, upscaled, strict=True):
        assert np.abs(large.astype(int) - doubled(frame)).max() <= 1


def test_encoded_frames_work_with_asyncio(endpoint_server: TritonServer, photo: Frame) -> None:
    async def run() -> tuple[Frame, str, str]:
        async with AsyncUpscaler(
            endpoint_server.grpc_url, scale=2, wire="encoded", wire_format="png"
        ) as upscaler:
            upscaled = await upscaler.upscale(photo)
            return upscaled, await upscaler.wire_name, await upscaler.wire_reason

    upscaled, name, reason = asyncio.run(run())

    np.testing.assert_array_equal(upscaled, doubled(photo))
    assert (name, reason) == ("encoded", "png, requested")


def test_a_deadline_ends_an_encoded_call(way: tuple[str, TransportName], photo: Frame) -> None:
    url, name = way
    model = ServedModel("rt4ksr_x2", 2, 2, 16, 8, "", "")
    with (
        open_transport(Connection(url, name, "encoded")) as transport,
        pytest.raises(DeadlineExceededError),
    ):
        transport.upscale(model, (np.stack([photo[:210, :300]]),), Call(0.001))


def test_the_error_names_the_endpoint_that_a_server_lacks(
    nearest_server: TritonServer, photo: Frame
) -> None:
    with (
        Upscaler(nearest_server.grpc_url, scale=2, wire="encoded", timeout_s=2) as upscaler,
        pytest.raises(ModelNotReadyError, match="rt4ksr_x2_image"),
    ):
        upscaler.upscale(photo)


# auto


def test_auto_shares_memory_on_one_host(endpoint_server: TritonServer, photo: Frame) -> None:
    with Upscaler(endpoint_server.grpc_url, scale=2, wire="auto") as upscaler:
        np.testing.assert_array_equal(upscaler.upscale(photo), doubled(photo))
        assert (upscaler.transport_name, upscaler.wire_name) == ("shm", "raw")
        assert "shared memory" in upscaler.wire_reason


@pytest.mark.parametrize("name", ["grpc", "http"])
def test_auto_measures_the_link_and_gives_the_figures_as_its_reason(
    endpoint_server: TritonServer, photo: Frame, name: TransportName
) -> None:
    url = endpoint_server.http_url if name == "http" else endpoint_server.grpc_url
    with Upscaler(url, scale=2, transport=name, wire="auto") as upscaler:
        assert psnr_db(upscaler.upscale(photo), doubled(photo)) > 40
        assert upscaler.transport_name == name
        assert "MB/s of this link" in upscaler.wire_reason


@pytest.mark.parametrize(("times", "name"), [(SLOW, "encoded"), (FAST, "raw")])
def test_auto_encodes_if_that_is_faster(
    endpoint_server: TritonServer,
    photo: Frame,
    times: WireTimes,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rt4ksr_client.transports.negotiation.measure_link", lambda *_: times)
    before = answered(endpoint_server, "rt4ksr_x2_image")

    with Upscaler(endpoint_server.grpc_url, scale=2, transport="grpc", wire="auto") as upscaler:
        assert psnr_db(upscaler.upscale(photo), doubled(photo)) > 40
        assert upscaler.wire_name == name
        assert str(times) in upscaler.wire_reason

    expected = before + (name == "encoded")
    assert becomes_true(lambda: answered(endpoint_server, "rt4ksr_x2_image") == expected)


def test_auto_is_raw_if_the_server_has_no_endpoint(
    nearest_server: TritonServer, photo: Frame
) -> None:
    with Upscaler(nearest_server.grpc_url, scale=2, transport="grpc", wire="auto") as upscaler:
        np.testing.assert_array_equal(upscaler.upscale(photo), doubled(photo))
        assert upscaler.wire_reason == "the server has no image endpoint"


def test_auto_is_raw_for_a_model_without_an_endpoint(
    production: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rt4ksr_client.transports.negotiation.measure_link", lambda *_: SLOW)
    frame = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)

    with Upscaler(production.grpc_url, scale=3, transport="grpc", wire="auto") as upscaler:
        upscaled = upscaler.upscale(frame)

    np.testing.assert_array_equal(upscaled, frame.repeat(3, axis=0).repeat(3, axis=1))


def test_each_of_two_servers_has_its_own_wire(
    endpoint_server: TritonServer, nearest_server: TritonServer
) -> None:
    both = f"{endpoint_server.grpc_url},{nearest_server.grpc_url}"
    with Upscaler(both, scale=2, transport="grpc", wire="auto") as upscaler:
        reason = upscaler.wire_reason

    assert f"{nearest_server.grpc_url}: raw, the server has no image endpoint" in reason


@pytest.mark.parametrize("transport", ["shm", "cuda_shm"])
def test_encoded_frames_through_shared_memory_are_rejected(transport: TransportName) -> None:
    with pytest.raises(ValueError, match="use grpc or http"):
        Upscaler(transport=transport, wire="encoded")


# the command


def test_the_command_sends_encoded_frames(
    endpoint_server: TritonServer, photo: Frame, tmp_path: Path
) -> None:
    Image.fromarray(photo).save(tmp_path / "in.png")
    options = ["--url", endpoint_server.grpc_url, "--wire", "encoded", "--wire-format", "png"]

    with pytest.raises(SystemExit) as ended:
        main(["upscale", str(tmp_path / "in.png"), str(tmp_path / "out.png"), *options])

    assert ended.value.code == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), doubled(photo))


def test_a_local_server_has_the_image_endpoint_too(
    nearest_repository: Callable[..., Path],
    photo: Frame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository = nearest_repository(edit=lambda config: setattr(config, "max_batch_size", 2))
    add_endpoints(repository, ["rt4ksr_x2"])
    repository.rename(tmp_path / "model_repository")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo).save(tmp_path / "in.png")

    with pytest.raises(SystemExit) as ended:
        main(["upscale", "in.png", "out.png", "--local", "--wire", "encoded"])

    assert ended.value.code == 0
    assert psnr_db(np.asarray(Image.open("out.png")), doubled(photo)) > 40


def test_status_shows_the_wire_and_the_image_endpoints(
    endpoint_server: TritonServer, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--url", endpoint_server.grpc_url, "--transport", "grpc", "--wire", "auto"]
    for further in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["status", *options, *further])
        assert ended.value.code == 0
    *table, line = capsys.readouterr().out.splitlines()

    assert any(row.startswith("wire ") and "of this link" in row for row in table)
    (row,) = (row for row in table if " rt4ksr_x2_image " in row)
    assert "takes pictures" in row
    told = json.loads(line)
    assert told["wire"] in ("raw", "encoded")
    assert "of this link" in told["wire_reason"]


def test_the_pixel_limit_for_sources_does_not_apply_to_answers(
    endpoint_server: TritonServer, photo: Frame, tmp_path: Path
) -> None:
    Image.fromarray(photo).save(tmp_path / "in.png")
    limit = str(photo.shape[0] * photo.shape[1])
    options = ["--url", endpoint_server.grpc_url, "--wire", "encoded", "--max-pixels", limit]

    with pytest.raises(SystemExit) as ended:
        main(["upscale", str(tmp_path / "in.png"), str(tmp_path / "out.png"), *options])

    assert ended.value.code == 0


def test_the_measured_link_speed_is_plausible(endpoint_server: TritonServer) -> None:
    with open_transport(Connection(endpoint_server.grpc_url, "grpc")) as transport:
        times = measure_link(transport, "jpeg", Call(30))

    assert 1 < times.link_mb_per_s < 100_000
    assert 1 < times.raw_ms < 60_000
    assert 1 < times.encoded_ms < 60_000
