"""Another model by the same name: a client that knows the old one goes on with the new one."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc.model_config_pb2 import ModelConfig

from rt4ksr_client import Upscaler
from rt4ksr_client.connection import TransportName
from rt4ksr_client.contract import MODELS, Parameter
from rt4ksr_client.errors import InvalidRequestError, WrongScaleError
from rt4ksr_client.frames import Frame
from rt4ksr_server import TritonServer
from support.nearest_models import nearest_config, nearest_graph, write_model

pytestmark = pytest.mark.server

NAME = "model"
NO_CHANGE: Mapping[str, int] = {}
TRANSPORTS: tuple[TransportName, ...] = ("grpc", "http", "shm")


def noise(height: int, width: int) -> Frame:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def enlarged(frame: Frame, scale: int) -> Frame:
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)


def put(repository: Path, scale: int, parameters: Mapping[str, int] = NO_CHANGE) -> None:
    """Write the model, in place of the one that is there."""
    shutil.rmtree(repository / NAME, ignore_errors=True)
    spec = dataclasses.replace(MODELS["rt4ksr_x2"], name=NAME, scale=scale)
    config: ModelConfig = nearest_config(spec)
    for key, value in parameters.items():
        config.parameters[key].string_value = str(value)
    write_model(repository, config, nearest_graph(spec))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server that loads what it is told to."""
    repository = tmp_path_factory.mktemp("redeployed")
    put(repository, 2)
    with TritonServer(repository, models=[NAME]) as running:
        running.repository = repository  # type: ignore[attr-defined]
        yield running


def deploy(server: TritonServer, scale: int, parameters: Mapping[str, int] = NO_CHANGE) -> None:
    put(server.repository, scale, parameters)  # type: ignore[attr-defined]
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        client.load_model(NAME)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2)])
def test_a_model_of_another_scale_is_noticed_by_its_answer(
    server: TritonServer, transport: TransportName, before: int, after: int
) -> None:
    deploy(server, before)
    frame = noise(64, 80)
    url = server.http_url if transport == "http" else server.grpc_url
    with Upscaler(url, model=NAME, transport=transport, timeout_s=30) as upscaler:
        np.testing.assert_array_equal(upscaler.upscale(frame), enlarged(frame, before))
        deploy(server, after)
        np.testing.assert_array_equal(upscaler.upscale(frame), enlarged(frame, after))
        assert upscaler.served_model.scale == after


def test_a_model_of_a_scale_that_was_not_asked_for_is_named(server: TritonServer) -> None:
    deploy(server, 2)
    with Upscaler(server.grpc_url, model=NAME, scale=2, timeout_s=30) as upscaler:
        upscaler.upscale(noise(8, 8))
        deploy(server, 3)
        for _ in range(2):
            with pytest.raises(WrongScaleError, match="upscales x3, not x2"):
                upscaler.upscale(noise(8, 8))
        deploy(server, 2)
        upscaler.upscale(noise(8, 8))


def test_an_error_of_the_same_model_stays_what_it_is(server: TritonServer) -> None:
    deploy(server, 2, {Parameter.SIZE_MULTIPLE: 1})  # which its graph contradicts
    with Upscaler(server.grpc_url, model=NAME, transport="grpc", timeout_s=30) as upscaler:
        for _ in range(2):
            with pytest.raises(InvalidRequestError, match="cannot be reshaped"):
                upscaler.upscale(noise(3, 3))


def test_what_a_model_takes_is_asked_again_after_the_server_was_away(tmp_path: Path) -> None:
    put(tmp_path, 2)
    server = TritonServer(tmp_path)
    frame = noise(300, 200)
    with server:
        port = int(server.grpc_url.rpartition(":")[2])
        upscaler = Upscaler(server.grpc_url, model=NAME, timeout_s=60)
        np.testing.assert_array_equal(upscaler.upscale(frame), enlarged(frame, 2))
        assert upscaler.served_model.max_side_px is None
    put(tmp_path, 2, {Parameter.MAX_SIDE: 128})
    with TritonServer(tmp_path, grpc_port=port), upscaler:
        np.testing.assert_array_equal(upscaler.upscale(frame), enlarged(frame, 2))
        assert upscaler.served_model.max_side_px == 128
