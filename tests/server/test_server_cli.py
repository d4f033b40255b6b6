from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from rt4ksr_client import Upscaler
from rt4ksr_client.contract import MODELS
from rt4ksr_server.services import is_free
from support.nearest_models import nearest
from support.processes import regions, server_name
from support.servers import RepositoryFactory

pytestmark = pytest.mark.server

X2 = MODELS["rt4ksr_x2"]
RT4KSR = [sys.executable, "-c", "from rt4ksr_client.cli import main; main()"]
FREE_PORTS = ["--grpc-port=0", "--http-port=0", "--metrics-port=0"]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_its_addresses_and_ends_cleanly(
    nearest_repository: RepositoryFactory, tmp_path: Path, ending: signal.Signals
) -> None:
    flags = [*FREE_PORTS, f"--model-repository={nearest_repository()}", "--", "--log-verbose=1"]
    log = tmp_path / "log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [*RT4KSR, "serve", *flags], stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as serve,
    ):
        assert serve.stdout is not None
        addresses = "".join(iter(serve.stdout.readline, "ready; Ctrl-C stops it\n"))
        assert re.search(r"^gRPC    127\.0\.0\.1:\d+$", addresses, re.MULTILINE)
        http = re.search(r"^HTTP    http://(\S+)$", addresses, re.MULTILINE)
        assert http
        name = server_name(http[1])
        assert regions(name)
        serve.send_signal(ending)
        assert serve.stdout.read() == "stopped\n"
        assert serve.wait(30) == 0
    assert not regions(name)
    assert "Create CacheManager" in log.read_text()  # verbose logging only
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("host", "shown"), [("::1", "[::1]"), ("[::1]", "[::1]"), ("localhost", "127.0.0.1")]
)
def test_serve_takes_ipv6_addresses_and_names(
    nearest_repository: RepositoryFactory, host: str, shown: str
) -> None:
    if shown == "[::1]" and not is_free("::1", 0):
        pytest.skip("this machine has no IPv6 loopback address")
    flags = [*FREE_PORTS, f"--model-repository={nearest_repository([X2])}", "--host", host]
    with subprocess.Popen(
        [*RT4KSR, "serve", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as serve:
        assert serve.stdout is not None
        addresses = "".join(iter(serve.stdout.readline, "ready; Ctrl-C stops it\n"))
        urls = re.findall(rf"(?:{re.escape(shown)}):\d+", addresses)
        assert len(urls) == 3, addresses
        grpc, http, metrics = urls
        frame = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
        for url in (grpc, f"http://{http}"):
            with Upscaler(url, scale=2, timeout_s=20) as upscaler:
                np.testing.assert_array_equal(upscaler.upscale(frame), nearest(frame[None], 2)[0])
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
            assert b"nv_inference_count" in answer.read()
        serve.send_signal(signal.SIGINT)
        assert serve.wait(30) == 0


def test_serve_on_an_unknown_host_is_an_error_of_one_line(
    nearest_repository: RepositoryFactory,
) -> None:
    flags = [*FREE_PORTS, f"--model-repository={nearest_repository([X2])}"]
    result = subprocess.run(
        [*RT4KSR, "serve", *flags, "--host", "no-such-host.invalid"], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith("rt4ksr: error: cannot serve on host 'no-such-host.invalid': ")
    assert result.stderr.count("\n") == 1


def test_serve_reports_a_server_that_was_killed(nearest_repository: RepositoryFactory) -> None:
    flags = [*FREE_PORTS, f"--model-repository={nearest_repository()}"]
    with subprocess.Popen(
        [*RT4KSR, "serve", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as serve:
        assert serve.stdout is not None
        "".join(iter(serve.stdout.readline, "ready; Ctrl-C stops it\n"))
        supervisor = Path(f"/proc/{serve.pid}/task/{serve.pid}/children").read_text().split()[-1]
        triton = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()[0]
        subprocess.run(["kill", "-KILL", triton], check=True)
        _, errors = serve.communicate(timeout=30)
    assert serve.returncode == 1
    assert "rt4ksr: error: tritonserver ended with status 137" in errors
    assert "Traceback" not in errors
