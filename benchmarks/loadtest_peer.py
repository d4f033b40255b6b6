"""Compare the load test with NVIDIA's ``perf_analyzer``: same model, same load, same machine.

Both take turns on a nearest-neighbour model with the wire contract (1080p in, 4K out) behind a real
tritonserver. Our load test sends a different frame each time and checks the answers, which costs
the generator a little; perf_analyzer sends the same frame again and checks nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import perf_analyzer as nvidia

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_loadtest.result import read_result
from rt4ksr_server import TritonServer
from support.nearest_models import nearest_config, nearest_graph, write_model

SPEC = DEFAULT_MODELS[2]
TRANSPORTS = ("shm", "grpc", "http")
WINDOW_S = 6


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1, help="concurrent requests")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if not nvidia.is_installed():
        print(nvidia.MISSING)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), nearest_config(SPEC), nearest_graph(SPEC))
        with TritonServer(folder) as server:
            print(f"{arguments.users} concurrent, medians of {arguments.rounds} alternating rounds")
            print(f"{'':6} {'ours':>22} {'perf_analyzer':>22} {'ratio':>12}")
            for transport in TRANSPORTS:
                report(server, transport, arguments.users, arguments.rounds)


def report(server: TritonServer, transport: str, users: int, rounds: int) -> None:
    """Measure one transport and print its line."""
    pairs = [
        (
            ours(server, transport, users),
            nvidia.perf_analyzer(server, SPEC, transport, users, WINDOW_S),
        )
        for _ in range(rounds)
    ]
    mine, theirs = (
        (median(pair[i].per_s for pair in pairs), median(pair[i].p50_ms for pair in pairs))
        for i in (0, 1)
    )
    ratios = (
        median(a.per_s / b.per_s for a, b in pairs),
        median(a.p50_ms / b.p50_ms for a, b in pairs),
    )
    print(
        f"{transport:6} {mine[0]:7.1f}/s p50 {mine[1]:5.0f} ms {theirs[0]:7.1f}/s p50 "
        f"{theirs[1]:5.0f} ms  {ratios[0]:5.2f} {ratios[1]:5.2f}"
    )


def ours(server: TritonServer, transport: str, users: int) -> nvidia.Measured:
    """Run ``rt4ksr loadtest`` once."""
    url = f"http://{server.http_url}" if transport == "http" else server.grpc_url
    with tempfile.TemporaryDirectory() as out:
        words = ["--url", url, "--transport", transport, "--users", str(users), "--out", out]
        words += ["--profile", "steady", "--duration", f"{WINDOW_S}s", "--warm-up", "2s"]
        words += ["--metrics-url", f"http://{server.metrics_url}/metrics"]
        program = [sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "loadtest"]
        subprocess.run([*program, *words], check=True, capture_output=True, timeout=120)
        result = read_result(Path(out))
    return nvidia.Measured(result.totals.goodput_fps, result.latency.p50_ms)


if __name__ == "__main__":
    main()
