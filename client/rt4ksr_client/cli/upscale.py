"""``rt4ksr upscale``: upscale picture files."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from PIL import Image

from rt4ksr_client.call import Cancellation
from rt4ksr_client.cli.console import printable, progress_bar, show_picture_warnings
from rt4ksr_client.cli.jobs import Failure, Job, Naming, plan_jobs
from rt4ksr_client.cli.options import overwrite_option, scale_option, server_options, verbosity
from rt4ksr_client.cli.output_size import Box
from rt4ksr_client.cli.picture_file import STREAM, Result, Settings, upscale_file
from rt4ksr_client.cli.report import Report
from rt4ksr_client.cli.results import LIST_NAME, FileStamp
from rt4ksr_client.cli.server import Models, ServerChoice
from rt4ksr_client.cli.targets import check_target, default_target, identity_of, is_folder
from rt4ksr_client.concurrency import in_order
from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_client.errors import PictureError, Rt4ksrError, ServerUnreachableError
from rt4ksr_client.files import is_stream, read_errors, readable_suffixes, write_errors
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
@click.argument(
    "words", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(allow_dash=True)
)
@click.option(
    "-o",
    "--output",
    metavar="FILE|FOLDER",
    help="The file to write, or the folder for several results; - is standard output.  [default: "
    "beside each SOURCE, named after what it is: small_x2.png, or small_4k.png with --to 4k]",
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
    "--strip-metadata",
    is_flag=True,
    help="Leave out colour space, EXIF, XMP, IPTC, texts and DPI.",
)
@overwrite_option("Replace files that exist; in a folder, also results that are up to date.")
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
    help="Print one line of JSON per picture; for several, one more with all failures.",
)
@server_options
@click.pass_context
def upscale(
    context: click.Context,
    /,
    words: tuple[str, ...],
    output: str | None,
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
    """Upscale pictures: each SOURCE, and every picture below it if it is a folder.

    \b
    Examples:
      rt4ksr upscale small.jpg                          writes small_x2.png
      rt4ksr upscale in.jpg -o out.webp --scale 3       720p becomes 4K
      rt4ksr upscale *.jpg -o large/                    writes large/, one file for each
      rt4ksr upscale album/ --format jpeg               writes album_x2/; run it again to continue
      rt4ksr upscale old.png --to 4k                    any size to 3840x2160: old_4k.png
      rt4ksr upscale chat.jpg -v                        prints the model it chose, and why
      rt4ksr upscale in.png --model rt4ksr_x2_jpeg      this model for every picture
      cat in.png | rt4ksr upscale - -o - > out.png

    A file that exists is only replaced with --overwrite. A folder of results has a list of them,
    .rt4ksr.jsonl: running the command again skips those that are up to date, and writes those
    again whose sources have changed.

    Each picture goes to the model for how it was compressed. A JPEG file says that itself, and the
    pixels show it: a JPEG that was stored as PNG, or saved again at a higher quality, goes to a
    model for compressed pictures, too.

    Uses the server at --url; without one, and with the server extra installed, it starts a server
    for the call. PNG is written on all cores, in about the size of zlib's level 1 and an eighth of
    its time; a JPEG takes about as long and has a fifth of the size.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    words, output = split_output(words, output)
    sources = [_to_path(word) for word in words]
    if STREAM in sources and len(sources) > 1:
        raise click.UsageError("-, which is standard input, must be the only SOURCE")
    show_picture_warnings()
    Image.MAX_IMAGE_PIXELS = max(max_px, Image.MAX_IMAGE_PIXELS or 0)
    settings = Settings(box, format_name and format_name.upper(), quality, strip_metadata, max_px)
    if scale is None and box is None and server.model is None:
        scale = DEFAULT_SCALE
    scales = sorted(DEFAULT_MODELS) if scale is None else [scale]
    target = _to_path(output) if output is not None else STREAM if sources == [STREAM] else None
    several = (
        len(sources) > 1
        or (sources != [STREAM] and is_folder(sources[0]))
        or (output is not None and output.endswith(os.sep))
        or (target not in (None, STREAM) and is_folder(target))
    )
    report = Report(as_json, quiet=_is_stdout(target), verbose=verbosity(context) > 0)
    with server.picture_models(scales, scale) as models:
        label = ""
        if target is None:
            label = box.name if box else f"x{scale or models.first.served_model.scale}"
        options = {
            "scale": scale,
            "model": server.model,
            "to": box and box.name,
            "quality": quality,
            "strip_metadata": strip_metadata or None,
        }
        options = {name: value for name, value in options.items() if value is not None}
        naming = Naming(label, EXTENSIONS[format_name or "png"], options)
        if several:
            upscale_several(sources, target, naming, overwrite, settings, models, report)
        else:
            upscale_one(sources[0], target, naming, overwrite, settings, models, report)


def split_output(words: tuple[str, ...], output: str | None) -> tuple[tuple[str, ...], str | None]:
    """Return the sources and the output; of two words, the second may be the output.

    It is, if it is ``-``, a FIFO or a device, a folder of results, or nothing yet. Two pictures are
    two sources.
    """
    if len(words) != 2:
        return words, output
    first, second = words
    is_new = second != str(STREAM) and not os.path.lexists(second)
    if output is not None:
        if is_new:
            raise click.UsageError(
                f"{printable(second)}: there is no such file; give the output once, with -o"
            )
        return words, output
    if is_new:
        click.echo(
            f"rt4ksr: {printable(second)} does not exist: it is the output (write -o "
            f"{printable(second)}, for once it exists it will be a second source)",
            err=True,
        )
    is_results = is_folder(Path(first)) and identity_of(Path(second, LIST_NAME)) is not None
    if is_new or is_results or second == str(STREAM) or is_stream(Path(second)):
        return (first,), second
    return words, None


def _to_path(word: str) -> Path:
    if not word:
        raise click.UsageError("a name is empty")
    path = Path(word)
    return path.absolute() if path == STREAM and word != str(STREAM) else path


def _is_stdout(target: Path | None) -> bool:
    """Whether the picture goes to standard output, which may have another name: /dev/stdout."""
    if target is None or target == STREAM:
        return target == STREAM
    try:
        return os.path.samestat(target.stat(), os.fstat(sys.stdout.fileno()))
    except OSError:  # not a file of the system, as in tests
        return False


def upscale_one(
    source: Path,
    target: Path | None,
    naming: Naming,
    overwrite: bool,
    settings: Settings,
    models: Models,
    report: Report,
) -> None:
    """Upscale the file ``source``, or standard input, into the file ``target``.

    Raises:
        Rt4ksrError: it cannot be read or written, or ``target`` is a file that is kept.

    """
    if source != STREAM and identity_of(source) is None:
        raise PictureError(f"{printable(source)}: there is no such file")
    if target is None:
        if is_stream(source):
            raise PictureError(f"{printable(source)}: not a file: give the output with -o")
        target = default_target(source, naming.label, naming.extension)
    if target != STREAM:
        check_target(target, source, overwrite=overwrite)
    report.add(upscale_file(source, target, models, settings, replace=overwrite))


def upscale_several(
    sources: Sequence[Path],
    output: Path | None,
    naming: Naming,
    overwrite: bool,
    settings: Settings,
    models: Models,
    report: Report,
) -> None:
    """Upscale files, and the pictures below folders; exit with 1 if some fail.

    Raises:
        PictureError: there are no pictures, or ``output`` is not a folder of its own.
        ServerError: the server is gone; further pictures would fail too.

    """
    _check_output_folder(sources, output)
    plan = plan_jobs(sources, output, naming, overwrite=overwrite)
    report.add_plan(plan)
    if not (plan.jobs or plan.failures or plan.done_before):
        where = printable(sources[0]) if len(sources) == 1 else f"{len(sources)} folders"
        skipped = f"; {report.skipped_summary()}" if plan.skipped.total() else ""
        raise PictureError(f"{where}: no pictures in this folder{skipped}")

    def work(job: Job, cancellation: Cancellation) -> tuple[Job, Result | Rt4ksrError]:
        try:
            return job, _run(job, naming, models, settings, cancellation)
        except ServerUnreachableError as exc:
            raise ServerUnreachableError(
                f"{exc}; finished pictures are kept: run the same command again to continue"
            ) from exc
        except Rt4ksrError as exc:
            return job, exc

    try:
        if plan.jobs:
            _ = models.by_scale  # without a server, fail once and not once per picture
            with progress_bar() as progress:
                task = progress.add_task("upscaling", total=len(plan.jobs))
                for job, outcome in in_order(work, plan.jobs, PICTURES_IN_FLIGHT):
                    if isinstance(outcome, Result):
                        report.add(outcome)
                    else:
                        report.add_failure(Failure(job.source, outcome))
                    progress.advance(task)
    except BaseException:
        report.finish(interrupted=True)
        raise
    report.finish()
    if report.failures:
        sys.exit(1)


def _check_output_folder(sources: Sequence[Path], output: Path | None) -> None:
    if output is None:
        return
    name = printable(output)
    if output == STREAM:
        raise PictureError("standard output takes one picture: give a folder with -o")
    if os.path.lexists(output) and not is_folder(output):
        raise PictureError(f"{name}: a file; give the name of a folder")
    has_suffix = output.suffix.lower() in readable_suffixes()
    if len(sources) > 1 and has_suffix and not is_folder(output):
        raise PictureError(
            f"{name}: the name of a picture, for {len(sources)} sources: give a folder"
        )


def _run(
    job: Job, naming: Naming, models: Models, settings: Settings, cancellation: Cancellation
) -> Result:
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        folder = printable(job.target.parent)
        raise PictureError(f"{folder}: cannot be created: {exc.strerror}") from exc
    with read_errors(str(job.source)):
        stamp = FileStamp.of(job.source)  # of what is read now: later changes make it stale
    replace = job.may_replace()
    result = upscale_file(job.source, job.target, models, settings, cancellation, replace=replace)
    if job.results is not None:
        with write_errors(str(job.results.path / LIST_NAME)):
            job.results.add(job.target.name, job.source, stamp, naming.options)
    return result
