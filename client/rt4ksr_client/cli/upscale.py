"""``rt4ksr upscale``: picture files in, larger picture files out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
from PIL import Image

from rt4ksr_client.call import Cancellation
from rt4ksr_client.cli.jobs import Job, default_target, is_done, jobs_in_folder
from rt4ksr_client.cli.options import (
    SCALES,
    ServerChoice,
    print_json,
    progress_bar,
    say_warnings,
    scale_option,
    server_options,
    shown,
)
from rt4ksr_client.cli.output_size import Box
from rt4ksr_client.cli.picture_file import STREAM, Enlarged, Settings, enlarge
from rt4ksr_client.cli.server import Models
from rt4ksr_client.concurrency import in_order
from rt4ksr_client.errors import PictureError, Rt4ksrError, ServerUnreachableError

__all__ = ["SCALES", "upscale"]

_PICTURES_IN_FLIGHT = 3
_EXTENSIONS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "avif": ".avif", "tiff": ".tiff"}
_EXTENSIONS |= {"bmp": ".bmp", "gif": ".gif"}


class _BoxType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> Box:
        try:
            return value if isinstance(value, Box) else Box.parse(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


@click.command()
@click.argument("source", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("target", type=click.Path(path_type=Path, allow_dash=True), required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File or folder to write, - for standard output. Default: SOURCE_4k beside it.",
)
@scale_option
@click.option(
    "--to",
    "box",
    type=_BoxType(),
    help="Fit into 4k, 8k, 1080p, 1440p or WIDTHxHEIGHT, shape kept: upscaled, then resampled. "
    "Without --scale by the models with the least work.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(_EXTENSIONS)),
    help="Default: by the suffix of the output, else png.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="Of JPEG (default 95), WebP (90) or AVIF (80).",
)
@click.option("--strip-metadata", is_flag=True, help="Leave out ICC, EXIF, XMP, IPTC and DPI.")
@click.option("--overwrite", is_flag=True, help="In a folder: also what is there and up to date.")
@click.option(
    "--max-pixels",
    "max_px",
    type=click.IntRange(min=1),
    default=Image.MAX_IMAGE_PIXELS,
    show_default=True,
    help="Refuse larger sources, against decompression bombs.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One line of JSON per picture on stdout; for a folder one more, with all that failed.",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="Say which models and how long each stage took."
)
@server_options
def upscale(
    source: Path,
    target: Path | None,
    output: Path | None,
    scale: int | None,
    box: Box | None,
    format_name: str | None,
    quality: int | None,
    strip_metadata: bool,
    overwrite: bool,
    max_px: int,
    as_json: bool,
    verbose: bool,
    server: ServerChoice,
) -> None:
    """Upscale the picture SOURCE, or every picture below the folder SOURCE.

    \b
    rt4ksr upscale holiday.jpg                       holiday_4k.png beside it
    rt4ksr upscale in.jpg out.webp --scale 3         x3: 720p becomes 4K
    rt4ksr upscale album/ -o album_4k/ --format jpeg   skips what is done
    rt4ksr upscale old.png --to 4k                   any size into 3840x2160
    rt4ksr upscale chat.jpg --model rt4ksr_x2_jpeg   for visibly compressed photographs
    cat in.png | rt4ksr upscale - -o - > out.png

    PNG is written at level 1: a quarter of the time of the usual 6 for files a fifth larger.
    JPEG takes a twentieth of that. A running server is needed ('rt4ksr serve'), or --local.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    if target is not None and output is not None:
        raise click.UsageError("give the output once: as TARGET or with -o")
    say_warnings()
    Image.MAX_IMAGE_PIXELS = max(max_px, Image.MAX_IMAGE_PIXELS or 0)
    format_wanted = format_name.upper() if format_name else None
    settings = Settings(box, format_wanted, quality, strip_metadata, max_px)
    models = server.models(scale, any_scale=box is not None)
    extension = _EXTENSIONS[format_name or "png"]
    report = _Report(as_json, verbose)
    if source.is_dir():
        folder = target or output or default_target(source, extension)
        _upscale_folder(source, folder, extension, overwrite, settings, models, report)
        return
    chosen = target or output or (STREAM if source == STREAM else default_target(source, extension))
    report.quiet = chosen == STREAM
    _check_single(source, chosen, settings)
    with models as opened:
        report.done(enlarge(source, chosen, opened, settings))


def _check_single(source: Path, target: Path, settings: Settings) -> None:
    """Say what is wrong before a server is asked."""
    if source != STREAM and not source.exists():
        raise PictureError(f"{shown(source)}: there is no such file")
    if target != STREAM and target.is_dir():
        raise PictureError(f"{shown(target)}: a folder; give the name of a file")
    settings.format_for(target)


def _upscale_folder(
    source: Path,
    target: Path,
    extension: str,
    overwrite: bool,
    settings: Settings,
    models: AbstractContextManager[Models],
    report: _Report,
) -> None:
    if target.exists() and not target.is_dir():
        raise PictureError(f"{shown(target)}: a file; a folder of pictures needs a folder")
    if target.exists() and target.samefile(source):
        raise PictureError(f"{shown(target)}: this is the source itself: give another folder")
    jobs = jobs_in_folder(source, target, extension)
    todo = [job for job in jobs if overwrite or not is_done(job)]
    report.skipped = len(jobs) - len(todo)
    try:
        if todo:
            with models as opened:
                _check_server(opened)
                _run(todo, opened, settings, report)
    finally:
        report.end()
    if report.failures:
        sys.exit(1)


def _check_server(models: Models) -> None:
    """Fail once, not once per picture, where there is no server at all."""
    _ = models.by_scale


def _run(jobs: list[Job], models: Models, settings: Settings, report: _Report) -> None:
    work = _guarded(models, settings)
    with progress_bar() as progress:
        task = progress.add_task("upscaling", total=len(jobs))
        for outcome in in_order(work, jobs, _PICTURES_IN_FLIGHT):
            report.take(outcome)
            progress.advance(task)


def _guarded(
    models: Models, settings: Settings
) -> Callable[[Job, Cancellation], Enlarged | tuple[Job, Rt4ksrError]]:
    def work(job: Job, cancellation: Cancellation) -> Enlarged | tuple[Job, Rt4ksrError]:
        try:
            _make_folder(job.target.parent)
            return enlarge(job.source, job.target, models, settings, cancellation)
        except ServerUnreachableError as exc:
            raise ServerUnreachableError(
                f"{exc}; what is done is kept: run it again to go on from there"
            ) from exc
        except Rt4ksrError as exc:
            return job, exc

    return work


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise PictureError(f"{shown(folder)}: cannot be made: {exc.strerror}") from exc


@dataclasses.dataclass
class _Report:
    """What a person, or a machine with ``--json``, is told."""

    as_json: bool
    verbose: bool
    quiet: bool = False
    skipped: int = 0
    finished: int = 0
    failures: list[tuple[Job, Rt4ksrError]] = dataclasses.field(default_factory=list)

    def take(self, outcome: Enlarged | tuple[Job, Rt4ksrError]) -> None:
        """Tell the outcome of one picture of several."""
        if isinstance(outcome, Enlarged):
            self.done(outcome)
            return
        self.failures.append(outcome)
        job, error = outcome
        if self.as_json:
            print_json(_failure(job, error))
        click.echo(f"rt4ksr: error: {_with_name(job, error)}", err=True)

    def done(self, result: Enlarged) -> None:
        """Tell of a picture that was upscaled."""
        self.finished += 1
        if self.as_json and not self.quiet:
            print_json(dataclasses.asdict(result))
        elif not self.quiet:
            sizes = "{}x{} -> {}x{}".format(*result.before_px, *result.after_px)
            click.echo(f"{shown(result.target)}: {sizes}")
        if self.verbose:
            stages = ", ".join(f"{name} {ms:.0f} ms" for name, ms in result.stages_ms.items())
            click.echo(f"  {', '.join(result.models) or 'no model'}: {stages}", err=True)

    def end(self) -> None:
        """Tell how a folder went, and again which pictures failed: above, they have scrolled by."""
        counts = {
            "upscaled": self.finished,
            "done_before": self.skipped,
            "failed": len(self.failures),
        }
        if self.as_json:
            failures = [_failure(*failure) for failure in self.failures]
            print_json({**counts, "failures": failures})
        told = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items())
        click.echo(told + ":" * bool(self.failures), err=True)
        for failure in self.failures:
            click.echo(f"  {_with_name(*failure)}", err=True)


def _with_name(job: Job, error: Rt4ksrError) -> str:
    """Return what went wrong with which picture; most errors name it themselves."""
    text = str(error)
    return shown(text if str(job.source) in text else f"{job.source}: {text}")


def _failure(job: Job, error: Rt4ksrError) -> dict[str, str]:
    return {"source": str(job.source), "error": str(error)}
