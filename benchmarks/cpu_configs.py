"""Instances against threads on a CPU: 4K frames per second of a model in several configurations.

python benchmarks/cpu_configs.py [--rounds 3] [--frames 12]

Each configuration has its own server; all run at once and are measured in turns, so that noise of
the machine affects them equally. Frames travel over shared memory, several in flight.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from time import perf_counter

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2

from rt4ksr_client import Upscaler
from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_client.frames import Frame
from rt4ksr_server import TritonServer

ROOT = Path(__file__).parents[1]
SPEC = DEFAULT_MODELS[2]
IN_FLIGHT = 4


def main() -> None:
    """Print a line for each configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=12, help="of one measurement")
    arguments = parser.parse_args()
    frame = np.asarray(Image.open(ROOT / "docs/pictures/nuthatch_1080p.jpg").convert("RGB"))
    rates: dict[tuple[int, int], list[float]] = {}
    with ExitStack() as stack:
        upscalers = {choice: stack.enter_context(_served(stack, *choice)) for choice in _choices()}
        for upscaler in upscalers.values():
            upscaler.upscale(frame)
        for _ in range(arguments.rounds):
            for choice, upscaler in upscalers.items():
                rate = _frames_per_s(upscaler, frame, arguments.frames)
                rates.setdefault(choice, []).append(rate)
    first = next(iter(rates.values()))
    print(f"{SPEC.name}, {os.cpu_count()} cores, shared memory, {IN_FLIGHT} frames in flight")
    for (instances, threads), found in rates.items():
        ratio = statistics.median(b / a for a, b in zip(first, found, strict=True))
        print(
            f"{instances} instances x {threads} threads: "
            f"{statistics.median(found):.2f} frames/s, {ratio:.2f} of the first"
        )


def _choices() -> Iterator[tuple[int, int]]:
    """Instances and threads of each: one with every core, and ways to share them."""
    cores = os.cpu_count() or 1
    yield 1, cores
    if cores > 1:
        yield cores, 1
        yield 2, cores


def _served(stack: ExitStack, instances: int, threads: int) -> Upscaler:
    repository = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    shutil.copytree(ROOT / "model_repository" / SPEC.name, repository / SPEC.name)
    path = repository / SPEC.name / "config.pbtxt"
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    config.instance_group[0].count = instances
    config.parameters["intra_op_thread_count"].string_value = str(threads)
    path.write_text(text_format.MessageToString(config))
    server = stack.enter_context(TritonServer(repository))
    return Upscaler(server.grpc_url, scale=SPEC.scale, transport="shm", timeout_s=120)


def _frames_per_s(upscaler: Upscaler, frame: Frame, count: int) -> float:
    start_s = perf_counter()
    for _ in upscaler.map(repeat(frame, count), in_flight=IN_FLIGHT):
        pass
    return count / (perf_counter() - start_s)


if __name__ == "__main__":
    main()
