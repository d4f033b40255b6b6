"""What a server keeps in memory: by the sizes of requests, and what glibc's settings change.

python benchmarks/server_memory.py [--rounds 5] [--only requests|native|allocator]

The first table is of one server with the x2 model: the most memory during a request and what is
left after it, from the smallest request to the largest that a server accepts. Its last line is of a
server with all models. The second has the same requests run as Triton's native ONNX Runtime backend
does, in a process of ONNX Runtime alone: memory left, without and with its arena giving memory
back, and what that costs a 1080p frame. The third has a server for each setting of glibc, with a
nearest-neighbour model (next to no work), measured in turns: 4K frames per second and the server's
processor time for each. Memory is that of tritonserver, its models' processes and their regions in
/dev/shm.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from rt4ksr_client import Upscaler
from rt4ksr_client.connection import TransportName
from rt4ksr_client.contract import DEFAULT_MODELS, INPUT_NAME, MODELS, ModelSpec
from rt4ksr_client.frames import Frame, Yuv420
from rt4ksr_server import TritonServer, default_repository
from rt4ksr_server.installation import KEEP_MEMORY
from support.nearest_models import infer, nearest_config, nearest_graph, write_model
from support.processes import private_bytes, region_prefix, regions

SPEC = DEFAULT_MODELS[2]
IN_FLIGHT = 4
FRAMES = 24
REQUESTS = ((1, 1080, 1920), (2, 1080, 1920), (1, 2080, 2080), (1, 3840, 3840), (2, 3840, 3840))
"""Frames, height and width of each."""

SETTINGS = {
    "glibc's own": "glibc.malloc.check=0",
    "without huge pages": KEEP_MEMORY.partition(":")[2],
    "as started": KEEP_MEMORY,
}
SAMPLE_S = 0.02


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("requests", "native", "allocator"))
    arguments = parser.parse_args()
    if arguments.only in (None, "requests"):
        report_requests()
    if arguments.only in (None, "native"):
        report_native(arguments.rounds)
    if arguments.only in (None, "allocator"):
        report_settings(arguments.rounds)


def report_requests() -> None:
    """Print the memory of one server before, during and after each request."""
    with TritonServer(default_repository(), models=[SPEC.name]) as server:
        print("| request (gRPC) | most, GB | left, GB | of it in /dev/shm, GB |\n|---|---|---|---|")
        print(f"| none yet | | {memory_bytes(server) / 1e9:.2f} | {shared(server) / 1e9:.2f} |")
        for shape in REQUESTS:
            batch = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
            with most_memory(server) as most:
                infer(server, SPEC.name, batch, timeout_s=300)
            left = (memory_bytes(server), shared(server))
            cells = [f"{size / 1e9:.2f}" for size in (*most, *left)]
            print(f"| {' x '.join(map(str, shape))} | {' | '.join(cells)} |")
    with TritonServer(default_repository()) as server:
        for spec in MODELS.values():
            with Upscaler(server.grpc_url, model=spec.name, transport="grpc") as upscaler:
                upscaler.upscale(black_frame(spec))
        left = (memory_bytes(server), shared(server))
        print(f"| a frame to each model | | {left[0] / 1e9:.2f} | {left[1] / 1e9:.2f} |")


def black_frame(spec: ModelSpec) -> Frame | Yuv420:
    """Return a frame of the size that ``spec`` is made for, in its colours."""
    height, width, dtype = spec.input_height_px, spec.input_width_px, f"u{spec.bits // 8}"
    if spec.colours == "rgb":
        return np.zeros((height, width, 3), np.uint8)
    return Yuv420(np.zeros((height, width), dtype), np.zeros((height // 2, width // 2, 2), dtype))


def report_native(rounds: int) -> None:
    """Print the memory of ONNX Runtime after each request, and the time of a 1080p frame."""
    os.environ["GLIBC_TUNABLES"] = KEEP_MEMORY
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1) as keeping, spawn.Pool(1) as giving:
        pools = {"kept": keeping, "given back": giving}
        print("\n| request | kept, GB | given back, GB |\n|---|---|---|")
        for shape in REQUESTS:
            cells = [
                f"{pool.apply(run_native, (shape, name == 'given back'))[1] / 1e9:.2f}"
                for name, pool in pools.items()
            ]
            print(f"| {' x '.join(map(str, shape))} | {' | '.join(cells)} |")
    with spawn.Pool(1) as keeping, spawn.Pool(1) as giving:
        ratios = []
        for _ in range(rounds + 1):  # the first warms up
            before_s, _ = keeping.apply(run_native, (REQUESTS[0], False))
            after_s, _ = giving.apply(run_native, (REQUESTS[0], True))
            ratios.append(after_s / before_s)
        print(f"\na 1080p frame takes {statistics.median(ratios[1:]):.2f} times as long")


@functools.cache
def native_session() -> ort.InferenceSession:
    """Return the x2 model with the options that Triton's backend reads from ``config.pbtxt``."""
    options = ort.SessionOptions()
    options.enable_mem_pattern = False
    path = default_repository() / SPEC.name / "1" / "model.onnx"
    return ort.InferenceSession(path, options, ["CPUExecutionProvider"])


def run_native(shape: tuple[int, int, int], gives_back: bool) -> tuple[float, int]:
    """Run one request; return its seconds, and the memory of this process in bytes."""
    session, options = native_session(), ort.RunOptions()
    if gives_back:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    batch = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    start_s = time.perf_counter()
    session.run(None, {INPUT_NAME: batch}, options)
    took_s = time.perf_counter() - start_s
    del batch
    return took_s, psutil.Process().memory_info().rss


def report_settings(rounds: int) -> None:
    """Print frames per second, processor time and memory with each setting."""
    frame = np.zeros((SPEC.input_height_px, SPEC.input_width_px, 3), np.uint8)
    transports: tuple[TransportName, ...] = ("http", "grpc")
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(started(SETTINGS[name])) for name in SETTINGS}
        for transport in transports * (rounds + 1):  # the first warms up
            for name, server in servers.items():
                found[name, transport].append(one_round(server, transport, frame))
        print(
            "\n| glibc | "
            + " | ".join(f"{t}, frames/s | {t}, CPU ms a frame" for t in transports)
            + " | left, GB |\n|---|"
            + "---|" * (2 * len(transports) + 1)
        )
        for name, server in servers.items():
            cells = []
            for transport in transports:
                rates, cpu_ms = zip(*found[name, transport][1:], strict=True)
                cells += [f"{statistics.median(rates):.1f}", f"{statistics.median(cpu_ms):.0f}"]
            print(f"| {name} | {' | '.join(cells)} | {memory_bytes(server) / 1e9:.2f} |")


@contextlib.contextmanager
def started(tunables: str) -> Iterator[TritonServer]:
    """Run a server of a nearest-neighbour model with a setting of glibc."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), nearest_config(SPEC), nearest_graph(SPEC))
        os.environ["GLIBC_TUNABLES"] = tunables
        with TritonServer(folder) as server:
            yield server


def one_round(server: TritonServer, transport: TransportName, frame: Frame) -> tuple[float, float]:
    """Return frames per second, and the server's processor time of each in milliseconds."""
    url = f"http://{server.http_url}" if transport == "http" else server.grpc_url
    with Upscaler(url, model=SPEC.name, transport=transport) as upscaler:
        upscaler.upscale(frame)
        begin_s, begin_cpu_s = time.perf_counter(), cpu_s(server)
        for _ in upscaler.map((frame for _ in range(FRAMES)), IN_FLIGHT):
            pass
        took_s, took_cpu_s = time.perf_counter() - begin_s, cpu_s(server) - begin_cpu_s
    return FRAMES / took_s, took_cpu_s / FRAMES * 1e3


@contextlib.contextmanager
def most_memory(server: TritonServer) -> Iterator[list[int]]:
    """Put the most memory that the server had during the block into the list."""
    most = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            most[0] = max(most[0], memory_bytes(server))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        done.set()
        watching.join()


def processes(server: TritonServer) -> list[psutil.Process]:
    """Return tritonserver and the processes of its models."""
    triton = psutil.Process(server.pid)
    return [triton, *triton.children(recursive=True)]


def cpu_s(server: TritonServer) -> float:
    """Return the processor time that the server has used."""
    return sum(sum(process.cpu_times()[:2]) for process in processes(server))


def memory_bytes(server: TritonServer) -> int:
    """Return the memory of the server's processes, shared memory counted once."""
    return sum(private_bytes(process.pid) for process in processes(server)) + shared(server)


def shared(server: TritonServer) -> int:
    """Return what its Python backend has in /dev/shm, in bytes."""
    return sum(path.stat().st_blocks * 512 for path in regions(region_prefix(server.pid)))


if __name__ == "__main__":
    main()
