"""Results of load tests as a real run would give them, drawn from a fixed random sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from msgspec.structs import replace

from rt4ksr_loadtest.result import (
    Generator,
    Interval,
    Latency,
    Machine,
    Outage,
    RunResult,
    ServerWork,
    Settings,
    Step,
    Totals,
)

OUTPUT_MPX = 3840 * 2160 / 1e6
SETTINGS = Settings(
    profile="steady",
    load_model="closed",
    url="127.0.0.1:8001",
    transport="grpc",
    models={"rt4ksr_x2": 0.75, "rt4ksr_x3": 0.25},
    input_size_px={"rt4ksr_x2": (1920, 1080), "rt4ksr_x3": (1280, 720)},
    users=4,
    rate_fps=None,
    arrivals=None,
    duration_s=60.0,
    warmup_s=5.0,
    workers=2,
    frames="generated, 64 different ones",
)
MACHINE = Machine(
    generator_cpu="AMD EPYC 7763 64-Core Processor",
    generator_cores=16,
    generator_memory_bytes=64 * 2**30,
    generator_system="Linux 6.8",
    python="3.12.4",
    versions={"locust": "2.47.0", "rt4ksr-triton": "0.1.0", "tritonclient": "2.59.0"},
    server_version="2.59.0",
    server_on_this_host=True,
    model_weights_sha256={"rt4ksr_x2": "9f" * 32, "rt4ksr_x3": "3c" * 32},
    gpus=("79.6 GiB (GPU-340a0c24-fd2c-5e0a-d6c7-d2a5e6b3b0f4)",),
    model_frame_formats={"rt4ksr_x2": "RGB, 8 bits", "rt4ksr_x3": "RGB, 8 bits"},
)


def histogram_of(latencies_ms: Sequence[float] | np.ndarray[Any, Any]) -> str:
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    for latency_ms in latencies_ms:
        histogram.record_value(int(latency_ms * 1000))
    encoded: bytes = histogram.encode()
    return encoded.decode()


def latency_of(latencies_ms: np.ndarray[Any, Any]) -> Latency:
    if not len(latencies_ms):
        return Latency(0, 0, 0, 0, 0, 0, histogram="")
    p50, p90, p95, p99 = np.percentile(latencies_ms, [50, 90, 95, 99]).tolist()
    longest, mean = float(latencies_ms.max()), float(latencies_ms.mean())
    return Latency(p50, p90, p95, p99, longest, mean, histogram_of(latencies_ms))


def run(
    *,
    duration_s: float = 60.0,
    interval_s: float = 1.0,
    fps: float = 18.0,
    latency_ms: float = 210.0,
    spread: float = 0.12,
    failure_share: float = 0.0,
    outage: Outage | None = None,
    warmup_s: float = 5.0,
    seed: int = 1,
    **settings: Any,
) -> RunResult:
    """A run at one level of load."""
    random = np.random.default_rng(seed)
    intervals, slow = [], []
    for start_s in np.arange(0, duration_s, interval_s):
        warm = start_s < warmup_s
        out = outage is not None and outage.start_s <= start_s < outage.start_s + outage.length_s
        level = latency_ms * (1.6 if warm else 1.0) * (1 + 0.15 * math.sin(start_s / 9))
        asked = max(1, random.poisson(fps * interval_s))
        right = 0 if out else random.binomial(asked, 1 - failure_share)
        took = level * random.lognormal(0, spread, max(1, right))
        if not warm:
            slow += list(took[:right])
        cpu = random.uniform(0.4, 0.7)
        intervals.append(
            Interval(
                start_s=float(start_s),
                length_s=interval_s,
                warmup=bool(warm),
                users=4,
                offered_fps=asked / interval_s,
                goodput_fps=right / interval_s,
                failures=int(asked - right),
                p50_ms=float(np.percentile(took, 50)) if right else 0.0,
                p99_ms=float(np.percentile(took, 99)) if right else 0.0,
                in_flight=4,
                pending=int(random.integers(0, 4)),
                generator_cpu_cores=cpu,
                server_cpu_cores=0.1 if out else random.uniform(12, 15),
                server_memory_bytes=int((2 + 0.2 * random.random()) * 2**30),
                generator_memory_bytes=int((0.4 + 0.02 * random.random()) * 2**30),
            )
        )
    measured = [i for i in intervals if not i.warmup]
    measured_s = sum(i.length_s for i in measured)
    failures = sum(i.failures for i in measured)
    latency = latency_of(np.array(slow))
    kinds = {"overloaded": failures - failures // 3, "wrong picture": failures // 3}
    goodput = len(slow) / measured_s
    return RunResult(
        started_at="2026-03-04T12:30:00+01:00",
        settings=replace(SETTINGS, **{"duration_s": duration_s, "warmup_s": warmup_s, **settings}),
        machine=MACHINE,
        measured_s=measured_s,
        totals=Totals(
            requests=len(slow) + failures,
            right=len(slow),
            failures={kind: count for kind, count in kinds.items() if count},
            offered_fps=(len(slow) + failures) / measured_s,
            achieved_fps=(len(slow) + failures) / measured_s,
            goodput_fps=goodput,
            output_mpx_per_s=goodput * OUTPUT_MPX,
            wire_mb_per_s=goodput * OUTPUT_MPX * 3.75,
        ),
        latency=latency,
        server=ServerWork(
            success_count=len(slow),
            failure_count=failures,
            execution_count=len(slow) // 2,
            mean_batch=1.9,
            queue_ms=latency.mean_ms * 0.3,
            input_ms=latency.mean_ms * 0.06,
            infer_ms=latency.mean_ms * 0.41,
            output_ms=latency.mean_ms * 0.04,
            cpu_cores=13.6,
            memory_bytes=int(2.1 * 2**30),
            gpu_share=0.83,
            pending_max=3,
            gpu_memory_bytes=6 * 2**30,
            gpu_power_w=312.0,
        ),
        generator=Generator(
            cpu_cores=0.6,
            busiest_worker_share=0.35,
            memory_bytes=int(0.41 * 2**30),
            late_ms_p99=0.4,
            is_limit=False,
        ),
        intervals=tuple(intervals),
        outages=() if outage is None else (outage,),
    )


def saturating(
    fps: Sequence[float] = (5.2, 10.1, 17.8, 21.9, 22.4, 21.6), knee: int | None = 3
) -> RunResult:
    """A run that doubles the users until throughput stops rising."""
    whole = run(duration_s=20.0 * len(fps), fps=15, profile="saturate", users=32)
    steps = [
        Step(
            level=float(2**n),
            start_s=20.0 * n,
            length_s=20.0,
            goodput_fps=rate,
            p50_ms=1000 * 2**n / rate if rate else 0.0,
            p99_ms=1300 * 2**n / rate if rate else 0.0,
            right=round(rate * 20),
            failures=0,
        )
        for n, rate in enumerate(fps)
    ]
    intervals = tuple(
        replace(
            i,
            users=2 ** int(i.start_s // 20),
            goodput_fps=fps[int(i.start_s // 20)],
            p50_ms=steps[int(i.start_s // 20)].p50_ms,
            p99_ms=steps[int(i.start_s // 20)].p99_ms,
            in_flight=2 ** int(i.start_s // 20),
        )
        for i in whole.intervals
    )
    return replace(whole, intervals=intervals, steps=tuple(steps), knee=knee)


def nothing_right() -> RunResult:
    """A run in which no answer was right, of a server that tells nothing."""
    whole = run(failure_share=1.0, duration_s=12.0)
    intervals = tuple(
        replace(i, pending=None, server_cpu_cores=None, server_memory_bytes=None)
        for i in whole.intervals
    )
    return replace(whole, intervals=intervals, server=None)
