"""Client and server in a container with a /dev/shm of 64 MB, which is Docker's default."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rt4ksr_client.contract import MODELS
from support.nearest_models import add_endpoints
from support.servers import RepositoryFactory

pytestmark = pytest.mark.server

ROOT = () if os.getuid() == 0 else ("--map-root-user",)
NAMESPACE = ("unshare", "--mount", *ROOT, "sh", "-ec")
SMALL = "mount -t tmpfs -o size=64m tmpfs /dev/shm; "

# One 1080p frame and its 4K answer need 31 MB, and the next frame more than the server's pool has.
PROGRAM = """
import sys
import numpy as np
from rt4ksr_client import Upscaler
from rt4ksr_client.errors import SharedMemoryError
from rt4ksr_client.transports.regions import SystemRegion
from rt4ksr_server import TritonServer

def upscale(upscaler, *shape):
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert np.array_equal(upscaler.upscale(frame), frame.repeat(2, 0).repeat(2, 1)), shape

with TritonServer(sys.argv[1]) as server:
    if sys.argv[2] == "late":  # others take the memory that was free when the region was made
        SystemRegion.check_room = classmethod(lambda cls, size_bytes, leaving_bytes: None)
    with Upscaler(server.grpc_url, scale=2) as upscaler:
        print(upscaler.transport_name, upscaler.transport_reason)
        upscale(upscaler, 1080, 1920)
        upscale(upscaler, 1200, 2000)
        upscale(upscaler, 64, 64)
        for url in (server.grpc_url, f"http://{server.http_url}"):
            with Upscaler(url, scale=2, max_request_px=10_000_000) as large:
                try:
                    upscale(large, 2600, 2600)
                except SharedMemoryError as error:
                    print(error)
"""


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    result = subprocess.run([*NAMESPACE, SMALL], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"this system allows no mounts in a namespace: {result.stderr.strip()}")


def run(repository: Path, case: str) -> list[str]:
    """Run :data:`PROGRAM` where /dev/shm is small, return the lines it prints."""
    command = f'{SMALL} exec "$@"'
    result = subprocess.run(
        [*NAMESPACE, command, "sh", sys.executable, "-c", PROGRAM, str(repository), case],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_the_client_leaves_a_small_shm_to_the_server(
    nearest_repository: RepositoryFactory,
) -> None:
    repository = nearest_repository(
        [MODELS["rt4ksr_x2"]], edit=lambda config: setattr(config, "max_batch_size", 2)
    )
    add_endpoints(repository, ["rt4ksr_x2"])  # whose stages have regions of their own
    chosen, *errors = run(repository, "early")

    assert re.match(r"grpc too little shared memory: /dev/shm has [3-6]\d MiB free of 64", chosen)
    assert "docker run --shm-size 1g" in chosen
    assert len(errors) == 2  # over gRPC and HTTP, a frame that nothing makes fit
    assert all("the server's /dev/shm is full: give its container more" in one for one in errors)


def test_a_client_that_took_what_the_server_needs_gives_it_back(
    nearest_repository: RepositoryFactory,
) -> None:
    chosen, *errors = run(nearest_repository([MODELS["rt4ksr_x2"]]), "late")

    assert chosen == "shm the server maps this process's memory"
    assert len(errors) == 2
