"""``rt4ksr evaluate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rt4ksr_client import Upscaler
from rt4ksr_client.cli.options import overwrite_option
from rt4ksr_client.cli.security import security_options
from rt4ksr_client.cli.targets import check_target
from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_client.errors import PictureError
from rt4ksr_client.files import atomic_write, write_errors
from rt4ksr_client.security import Security
from rt4ksr_export.checkpoint import load_network, resolve_weights
from rt4ksr_export.degradations import Pixels
from rt4ksr_export.evaluation import (
    PHOTOGRAPHS,
    Scores,
    Summary,
    bicubic,
    evaluate,
    in_torch,
    plot_gains,
    summary_table,
)
from rt4ksr_export.pictures import find_pictures, load_pictures

BASELINE = "bicubic"
SMALLEST_PX = 48
PIPED_COLUMNS = 120


@click.command("evaluate")
@click.option(
    "--data",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A folder of pictures, or one picture. May be given several times. Pictures of 2500 "
    "pixels and more are halved first.",
)
@click.option(
    "--scale",
    type=click.Choice([str(s) for s in sorted(DEFAULT_MODELS)]),
    required=True,
    help="Factor to upscale by.",
)
@click.option(
    "--weights",
    multiple=True,
    metavar="FILE|NAME",
    help="Weights to score. May be given several times.  [default: the shipped ones]",
)
@click.option(
    "--url", metavar="HOST:PORT", help="Score the answers of a running server, by its gRPC port."
)
@click.option(
    "--model", metavar="NAME", help="With --url: the model.  [default: the one for --scale]"
)
@security_options
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Plot each picture's gain over bicubic to this PNG.",
)
@overwrite_option("Replace the plot if it exists.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print every score as JSON instead of the table."
)
def evaluate_command(
    data: tuple[Path, ...],
    scale: str,
    weights: tuple[str, ...],
    url: str | None,
    model: str | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
    security: Security,
) -> None:
    """Measure PSNR and SSIM of weights, or of a running server, against bicubic interpolation.

    \b
    Examples:
      rt4ksr evaluate --data photos/ --scale 2
      rt4ksr evaluate --data photos/ --scale 2 --weights mine.safetensors --weights rt4ksr_x2.pth
      rt4ksr evaluate --data photos/ --scale 2 --url 127.0.0.1:8001

    Each picture is downscaled (Pillow's bicubic, antialiased), upscaled as it is and after JPEG
    compression of quality 90 and 75, and compared with the original: 8-bit values,
    without a border of twice the scale; Y is that of BT.601.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    if plot is not None:
        check_target(plot, overwrite=overwrite, option="--plot")
    console = Console(stderr=True)
    paths = find_pictures(data)
    conditions = PHOTOGRAPHS
    with ExitStack() as stack:
        methods = {BASELINE: bicubic(int(scale))}
        if url is not None:
            upscaler = stack.enter_context(
                Upscaler(url, scale=int(scale), model=model, security=security)
            )
            methods[f"{upscaler.served_model.name} at {url}"] = upscaler.upscale
        elif not weights:
            weights = (DEFAULT_MODELS[int(scale)].name,)
        for given in weights:
            # Two files of the same name are distinguished by their paths.
            name = given if Path(given).name in methods else Path(given).name
            methods[name] = in_torch(load_network(resolve_weights(given), scale=int(scale)))
        scores: list[Scores] = []
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("scoring", total=len(paths) * len(conditions) * len(methods))
            for score in evaluate(_pictures(paths, console), int(scale), methods, conditions):
                scores.append(score)
                progress.advance(task)
    if not scores:
        raise PictureError("no picture could be scored: see the reasons above")
    rows = summary_table(scores, BASELINE)
    if plot is not None:
        with write_errors(str(plot)), atomic_write(plot, replace=overwrite) as temporary:
            plot_gains(scores, BASELINE, temporary)
    if as_json:
        summary = [asdict(row) for row in rows]
        click.echo(json.dumps({"summary": summary, "scores": [s.as_dict() for s in scores]}))
    else:
        count = len({score.picture for score in scores})
        wide = None if sys.stdout.isatty() else PIPED_COLUMNS
        Console(width=wide).print(_score_table(rows, f"x{scale}, {count} pictures"))


def _pictures(paths: list[Path], console: Console) -> Iterator[tuple[str, Pixels]]:
    """Yield name and pixels of each picture, one at a time: a folder of any size fits in memory."""

    def report(path: Path, reason: str) -> None:
        console.print(f"skipped: {reason}", style="yellow", highlight=False)

    for path in paths:
        try:
            yield path.name, load_pictures([path], SMALLEST_PX, report)[0]
        except PictureError:
            continue  # reported above


def _score_table(rows: list[Summary], title: str) -> Table:
    """Return the means by condition and method as a table."""
    table = Table(title=title, title_justify="left")
    for name in ("input", "method"):
        table.add_column(name)
    for name in ("PSNR RGB", "PSNR Y", "SSIM RGB", "SSIM Y", "gain dB", "worst gain dB"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.condition,
            row.method,
            f"{row.psnr_rgb_db:.2f}",
            f"{row.psnr_y_db:.2f}",
            f"{row.ssim_rgb:.4f}",
            f"{row.ssim_y:.4f}",
            f"{row.gain_db:+.3f}",
            f"{row.worst_gain_db:+.3f}",
        )
    return table
