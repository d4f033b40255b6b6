"""``rt4ksr upscale``: upscale picture files."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Final

import click
from PIL import Image

from rt4ksr_client.call import Cancellation
from rt4ksr_client.cli.console import (
    print_json,
    printable,
    progress_bar,
    show_picture_warnings,
)
from rt4ksr_client.cli.jobs import Job, default_target, jobs_in_folder
from rt4ksr_client.cli.options import scale_option, server_options, verbosity
from rt4ksr_client.cli.output_size import Box
from rt4ksr_client.cli.picture_file import STREAM, Result, Settings, upscale_file
from rt4ksr_client.cli.server import Models, ServerChoice
from rt4ksr_client.concurrency import in_order
from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_client.errors import PictureError, Rt4ksrError, ServerUnreachableError
from rt4ksr_client.upscaler import DEFAULT_SCALE

__all__ = ["upscale"]

PICTURES_IN_FLIGHT: Final = 3
EXTENSIONS: Final = {
    "png": ".png",
    "jpeg": ".jpg",
    "webp": ".webp",
    "avif": ".avif",
    "tiff": ".tiff",
    "bmp": ".bmp",
    "gif": ".gif",
}


class BoxType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """An option's value such as ``4k`` or ``1280x720``."""

    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> Box:
        """Return the box; a size that cannot be read is wrong usage."""
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
    help="The file or folder to write; - is standard output.  [default: beside SOURCE, named after "
    "what it is: small_x2.png, or small_4k.png with --to 4k]",
)
@scale_option
@click.option(
    "--to",
    "box",
    type=BoxType(),
    help="Fit into 4k, 8k, 1080p, 1440p or WIDTHxHEIGHT, keeping the aspect ratio: upscale, then "
    "resample. Without --scale, the models are chosen that need the least work.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(EXTENSIONS)),
    help="Format to write.  [default: by the suffix of the output, otherwise png]",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="Quality of JPEG, WebP and AVIF.  [default: 95, 90, 80]",
)
@click.option(
    "--strip-metadata", is_flag=True, help="Leave out ICC profile, EXIF, XMP, IPTC and DPI."
)
@click.option(
    "--overwrite", is_flag=True, help="In a folder, also upscale pictures that are up to date."
)
@click.option(
    "--max-pixels",
    "max_px",
    type=click.IntRange(min=1),
    default=Image.MAX_IMAGE_PIXELS,
    show_default=True,
    help="Reject sources with more pixels: protection against decompression bombs.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one line of JSON per picture; for a folder, one more with all failures.",
)
@server_options
@click.pass_context
def upscale(
    context: click.Context,
    /,
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
    server: ServerChoice,
) -> None:
    """Upscale the picture SOURCE, or every picture below the folder SOURCE.

    \b
    Examples:
      rt4ksr upscale small.jpg                          writes small_x2.png
      rt4ksr upscale in.jpg out.webp --scale 3          720p becomes 4K
      rt4ksr upscale album/ --format jpeg               writes album_x2/; run it again to continue
      rt4ksr upscale old.png --to 4k                    any size to 3840x2160: old_4k.png
      rt4ksr upscale chat.jpg --model rt4ksr_x2_jpeg    for photos with visible JPEG artefacts
      cat in.png | rt4ksr upscale - -o - > out.png

    Uses the server at --url; without one, and with the server extra installed, it starts a server
    for the call. PNG is written at compression level 1, in a quarter of the time of level 6 and a
    fifth larger; JPEG takes a twentieth of that time.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    if target is not None and output is not None:
        raise click.UsageError("give the output once: as TARGET or with -o")
    if source != STREAM and not source.exists():
        raise PictureError(f"{printable(source)}: there is no such file")
    show_picture_warnings()
    Image.MAX_IMAGE_PIXELS = max(max_px, Image.MAX_IMAGE_PIXELS or 0)
    settings = Settings(box, format_name and format_name.upper(), quality, strip_metadata, max_px)
    if scale is None and box is None and server.model is None:
        scale = DEFAULT_SCALE
    scales = sorted(DEFAULT_MODELS) if scale is None else [scale]
    extension = EXTENSIONS[format_name or "png"]
    target = target or output or (STREAM if source == STREAM else None)
    report = Report(as_json, quiet=target == STREAM, verbose=verbosity(context) > 0)
    with server.models([DEFAULT_MODELS[s].name for s in scales], scale) as models:
        if target is None:
            label = box.name if box else f"x{scale or models.first.served_model.scale}"
            target = default_target(source, label, extension)
        if source.is_dir():
            upscale_folder(source, target, extension, overwrite, settings, models, report)
        elif target != STREAM and target.is_dir():
            raise PictureError(f"{printable(target)}: a folder; give the name of a file")
        else:
            report.add(upscale_file(source, target, models, settings))


def upscale_folder(
    source: Path,
    target: Path,
    extension: str,
    overwrite: bool,
    settings: Settings,
    models: Models,
    report: Report,
) -> None:
    """Upscale the pictures below ``source`` into the folder ``target``; exit with 1 if some fail.

    Raises:
        PictureError: ``source`` has no pictures, or ``target`` is not a folder of its own.
        ServerError: the server is gone; further pictures would fail too.

    """
    if target.exists() and not target.is_dir():
        raise PictureError(f"{printable(target)}: a file; give the name of a folder")
    if target.exists() and target.samefile(source):
        raise PictureError(f"{printable(target)}: this is the source itself: give another folder")
    jobs = jobs_in_folder(source, target, extension)
    pending = [job for job in jobs if overwrite or not job.is_done()]
    report.skipped = len(jobs) - len(pending)

    def work(job: Job, cancellation: Cancellation) -> tuple[Job, Result | Rt4ksrError]:
        try:
            _create_folder(job.target.parent)
            return job, upscale_file(job.source, job.target, models, settings, cancellation)
        except ServerUnreachableError as exc:
            raise ServerUnreachableError(
                f"{exc}; finished pictures are kept: run the same command again to continue"
            ) from exc
        except Rt4ksrError as exc:
            return job, exc

    try:
        if pending:
            _ = models.by_scale  # without a server, fail once and not once per picture
            with progress_bar() as progress:
                task = progress.add_task("upscaling", total=len(pending))
                for job, outcome in in_order(work, pending, PICTURES_IN_FLIGHT):
                    if isinstance(outcome, Result):
                        report.add(outcome)
                    else:
                        report.add_failure(job, outcome)
                    progress.advance(task)
    finally:
        report.finish()
    if report.failures:
        sys.exit(1)


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise PictureError(f"{printable(folder)}: cannot be created: {exc.strerror}") from exc


@dataclasses.dataclass
class Report:
    """Prints what was done: lines for people, or JSON; ``quiet`` if stdout is the picture."""

    as_json: bool
    quiet: bool
    verbose: bool
    skipped: int = 0
    finished: int = 0
    failures: list[tuple[Job, Rt4ksrError]] = dataclasses.field(default_factory=list)

    def add(self, result: Result) -> None:
        """Print a finished picture."""
        self.finished += 1
        if self.as_json and not self.quiet:
            print_json(dataclasses.asdict(result))
        elif not self.quiet:
            sizes = "{}x{} -> {}x{}".format(*result.before_px, *result.after_px)
            click.echo(f"{printable(result.target)}: {sizes}")
        if self.verbose:
            stages = ", ".join(f"{name} {ms:.0f} ms" for name, ms in result.stages_ms.items())
            click.echo(f"  {', '.join(result.models) or 'no model'}: {stages}", err=True)

    def add_failure(self, job: Job, error: Rt4ksrError) -> None:
        """Print a picture of a folder that failed."""
        self.failures.append((job, error))
        if self.as_json:
            print_json({"source": str(job.source), "error": str(error)})
        click.echo(f"rt4ksr: error: {_describe(job, error)}", err=True)

    def finish(self) -> None:
        """Print how a folder went, and all failures again: their lines above have scrolled away."""
        counts = {
            "upscaled": self.finished,
            "done_before": self.skipped,
            "failed": len(self.failures),
        }
        if self.as_json:
            rows = [{"source": str(job.source), "error": str(exc)} for job, exc in self.failures]
            print_json({**counts, "failures": rows})
        summary = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items())
        click.echo(summary + ":" * bool(self.failures), err=True)
        for job, error in self.failures:
            click.echo(f"  {_describe(job, error)}", err=True)


def _describe(job: Job, error: Rt4ksrError) -> str:
    """Return the error with the picture's name, which most errors have already."""
    text = str(error)
    return printable(text if str(job.source) in text else f"{job.source}: {text}")
