"""``rt4ksr video``: a video file in, a larger video file out."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from rt4ksr_client.cli.options import (
    ServerChoice,
    print_json,
    progress_bar,
    say_warnings,
    scale_option,
    server_options,
    shown,
)
from rt4ksr_client.errors import Rt4ksrError, VideoError
from rt4ksr_client.video import Progress, VideoOptions, upscale_video
from rt4ksr_client.video.options import CODECS


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="Default: SOURCE_4k.mp4 or .mkv.",
)
@scale_option
@click.option("--codec", type=click.Choice(list(CODECS)), default="libx264", show_default=True)
@click.option("--crf", type=click.IntRange(0, 63), help="Lower is better; default by codec: 18.")
@click.option("--preset", help="Of the encoder, e.g. veryfast or slow.")
@click.option(
    "--pix-fmt",
    "pixel_format",
    type=click.Choice(
        ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"]
    ),
    default="yuv420p",
    show_default=True,
)
@click.option("--start", "start_s", type=float, help="Begin at this second.")
@click.option("--end", "end_s", type=float, help="End before this second.")
@click.option("--frames", type=click.IntRange(min=1), help="No more frames than this.")
@click.option("--deinterlace", is_flag=True, help="Interlaced video to progressive (bwdif).")
@click.option("--resume", is_flag=True, help="Go on where an earlier run of this command ended.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout at the end.")
@server_options
def video(
    source: Path,
    target: Path | None,
    scale: int | None,
    resume: bool,
    as_json: bool,
    server: ServerChoice,
    **choices: Any,
) -> None:
    """Upscale the video SOURCE; sound, subtitles, chapters and metadata are kept.

    \b
    rt4ksr video talk_720p.mp4 -o talk_4k.mp4 --scale 3
    rt4ksr video talk_720p.mp4 -o talk_4k.mp4 --scale 3 --resume    after an interruption

    The model tuned for video is taken where the server has it, else the one for everything.
    Times are kept, so sound stays in step, also where the frame rate varies. Colours come out as
    BT.709 and tagged so. HDR is refused, interlaced video without --deinterlace too.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    say_warnings()
    if not source.is_file():
        raise VideoError(f"{shown(source)}: there is no such file")
    options = VideoOptions(**choices)
    target = target or _default_target(source)
    start_s = perf_counter()
    with server.upscaler(scale, "video") as upscaler, _bar() as progress:
        task = progress.add_task("video", total=None, fps="")

        known = Progress(done=0, expected=0, resumed=0)

        def tell(state: Progress) -> None:
            nonlocal known
            known = state
            fps = (state.done - state.resumed) / (perf_counter() - start_s)
            progress.update(
                task, completed=state.done, total=state.expected or None, fps=f"{fps:.1f} fps"
            )

        try:
            done = upscale_video(source, target, upscaler, options, resume=resume, on_progress=tell)
        except (KeyboardInterrupt, Rt4ksrError):
            if known.done:
                click.echo("rt4ksr: --resume goes on from the last finished segment", err=True)
            raise
        model = upscaler.served_model.name
    _say(source, target, model, done, perf_counter() - start_s, as_json)


def _default_target(source: Path) -> Path:
    suffix = source.suffix if source.suffix.lower() in (".mp4", ".mov", ".m4v") else ".mkv"
    return source.with_name(f"{source.stem}_4k{suffix}")


def _bar() -> Any:
    return progress_bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fps]}"),
        TimeRemainingColumn(),
    )


def _say(
    source: Path, target: Path, model: str, done: Progress, wall_s: float, as_json: bool
) -> None:
    fps = (done.done - done.resumed) / wall_s
    if as_json:
        row = {"source": str(source), "target": str(target), "model": model, "frames": done.done}
        print_json({**row, "resumed": done.resumed, "wall_s": wall_s, "fps": fps})
        return
    resumed = f", {done.resumed} of them before" if done.resumed else ""
    click.echo(f"{shown(target)}: {done.done} frames{resumed}, {fps:.1f} a second, {model}")
