"""Run NVIDIA's ``perf_analyzer``, the reference for frames per second, if it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from rt4ksr_client.contract import INPUT_NAME, ModelSpec
from rt4ksr_server import TritonServer

MISSING = "perf_analyzer is not on PATH: install NVIDIA perf-analyzer to compare with it"


@dataclass(frozen=True)
class Measured:
    """Answers per second and median latency."""

    per_s: float
    p50_ms: float


def is_installed() -> bool:
    """Whether it is on PATH."""
    return shutil.which("perf_analyzer") is not None


def perf_analyzer(
    server: TritonServer, spec: ModelSpec, transport: str, concurrency: int, window_s: float = 4.0
) -> Measured:
    """Run its closed loop on one model; ``transport`` is ``grpc``, ``http`` or ``shm``."""
    url, protocol = (server.http_url, "http") if transport == "http" else (server.grpc_url, "grpc")
    answer_bytes = spec.input_height_px * spec.input_width_px * 3 * spec.scale**2
    memory = ["--shared-memory=system", f"--output-shared-memory-size={answer_bytes}"]
    command = [
        "perf_analyzer", "-m", spec.name, "-u", url, "-i", protocol,
        f"--shape={INPUT_NAME}:{spec.input_height_px},{spec.input_width_px},3",
        f"--concurrency-range={concurrency}", f"--measurement-interval={window_s * 1e3:.0f}",
        "--stability-percentage=60", "--max-trials=4", "--percentile=50",
        *(memory if transport == "shm" else []),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    per_s = re.search(r"Throughput: ([\d.]+) infer/sec", done.stdout)
    p50_us = re.search(r"p50 latency: (\d+) usec", done.stdout)
    if per_s is None or p50_us is None:
        raise RuntimeError(f"perf_analyzer: {(done.stderr + done.stdout).strip()[-500:]}")
    return Measured(float(per_s[1]), int(p50_us[1]) / 1e3)
