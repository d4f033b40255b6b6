from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import regions, server_name
from support.servers import RepositoryFactory

pytestmark = pytest.mark.server

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
