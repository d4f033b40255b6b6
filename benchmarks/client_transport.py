"""What the ways to the server can carry: 4K frames per second with next to no work at the server.

Nearest-neighbour models under the wire contract stand in for the networks, so what is measured is
the client, the transport and Triton's own handling of a frame (1080p in, 4K out): 31 MB of RGB, or
15.6 MB of 4:2:0. Transports and models take turns, so that a noisy moment hits all of them.
NVIDIA's client and ``perf_analyzer`` are run on the model of RGB where they are installed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import perf_analyzer as nvidia
import tritonclient.grpc as triton

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from rt4ksr_client import Upscaler, Yuv420
from rt4ksr_client.connection import TransportName
from rt4ksr_client.contract import INPUT_NAME, INPUTS, MODELS, OUTPUT_NAME, WIRE_DATATYPE, ModelSpec
from rt4ksr_client.frames import Frame, planes_of
from rt4ksr_server import TritonServer
from support.nearest_models import nearest_config, nearest_graph, write_model

SPEC, VIDEO_SPEC = MODELS["rt4ksr_x2"], MODELS["rt4ksr_x2_video"]
IN_FLIGHT = 4
NVIDIAS = "tritonclient, gRPC"
ROUNDS = 3
FRAMES = 15
TRANSPORTS: tuple[TransportName, ...] = ("grpc", "http", "shm")
PLANES = "4:2:0, {}"

Rounds = dict[str, list[tuple[float, float]]]


def main() -> None:
    """Print a table."""
    height, width = SPEC.input_height_px, SPEC.input_width_px
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    planes = Yuv420(frame[..., 0].copy(), frame[: height // 2, : width // 2, 1:].copy())
    with tempfile.TemporaryDirectory() as folder:
        for spec in (SPEC, VIDEO_SPEC):
            write_model(Path(folder), nearest_config(spec), nearest_graph(spec))
        with TritonServer(folder) as server:
            alone_ms = model_alone_ms(folder, SPEC, frame)
            planes_alone_ms = model_alone_ms(folder, VIDEO_SPEC, planes)
            report(server, alone_ms, planes_alone_ms, measured(server, frame, planes))


def measured(server: TritonServer, frame: Frame, planes: Yuv420) -> Rounds:
    """Return ``(ms for one frame, frames/s pipelined)`` of every round."""
    rows: Rounds = defaultdict(list)
    for _ in range(ROUNDS):
        for name in TRANSPORTS:
            url = server.http_url if name == "http" else server.grpc_url
            with Upscaler(url, model=SPEC.name, transport=name) as upscaler:
                rows[name].append(one_round(upscaler, frame))
            with Upscaler(url, model=VIDEO_SPEC.name, transport=name) as upscaler:
                rows[PLANES.format(name)].append(one_round(upscaler, planes))
        rows[NVIDIAS].append(nvidias_client(server, frame))
    return rows


def one_round(upscaler: Upscaler, frame: Any) -> tuple[float, float]:
    """Measure one transport once, with RGB or planes."""
    for _ in upscaler.map([frame] * 2 * IN_FLIGHT, IN_FLIGHT):
        pass
    times_s = []
    for _ in range(FRAMES):
        begin_s = time.perf_counter()
        upscaler.upscale(frame)
        times_s.append(time.perf_counter() - begin_s)
    begin_s = time.perf_counter()
    for _ in upscaler.map((frame for _ in range(2 * FRAMES)), IN_FLIGHT):
        pass
    return median(times_s) * 1e3, 2 * FRAMES / (time.perf_counter() - begin_s)


def model_alone_ms(folder: str, spec: ModelSpec, frame: Frame | Yuv420) -> float:
    """Return the model's milliseconds for one frame in this process, without any serving."""
    path = Path(folder, spec.name, "1", "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pairs = zip(INPUTS[spec.colours], planes_of(frame), strict=True)
    inputs = {tensor.name: plane[np.newaxis] for tensor, plane in pairs}
    times_s = []
    for _ in range(FRAMES):
        begin_s = time.perf_counter()
        session.run(None, inputs)
        times_s.append(time.perf_counter() - begin_s)
    return median(times_s) * 1e3


def nvidias_client(server: TritonServer, frame: Frame) -> tuple[float, float]:
    """Return what :func:`one_round` does, of NVIDIA's own Python client over gRPC."""

    def upscale(client: triton.InferenceServerClient) -> float:
        begin_s = time.perf_counter()
        tensor = triton.InferInput(INPUT_NAME, [1, *frame.shape], WIRE_DATATYPE)
        tensor.set_data_from_numpy(frame[np.newaxis])
        client.infer(SPEC.name, [tensor]).as_numpy(OUTPUT_NAME)
        return time.perf_counter() - begin_s

    with (
        triton.InferenceServerClient(server.grpc_url) as client,
        ThreadPoolExecutor(IN_FLIGHT) as threads,
    ):
        times_s = [upscale(client) for _ in range(FRAMES)]
        begin_s = time.perf_counter()
        list(threads.map(upscale, [client] * 2 * FRAMES))
        return median(times_s) * 1e3, 2 * FRAMES / (time.perf_counter() - begin_s)


def report(server: TritonServer, alone_ms: float, planes_alone_ms: float, rows: Rounds) -> None:
    """Print the medians, and perf_analyzer's figures beside them."""
    table = {name: tuple(np.median(rounds, axis=0)) for name, rounds in rows.items()}
    print(f"the models alone, in process: {alone_ms:.1f} and {planes_alone_ms:.1f} ms a frame")
    print(f"{'':20} {'ms/frame':>9} {'serving':>9} {f'frames/s x{IN_FLIGHT}':>12}   perf_analyzer")
    for name, (frame_ms, frames_per_s) in table.items():
        serving_ms = frame_ms - (planes_alone_ms if name.startswith("4:2:0") else alone_ms)
        print(
            f"{name:20} {frame_ms:9.1f} {serving_ms:9.1f} {frames_per_s:12.1f}   "
            f"{reference(server, name)}"
        )
    (shm_ms, shm_per_s), (grpc_ms, grpc_per_s) = table["shm"], table["grpc"]
    print(
        f"shared memory against gRPC: {grpc_ms / shm_ms:.1f} times a frame, "
        f"{shm_per_s / grpc_per_s:.1f} times pipelined, "
        f"{(grpc_ms - alone_ms) / (shm_ms - alone_ms):.1f} times without the model's own work"
    )
    for name in TRANSPORTS:
        ratios = np.divide(rows[PLANES.format(name)], rows[name])  # within a round
        of_ms, of_per_s = np.median(ratios, axis=0)
        print(
            f"4:2:0 against RGB, {name}: {1 / of_ms:.2f} times a frame, "
            f"{of_per_s:.2f} times pipelined"
        )


def reference(server: TritonServer, name: str) -> str:
    """Return the frames per second that NVIDIA's tool gets, or why there are none."""
    if name not in TRANSPORTS:
        return "-"
    if not nvidia.is_installed():
        return "not installed"
    try:
        found = nvidia.perf_analyzer(server, SPEC, name, IN_FLIGHT)
    except RuntimeError as failed:
        print(failed, file=sys.stderr)
        return "failed, see above"
    return f"{found.per_s:.1f}"


if __name__ == "__main__":
    main()
