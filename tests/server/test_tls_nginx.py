"""The client through nginx, where that is installed; test_tls.py has a gateway of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rt4ksr_client import Upscaler
from rt4ksr_client.errors import AccessDeniedError, ServerError
from rt4ksr_server import TritonServer
from support.processes import free_port
from support.tls import FULL_HD, SMALL, TOKEN, Authority, assert_upscales

pytestmark = pytest.mark.server


NGINX = """
daemon off; error_log {folder}/error.log; pid {folder}/pid; worker_processes 1;
events {{}}
http {{
  access_log off; client_max_body_size 64m; proxy_request_buffering off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  ssl_certificate {cert_file}; ssl_certificate_key {key_file};
  map $http_authorization $denied {{ default 1; "{token}" 0; }}
  server {{
    listen 127.0.0.1:{https} ssl;
    location /sr/ {{
      if ($denied) {{ return 401; }}
      proxy_pass http://{http_url}/; proxy_http_version 1.1; proxy_buffering off;
    }}
    location /moved/ {{ return 302 https://login.example/?state=s3cr3t; }}
  }}
  server {{
    listen 127.0.0.1:{grpcs} ssl http2;
    location / {{ if ($denied) {{ return 401; }} grpc_pass grpc://{grpc_url}; }}
  }}
  server {{
    listen 127.0.0.1:{mutual} ssl; ssl_client_certificate {ca_file}; ssl_verify_client on;
    location / {{ proxy_pass http://{http_url}; proxy_http_version 1.1; }}
  }}
}}
"""


@pytest.fixture(scope="module")
def nginx(
    nearest_server: TritonServer, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, int]]:
    """The ports of an nginx before the server: ``https``, ``grpcs``, ``mutual``."""
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if binary is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    ports = {name: free_port() for name in ("https", "grpcs", "mutual")}
    settings = {**vars(authority.server), **ports, "ca_file": authority.ca_file, "token": TOKEN}
    urls = {"http_url": nearest_server.http_url, "grpc_url": nearest_server.grpc_url}
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, **settings, **urls))
    process = subprocess.Popen([binary, "-p", folder, "-c", folder / "nginx.conf"])
    try:
        wait_for_file(folder / "pid", lambda: process.poll() is None)
        yield ports
    finally:
        process.terminate()
        process.wait(20)


def wait_for_file(path: Path, is_running: Callable[[], bool]) -> None:
    while not path.exists():
        assert is_running()
        time.sleep(0.02)


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_nginx_passes_requests_with_a_token(
    nginx: dict[str, int], scheme: str, authority: Authority
) -> None:
    url = f"{scheme}://localhost:{nginx[scheme]}{'/sr/' if scheme == 'https' else ''}"
    with Upscaler(
        url,
        scale=2,
        transport="http" if scheme == "https" else "grpc",
        security=authority.with_token,
    ) as upscaler:
        assert_upscales(upscaler)
        assert_upscales(upscaler, FULL_HD)
    with (
        Upscaler(url, security=authority.trusted) as upscaler,
        pytest.raises(AccessDeniedError, match="no header was sent"),
    ):
        upscaler.upscale(SMALL)


def test_what_nginx_answers_is_explained(nginx: dict[str, int], authority: Authority) -> None:
    https, mutual = nginx["https"], nginx["mutual"]
    cases = [
        (
            f"https://localhost:{mutual}/",
            r"is missing .*400 No required SSL cert.* sent\): give",
        ),
        (f"http://localhost:{https}/sr/", "speaks TLS: use https"),
        (f"https://localhost:{https}/moved/", "redirects to https://login.example/: give"),
    ]
    for url, reason in cases:
        with (
            Upscaler(url, security=authority.trusted) as upscaler,
            pytest.raises(ServerError, match=reason) as failed,
        ):
            upscaler.upscale(SMALL)
        assert "s3cr3t" not in str(failed.value)
    with Upscaler(f"https://localhost:{mutual}/", security=authority.mutual) as upscaler:
        assert_upscales(upscaler)
