"""Clients that are used before a fork, or sent to another process, on a real tritonserver."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tritonclient.grpc as triton

from rt4ksr_client import AsyncUpscaler, Upscaler
from rt4ksr_client.connection import TransportName
from rt4ksr_client.frames import Frame
from rt4ksr_server import TritonServer

pytestmark = pytest.mark.server

# A process of its own: this one has threads of pytest's. Every process sends pictures of a plain
# color of its own, and counts what comes back in any other color.
_FORKING = """
import os, sys, threading, warnings
import numpy as np
from rt4ksr_client import Upscaler

warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
url, transport, is_busy = sys.argv[1], sys.argv[2], sys.argv[3] == "busy"
upscaler = Upscaler(url, transport=transport, timeout_s=30)

def plain(level, side=64):
    return np.full((side, side, 3), level, np.uint8)

def count_wrong(first_level, count=20):
    levels = range(first_level, first_level + count)
    return sum(bool((upscaler.upscale(plain(one)) != one).any()) for one in levels)

held = upscaler.upscale(plain(250))
if is_busy:
    stop = threading.Event()
    wrong_in_thread = []
    def work():
        while not stop.is_set():
            wrong_in_thread.append(count_wrong(225, 4))
    thread = threading.Thread(target=work)
    thread.start()
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        wrong = count_wrong(20 + 50 * number) + int((held != 250).any())
        sys.exit(wrong)  # with everything that runs at the end of an interpreter
    children.append(child)
del held
wrong = count_wrong(0)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
if is_busy:
    stop.set()
    thread.join()
    wrong += sum(wrong_in_thread)
wrong += count_wrong(175)
upscaler.close()
print(wrong, codes)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.parametrize("transport", ["auto", "grpc", "http", "shm"])
def test_parent_and_forked_children_get_their_own_pictures(
    nearest_server: TritonServer, transport: str, state: str
) -> None:
    url = nearest_server.http_url if transport == "http" else nearest_server.grpc_url

    done = subprocess.run(
        [sys.executable, "-c", _FORKING, url, transport, state],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    # gRPC itself logs that it saw a fork, and which of the parent's descriptors it leaves alone.
    errors = [
        line
        for line in done.stderr.splitlines()
        if "fork_posix" not in line and "created pre fork" not in line
    ]
    assert (done.stdout, errors) == ("0 [0, 0, 0]\n", [])
    with triton.InferenceServerClient(nearest_server.grpc_url) as client:
        assert not client.get_system_shared_memory_status().regions


def upscale_one(upscaler: Upscaler, level: int) -> Frame:
    return np.array(upscaler.upscale(np.full((8, 8, 3), level, np.uint8)))


@pytest.mark.parametrize("name", ["auto", "grpc", "shm"])
def test_a_client_can_be_sent_to_a_spawned_process(
    nearest_server: TritonServer, name: TransportName
) -> None:
    with Upscaler(nearest_server.grpc_url, scale=3, transport=name, timeout_s=30) as upscaler:
        upscale_one(upscaler, 1)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            answers = pool.starmap(upscale_one, [(upscaler, level) for level in (10, 20)])

    assert [one.shape for one in answers] == [(24, 24, 3)] * 2
    assert [np.unique(one).tolist() for one in answers] == [[10], [20]]


def test_an_asynchronous_client_keeps_its_settings_when_pickled(
    nearest_server: TritonServer,
) -> None:
    async def scale_of(upscaler: AsyncUpscaler) -> int:
        async with upscaler:
            return (await upscaler.served_model).scale

    import asyncio

    upscaler = AsyncUpscaler(nearest_server.grpc_url, scale=3, transport="grpc", timeout_s=30)
    assert asyncio.run(scale_of(pickle.loads(pickle.dumps(upscaler)))) == 3
    asyncio.run(upscaler.close())
