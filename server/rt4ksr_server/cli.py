"""``rt4ksr serve``: a real tritonserver until Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import click

from rt4ksr_server.options import default_repository
from rt4ksr_server.triton_server import TritonServer

__all__ = ["serve"]

_PORT = click.IntRange(0, 65535)


@click.command(context_settings={"show_default": True})
@click.option(
    "--model-repository",
    type=click.Path(path_type=Path),
    help="The folder of models to serve.  [default: ./model_repository, otherwise the shipped one]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Load this model only. May be given several times.  [default: all]",
)
@click.option(
    "--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 lets other machines connect."
)
@click.option("--grpc-port", type=_PORT, default=8001, help="gRPC port; 0 picks a free one.")
@click.option("--http-port", type=_PORT, default=8000, help="HTTP port; 0 picks a free one.")
@click.option(
    "--metrics-port",
    type=_PORT,
    default=8002,
    help="Port of the Prometheus metrics; 0 picks a free one.",
)
@click.option(
    "--binary",
    type=click.Path(path_type=Path),
    help="The tritonserver to run.  [default: the one on PATH, otherwise nvidia-pytriton's]",
)
@click.option(
    "--start-timeout",
    type=click.FloatRange(min=1),
    default=120.0,
    help="Seconds until every model must be ready.",
)
@click.option(
    "--exit-timeout",
    type=click.FloatRange(min=1),
    default=10.0,
    help="Seconds that requests in flight may take to finish at the end.",
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
    start_timeout: float,
    exit_timeout: float,
    tritonserver_flags: tuple[str, ...],
) -> None:
    """Run a Triton server until Ctrl-C.

    \b
    Examples:
      rt4ksr serve
      rt4ksr serve --model rt4ksr_x2 --model rt4ksr_x2_video
      rt4ksr serve --model rt4ksr_x2_image             upscales encoded pictures
      rt4ksr serve --grpc-port 9001 -- --log-verbose=1
      rt4ksr serve --model-repository my_repository -- --model-config-name=fast

    The log of tritonserver goes to stderr. When every model is ready, the addresses are printed on
    stdout. Arguments after two dashes are passed to tritonserver.
    """  # noqa: D301 - click's mark of a paragraph not to wrap is a real backspace
    server = TritonServer(
        model_repository or default_repository(),
        models=models,
        host=host,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        binary=binary,
        start_timeout_s=start_timeout,
        exit_timeout_s=exit_timeout,
        extra_args=tritonserver_flags,
        log=lambda line: click.echo(line, err=True),
    )
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with server:
            click.echo(f"gRPC    {server.grpc_url}")
            click.echo(f"HTTP    http://{server.http_url}")
            click.echo(f"metrics http://{server.metrics_url}/metrics")
            click.echo("ready; Ctrl-C stops it")
            server.wait()
    except KeyboardInterrupt:
        click.echo("stopped")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Stop for SIGTERM as for Ctrl-C; once is enough, the draining is bounded."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
