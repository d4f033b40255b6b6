"""Planes that do not fit one another or the model, from clients that bypass the SDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Connection, TransportName
from rt4ksr_client.contract import INPUTS, MODELS, OUTPUTS
from rt4ksr_client.errors import InvalidRequestError
from rt4ksr_client.transports import Transport, open_transport
from rt4ksr_client.transports.messages import InferRequest, RequestedOutput, Tensor
from rt4ksr_server import TritonServer
from support.nearest_models import nearest, nearest_config, nearest_graph, write_model
from support.servers import RepositoryFactory, ServerFactory

EIGHT, SIXTEEN = MODELS["rt4ksr_x2_video"], MODELS["rt4ksr_x2_video16"]
UNBATCHED = "unbatched"
LUMA, CHROMA = (1, 64, 96, 1), (1, 32, 48, 2)


@pytest.fixture(scope="module")
def server(
    server_with: ServerFactory, nearest_repository: RepositoryFactory
) -> Iterator[TritonServer]:
    """A server of 4:2:0 models; Triton compares batch sizes only where it batches itself."""
    repository = nearest_repository([EIGHT, SIXTEEN])
    config = nearest_config(EIGHT, max_batch_size=0)
    config.name = UNBATCHED
    config.ClearField("dynamic_batching")
    for tensor in (*config.input, *config.output):
        tensor.dims[:] = [-1, *tensor.dims]
    write_model(repository, config, nearest_graph(EIGHT))
    with server_with(repository) as running:
        yield running


@pytest.fixture(params=["grpc", "http", "shm"])
def transport(request: pytest.FixtureRequest, server: TritonServer) -> Iterator[Transport]:
    name: TransportName = request.param
    url = f"http://{server.http_url}" if name == "http" else server.grpc_url
    with open_transport(Connection(url, name)) as opened:
        yield opened


def planes(
    luma: tuple[int, ...] = LUMA, chroma: tuple[int, ...] = CHROMA, bits: int = 8
) -> list[NDArray[Any]]:
    rng = np.random.default_rng(0)
    dtype = np.dtype(f"u{bits // 8}")
    return [rng.integers(0, 1 << bits, shape, dtype=dtype) for shape in (luma, chroma)]


def send(
    transport: Transport, model: str, sent: list[NDArray[Any]], bits: int = 8
) -> list[NDArray[Any]]:
    """Send tensors as they are, whatever the model takes."""
    count, height, width, _ = sent[0].shape
    inputs = [Tensor.from_array(t.name, a) for t, a in zip(INPUTS["yuv420"], sent, strict=False)]
    outputs = [
        RequestedOutput(t.name, f"UINT{bits}", t.shape(count, 2 * height, 2 * width))
        for t in OUTPUTS["yuv420"]
    ]
    response = transport.infer(InferRequest(model, inputs, outputs), Call(20))
    return [response.output(tensor.name).to_array() for tensor in OUTPUTS["yuv420"]]


@pytest.mark.parametrize(
    ("luma", "chroma", "reason"),
    [
        (LUMA, (1, 1, 1, 2), "H/2 of chroma is 1, but H of luma is 64"),
        (LUMA, (1, 32, 47, 2), "W/2 of chroma is 47, but W of luma is 96"),
        (LUMA, (1, 64, 96, 2), "H/2 of chroma is 64, but H of luma is 64"),
        ((1, 63, 96, 1), CHROMA, "H/2 of chroma is 32, but H of luma is 63"),
        ((1, 63, 96, 1), (1, 31, 48, 2), "H/2 of chroma is 31, but H of luma is 63"),
        ((1, 1, 1, 1), (1, 1, 1, 2), "H/2 of chroma is 1, but H of luma is 1"),
        ((1, 0, 96, 1), (1, 0, 48, 2), "empty"),
        (LUMA, (1, 0, 0, 2), "empty"),
        (LUMA, (1, 32, 48, 1), "chroma"),
        ((1, 64, 96, 2), CHROMA, "luma"),
        ((2, 64, 96, 1), CHROMA, "batch size"),
    ],
    ids=str,
)
@pytest.mark.parametrize("bits", [8, 16])
def test_planes_that_do_not_fit_one_another_are_an_invalid_request(
    transport: Transport, luma: tuple[int, ...], chroma: tuple[int, ...], reason: str, bits: int
) -> None:
    model = (EIGHT if bits == 8 else SIXTEEN).name

    with pytest.raises(InvalidRequestError, match=reason):
        send(transport, model, planes(luma, chroma, bits), bits)

    good = planes(bits=bits)
    for answer, plane in zip(send(transport, model, good, bits), good, strict=True):
        np.testing.assert_array_equal(answer, nearest(plane, 2))


def test_planes_of_different_counts_of_frames_are_an_invalid_request(transport: Transport) -> None:
    with pytest.raises(InvalidRequestError, match="N of chroma is 1, but N of luma is 2"):
        send(transport, UNBATCHED, planes((2, 64, 96, 1), CHROMA))


@pytest.mark.parametrize(
    ("model", "bits", "sent_bits"), [(EIGHT.name, 8, 16), (SIXTEEN.name, 16, 8)]
)
def test_planes_of_other_bits_are_an_invalid_request(
    transport: Transport, model: str, bits: int, sent_bits: int
) -> None:
    with pytest.raises(InvalidRequestError, match=f"UINT{sent_bits}.*UINT{bits}"):
        send(transport, model, planes(bits=sent_bits), bits)


def test_a_missing_plane_is_an_invalid_request(transport: Transport) -> None:
    with pytest.raises(InvalidRequestError, match=r"expected 2 inputs|chroma"):
        send(transport, EIGHT.name, planes()[:1])
