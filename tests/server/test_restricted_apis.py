"""Triton's restricted APIs, which take a key as a header, or as metadata over gRPC."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rt4ksr_client import Security, Upscaler
from rt4ksr_client.connection import TransportName
from rt4ksr_client.errors import AccessDeniedError
from rt4ksr_server import TritonServer
from support.servers import RepositoryFactory, ServerFactory
from support.tls import SMALL, assert_upscales

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def restricted_server(
    server_with: ServerFactory, nearest_repository: RepositoryFactory
) -> Iterator[TritonServer]:
    """A server whose inference, statistics and shared memory need a key."""
    apis = "inference,statistics,shared-memory:the-key=k3yk3yk3y"
    flags = [f"--grpc-restricted-protocol={apis}", f"--http-restricted-api={apis}"]
    with server_with(nearest_repository(), extra_args=flags) as server:
        yield server


@pytest.mark.parametrize("name", ["grpc", "http", "shm", "auto"])
def test_restricted_apis_take_their_key(
    restricted_server: TritonServer, name: TransportName
) -> None:
    server = restricted_server
    url = f"http://{server.http_url}" if name == "http" else server.grpc_url
    header = "the-key" if name == "http" else "triton-grpc-protocol-the-key"
    for key, found in ((None, "no header was sent"), ("wr0ngwr0ng", f"headers sent: {header}")):
        headers = {} if key is None else {header: key}
        with (
            Upscaler(url, transport=name, security=Security(headers=headers)) as upscaler,
            pytest.raises(AccessDeniedError, match=f"restricted.*{found}") as denied,
        ):
            upscaler.upscale(SMALL)
        assert "wr0ng" not in str(denied.value)

    with Upscaler(
        url, transport=name, security=Security(headers={header: "k3yk3yk3y"})
    ) as upscaler:
        assert_upscales(upscaler)
        assert upscaler.status().models
