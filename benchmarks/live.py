"""Measure a live stream on this machine: rate, share of the network, latency, share of each stage.

A file is played as if it were live, into MPEG-TS that nobody reads, through a server whose model
takes a known time. Then the shipped model, on whatever tritonserver runs it here.

    python benchmarks/live.py [--seconds 20] [--size 640x360] [--url 127.0.0.1:8001]
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rt4ksr_client import Upscaler
from rt4ksr_client.contract import models_for
from rt4ksr_client.live import LiveOptions, Snapshot, upscale_live
from rt4ksr_server import TritonServer, default_repository

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.slow_models import write_slow_model
from support.videos import counted, make_video

MODEL = models_for("video")[2].name


def row(name: str, snapshot: Snapshot, cpu_s: float) -> str:
    """Return a row of the table."""
    shown = snapshot.by_network + snapshot.interpolated
    stages = " ".join(f"{stage} {share:.0%}" for stage, share in snapshot.stage_shares.items())
    return (
        f"| {name} | {shown / snapshot.seconds_s:.1f} | {snapshot.network_share or 0:.0%} | "
        f"{snapshot.dropped} | {snapshot.latency_p50_ms} | {snapshot.latency_p99_ms} | "
        f"{snapshot.network_p50_ms} | {cpu_s / snapshot.seconds_s:.0%} | {stages} |"
    )


def measure(name: str, url: str, source: Path, options: LiveOptions) -> None:
    """Print the row of one run."""
    before_s = resource.getrusage(resource.RUSAGE_SELF)
    with Upscaler(url, model=MODEL, priority="high") as upscaler:
        target = str(source.with_name("out.ts"))
        snapshot = upscale_live(str(source), target, upscaler, options)
    after_s = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after_s.ru_utime + after_s.ru_stime - before_s.ru_utime - before_s.ru_stime
    print(row(name, snapshot, cpu_s), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="of each run")
    parser.add_argument("--size", default="640x360", help="of the source, WIDTHxHEIGHT")
    parser.add_argument("--latency-ms", type=float, default=300)
    parser.add_argument("--codec", default="libx264")
    parser.add_argument("--url", help="a server with the shipped models; default: one for this run")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    options = LiveOptions(latency_s=args.latency_ms / 1000, codec=args.codec, is_paced=True)
    print("| server | frames/s | network | dropped | p50 ms | p99 ms | answer ms | CPU | stages |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        source = make_video(
            Path(folder) / "source.mp4",
            frames=round(args.seconds * 25),
            size=(width, height),
            draw=counted,
            sound=True,
        )
        for name, delay_s, instances in (
            ("20 ms, 4 at once", 0.02, 4),
            ("100 ms, 8 at once", 0.1, 8),
            ("500 ms, 8 at once", 0.5, 8),
            ("80 ms, one at a time: half the rate", 0.08, 1),
        ):
            with tempfile.TemporaryDirectory() as models:
                repository = write_slow_model(Path(models), delay_s, instances)
                with TritonServer(repository) as server:
                    measure(name, server.grpc_url, source, options)
        url = args.url
        if url is None:
            server = TritonServer(default_repository(), models=[MODEL])
            url = stack.enter_context(server).grpc_url
        measure(f"the shipped {MODEL}", url, source, options)


if __name__ == "__main__":
    main()
