"""``rt4ksr evaluate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rt4ksr_client import Upscaler
from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_client.errors import CheckpointError, PictureError
from rt4ksr_client.files import atomic_write
from rt4ksr_export.checkpoint import load_network, resolve_weights
from rt4ksr_export.evaluate import (
    FRAMES,
    PHOTOGRAPHS,
    Method,
    Scores,
    Summary,
    bicubic,
    evaluate,
    plot_gains,
    summary_table,
)
from rt4ksr_export.fusion import fuse
from rt4ksr_export.training.degradations import Pixels
from rt4ksr_export.training.pictures import find_pictures, load_pictures
from rt4ksr_export.training.validation import upscale_pixels

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
@click.option(
    "--video",
    is_flag=True,
    help="Score frames of H.264 video (rate factors 23 and 28) instead of photographs.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Plot each picture's gain over bicubic to this PNG.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print every score as JSON instead of the table."
)
def evaluate_command(
    data: tuple[Path, ...],
    scale: str,
    weights: tuple[str, ...],
    url: str | None,
    model: str | None,
    video: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure PSNR and SSIM of weights, or of a running server, against bicubic interpolation.

    \b
    Examples:
      rt4ksr evaluate --data photos/ --scale 2
      rt4ksr evaluate --data photos/ --scale 2 --weights mine.safetensors --weights rt4ksr_x2.pth
      rt4ksr evaluate --data photos/ --scale 2 --url 127.0.0.1:8001

    Each picture is downscaled (Pillow's bicubic, antialiased), upscaled as it is and after JPEG
    compression of quality 90 and 75 (--video: H.264), and compared with the original: 8-bit values,
    without a border of twice the scale; Y is that of BT.601.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    console = Console(stderr=True)
    paths = find_pictures(data)
    with ExitStack() as stack:
        methods = _methods(int(scale), weights, url, model, stack)
        methods = {BASELINE: bicubic(int(scale)), **methods}
        conditions = FRAMES if video else PHOTOGRAPHS
        scores = _scored(paths, int(scale), methods, conditions, console)
    rows = summary_table(scores, BASELINE)
    if plot is not None:
        with atomic_write(plot) as temporary:
            plot_gains(scores, BASELINE, temporary)
    if as_json:
        summary = [asdict(row) for row in rows]
        click.echo(json.dumps({"summary": summary, "scores": [s.as_dict() for s in scores]}))
    else:
        pictures = len({score.picture for score in scores})
        wide = None if sys.stdout.isatty() else PIPED_COLUMNS
        Console(width=wide).print(_table(rows, f"x{scale}, {pictures} pictures"))


def _methods(
    scale: int, weights: tuple[str, ...], url: str | None, model: str | None, stack: ExitStack
) -> dict[str, Method]:
    methods: dict[str, Method] = {}
    if url is not None:
        upscaler = stack.enter_context(Upscaler(url, scale=scale, model=model))
        methods[f"{upscaler.served_model.name} at {url}"] = upscaler.upscale
    elif not weights:
        weights = (DEFAULT_MODELS[scale].name,)
    for given in weights:
        methods[_unused(given, methods)] = _in_torch(given, scale)
    return methods


def _unused(given: str, methods: dict[str, Method]) -> str:
    """Return the file's name, or all of its path where two have one name."""
    name = Path(given).name
    return given if name in methods else name


def _in_torch(given: str, scale: int) -> Method:
    network = load_network(resolve_weights(given))
    if network.architecture.scale != scale:
        raise CheckpointError(
            f"{given}: these weights are for x{network.architecture.scale}, not x{scale}"
        )
    fused = fuse(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return lambda small: upscale_pixels(fused, small)


def _scored(
    paths: list[Path],
    scale: int,
    methods: dict[str, Method],
    conditions: Sequence[str],
    console: Console,
) -> list[Scores]:
    scores: list[Scores] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("scoring", total=len(paths) * len(conditions) * len(methods))
        for score in evaluate(_pictures(paths, console), scale, methods, conditions):
            scores.append(score)
            progress.advance(task)
    if not scores:
        raise PictureError("no picture could be scored: see the reasons above")
    return scores


def _pictures(paths: list[Path], console: Console) -> Iterator[tuple[str, Pixels]]:
    """One at a time, so that a folder of any size fits in memory."""

    def skipped(path: Path, reason: str) -> None:
        console.print(f"left out: {reason}", style="yellow", highlight=False)

    for path in paths:
        try:
            yield path.name, load_pictures([path], SMALLEST_PX, skipped)[0]
        except PictureError:
            continue  # said by `skipped`


def _table(rows: list[Summary], title: str) -> Table:
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
