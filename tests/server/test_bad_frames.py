"""Frames that no model can take, from clients that bypass the SDK: whose fault they are."""

from __future__ import annotations

import contextlib
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Connection, TransportName
from rt4ksr_client.contract import MODELS
from rt4ksr_client.errors import InvalidRequestError, ServerError
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports import Transport, open_transport
from rt4ksr_server import TritonServer
from support.monitoring import firing_alerts
from support.nearest_models import nearest, nearest_config, nearest_graph, write_model
from support.processes import becomes_true

pytestmark = pytest.mark.server

FAILING_MODEL = Path(__file__).parents[1] / "support" / "failing_model.py"
OWN, NATIVE = "rt4ksr_x2", "native"
GOOD = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(1, 4, 6, 3)
BROKEN = np.full_like(GOOD, 13)  # at which failing_model.py fails
ODD = np.zeros((1, 5, 4, 3), np.uint8)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server with a model of this project's backend, and one that fails as native ones do."""
    repository = tmp_path_factory.mktemp("repository")
    config = nearest_config(MODELS["rt4ksr_x2"], max_batch_size=2)
    write_model(repository, config, nearest_graph(MODELS["rt4ksr_x2"]))
    config.name, config.backend = NATIVE, "python"
    (repository / NATIVE / "1").mkdir(parents=True)
    shutil.copy(FAILING_MODEL, repository / NATIVE / "1" / "model.py")
    (repository / NATIVE / "config.pbtxt").write_text(text_format.MessageToString(config))
    with TritonServer(repository) as running:
        yield running


@pytest.fixture(params=["grpc", "http", "shm"])
def transport(request: pytest.FixtureRequest, server: TritonServer) -> Iterator[Transport]:
    name: TransportName = request.param
    url = f"http://{server.http_url}" if name == "http" else server.grpc_url
    with open_transport(Connection(url, name)) as opened:
        yield opened


def upscale(transport: Transport, model: str, batch: Frame) -> Frame:
    (upscaled,) = transport.upscale(transport.served_model(model, Call(20)), (batch,), Call(20))
    return upscaled


@pytest.mark.parametrize("model", [OWN, NATIVE])
@pytest.mark.parametrize("shape", [(1, 5, 4, 3), (1, 4, 5, 3), (2, 5, 5, 3)], ids=str)
def test_an_odd_frame_is_an_invalid_request_whatever_the_backend_calls_it(
    transport: Transport, model: str, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InvalidRequestError, match=model):
        upscale(transport, model, np.zeros(shape, np.uint8))
    np.testing.assert_array_equal(upscale(transport, model, GOOD), nearest(GOOD, 2))


@pytest.mark.parametrize("model", [OWN, NATIVE])
@pytest.mark.parametrize("name", ["grpc", "http"])
def test_an_empty_frame_is_an_invalid_request_whatever_the_backend_calls_it(
    server: TritonServer, name: TransportName, model: str
) -> None:
    url = f"http://{server.http_url}" if name == "http" else server.grpc_url
    with (
        open_transport(Connection(url, name)) as transport,
        pytest.raises(InvalidRequestError, match=model),
    ):
        upscale(transport, model, np.zeros((1, 0, 4, 3), np.uint8))


def test_the_error_says_which_rule_a_frame_breaks(transport: Transport) -> None:
    with pytest.raises(InvalidRequestError, match=r"multiples of 2, got \[1, 5, 4, 3\]"):
        upscale(transport, NATIVE, ODD)


def test_a_failure_of_the_model_is_not_blamed_on_a_good_frame(transport: Transport) -> None:
    with pytest.raises(ServerError, match="CUDA failure") as caught:
        upscale(transport, NATIVE, BROKEN)
    assert type(caught.value) is ServerError


# What Prometheus makes of it


def metrics(server: TritonServer) -> str:
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics") as response:
        text: str = response.read().decode()
    return text


def send(server: TritonServer, model: str, *batches: Frame) -> None:
    """Send ``batches``, and wait until the server has counted them."""
    with open_transport(Connection(server.grpc_url, "grpc")) as transport:

        def counted() -> int:
            (row,) = transport.model_statistics(Call(20), model=model)
            return sum(int(row["inference_stats"][key]["count"]) for key in ("success", "fail"))

        before = counted()
        for batch in batches:
            with contextlib.suppress(ServerError):
                upscale(transport, model, batch)
        assert becomes_true(lambda: counted() == before + len(batches))


@pytest.mark.parametrize("model", [OWN, NATIVE])
def test_a_sender_of_bad_frames_raises_no_critical_alert_for_everybody(
    server: TritonServer, model: str
) -> None:
    before = metrics(server)
    send(server, model, *[ODD] * 18, *[GOOD] * 2)
    after = metrics(server)

    assert firing_alerts(before, after, "critical") == set()
    assert firing_alerts(before, after, "warning") == {("Rt4ksrRequestsRejected", model)}


def test_a_model_that_answers_nobody_raises_a_critical_alert(server: TritonServer) -> None:
    before = metrics(server)
    send(server, NATIVE, *[BROKEN] * 20)
    send(server, OWN, *[GOOD] * 20)

    assert firing_alerts(before, metrics(server), "critical") == {("Rt4ksrModelFails", NATIVE)}


def test_good_frames_raise_no_alert(server: TritonServer) -> None:
    before = metrics(server)
    send(server, NATIVE, GOOD)
    send(server, OWN, GOOD)

    for severity in ("critical", "warning"):
        assert firing_alerts(before, metrics(server), severity) == set()


def test_a_full_queue_raises_a_critical_alert(server: TritonServer) -> None:
    before = metrics(server)
    series = f'nv_inference_request_failure{{model="{OWN}",reason="REJECTED",version="1"}} '
    count = int(re.search(re.escape(series) + r"(\d+)", before)[1])  # type: ignore[index]
    after = before.replace(f"{series}{count}", f"{series}{count + 5}")

    assert firing_alerts(before, after, "critical") == {("Rt4ksrRequestsFail", OWN)}
