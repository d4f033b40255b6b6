"""TLS, client certificates, headers and keys, with a real tritonserver and real gateways."""

from __future__ import annotations

import asyncio
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rt4ksr_client import AsyncUpscaler, Cancellation, Security, Upscaler
from rt4ksr_client.connection import TransportName
from rt4ksr_client.errors import (
    AccessDeniedError,
    DeadlineExceededError,
    ServerUnreachableError,
    TlsError,
)
from rt4ksr_server import TritonServer
from support.servers import RepositoryFactory, ServerFactory
from support.tls import FULL_HD, SMALL, TOKEN, Authority, Gateway, assert_upscales, gateway_to

pytestmark = pytest.mark.server

OTHERS: tuple[TransportName, ...] = ("grpc", "shm", "auto")


def tls_flags(authority: Authority) -> list[str]:
    own = authority.server
    return [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={own.cert_file}",
        f"--grpc-server-key={own.key_file}",
    ]


@pytest.fixture(scope="module")
def tls_server(
    server_with: ServerFactory, nearest_repository: RepositoryFactory, authority: Authority
) -> Iterator[TritonServer]:
    """A server whose gRPC is encrypted."""
    with server_with(nearest_repository(), extra_args=tls_flags(authority)) as server:
        yield server


@pytest.fixture(scope="module")
def mutual_server(
    server_with: ServerFactory, nearest_repository: RepositoryFactory, authority: Authority
) -> Iterator[TritonServer]:
    """A server that asks gRPC's clients for a certificate."""
    flags = ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={authority.ca_file}"]
    with server_with(nearest_repository(), extra_args=[*tls_flags(authority), *flags]) as server:
        yield server


def secure_url(server: TritonServer) -> str:
    return f"grpcs://localhost:{server.grpc_url.rpartition(':')[2]}"


# gRPC


@pytest.mark.parametrize("name", OTHERS)
def test_grpc_with_tls(tls_server: TritonServer, authority: Authority, name: TransportName) -> None:
    with Upscaler(
        secure_url(tls_server), scale=2, transport=name, security=authority.trusted
    ) as upscaler:
        assert_upscales(upscaler)
        assert_upscales(upscaler, FULL_HD)
        assert upscaler.transport_name == ("grpc" if name == "grpc" else "shm")
        assert upscaler.status().address == secure_url(tls_server)


def test_grpc_with_a_client_certificate(mutual_server: TritonServer, authority: Authority) -> None:
    with Upscaler(
        secure_url(mutual_server), scale=2, transport="grpc", security=authority.mutual
    ) as upscaler:
        assert_upscales(upscaler)


def test_a_missing_or_foreign_client_certificate_is_named_over_grpc(
    mutual_server: TritonServer, authority: Authority, tmp_path: Path
) -> None:
    foreign = Security(ca_file=authority.ca_file, **vars(Authority(tmp_path).client))
    for security, reason in (
        (authority.trusted, r"ask for a client certificate: give one with cert_file"),
        (foreign, r"reject the client certificate .*client.pem"),
    ):
        with (
            Upscaler(
                secure_url(mutual_server), transport="grpc", security=security, timeout_s=20
            ) as upscaler,
            pytest.raises(TlsError, match=reason),
        ):
            upscaler.upscale(SMALL)


def test_what_is_wrong_with_tls_is_named_over_grpc(
    tls_server: TritonServer, nearest_server: TritonServer, authority: Authority
) -> None:
    url, port = secure_url(tls_server), tls_server.grpc_url.rpartition(":")[2]
    trusted = authority.trusted
    routed = Security(ca_file=authority.ca_file, headers={"Host": "other.example"})
    cases = [
        (url, Security(), r"not trusted .*: give its CA's certificate with ca_file"),
        (url, routed, "not valid for 'other.example': use the name"),
        (f"localhost:{port}", Security(), f"speaks TLS: use grpcs://localhost:{port}"),
        (f"http://localhost:{port}", Security(), "speaks TLS: use https"),
        (f"https://localhost:{port}", trusted, f"use grpcs://localhost:{port}"),
        (f"grpcs://{nearest_server.grpc_url}", trusted, "without TLS, use grpc://|not speak TLS"),
        (f"grpcs://{nearest_server.http_url}", trusted, "without TLS, use grpc://|not speak TLS"),
    ]
    for address, security, reason in cases:
        with (
            Upscaler(address, security=security, timeout_s=20) as upscaler,
            pytest.raises(TlsError, match=reason),
        ):
            upscaler.upscale(SMALL)


def test_grpc_asks_for_the_host_of_the_header(
    tls_server: TritonServer, authority: Authority
) -> None:
    """Its certificate is checked for that name, too."""
    port = tls_server.grpc_url.rpartition(":")[2]
    security = Security(ca_file=authority.ca_file, headers={"Host": "localhost"})

    with Upscaler(f"grpcs://127.0.0.1:{port}", transport="grpc", security=security) as upscaler:
        assert_upscales(upscaler)


# HTTPS


def test_https_below_a_path_with_a_token(gateway: Gateway, authority: Authority) -> None:
    with Upscaler(gateway.url, scale=2, security=authority.with_token) as upscaler:
        for _ in range(3):
            assert_upscales(upscaler, FULL_HD)
        assert upscaler.transport_name == "http"
        assert upscaler.status().address == gateway.url.rstrip("/")

    assert gateway.connections == 1
    assert gateway.hosts == {f"localhost:{gateway.server_port}"}


def test_a_host_header_routes_requests(gateway: Gateway, authority: Authority) -> None:
    headers = {"authorization": TOKEN, "Host": "sr.example"}
    with Upscaler(
        gateway.url, security=Security(ca_file=authority.ca_file, headers=headers)
    ) as upscaler:
        assert_upscales(upscaler)

    assert gateway.hosts == {"sr.example"}


def test_a_token_that_is_renewed_in_its_file_is_used(
    gateway: Gateway, authority: Authority, token_file: Path
) -> None:
    security = Security(ca_file=authority.ca_file, header_file=token_file)
    with Upscaler(gateway.url, security=security) as upscaler:
        assert_upscales(upscaler)
        gateway.authorization = "Bearer the second one"
        with pytest.raises(AccessDeniedError, match=r"HTTP 401.*headers sent: authorization"):
            upscaler.upscale(SMALL)
        token_file.write_text("authorization: Bearer the second one")
        assert_upscales(upscaler)


def test_an_error_repeats_no_secret(gateway: Gateway, authority: Authority) -> None:
    wrong = Security(ca_file=authority.ca_file, headers={"authorization": "Bearer s3cr3ts3cr3t"})
    with (
        Upscaler(gateway.url, security=wrong) as upscaler,
        pytest.raises(AccessDeniedError, match=r"HTTP 401: 401 no \*\*\*") as denied,
    ):
        upscaler.upscale(SMALL)
    assert "s3cr3t" not in str(denied.value)


def test_a_wrong_path_is_no_busy_server(gateway: Gateway, authority: Authority) -> None:
    url = gateway.url.replace("/sr", "/else")
    with (
        Upscaler(url, security=authority.with_token) as upscaler,
        pytest.raises(ServerUnreachableError, match="/else: check the address"),
    ):
        upscaler.upscale(SMALL)


def test_a_fork_a_copy_and_asyncio_keep_the_settings(
    gateway: Gateway, authority: Authority
) -> None:
    with Upscaler(gateway.url, scale=2, security=authority.with_token) as upscaler:
        assert_upscales(upscaler)
        with pickle.loads(pickle.dumps(upscaler)) as copied:
            assert_upscales(copied)
        assert list(upscaler.map([SMALL] * 8, in_flight=4))

    async def run() -> None:
        async with AsyncUpscaler(
            gateway.url, scale=2, security=authority.with_token
        ) as asynchronous:
            results = await asyncio.gather(*(asynchronous.upscale(SMALL) for _ in range(4)))
            assert all((result[::2, ::2] == SMALL).all() for result in results)

    asyncio.run(run())


FORKED = """
import os, sys
import numpy as np
from rt4ksr_client import Security, Upscaler
url, ca_file, header_file = sys.argv[1:]
frames = [np.full((90, 160, 3), number, np.uint8) for number in range(20)]
security = Security(ca_file=ca_file, header_file=header_file)
with Upscaler(url, scale=2, security=security) as upscaler:
    upscaler.upscale(frames[0])
    child = os.fork()
    right = all((upscaler.upscale(frame) == frame[0, 0, 0]).all() for frame in frames)
    if not child:
        os._exit(0 if right else 1)
assert right and os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_has_an_encrypted_connection_of_its_own(
    gateway: Gateway, authority: Authority, token_file: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FORKED, gateway.url, authority.ca_file, token_file],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert result.returncode == 0, result.stderr
    assert gateway.connections == 2


def test_several_servers_over_https(
    nearest_server: TritonServer, authority: Authority, gateway: Gateway
) -> None:
    """One that goes away, and one whose certificate is not trusted, cost no frame."""
    other = authority.issue("elsewhere", "elsewhere.example")
    with (
        Gateway(nearest_server.http_url, authority.context(other, mutual=False)) as untrusted,
        gateway_to(nearest_server.http_url, authority) as doomed,
    ):
        urls = ",".join((untrusted.url, doomed.url, gateway.url))
        with Upscaler(urls, scale=2, security=authority.with_token) as upscaler:
            for number in range(12):
                if number == 6:
                    doomed.shutdown()
                    doomed.server_close()
                assert_upscales(upscaler)


@pytest.mark.parametrize("wire", ["encoded", "auto"])
def test_encoded_frames_over_https(
    endpoint_server: TritonServer, authority: Authority, wire: Any
) -> None:
    with (
        gateway_to(
            endpoint_server.http_url, authority, prefix="/sr", authorization=TOKEN
        ) as gateway,
        Upscaler(
            gateway.url, scale=2, wire=wire, wire_format="png", security=authority.with_token
        ) as upscaler,
    ):
        assert_upscales(upscaler)
        assert upscaler.wire_name in ("raw", "encoded")


def test_what_is_wrong_with_tls_is_named_over_https(
    nearest_server: TritonServer, authority: Authority, tmp_path: Path
) -> None:
    foreign = Security(ca_file=authority.ca_file, **vars(Authority(tmp_path).client))
    expired = authority.issue("expired", "localhost", days=(-3, -1))
    future = authority.issue("future", "localhost", days=(1, 3))
    other = authority.issue("other", "other.example")
    trusted, plain = authority.trusted, authority.context(mutual=False)
    cases = [
        (plain, Security(), "not trusted .*: give its CA's certificate with ca_file"),
        (authority.context(expired, mutual=False), trusted, "has expired: it has to be renewed"),
        (authority.context(future, mutual=False), trusted, "not valid yet: compare the clocks"),
        (
            authority.context(other, mutual=False),
            trusted,
            "not valid for 'localhost': use the",
        ),
        (authority.context(mutual=True), trusted, "client certificate: give one with cert_file"),
        (authority.context(mutual=True), foreign, "reject.* the client certificate .*client.pem"),
    ]
    for context, security, reason in cases:
        with (
            Gateway(nearest_server.http_url, context) as gateway,
            Upscaler(gateway.url, security=security, timeout_s=20) as upscaler,
            pytest.raises(TlsError, match=reason),
        ):
            upscaler.upscale(SMALL)
    with (
        Gateway(nearest_server.http_url, authority.context(mutual=True)) as gateway,
        Upscaler(gateway.url, security=authority.mutual) as upscaler,
    ):
        assert_upscales(upscaler)


def test_tls_where_the_other_side_has_none_is_named(
    nearest_server: TritonServer, gateway: Gateway, authority: Authority
) -> None:
    port = gateway.server_port
    cases = [
        (f"http://localhost:{port}/sr", f"speaks TLS: use https://localhost:{port}"),
        (f"localhost:{port}", f"speaks TLS: use grpcs://localhost:{port}"),
        (f"grpcs://localhost:{port}", "speaks HTTPS, not gRPC: use https://"),
        (f"https://{nearest_server.http_url}", "without TLS, use http://|does not speak TLS"),
    ]
    for url, reason in cases:
        with (
            Upscaler(url, security=authority.trusted, timeout_s=20) as upscaler,
            pytest.raises(TlsError, match=reason),
        ):
            upscaler.upscale(SMALL)


# Deadlines and cancelling


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Accepts connections and says nothing."""
    with socket.create_server(("localhost", 0)) as listening:
        yield listening


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_handshake_that_nobody_answers_ends_at_the_deadline(
    scheme: str, authority: Authority, silent: socket.socket
) -> None:
    url = f"{scheme}://localhost:{silent.getsockname()[1]}"
    with (
        Upscaler(url, security=authority.trusted, timeout_s=1) as upscaler,
        pytest.raises(DeadlineExceededError),
    ):
        upscaler.upscale(SMALL)


def test_a_handshake_that_nobody_answers_can_be_cancelled(
    authority: Authority, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rt4ksr_client.transports.http_pool._CONNECT_TIMEOUT_S", 600)
    cancellation, url = Cancellation(), f"https://localhost:{silent.getsockname()[1]}"
    with (
        Upscaler(url, security=authority.trusted, timeout_s=600) as upscaler,
        ThreadPoolExecutor(1) as thread,
    ):
        call = thread.submit(upscaler.upscale, SMALL, cancellation=cancellation)
        peer, _ = silent.accept()
        with peer:
            assert peer.recv(1)  # the handshake begins
            cancellation.cancel()
            with pytest.raises(CancelledError):
                call.result(60)


def test_calls_under_way_over_https_can_be_cancelled(
    gateway: Gateway, authority: Authority
) -> None:
    with Upscaler(gateway.url, scale=2, security=authority.with_token) as upscaler:
        assert_upscales(upscaler)
        for _ in range(5):
            results = upscaler.map(iter([FULL_HD] * 20), in_flight=4)
            next(results)
            results.close()
        assert_upscales(upscaler, FULL_HD)
