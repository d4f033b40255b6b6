"""Certificates, and a gateway that speaks HTTPS in front of a server of this host."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import trustme

from rt4ksr_client import Security, Upscaler
from rt4ksr_client.frames import Frame

TOKEN = "Bearer eyJhbGciOiJSUzI1NiJ9"
SMALL = np.arange(90 * 160 * 3, dtype=np.uint32).astype(np.uint8).reshape(90, 160, 3)
FULL_HD = np.resize(SMALL, (1080, 1920, 3))


def assert_upscales(upscaler: Upscaler, frame: Frame = SMALL) -> None:
    np.testing.assert_array_equal(upscaler.upscale(frame)[::2, ::2], frame)


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, as PEM files."""

    cert_file: Path
    key_file: Path


class Authority:
    """A certificate authority for one test run; its files are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca_file)
        self.server = self.issue("server", "localhost", "127.0.0.1", "::1")
        self.client = self.issue("client", "client.test")

    def issue(self, file_name: str, *names: str, days: tuple[int, int] = (-1, 1)) -> Certificate:
        """Return a certificate for ``names``, valid from and to so many days from now."""
        now = datetime.datetime.now(datetime.timezone.utc)
        not_before, not_after = (now + datetime.timedelta(days=day) for day in days)
        leaf = self._ca.issue_cert(*names, not_before=not_before, not_after=not_after)
        issued = Certificate(
            self._folder / f"{file_name}.pem", self._folder / f"{file_name}-key.pem"
        )
        issued.cert_file.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(issued.key_file)
        return issued

    @property
    def trusted(self) -> Security:
        """Settings that trust this authority."""
        return Security(ca_file=self.ca_file)

    @property
    def with_token(self) -> Security:
        """Settings that trust it and send ``TOKEN``."""
        return Security(ca_file=self.ca_file, headers={"Authorization": TOKEN})

    @property
    def mutual(self) -> Security:
        """Settings that trust it and have a client certificate of it."""
        return Security(ca_file=self.ca_file, **vars(self.client))

    def context(self, certificate: Certificate | None = None, *, mutual: bool) -> ssl.SSLContext:
        """Return a server's context; ``mutual``: it asks for a client's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own = certificate or self.server
        context.load_cert_chain(own.cert_file, own.key_file)
        if mutual:
            context.load_verify_locations(self.ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Gateway(ThreadingHTTPServer):
    """Speaks HTTPS, takes requests below ``prefix`` with the right ``authorization`` to a server.

    ``connections`` counts those accepted, ``hosts`` are the Host headers seen.
    """

    daemon_threads = True

    def __init__(
        self, target: str, context: ssl.SSLContext, *, prefix: str = "", authorization: str = ""
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarder)
        self.target, self.prefix, self.authorization = target, prefix, authorization
        self.context = context
        self.connections = 0
        self.hosts: set[str] = set()
        self.url = f"https://localhost:{self.server_port}{prefix}/"

    def __enter__(self) -> Gateway:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self.server_close()

    def get_request(self) -> tuple[Any, Any]:
        sock, address = super().get_request()
        self.connections += 1
        # The handshake is in the thread of the connection.
        wrap = self.context.wrap_socket
        return wrap(sock, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client may reject the certificate, or cancel."""


class _Forwarder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def do_GET(self) -> None:
        gateway = self.server
        size_bytes = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size_bytes)
        if len(body) < size_bytes:  # the client has cancelled
            self.close_connection = True
            return
        gateway.hosts.add(str(self.headers["Host"]))
        if gateway.authorization and self.headers["Authorization"] != gateway.authorization:
            self._answer(401, f"<html><h1>401 no {self.headers['Authorization']}</h1>".encode(), {})
            return
        if not self.path.startswith(f"{gateway.prefix}/"):
            self._answer(404, b"<html>no such path</html>", {})
            return
        with contextlib.closing(http.client.HTTPConnection(gateway.target, timeout=60)) as server:
            headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
            server.request(self.command, self.path[len(gateway.prefix) :], body, headers)
            answer = server.getresponse()
            kept = ("inference-header-content-length", "content-type")
            passed = {k: v for k, v in answer.getheaders() if k.lower() in kept}
            self._answer(answer.status, answer.read(), passed)

    do_POST = do_GET  # noqa: N815 - as the base class calls it

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def gateway_to(target: str, authority: Authority, **settings: Any) -> Iterator[Gateway]:
    """Run a gateway with the server's certificate of ``authority``."""
    with Gateway(target, authority.context(mutual=False), **settings) as gateway:
        yield gateway
