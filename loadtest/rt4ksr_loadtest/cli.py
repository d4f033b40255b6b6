"""``rt4ksr loadtest``: Locust with this project's locustfile, and ``compare``."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from rt4ksr_client.cli.server import local_server
from rt4ksr_loadtest.compare_cli import compare_command
from rt4ksr_loadtest.options import ARRIVALS, PROFILES

__all__ = ["loadtest"]

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
SATURATE_USERS = 32


@click.group(invoke_without_command=True, context_settings={"max_content_width": 100})
@click.option("--url", default="127.0.0.1:8001", show_default=True, help="The server's address.")
@click.option("--local", is_flag=True, help="Start a server for this run; needs the server extra.")
@click.option(
    "--model-repository",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With --local: what it serves. Default: the shipped models.",
)
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default="smoke",
    show_default=True,
    help="Course of the load: smoke (10 s), steady (60 s), ramp, spike, soak (10 min), or "
    "saturate: more and more users until throughput no longer rises or an objective breaks.",
)
@click.option("--users", type=click.IntRange(min=1), help="saturate: at most; default 32.")
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="Open loop: this rate.")
@click.option("--arrivals", type=click.Choice(ARRIVALS), default="constant", show_default=True)
@click.option("--scale", default="2", show_default=True, help="2, 3, or a mix such as 2:3,3:1.")
@click.option("--model", help="A model by name instead.")
@click.option(
    "--transport",
    type=click.Choice(["auto", "grpc", "http", "shm", "cuda_shm"]),
    default="auto",
    show_default=True,
)
@click.option("--frames", type=click.Path(path_type=Path), help="Pictures or a video to send.")
@click.option("--frame-size", metavar="WxH", help="Of made-up frames. Default: the model's.")
@click.option("--tile-px", type=int, help="Send squares of this side instead of frames.")
@click.option("--duration", help="Of the profile, e.g. 90, 120s or 10m.")
@click.option("--step", help="Length of a step of ramp and saturate. Default: 10s.")
@click.option("--warm-up", help="Left out of every figure. Default: 5s.")
@click.option("--check-share", type=click.FloatRange(0, 1), help="Answers compared. Default: 0.1.")
@click.option("--request-timeout", help="Deadline of a request. Default: 60s.")
@click.option("--processes", type=click.IntRange(min=1), help="Load generators on this machine.")
@click.option("--slo", type=click.Path(path_type=Path), help="TOML file with objectives.")
@click.option("--slo-p99-ms", type=float, help="Objective: 99 % of answers within this.")
@click.option("--slo-goodput-fps", type=float, help="Objective: 4K frames/s at least.")
@click.option("--slo-error-share", type=float, help="Objective: failures at most, 0 to 1.")
@click.option("--metrics-url", help="Triton's metrics. Default: port 8002 of the host.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for result.json and reports.")
@click.pass_context
def loadtest(
    ctx: click.Context,
    /,
    url: str,
    local: bool,
    model_repository: Path | None,
    profile: str,
    users: int | None,
    **options: object,
) -> None:
    """Stress-test a Triton server with 4K work.

    \b
    rt4ksr loadtest --local                                                a server of its own, 10 s
    rt4ksr loadtest --profile saturate --transport shm --out results/      finds the knee
    rt4ksr loadtest --profile steady --fps 24 --duration 120s --slo-p99-ms 200
    rt4ksr loadtest compare results/a results/b

    Closed loop: each user sends its next frame when its answer has come; how many frames a second
    come out is what is measured. Open loop (--fps): frames are due at that rate whether or not the
    server keeps up, and latency counts from when a frame was due.

    It exits with 1 when an objective is missed; without objectives, when a request failed. The same
    test with Locust's own options and web page: locust -f loadtest/locustfile.py.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    if ctx.invoked_subcommand is not None:
        return
    users = users or _default_users(profile, open_loop=options["fps"] is not None)
    with _address(url, local, model_repository) as host:
        words = ["--host", host, "--users", str(users), "--load-profile", profile]
        for name, value in options.items():
            if value is not None:
                words += [f"--{name.replace('_', '-')}", str(value)]
        raise click.exceptions.Exit(_locust(words))


loadtest.add_command(compare_command)


def _default_users(profile: str, *, open_loop: bool) -> int:
    if profile == "saturate":
        return SATURATE_USERS
    if profile in ("ramp", "spike"):
        return 8
    return 1 if open_loop else 2


@contextmanager
def _address(url: str, local: bool, model_repository: Path | None) -> Iterator[str]:
    if not local:
        yield url
        return
    with local_server(model_repository) as address:
        yield address


def _locust(words: list[str]) -> int:
    """Run it in a process of its own, which Ctrl-C reaches too; it reports before it ends."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"]
    command += ["--only-summary", "--loglevel", "WARNING", *words]
    process = subprocess.Popen(command)
    previous = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
