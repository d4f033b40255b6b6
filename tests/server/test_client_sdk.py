"""The SDK over every transport, on a real tritonserver."""

from __future__ import annotations

import dataclasses
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from PIL import Image
from tritonclient.grpc import model_config_pb2

from rt4ksr_client import Upscaler
from rt4ksr_client.call import Call, Cancellation
from rt4ksr_client.connection import Connection, TransportName
from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_client.errors import DeadlineExceededError, ServerError
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports import Transport, open_transport, regions
from rt4ksr_client.transports.messages import InferRequest, RequestedOutput, Tensor
from rt4ksr_server import TritonServer
from support.nearest_models import write_model
from support.sdk import TRANSPORTS, address, doubled, noise, our_names, registered
from support.servers import ServerFactory

pytestmark = pytest.mark.server

MODEL = ServedModel("rt4ksr_x2", 2, 2, 16, 8, "", "")


@pytest.fixture(params=TRANSPORTS)
def upscaler(request: pytest.FixtureRequest, nearest_server: TritonServer) -> Iterator[Upscaler]:
    name: TransportName = request.param
    with Upscaler(address(nearest_server, name), transport=name, timeout_s=30) as opened:
        yield opened


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, nearest_server: TritonServer) -> Iterator[Transport]:
    with open_transport(
        Connection(address(nearest_server, request.param), request.param)
    ) as opened:
        yield opened


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (63, 65), (270, 480), (1080, 1920)])
def test_every_transport_gives_the_same_picture(upscaler: Upscaler, size: tuple[int, int]) -> None:
    frame = noise(*size)

    np.testing.assert_array_equal(upscaler.upscale(frame), doubled(frame))


def test_a_strided_view_is_sent_correctly(upscaler: Upscaler) -> None:
    frame = noise(40, 60)[::-1, 5:55, ::-1]

    np.testing.assert_array_equal(upscaler.upscale(frame), doubled(frame))


def test_messages_may_exceed_grpcs_default_limit(upscaler: Upscaler) -> None:
    frame = noise(2000, 2096)

    np.testing.assert_array_equal(upscaler.upscale(frame), doubled(frame))


def test_a_batch_is_answered_as_a_batch(transport: Transport) -> None:
    batch = np.stack([noise(6, 10, seed) for seed in range(5)])

    (answer,) = transport.upscale(MODEL, (batch,), Call(20))

    np.testing.assert_array_equal(answer, batch.repeat(2, axis=1).repeat(2, axis=2))


_PLANES = """
<ir_version: 8, opset_import: ["": 17]>
planes (uint8[n, h, w] luma, uint16[n, k, l] chroma)
    => (uint8[n, h, w2] wide_luma, uint16[n, k2, l] tall_chroma)
{
    wide_luma = Concat <axis=2> (luma, luma)
    tall_chroma = Concat <axis=1> (chroma, chroma)
}
"""


@pytest.fixture(scope="module")
def planes_server(
    server_with: ServerFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """A server with a model of two inputs and two outputs of different types."""
    config = model_config_pb2.ModelConfig(name="planes", backend="onnxruntime", max_batch_size=4)
    for name, tensors, kind in (
        ("luma", config.input, model_config_pb2.TYPE_UINT8),
        ("chroma", config.input, model_config_pb2.TYPE_UINT16),
        ("wide_luma", config.output, model_config_pb2.TYPE_UINT8),
        ("tall_chroma", config.output, model_config_pb2.TYPE_UINT16),
    ):
        tensors.add(name=name, data_type=kind, dims=[-1, -1])
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, config, onnx.parser.parse_model(_PLANES))
    with server_with(repository) as server:
        yield server


@pytest.mark.parametrize("name", TRANSPORTS)
def test_several_tensors_go_in_and_come_out(
    planes_server: TritonServer, name: TransportName
) -> None:
    rng = np.random.default_rng(0)
    luma = rng.integers(0, 256, (2, 7, 9), dtype=np.uint8)[:, ::-1]
    chroma = rng.integers(0, 1 << 16, (2, 3, 5), dtype=np.uint16)
    request = InferRequest(
        "planes",
        [Tensor.from_array("luma", luma), Tensor.from_array("chroma", chroma)],
        [
            RequestedOutput("tall_chroma", "UINT16", (2, 6, 5)),
            RequestedOutput("wide_luma", "UINT8", (2, 7, 18)),
        ],
    )
    with open_transport(Connection(address(planes_server, name), name)) as transport:
        responses = [transport.infer(request, Call(20)) for _ in range(3)]

    for response in responses:
        np.testing.assert_array_equal(
            response.output("wide_luma").to_array(), np.concatenate([luma, luma], axis=2)
        )
        np.testing.assert_array_equal(
            response.output("tall_chroma").to_array(), np.concatenate([chroma, chroma], axis=1)
        )


def test_outputs_of_unknown_size_come_over_grpc_although_memory_is_shared(
    planes_server: TritonServer,
) -> None:
    request = InferRequest(
        "planes",
        [
            Tensor.from_array("luma", np.zeros((1, 2, 2), np.uint8)),
            Tensor.from_array("chroma", np.zeros((1, 2, 2), np.uint16)),
        ],
        [RequestedOutput("wide_luma")],
    )
    with open_transport(Connection(planes_server.grpc_url, "shm")) as transport:
        response = transport.infer(request, Call(20))

    assert response.output("wide_luma").to_array().shape == (1, 2, 4)


def test_a_large_picture_goes_in_tiles(nearest_server: TritonServer) -> None:
    frame = noise(301, 499)
    with Upscaler(nearest_server.grpc_url, max_request_px=10_000) as upscaler:
        np.testing.assert_array_equal(upscaler.upscale(frame), doubled(frame))


@pytest.mark.parametrize("in_flight", [1, 4])
def test_map_keeps_the_order_and_the_kind(upscaler: Upscaler, in_flight: int) -> None:
    frames = [noise(20 + 4 * (i % 3), 30, i) for i in range(40)]

    for frame, upscaled in zip(frames, upscaler.map(frames, in_flight), strict=True):
        np.testing.assert_array_equal(upscaled, doubled(frame))
    for picture in upscaler.map(Image.fromarray(frame) for frame in frames[:3]):
        assert isinstance(picture, Image.Image)


def test_results_keep_their_pixels_while_many_are_held(upscaler: Upscaler) -> None:
    frames = [noise(100, 100, i) for i in range(60)]

    held = list(upscaler.map(frames))
    again = [upscaler.upscale(frame) for frame in frames[:10]]

    for frame, upscaled in zip([*frames, *frames[:10]], [*held, *again], strict=True):
        np.testing.assert_array_equal(upscaled, doubled(frame))


def test_a_view_of_a_result_outlives_the_client(nearest_server: TritonServer) -> None:
    frame = noise(100, 100)
    with Upscaler(nearest_server.grpc_url, transport="shm") as upscaler:
        corner = upscaler.upscale(frame)[50:, 50:][::2]
        for seed in range(20):
            upscaler.upscale(noise(100, 100, seed + 1))

    np.testing.assert_array_equal(corner, doubled(frame)[50:, 50:][::2])


def test_pictures_keep_their_pixels_while_others_are_upscaled_and_without_the_client(
    nearest_server: TritonServer,
) -> None:
    frames = [noise(100, 100, i) for i in range(30)]
    with Upscaler(nearest_server.grpc_url, transport="shm") as upscaler:
        pictures = list(upscaler.map(map(Image.fromarray, frames)))
        arrays = [np.asarray(picture) for picture in pictures[:15]]
        for frame in frames:
            upscaler.upscale(255 - frame)

    del pictures[:15]
    for frame, upscaled in zip(frames, [*arrays, *pictures], strict=True):
        np.testing.assert_array_equal(np.asarray(upscaled), doubled(frame))


def test_one_upscaler_serves_many_threads(upscaler: Upscaler) -> None:
    def work(seed: int) -> bool:
        frame = noise(50 + seed % 5, 40, seed)
        return bool((upscaler.upscale(frame) == doubled(frame)).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(80)))


def test_shared_memory_is_chosen_automatically_on_one_host(nearest_server: TritonServer) -> None:
    with Upscaler(nearest_server.grpc_url) as upscaler:
        assert upscaler.transport_name == "shm"
        assert "maps" in upscaler.transport_reason
    with Upscaler(f"http://{nearest_server.http_url}") as upscaler:
        assert (upscaler.transport_name, upscaler.transport_reason) == (
            "http",
            "given by the address",
        )


def test_grpc_is_chosen_with_a_reason_if_memory_is_not_shared(
    nearest_server: TritonServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # As in a container with a /dev/shm of its own: the server does not find the region.
    monkeypatch.setattr(regions, "FOLDER", tmp_path)
    caplog.set_level("INFO", "rt4ksr_client")
    with Upscaler(nearest_server.grpc_url) as upscaler:
        np.testing.assert_array_equal(upscaler.upscale(noise(8, 8)), doubled(noise(8, 8)))
        assert upscaler.transport_name == "grpc"
        assert "cannot map" in upscaler.transport_reason
    assert not list(tmp_path.iterdir())
    assert "transport grpc: the server cannot map this process's memory" in caplog.text


def test_a_frame_goes_over_grpc_if_shared_memory_is_full(
    nearest_server: TritonServer, caplog: pytest.LogCaptureFixture
) -> None:
    frame = noise(1000, 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Upscaler(nearest_server.grpc_url, transport="shm") as upscaler:
        upscaler.upscale(noise(8, 8))
        before = registered(nearest_server)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
        try:
            np.testing.assert_array_equal(upscaler.upscale(frame), doubled(frame))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        # The frame found a place, its answer of 12 MB did not: the place is given back.
        assert not registered(nearest_server) - before


def test_regions_are_reused_have_no_name_and_end_with_the_client(
    nearest_server: TritonServer,
) -> None:
    before = registered(nearest_server)
    with Upscaler(nearest_server.grpc_url, transport="shm") as upscaler:
        for _ in upscaler.map((noise(64, 64, i) for i in range(50)), 3):
            pass
        assert not our_names()
        used = registered(nearest_server) - before
        assert 2 <= len(used) <= 3 * 2 + 2
    assert registered(nearest_server) == before


def test_a_client_that_is_not_closed_is_cleaned_up_with_it(nearest_server: TritonServer) -> None:
    before = registered(nearest_server)
    upscaler = Upscaler(nearest_server.grpc_url, transport="shm")
    upscaler.upscale(noise(8, 8))
    assert registered(nearest_server) != before

    del upscaler

    assert registered(nearest_server) == before


def test_closing_map_early_ends_it_and_keeps_the_client_usable(upscaler: Upscaler) -> None:
    results = upscaler.map((noise(200, 200, i) for i in range(1000)), 4)
    next(results)
    begin_s = time.monotonic()

    results.close()

    assert time.monotonic() - begin_s < 5
    np.testing.assert_array_equal(upscaler.upscale(noise(8, 8)), doubled(noise(8, 8)))


def test_cancelling_ends_a_call_at_once_and_the_next_one_works(transport: Transport) -> None:
    batch = np.stack([noise(1080, 1920)] * 2)
    cancellation = Cancellation()
    threading.Timer(0.01, cancellation.cancel).start()
    begin_s = time.monotonic()

    with pytest.raises(CancelledError):
        for _ in range(1000):
            transport.upscale(MODEL, (batch,), Call(60, cancellation))

    assert time.monotonic() - begin_s < 5
    (answer,) = transport.upscale(MODEL, (batch[:, :4, :4],), Call(20))
    np.testing.assert_array_equal(answer[0], doubled(batch[0, :4, :4]))


def test_a_deadline_too_short_is_an_error_and_the_next_call_works(transport: Transport) -> None:
    batch = np.stack([noise(1080, 1920)] * 4)

    with pytest.raises(DeadlineExceededError) as late:
        for _ in range(100):
            transport.upscale(MODEL, (batch,), Call(0.02))
    said = str(late.value)
    assert said.startswith(f"{transport.address}: ")
    assert said.count(transport.address) == 1
    # While a region is made known to the server, no model is spoken of yet.
    assert MODEL.name in said or transport.route.transport == "shm"

    (answer,) = transport.upscale(MODEL, (batch[:, :4, :4],), Call(20))
    np.testing.assert_array_equal(answer[0], doubled(batch[0, :4, :4]))


@pytest.mark.parametrize("name", [*TRANSPORTS, "auto"])
def test_status_describes_the_server_and_its_models(
    nearest_server: TritonServer, name: TransportName
) -> None:
    with Upscaler(address(nearest_server, name), transport=name) as upscaler:
        for _ in range(3):
            upscaler.upscale(noise(8, 8))
        status = upscaler.status()

    assert status.version.count(".") == 2
    assert "system_shared_memory" in status.extensions
    models = {model.name: model for model in status.models}
    assert set(models) == {spec.name for spec in DEFAULT_MODELS.values()}
    model = models[MODEL.name]
    assert (model.ready, model.version, model.backend) == (True, "1", "onnxruntime")
    assert model.served is not None
    assert model.served.scale == 2
    assert model.statistics is not None
    assert model.statistics.answered >= 3
    assert model.statistics.infer_ms > 0


@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_proxy_in_the_environment_is_not_used_for_this_host(
    nearest_server: TritonServer, name: TransportName, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with Upscaler(address(nearest_server, name), transport=name, timeout_s=10) as upscaler:
        np.testing.assert_array_equal(upscaler.upscale(noise(8, 8)), doubled(noise(8, 8)))


def test_an_unknown_model_is_an_error_on_every_transport(transport: Transport) -> None:
    nowhere = dataclasses.replace(MODEL, name="nowhere")
    with pytest.raises(ServerError, match="not ready"):
        transport.upscale(nowhere, (noise(4, 4)[np.newaxis],), Call(10))


def test_a_name_for_several_servers_is_resolved_by_grpc(nearest_server: TritonServer) -> None:
    port = nearest_server.grpc_url.rpartition(":")[2]
    with Upscaler(f"dns:///localhost:{port}") as upscaler:
        np.testing.assert_array_equal(upscaler.upscale(noise(8, 8)), doubled(noise(8, 8)))
        assert upscaler.transport_name == "grpc"


@pytest.mark.parametrize("delay_s", [0, 0.002, 0.005, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("name", ["auto", "shm"])
def test_closing_while_a_first_call_decides_leaks_nothing(
    nearest_server: TritonServer, name: TransportName, delay_s: float
) -> None:
    frame = noise(40, 60)
    upscaler = Upscaler(nearest_server.grpc_url, transport=name, timeout_s=30)
    before = registered(nearest_server)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(upscaler.upscale, frame)
        time.sleep(delay_s)
        upscaler.close()
        try:
            np.testing.assert_array_equal(first.result(30), doubled(frame))
        except ServerError as exc:
            assert "closed" in str(exc)

    assert registered(nearest_server) <= before
    assert not our_names()
