"""``rt4ksr status``: what a server serves, how it did so far, and how it would be reached."""

from __future__ import annotations

import dataclasses
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from rt4ksr_client.cli.options import ServerChoice, print_json, server_options
from rt4ksr_client.cli.server import shipped_weights
from rt4ksr_client.status import ModelStatus, ServerStatus

_PIPED_WIDTH = 160
_PURPOSES = {
    "endpoint": "takes pictures",
    "stage": "codec",
    "unknown": "not of this project",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
@server_options
def status(as_json: bool, server: ServerChoice) -> None:
    """Show the server, its models, their work so far, and the transport in use.

    Whether a model's weights are those that came with this package is told by their SHA-256, which
    the export wrote into the model's configuration.
    """
    with server.observer() as upscaler:
        found = upscaler.status()
        transport, reason = upscaler.transport_name, upscaler.transport_reason
        wire, wire_reason = upscaler.wire_name, upscaler.wire_reason
    if as_json:
        chosen = {"transport": transport, "transport_reason": reason}
        travels = {"wire": wire, "wire_reason": wire_reason}
        print_json(dataclasses.asdict(found) | chosen | travels)
        return
    click.echo(f"server     {found.name} {found.version} at {found.address}")
    click.echo(f"transport  {transport}: {reason}")
    click.echo(f"wire       {wire}: {wire_reason}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPED_WIDTH)
    console.print(_table(found))


def _table(found: ServerStatus) -> Table:
    table = Table(box=SIMPLE)
    for name in ("model", "version", "scale", "weights", "backend", "state"):
        table.add_column(name)
    for name in ("answered", "failed", "queue ms", "network ms"):
        table.add_column(name, justify="right")
    shipped = shipped_weights()
    for model in found.models:
        table.add_row(*_row(model, shipped.get(model.name)))
    return table


def _row(model: ModelStatus, shipped_sha256: str | None) -> tuple[Any, ...]:
    served, done = model.served, model.statistics
    state = "ready" if model.ready else f"not ready {model.reason}".strip()
    counts = ("", "", "", "")
    if done is not None:
        times = (f"{done.queue_ms:.1f}", f"{done.infer_ms:.1f}")
        counts = (str(done.answered), str(done.failed), *times)
    scale = f"x{served.scale}" if served else _PURPOSES[model.kind] if model.ready else ""
    weights = ""
    if served is not None:
        ours = served.weights_sha256 == shipped_sha256
        weights = "as shipped" if ours else f"other: {served.weights_sha256[:8]}"
    return model.name, model.version, scale, weights, model.backend, state, *counts
