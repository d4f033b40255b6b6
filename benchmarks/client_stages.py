"""Where the time of one picture goes in the client: 1080p JPEG in, 4K picture out.

Stages: decode; prepare (padding, filling the invisible); request, of which the server's own
statistics say how much was the network (server) and the rest is the way there and back (wire);
finish; encode.
Milliseconds, medians; then whole frames one at a time against four in flight. With ``--nearest``,
the network is a nearest-neighbour model, which costs next to nothing: for all stages but its own.
With ``--cpu``, stages are in CPU time of this process, all threads: for a machine in use by others.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from rt4ksr_client import Upscaler
from rt4ksr_client.call import Call
from rt4ksr_client.connection import Connection, TransportName
from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_client.files import open_picture, save_picture
from rt4ksr_client.frames import from_batch, to_batch
from rt4ksr_client.pictures import join, split
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports import Transport, open_transport
from rt4ksr_server import TritonServer
from support.nearest_models import nearest_config, nearest_graph, write_model

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docs" / "pictures" / "nuthatch_1080p.jpg"
SPEC = DEFAULT_MODELS[2]
TRANSPORTS: tuple[TransportName, ...] = ("grpc", "http", "shm")
FORMATS = ("png", "jpg", "webp")
ROUNDS = 5
PIPELINED = 8
TIMEOUT_S = 60.0

Stages = dict[str, list[float]]
Names = tuple[str, ...]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nearest", action="store_true", help="a model that costs nothing")
    parser.add_argument("--cpu", action="store_true", help="CPU time instead of wall-clock time")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    console = Console(width=110)
    stages = Table(title="one picture, ms", title_justify="left")
    whole = Table(title="whole frames, array to array, s per frame", title_justify="left")
    names = ("decode", "prepare", "wire", "server", "finish", *(f"encode {f}" for f in FORMATS))
    for name in ("transport", *names):
        stages.add_column(name, justify="right")
    for name in ("transport", "one at a time", "four in flight"):
        whole.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        repository = ROOT / "model_repository"
        if arguments.nearest:
            repository = Path(folder)
            write_model(repository, nearest_config(SPEC), nearest_graph(SPEC))
        _measure(repository, arguments, stages, whole, names)
    console.print(stages)
    console.print(whole)


def _measure(
    repository: Path, options: argparse.Namespace, stages: Table, whole: Table, names: Names
) -> None:
    with TritonServer(repository) as server:
        for transport in TRANSPORTS:
            url = f"http://{server.http_url}" if transport == "http" else server.grpc_url
            taken = _stages(url, transport, options)
            stages.add_row(transport, *(f"{statistics.median(taken[name]):.1f}" for name in names))
            whole.add_row(transport, *(f"{value:.3f}" for value in _whole(url, transport)))


def _stages(url: str, transport_name: TransportName, options: argparse.Namespace) -> Stages:
    taken: Stages = defaultdict(list)
    transport = open_transport(Connection(url, transport_name))
    try:
        with (
            Upscaler(url, scale=SPEC.scale) as asking,
            tempfile.TemporaryDirectory() as folder,
        ):
            model = asking.served_model
            for index in track(range(options.rounds + 1), transport_name, transient=True):
                times = _once(transport, asking, model, Path(folder), options.cpu)
                if index:  # the first one warms up
                    for name, value in times.items():
                        taken[name].append(value)
    finally:
        transport.close()
    return taken


def _once(
    transport: Transport, asking: Upscaler, model: ServedModel, folder: Path, is_cpu: bool
) -> dict[str, float]:
    times: dict[str, float] = {}
    clock = _Clock(times, process_time if is_cpu else perf_counter)
    image = open_picture(SOURCE)
    clock.lap("decode")
    frame, side_data = split(image)
    batch = to_batch((frame,), model.inputs, model.size_multiple)
    clock.lap("prepare")
    before_ms = _server_ms(asking)
    clock.lap("")
    answer = transport.upscale(model, batch, Call(TIMEOUT_S))
    clock.lap("wire")
    times["server"] = _server_ms(asking) - before_ms
    if not is_cpu:
        times["wire"] -= times["server"]
    clock.lap("")
    height, width, _ = frame.shape
    planes = from_batch(answer, model.outputs, height * SPEC.scale, width * SPEC.scale)
    upscaled = join(planes[0], side_data)
    clock.lap("finish")
    for suffix in FORMATS:
        save_picture(upscaled, folder / f"out.{suffix}")
        clock.lap(f"encode {suffix}")
    return times


class _Clock:
    """Milliseconds since the last lap."""

    def __init__(self, times: dict[str, float], now_s: Callable[[], float]) -> None:
        self._times = times
        self._now_s = now_s
        self._last_s = now_s()

    def lap(self, name: str) -> None:
        """Keep the time since the last lap under ``name``; an empty one is thrown away."""
        now_s = self._now_s()
        if name:
            self._times[name] = (now_s - self._last_s) * 1000
        self._last_s = now_s


def _server_ms(asking: Upscaler) -> float:
    """Milliseconds the model has spent on requests so far, by Triton's statistics."""
    found = next(m.statistics for m in asking.status().models if m.name == SPEC.name)
    assert found is not None
    return found.answered * (found.queue_ms + found.input_ms + found.infer_ms + found.output_ms)


def _whole(url: str, transport: TransportName) -> tuple[float, float]:
    frame = np.asarray(Image.open(io.BytesIO(SOURCE.read_bytes())).convert("RGB"))
    with Upscaler(url, scale=SPEC.scale, transport=transport) as upscaler:
        upscaler.upscale(frame)
        start_s = perf_counter()
        for _ in range(PIPELINED):
            upscaler.upscale(frame)
        single_s = (perf_counter() - start_s) / PIPELINED
        start_s = perf_counter()
        for _ in upscaler.map([frame] * PIPELINED, in_flight=4):
            pass
        return single_s, (perf_counter() - start_s) / PIPELINED


if __name__ == "__main__":
    main()
