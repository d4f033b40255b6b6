"""``rt4ksr serve``: a real tritonserver until Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import click

from rt4ksr_server.device import DEVICES, DeviceName
from rt4ksr_server.options import default_repository
from rt4ksr_server.triton_server import TritonServer

__all__ = ["serve"]

PORT = click.IntRange(0, 65535)


@click.command(context_settings={"show_default": True})
@click.option(
    "--model-repository",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder with one folder per model.  [default: ./model_repository, otherwise the one "
    "installed with this package]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Load this model and no other; may be given several times.  [default: all]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address or name to bind, such as ::1 or localhost. 0.0.0.0 or :: accepts connections "
    "from other machines: anyone who can reach the ports can submit work.",
)
@click.option("--grpc-port", type=PORT, default=8001, help="Port for gRPC; 0 picks a free one.")
@click.option("--http-port", type=PORT, default=8000, help="Port for HTTP; 0 picks a free one.")
@click.option(
    "--metrics-port",
    type=PORT,
    default=8002,
    help="Port for Prometheus metrics; 0 picks a free one.",
)
@click.option(
    "--binary",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The tritonserver to run.  [default: the one on PATH, otherwise the one of the "
    "nvidia-pytriton package]",
)
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    help="What the networks run on. cuda: the first GPU, which needs the extra gpu instead of "
    "server. auto: that GPU if it can be used, otherwise the CPU.",
)
@click.option(
    "--start-timeout",
    type=click.FloatRange(min=1),
    default=120.0,
    metavar="SECONDS",
    help="How long loading and warming up the models may take.",
)
@click.option(
    "--exit-timeout",
    type=click.FloatRange(min=1),
    default=10.0,
    metavar="SECONDS",
    help="How long requests in flight may take to finish after Ctrl-C.",
)
@click.argument("tritonserver_flags", nargs=-1, type=click.UNPROCESSED)
def serve(
    model_repository: Path | None,
    models: tuple[str, ...],
    host: str,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    binary: Path | None,
    device: DeviceName,
    start_timeout: float,
    exit_timeout: float,
    tritonserver_flags: tuple[str, ...],
) -> None:
    """Run a Triton server until Ctrl-C.

    \b
    Examples:
      rt4ksr serve
      rt4ksr serve --model rt4ksr_x2 --model rt4ksr_x2_video    starts faster
      rt4ksr serve --device cuda                  on a GPU; an error if that cannot be used
      rt4ksr serve --model rt4ksr_x2_image        upscales JPEG, PNG and WebP files
      rt4ksr serve --grpc-port 9001 -- --log-verbose=1
      rt4ksr serve --model-repository my_repository -- --model-config-name=fast

    When every model is ready, the addresses are printed on stdout; the log of tritonserver goes to
    stderr. Then rt4ksr status and rt4ksr upscale work in another terminal. Ctrl-C and SIGTERM let
    requests in flight finish first. Arguments after two dashes are passed to tritonserver.
    """  # noqa: D301 - click's mark of a paragraph not to wrap is a real backspace
    server = TritonServer(
        model_repository or default_repository(),
        models=models,
        host=host,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        binary=binary,
        device=device,
        start_timeout_s=start_timeout,
        exit_timeout_s=exit_timeout,
        extra_args=tritonserver_flags,
        log=lambda line: click.echo(line, err=True),
    )

    def interrupt(signum: int, frame: FrameType | None) -> None:
        # Once is enough: the draining is bounded.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        with server:
            click.echo(f"device  {server.device}")
            click.echo(f"gRPC    {server.grpc_url}")
            click.echo(f"HTTP    http://{server.http_url}")
            click.echo(f"metrics http://{server.metrics_url}/metrics")
            click.echo("ready; Ctrl-C stops it")
            server.wait()
    except KeyboardInterrupt:
        click.echo("stopped")
