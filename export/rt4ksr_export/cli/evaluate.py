"""``rt4ksr evaluate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rt4ksr_client import Upscaler
from rt4ksr_client.cli.options import overwrite_option
from rt4ksr_client.cli.security import security_options
from rt4ksr_client.cli.targets import check_target
from rt4ksr_client.contract import DEFAULT_MODELS, MODELS, Colours, models_for
from rt4ksr_client.errors import PictureError
from rt4ksr_client.files import atomic_write, write_errors
from rt4ksr_client.formats.compression import compression_of
from rt4ksr_client.model_choice import AUTO, model_for
from rt4ksr_client.security import Security
from rt4ksr_client.served_model import ServedModel
from rt4ksr_export.checkpoint import load_network, resolve_weights
from rt4ksr_export.conditions import ALL, CURVE, DEFAULT, Condition
from rt4ksr_export.degradations import Pixels
from rt4ksr_export.evaluation import (
    Chooser,
    Method,
    Regret,
    Scores,
    Summary,
    bicubic,
    evaluate,
    in_torch,
    regrets,
    summary_table,
)
from rt4ksr_export.network import RT4KSR
from rt4ksr_export.pictures import find_pictures, load_pictures
from rt4ksr_export.plots import plot_curve, plot_gains
from rt4ksr_export.video_evaluation import (
    CODECS,
    VideoMethod,
    VideoScores,
    VideoSummary,
    bicubic_planes,
    evaluate_video,
    network_method,
    server_method,
    smallest_picture_px,
    summarize_video,
)
from rt4ksr_export.vmaf import Vmaf

BASELINE = "bicubic"
SMALLEST_PX = 48
PIPED_COLUMNS = 140

Score = TypeVar("Score", Scores, VideoScores)
Row = TypeVar("Row", Summary, VideoSummary)


class ConditionType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A condition such as ``JPEG 90``, or ``all`` for a list of them."""

    name = "condition"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[Condition, ...]:
        """Return the conditions; one that cannot be read is wrong usage."""
        if value == "all":
            return ALL
        try:
            return (Condition.parse(value),)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


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
    metavar="FILE|NAME|auto",
    help="Weights to score; auto scores all that are shipped for photographs, and the choice among "
    "them by picture. May be given several times.  [default: the shipped ones]",
)
@click.option(
    "--url", metavar="HOST:PORT", help="Score the answers of a running server, by its gRPC port."
)
@click.option(
    "--model",
    metavar="NAME",
    help="With --url: the model; auto scores all that the server has for photographs, and the "
    "choice among them by picture.  [default: the one for --scale and --video]",
)
@click.option(
    "--video",
    is_flag=True,
    help="Score short clips in 4:2:0 (H.264, H.265, AV1) instead of photographs. Weights for RGB "
    "are scored between conversions.",
)
@click.option(
    "--condition",
    "conditions",
    multiple=True,
    type=ConditionType(),
    help="What the small photographs go through: clean, 'JPEG 90', 'JPEG 90 4:4:4', 'WEBP 80', "
    "'AVIF 60', or several with commas: 'JPEG 75, PNG'. all is a list of common ones. May be given "
    "several times.  [default: clean, JPEG 90, JPEG 75]",
)
@security_options
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Plot each picture's gain over bicubic to this PNG.",
)
@click.option(
    "--curve",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Plot the mean gain over the quality of JPEG to this PNG. Without --condition, these are "
    "qualities from 30 to 99.",
)
@overwrite_option("Replace the plots if they exist.")
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
    conditions: tuple[tuple[Condition, ...], ...],
    plot: Path | None,
    curve: Path | None,
    overwrite: bool,
    as_json: bool,
    security: Security,
) -> None:
    """Measure the quality of weights, or of a running server, against bicubic interpolation.

    \b
    Examples:
      rt4ksr evaluate --data photos/ --scale 2
      rt4ksr evaluate --data photos/ --scale 2 --weights mine.safetensors --weights rt4ksr_x2.pth
      rt4ksr evaluate --data photos/ --scale 2 --weights auto --condition all
      rt4ksr evaluate --data photos/ --scale 2 --weights auto --curve curve.png
      rt4ksr evaluate --data photos/ --scale 2 --url 127.0.0.1:8001
      rt4ksr evaluate --data photos/ --scale 2 --video

    Each picture is downscaled (Pillow's bicubic, antialiased), saved as each --condition says,
    upscaled, and compared with the original by PSNR and SSIM: 8-bit values, without a border of
    twice the scale; Y is that of BT.601. auto chooses weights for each small picture as rt4ksr
    upscale does; a second table has what that cost.

    With --video, each becomes a clip of five frames, a slow pan over 1280x720 pixels of its middle,
    compressed by x264 (rate factors 23 and 28), x265 (28) and SVT-AV1 (35). Scores are PSNR of Y, U
    and V and of RGB (BT.709); VMAF, if the program ffmpeg has libvmaf; detail, the energy of what
    is finer than a pixel in the luma, against the original's; and flicker, by how many codes the
    luma changes from frame to frame other than the original. Gains are in PSNR of RGB for
    photographs, of Y for video.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    for target, option in ((plot, "--plot"), (curve, "--curve")):
        if target is not None:
            check_target(target, overwrite=overwrite, option=option)
    if video and (conditions or curve):
        raise click.UsageError("--condition and --curve are for photographs, not for --video")
    is_auto = AUTO in weights
    wanted = sum(conditions, ()) or (CURVE if curve else DEFAULT)
    if curve and sum(condition.jpeg_quality is not None for condition in wanted) < 2:
        raise click.UsageError("--curve needs two qualities of JPEG: leave out --condition")
    console = Console(stderr=True)
    paths = find_pictures(data)
    with ExitStack() as stack:
        shipped = (models_for("video") if video else DEFAULT_MODELS)[int(scale)]
        upscaler = None
        if url is not None:
            upscaler = stack.enter_context(
                Upscaler(url, scale=int(scale), model=model or shipped.name, security=security)
            )
        elif not weights:
            weights = (shipped.weights_name,)
        if AUTO in weights:
            if video or model == AUTO:
                raise click.UsageError("auto is for photographs, once: by --weights or by --model")
            weights = (*(w for w in weights if w != AUTO), *_shipped(int(scale)))
        networks = {
            given: load_network(resolve_weights(given), scale=int(scale)) for given in weights
        }
        score: Callable[..., Report] = _score_video
        if not video:
            choose = _choose_weights(int(scale)) if is_auto else None
            score = partial(_score_photographs, wanted, choose)
        report = score(paths, int(scale), networks, upscaler, console)
    plots = (
        (plot, partial(plot_gains, report.scores, BASELINE)),
        (curve, partial(plot_curve, report.scores, BASELINE, wanted)),
    )
    for target, draw in plots:
        if target is not None:
            with write_errors(str(target)), atomic_write(target, replace=overwrite) as temporary:
                draw(temporary)
    if as_json:
        summary = [asdict(row) for row in report.rows]
        scores = [one.as_dict() for one in report.scores]
        found = {"summary": summary, "scores": scores}
        if report.regrets:
            found["regrets"] = [asdict(row) for row in report.regrets]
        click.echo(json.dumps(found))
        return
    output = Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS)
    report.table.title = f"x{scale}, {len({one.picture for one in report.scores})} pictures"
    output.print(report.table)
    if report.regrets:
        output.print(_regret_table(report.regrets))


@dataclass(frozen=True)
class Report:
    """What was found: every score, the means, and these as a table."""

    scores: Sequence[Scores] | Sequence[VideoScores]
    rows: Sequence[Summary] | Sequence[VideoSummary]
    table: Table
    regrets: Sequence[Regret] = ()


def _shipped(scale: int) -> list[str]:
    """Return the shipped weights for photographs."""
    specs = (spec for spec in MODELS.values() if spec.scale == scale and spec.colours == "rgb")
    return [spec.weights_name for spec in specs]


def _choose_weights(scale: int) -> Chooser:
    """Return what chooses among the shipped weights."""

    def choose(picture: Image.Image) -> str:
        default = DEFAULT_MODELS[scale]
        return model_for(compression_of(picture), default, MODELS.values()).weights_name

    return choose


def _score_photographs(
    conditions: Sequence[Condition],
    choose: Chooser | None,
    paths: list[Path],
    scale: int,
    networks: Mapping[str, RT4KSR],
    upscaler: Upscaler | None,
    console: Console,
) -> Report:
    """Score weights and a server on photographs."""
    methods: dict[str, Method] = {BASELINE: bicubic(scale)}
    if upscaler is not None:
        _require_rgb(upscaler.served_model.name, upscaler.served_model.colours)
        for served in upscaler.fetch_choices():
            methods[_name(served)] = partial(upscaler.upscale, model=served.name)
        if choose is None and click.get_current_context().params["model"] == AUTO:
            choose = partial(_choose_served, upscaler)
    for given, network in networks.items():
        _require_rgb(given, network.architecture.colours)
        methods[_unused(given, methods)] = in_torch(network)
    total = len(paths) * len(conditions) * (len(methods) + (choose is not None))
    pictures = _pictures(paths, SMALLEST_PX, console)
    scores = _collected(evaluate(pictures, scale, methods, conditions, choose), total, console)
    rows = summary_table(scores, BASELINE)
    columns = ("PSNR RGB", "PSNR Y", "SSIM RGB", "SSIM Y")
    return Report(
        scores,
        rows,
        _table(
            columns,
            rows,
            lambda row: (
                f"{row.psnr_rgb_db:.2f}",
                f"{row.psnr_y_db:.2f}",
                f"{row.ssim_rgb:.4f}",
                f"{row.ssim_y:.4f}",
            ),
        ),
        regrets(scores, BASELINE),
    )


def _choose_served(upscaler: Upscaler, picture: Image.Image) -> str:
    return _name(upscaler.choose_model(picture).model)


def _regret_table(rows: Sequence[Regret]) -> Table:
    """Return what choosing cost by condition."""
    table = Table(title="auto, against the best of the others", title_justify="left")
    for name in ("input", "chosen", "best on the mean"):
        table.add_column(name)
    for name in ("dB below it", "worst picture", "dB below its best"):
        table.add_column(name, justify="right")
    for row in rows:
        chosen = ", ".join(f"{name} {count}" for name, count in sorted(row.chosen.items()))
        losses = f"{row.mean_db:.3f}", row.worst_picture, f"{row.worst_db:.3f}"
        table.add_row(row.condition, chosen, row.best_method, *losses)
    return table


def _score_video(
    paths: list[Path],
    scale: int,
    networks: Mapping[str, RT4KSR],
    upscaler: Upscaler | None,
    console: Console,
) -> Report:
    """Score weights and a server on clips."""
    methods: dict[str, VideoMethod] = {BASELINE: bicubic_planes(scale)}
    if upscaler is not None:
        methods[_name(upscaler.served_model)] = server_method(upscaler)
    for given, network in networks.items():
        methods[_unused(given, methods)] = network_method(network)
    total = len(paths) * len(CODECS) * len(methods)
    pictures = _pictures(paths, smallest_picture_px(scale), console)
    vmaf = Vmaf()
    scores = _collected(evaluate_video(pictures, scale, methods, vmaf), total, console)
    rows = summarize_video(scores, BASELINE)
    columns = ("Y", "U", "V", "RGB", "VMAF", "detail", "flicker")
    table = _table(
        columns,
        rows,
        lambda row: (
            f"{row.psnr_y_db:.2f}",
            f"{row.psnr_u_db:.2f}",
            f"{row.psnr_v_db:.2f}",
            f"{row.psnr_rgb_db:.2f}",
            "-" if row.vmaf is None else f"{row.vmaf:.2f}",
            f"{row.detail:.3f}",
            f"{row.flicker:.3f}",
        ),
    )
    if vmaf.missing:
        table.caption = f"no VMAF: {vmaf.missing}"
    return Report(scores, rows, table)


def _require_rgb(name: str, colours: Colours) -> None:
    if colours != "rgb":
        raise click.UsageError(f"{name} is for video in 4:2:0: score it with --video")


def _name(served: ServedModel) -> str:
    url = click.get_current_context().params["url"]
    return f"{served.name} at {url}"


def _unused(given: str, methods: Mapping[str, object]) -> str:
    """Return the file's name, or its path where another file of that name is scored already."""
    name = Path(given).name
    return given if name in methods else name


def _collected(scores: Iterator[Score], total: int, console: Console) -> list[Score]:
    """Return all scores while a bar shows how many of ``total`` there are.

    Raises:
        PictureError: there is none.

    """
    collected = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("scoring", total=total)
        for score in scores:
            collected.append(score)
            progress.advance(task)
    if not collected:
        raise PictureError("no picture could be scored: see the reasons above")
    return collected


def _pictures(
    paths: list[Path], smallest_px: int, console: Console
) -> Iterator[tuple[str, Pixels]]:
    """Yield name and pixels of each picture, one at a time: a folder of any size fits in memory."""

    def report(path: Path, reason: str) -> None:
        console.print(f"skipped: {reason}", style="yellow", highlight=False)

    for path in paths:
        try:
            yield path.name, load_pictures([path], smallest_px, report)[0]
        except PictureError:
            continue  # reported above


def _table(
    columns: Sequence[str], rows: Sequence[Row], cells: Callable[[Row], Iterable[str]]
) -> Table:
    """Return the means by condition and method as a table."""
    table = Table(title_justify="left", caption_justify="left")
    for name in ("input", "method"):
        table.add_column(name)
    for name in (*columns, "gain dB", "worst gain dB"):
        table.add_column(name, justify="right")
    for row in rows:
        gains = f"{row.gain_db:+.3f}", f"{row.worst_gain_db:+.3f}"
        table.add_row(row.condition, row.method, *cells(row), *gains)
    return table
