"""``rt4ksr video``: upscale a video file."""

from __future__ import annotations

import dataclasses
import os
import sys
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import IO, Any, cast, get_args

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from rt4ksr_client.cli.console import print_json, printable, progress_bar, show_picture_warnings
from rt4ksr_client.cli.options import overwrite_option, scale_option, server_options
from rt4ksr_client.cli.picture_file import STREAM
from rt4ksr_client.cli.server import ServerChoice
from rt4ksr_client.cli.targets import check_target, default_target, identity_of
from rt4ksr_client.contract import Colours
from rt4ksr_client.errors import Rt4ksrError, VideoError
from rt4ksr_client.files import is_stream
from rt4ksr_client.upscaler import DEFAULT_SCALE
from rt4ksr_client.video import (
    Progress,
    VideoInput,
    VideoOptions,
    source_models,
    upscale_stream,
    upscale_video,
)
from rt4ksr_client.video.options import CODECS, MAX_FPS, AudioChoice

__all__ = ["video"]

MP4_SUFFIXES = (".mp4", ".mov", ".m4v")
PIXEL_FORMATS = (
    "yuv420p",
    "yuv422p",
    "yuv444p",
    "yuv420p10le",
    "yuv422p10le",
    "yuv444p10le",
    "yuv420p12le",
)


class FrameRate(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Frames per second, as a decimal number or a fraction."""

    name = "rate"

    def convert(self, value: Any, param: Any, ctx: Any) -> Fraction:
        """Return ``value`` as a fraction; it is rejected unless it is positive."""
        try:
            rate = Fraction(value)
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if not 0 < rate <= MAX_FPS:
            self.fail(f"{value!r} is no frame rate: try 25 or 30000/1001", param, ctx)
        return rate


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="The file to write, or - for standard output.  [default: beside SOURCE, named after the "
    "scale: talk_x3.mp4; .mkv unless SOURCE is .mp4, .mov or .m4v]",
)
@click.option(
    "--format",
    "form",
    metavar="FORMAT",
    help="What to write to a pipe: y4m (uncompressed), matroska, nut, mpegts, mp4 or another of "
    "FFmpeg's containers.  [default: by the output's suffix; y4m for -]",
)
@scale_option
@click.option(
    "--codec",
    type=click.Choice(list(CODECS)),
    help="The encoder.  [default: libx264; libx265 for more than 8 bits]",
)
@click.option(
    "--crf",
    type=click.IntRange(0, 63),
    help="Quality of the encoder: lower is better, and larger.  [default: by codec, 18 for "
    "libx264]",
)
@click.option("--preset", help="Preset of the encoder, e.g. veryfast or slow.")
@click.option(
    "--pix-fmt",
    "pixel_format",
    type=click.Choice(PIXEL_FORMATS),
    help="Pixel format to encode in.  [default: 4:2:0 with the source's bits]",
)
@click.option("--start", "start_s", type=float, metavar="SECONDS", help="Start at this time.")
@click.option("--end", "end_s", type=float, metavar="SECONDS", help="Stop before this time.")
@click.option("--frames", type=click.IntRange(min=1), help="Upscale at most this many frames.")
@click.option("--deinterlace", is_flag=True, help="Deinterlace the source (bwdif).")
@click.option(
    "--fps",
    type=FrameRate(),
    metavar="RATE",
    help="Frame rate of a SOURCE whose frames have no times, such as raw H.264: 25, 30000/1001.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Stop at damaged data and at a change of size instead of repairing them.",
)
@click.option(
    "--audio",
    type=click.Choice(get_args(AudioChoice)),
    default="copy",
    show_default=True,
    help="Copy the sound, encode it as AAC or Opus where it is something else, or leave it out.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run of the same command.")
@overwrite_option("Replace the output if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@server_options
def video(
    source: Path,
    target: Path | None,
    form: str | None,
    scale: int | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    server: ServerChoice,
    **choices: Any,
) -> None:
    """Upscale the video SOURCE, a file or - for standard input. Audio, subtitles, chapters and
    metadata are kept.

    \b
    Examples:
      rt4ksr video talk.mp4 --scale 3              720p becomes 4K: writes talk_x3.mp4
      rt4ksr video talk.mp4 --scale 3 --resume     continues after an interruption
      rt4ksr video film.mkv -o film_4k.mkv --codec libx265 --crf 22
      rt4ksr video film.mkv --start 60 --end 70    ten seconds, to try settings
      rt4ksr video talk.mp4 -o - --format matroska | mpv -
      ffmpeg -i in.mkv -f yuv4mpegpipe - | rt4ksr video - -o - | ffmpeg -i - out.mkv

    Uses the server's model for video of 8 bits, or the one for 9 to 16; for RGB and 4:4:4 of 8 bits
    the default model, if the server has it. Without a server at the default address, and with the
    server extra installed, it starts one for the call.

    Timestamps are kept, so audio stays in sync even at a variable frame rate. Colours stay what
    they are: 8 bits or more, BT.601, BT.709 or BT.2020, SDR, HDR10 or HLG. Other than 4:2:0 becomes
    4:2:0. Interlaced video is rejected unless --deinterlace is given.

    Only what has changed since the frame before is computed: -v and --json say how much that was.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    show_picture_warnings()
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints errors only
    is_streamed = (
        STREAM in (source, target)
        or is_stream(source)
        or form is not None
        or (target is not None and target.suffix.lower() == ".y4m")
    )
    options = VideoOptions(**choices)
    if source != STREAM and identity_of(source) is None:
        raise VideoError(f"{printable(source)}: there is no such file")
    if source != STREAM and not source.is_file() and not is_stream(source):
        raise VideoError(f"{printable(source)}: not a file")
    if target is not None and target != STREAM:
        check_target(target, source, overwrite=overwrite)
    if is_streamed and (resume or options.start_s is not None):
        raise VideoError("--resume and --start need a SOURCE and an output that are files")
    if is_streamed and target is None:
        raise VideoError("give the output with -o")
    start_s = perf_counter()
    with ExitStack() as stack:
        stream = None
        if is_streamed:
            given = standard_stream(0) if source == STREAM else source
            assert target is not None  # noqa: S101 - see above
            written = standard_stream(1) if target == STREAM else target
            stream = stack.enter_context(VideoInput(given, options))
            names = stream.models(scale or DEFAULT_SCALE)
        else:
            names = source_models(source, scale or DEFAULT_SCALE)
        colours: Colours | None = "yuv420" if len(names) == 1 else None
        models = stack.enter_context(server.models(names, scale, colours))
        bar = stack.enter_context(_progress_bar())
        upscaler = models.first
        suffix = source.suffix if source.suffix.lower() in MP4_SUFFIXES else ".mkv"
        if target is None:
            target = default_target(source, f"x{upscaler.served_model.scale}", suffix)
            check_target(target, source, overwrite=overwrite)
        task = bar.add_task("video", total=None, fps="")
        progress = Progress(done=0, expected=0, resumed=0)

        def show(state: Progress) -> None:
            nonlocal progress
            progress = state
            fps = (state.done - state.resumed) / (perf_counter() - start_s)
            total = state.expected or None
            bar.update(task, completed=state.done, total=total, fps=f"{fps:.1f} fps")

        try:
            if stream is not None:
                progress = upscale_stream(
                    stream,
                    written,
                    upscaler,
                    form=form,
                    overwrite=overwrite,
                    on_progress=show,
                )
            else:
                progress = upscale_video(
                    source,
                    target,
                    upscaler,
                    options,
                    resume=resume,
                    overwrite=overwrite,
                    on_progress=show,
                )
        except (KeyboardInterrupt, Rt4ksrError):
            if progress.done and stream is None:
                click.echo("rt4ksr: --resume continues after the last finished segment", err=True)
            raise
        model = upscaler.served_model.name
    duration_s = perf_counter() - start_s
    fps = (progress.done - progress.resumed) / duration_s
    if as_json:
        row = {"source": str(source), "target": str(target), "model": model}
        counts: dict[str, float] = {"frames": progress.done, "resumed": progress.resumed}
        counts |= dataclasses.asdict(progress.faults) | progress.savings.counts()
        print_json({**row, **counts, "wall_s": duration_s, "fps": fps}, err=target == STREAM)
        return
    resumed = f", {progress.resumed} of them before" if progress.resumed else ""
    line = f"{printable(target)}: {progress.done} frames{resumed}, {fps:.1f} fps, {model}"
    click.echo(line, err=target == STREAM)


def standard_stream(descriptor: int) -> IO[bytes]:
    """Return standard input or output as a file without a buffer, in which waiting can end.

    Raises:
        VideoError: it is closed, or a terminal.

    """
    name = ("standard input", "standard output")[descriptor]
    if (sys.stdin, sys.stdout)[descriptor] is None:
        raise VideoError(f"{name} is closed: give the name of a file")
    if os.isatty(descriptor):
        other = ("pipe a video into it", "pipe it into a program")[descriptor]
        raise VideoError(f"{name} is a terminal: {other}, or give the name of a file")
    mode = ("rb", "wb")[descriptor]
    return cast(IO[bytes], os.fdopen(descriptor, mode, buffering=0, closefd=False))


def _progress_bar() -> Any:
    return progress_bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fps]}"),
        TimeRemainingColumn(),
    )
