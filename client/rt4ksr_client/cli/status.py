"""``rt4ksr status``: a server's models, their statistics and the transport in use."""

from __future__ import annotations

import dataclasses
from typing import Final

import click
from google.protobuf import text_format
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import model_config_pb2

from rt4ksr_client.cli.console import print_json
from rt4ksr_client.cli.options import server_options
from rt4ksr_client.cli.server import ServerChoice
from rt4ksr_client.contract import DEFAULT_MODELS, Parameter
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.status import ModelStatus

__all__ = ["status"]

PIPED_COLUMNS: Final = 180
SCALE_COLUMN: Final = {
    "endpoint": "takes pictures",
    "stage": "codec",
    "unknown": "not of this project",
}
"""What stands there for models that are not networks."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as one line of JSON.")
@server_options
def status(as_json: bool, server: ServerChoice) -> None:
    """Show a server's models, their statistics since they were loaded, and the transport in use.

    \b
    Examples:
      rt4ksr status
      rt4ksr status --url http://gpu-host:8000 --json

    "frames" are the colours and bits that a model takes and returns: RGB for pictures, 4:2:0 for
    video. "for" says which pictures clients choose a model for: with "JPEG 79/87", those of
    quality 79 or less, or 87 or less where chroma has full resolution. "device" is what the server
    runs it on: its CPU or a GPU. "as shipped" means that a model's weights have the SHA-256 of the
    ones in this package. Times are means in milliseconds
    per request. Without a server at the default address, and with the server extra installed, the
    command starts one for the call.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    with server.observer() as upscaler:
        found = upscaler.status()
        route = upscaler.negotiate()
    if as_json:
        print_json(dataclasses.asdict(found) | dataclasses.asdict(route))
        return
    click.echo(f"server     {found.name} {found.version} at {found.address}")
    click.echo(f"transport  {route.transport}: {route.transport_reason}")
    click.echo(f"wire       {route.wire}: {route.wire_reason}")
    table = Table(box=SIMPLE)
    columns = (
        "model",
        "version",
        "scale",
        "frames",
        "for",
        "weights",
        "backend",
        "device",
        "state",
    )
    for name in columns:
        table.add_column(name)
    for name in ("answered", "failed", "queue ms", "network ms"):
        table.add_column(name, justify="right")
    shipped = shipped_weights()
    for model in found.models:
        table.add_row(*_row(model, shipped.get(model.name)))
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_COLUMNS)
    console.print(table)


def shipped_weights() -> dict[str, str]:
    """Return the SHA-256 of the weights of each model that is shipped with this package."""
    from rt4ksr_server.options import shipped_repository

    configs = [
        text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        for path in sorted(shipped_repository().glob("*/config.pbtxt"))
    ]
    return {c.name: c.parameters[Parameter.WEIGHTS_SHA256].string_value for c in configs}


def _row(model: ModelStatus, shipped_sha256: str | None) -> tuple[str, ...]:
    state = "ready" if model.ready else f"not ready {model.reason}".strip()
    if model.served is not None:
        scale, sha256 = f"x{model.served.scale}", model.served.weights_sha256
        frames, chosen_for = model.served.frame_format, chosen_pictures(model.served)
        weights = "as shipped" if sha256 == shipped_sha256 else f"other: {sha256[:8]}"
    else:
        scale, frames, weights = SCALE_COLUMN[model.kind] if model.ready else "", "", ""
        chosen_for = ""
    counts = ("", "", "", "")
    if model.statistics is not None:
        done = model.statistics
        counts = (
            f"{done.answered}",
            f"{done.failed}",
            f"{done.queue_ms:.1f}",
            f"{done.infer_ms:.1f}",
        )
    backend = (model.backend, model.device)
    about = (scale, frames, chosen_for, weights)
    return model.name, model.version, *about, *backend, state, *counts


def chosen_pictures(served: ServedModel) -> str:
    """Return the pictures that clients choose a model for, which depends on nothing but it."""
    if served.max_jpeg_quality or served.max_jpeg_quality_444:
        return f"JPEG {served.max_jpeg_quality:g}/{served.max_jpeg_quality_444:g}"
    return "default" if served.name in {spec.name for spec in DEFAULT_MODELS.values()} else ""
