"""Compares this export with others: one frame from 1080p (x2) or 720p (x3) to 4K.

Every candidate runs once per round, in turn, so that a slowdown of the machine affects all equally;
medians, and ratios by round, are reported. The others take and return float32, as plain exports do;
the time of this export includes the conversion from and to uint8.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime
import openvino
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rt4ksr_client import Upscaler
from rt4ksr_client.contract import DEFAULT_MODELS, INPUT_NAME, ModelSpec
from rt4ksr_client.frames import Frame
from rt4ksr_export.checkpoint import load_network, packaged_weights
from rt4ksr_export.fusion import fuse
from rt4ksr_export.network import FusedRT4KSR
from rt4ksr_server import TritonServer

ROOT = Path(__file__).parents[1]
OURS = "this export, ONNX Runtime, uint8 in and out"
THREADS = os.cpu_count() or 1

Candidates = dict[str, Callable[[], object]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, choices=sorted(DEFAULT_MODELS), default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    spec = DEFAULT_MODELS[arguments.scale]
    frame = _photograph(spec)
    console = Console(width=110)
    console.print(_machine())

    times = _measure({**_ours(spec, frame), **_peers(spec, frame)}, arguments.rounds)
    title = f"{spec.name}: {spec.input_width_px}x{spec.input_height_px} to 4K"
    console.print(_table(f"{title}, in process", times, OURS))

    with (
        TritonServer(ROOT / "model_repository") as server,
        Upscaler(server.grpc_url, scale=spec.scale, transport="grpc") as over_grpc,
        Upscaler(server.grpc_url, scale=spec.scale, transport="shm") as over_shm,
    ):
        served: Candidates = {
            "served over gRPC": lambda: over_grpc.upscale(frame),
            "served over shared memory": lambda: over_shm.upscale(frame),
        }
        times = _measure({**_ours(spec, frame), **served}, arguments.rounds)
    console.print(_table(f"{title}, served", times, OURS))


def _photograph(spec: ModelSpec) -> Frame:
    image = Image.open(ROOT / "docs" / "pictures" / "nuthatch_1080p.jpg").convert("RGB")
    return np.asarray(image.resize((spec.input_width_px, spec.input_height_px)))


def _ours(spec: ModelSpec, frame: Frame) -> Candidates:
    session = _session((ROOT / "model_repository" / spec.name / "1" / "model.onnx").read_bytes())
    return {OURS: lambda: session.run(None, {INPUT_NAME: frame[np.newaxis]})}


def _peers(spec: ModelSpec, frame: Frame) -> Candidates:
    network = load_network(packaged_weights(spec.name))
    fused = fuse(network)
    batch = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 255
    array = batch.numpy()
    plain = _plain_export(fused, batch)
    session = _session(plain)
    compiled = _openvino(plain)
    return {
        "plain torch.onnx.export, ONNX Runtime": lambda: session.run(None, {"x": array}),
        "plain torch.onnx.export, OpenVINO": lambda: compiled(array),
        "fused network, PyTorch": lambda: _run(fused, batch),
        "training form, PyTorch": lambda: _run(network, batch),
    }


def _run(network: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = network(batch)
    return result


def _plain_export(fused: FusedRT4KSR, batch: torch.Tensor) -> bytes:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "plain.onnx"
        warnings.simplefilter("ignore")
        program = torch.onnx.export(fused, (batch,), input_names=["x"], verbose=False)
        assert program is not None
        program.save(path)
        return path.read_bytes()


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _openvino(
    model: bytes,
) -> Callable[[np.ndarray[tuple[int, ...], np.dtype[np.float32]]], object]:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": THREADS,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        path.write_bytes(model)
        compiled = openvino.Core().compile_model(path, "CPU", settings)
    # Shared memory on both sides: OpenVINO's fastest way, no copy of the 100 MB result.
    return lambda array: compiled(array, share_inputs=True, share_outputs=True)


def _measure(candidates: Candidates, rounds: int) -> Mapping[str, list[float]]:
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for index in track(range(rounds), "measuring", transient=True):
        # The next round starts with the next candidate: none always follows the same other one.
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            start_s = perf_counter()
            candidates[name]()
            times[name].append(perf_counter() - start_s)
    return times


def _table(title: str, times: Mapping[str, list[float]], reference: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("median s/frame", "min", "max", "times ours"):
        table.add_column(column, justify="right")
    for name, seconds in times.items():
        ratio = statistics.median(
            peer / ours for peer, ours in zip(seconds, times[reference], strict=True)
        )
        row = (statistics.median(seconds), min(seconds), max(seconds))
        table.add_row(name, *(f"{value:.3f}" for value in row), f"{ratio:.2f}")
    return table


def _machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return (
        f"{model}, {THREADS} threads, {platform.system()}; ONNX Runtime {onnxruntime.__version__}, "
        f"PyTorch {torch.__version__}, OpenVINO {openvino.__version__}"
    )


if __name__ == "__main__":
    main()
