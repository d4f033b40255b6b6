"""Broken input by the thousand, and what it may cost a server."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil

from rt4ksr_server import TritonServer
from support.processes import server_name

WARM_UP = 120


def resident_bytes(server: TritonServer) -> int:
    """Memory of tritonserver and its Python stubs."""
    wanted = f"--id={server_name(server.http_url)}"
    processes = psutil.Process().children(recursive=True)
    (triton,) = [p for p in processes if "tritonserver" in p.name() and wanted in p.cmdline()]
    return sum(p.memory_info().rss for p in (triton, *triton.children(recursive=True)))


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut out, repeated or added."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        at = rng.randrange(len(changed)) if changed else 0
        match rng.randrange(5):
            case 0 if changed:
                changed[at] = rng.randrange(256)
            case 1 if changed:
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                del changed[at : at + rng.choice((1, 2, 30, 1000))]
            case 3:
                changed[at:at] = changed[at : at + 16]
            case _:
                changed[at:at] = rng.randbytes(rng.choice((1, 4, 9)))
    return bytes(changed)


def sent_by_the_thousand(
    way: Callable[[TritonServer, int, int], int], server: TritonServer, total: int
) -> int:
    """Call ``way(server, seed, count)`` from four threads at once; return the sum of its answers.

    The server's memory must come back: after the warm-up, its buffers are as large as they get.
    """
    senders = 4

    def send(seed: int, share: int) -> int:
        with ThreadPoolExecutor(senders) as pool:
            calls = [pool.submit(way, server, seed + i, share) for i in range(senders)]
            return sum(call.result() for call in calls)

    send(100, max(total // 10, WARM_UP) // senders)
    before = resident_bytes(server)
    answers = send(200, total // senders)
    assert resident_bytes(server) - before < 48 * 2**20
    return answers
