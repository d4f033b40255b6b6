"""A video from a pipe, or to one: decoded, upscaled and encoded once, from beginning to end.

Nothing is sought or read twice, and there is nothing to resume. For files, see
:mod:`rt4ksr_client.video.pipeline`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, Final

import av

from rt4ksr_client.errors import VideoError
from rt4ksr_client.files import atomic_write, is_stream
from rt4ksr_client.pictures import warn
from rt4ksr_client.upscaler import Upscaler
from rt4ksr_client.video.containers import ContainerFormat, write_errors
from rt4ksr_client.video.input_stream import VideoInput
from rt4ksr_client.video.output_stream import ContainerOutput, Y4mOutput
from rt4ksr_client.video.pipeline import Progress, for_model, upscaled_frames, warn_of_faults
from rt4ksr_client.video.timing import constant_rate

__all__ = ["upscale_stream"]

Y4M: Final = "y4m"
STREAMED: Final = {".y4m": Y4M, ".nut": "nut", ".ts": "mpegts", ".m2ts": "mpegts"}
"""Formats that are written without being sought, by suffixes that are not those of other files."""

logger = logging.getLogger(__name__)


def upscale_stream(
    video: VideoInput,
    target: Path | IO[bytes],
    upscaler: Upscaler,
    *,
    form: str | None = None,
    overwrite: bool = True,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> Progress:
    """Upscale a video that is read once, such as one from a pipe.

    Sound, subtitles, chapters and metadata of a container are copied to a container; times and
    colours are kept. Frames are written as soon as they are there, without segments to resume.

    Args:
        video: the opened source. Its :meth:`~VideoInput.models` fit it.
        target: a file object of bytes, which need not be sought and stays open, or a path. A file
            is complete in the end, or as it was.
        upscaler: upscales the frames; several are in flight at once.
        form: ``y4m``, or FFmpeg's name of a container: ``matroska``, ``nut``, ``mpegts``.
            Default: by the suffix of a path, ``y4m`` for a file object.
        overwrite: replace ``target`` if it is a file that exists.
        on_progress: called at the start and after every frame.

    Raises:
        VideoError: the source is damaged, cut off in a y4m frame (what precedes is written), or
            one that would come out wrong; the target cannot be written.
        BrokenPipeError: nobody reads from ``target`` any more.
        ServerError: the server failed, or cannot be reached.

    """
    source = for_model(video.source, upscaler)
    scale = upscaler.served_model.scale
    size_px = source.width_px * scale, source.height_px * scale
    name = target if isinstance(target, Path) else Path(name_of(target))
    chosen = format_of(target, form)
    times: list[int] = []
    progress = Progress(0, source.expected_frames, 0, video.faults)
    with ExitStack() as stack:
        file = stack.enter_context(opened(target, name, chosen, overwrite=overwrite))
        output: Y4mOutput | ContainerOutput
        if chosen != Y4M:
            container = ContainerFormat(chosen)
            output = ContainerOutput(video, source, size_px, file, name, container)
        else:
            assert not isinstance(file, Path)  # noqa: S101 - see opened()
            output = Y4mOutput(video, source, size_px, file, name)
        stack.enter_context(closing(output))
        frames = upscaled_frames(
            video.frames(), source, upscaler, progress.savings, stop=video.stop
        )
        upscaled = stack.enter_context(closing(frames))
        on_progress(progress)
        for pts, image in upscaled:
            output.write(pts, image)
            times.append(pts)
            progress = dataclasses.replace(progress, done=progress.done + 1)
            on_progress(progress)
        output.finish()
    rate, missing = constant_rate([pts * source.time_base for pts in times], source.rate)
    video.faults.missing_frames = missing or 0
    if chosen == Y4M and (rate, missing) != (source.rate, 0):
        shown = f"{float(source.rate):g} frames/s"
        warn(f"{name}: y4m has no times: its frames are shown at {shown}, the source's are not")
    logger.info("%s: %d frames written", name, progress.done)
    warn_of_faults(source.path, video.faults)
    if video.failure is not None and video.options.frames != progress.done:
        written = f"the {progress.done} whole frames before are written"
        raise VideoError(f"{video.failure}: {written}") from video.failure
    return progress


def format_of(target: Path | IO[bytes], form: str | None) -> str:
    """Return the name of the format to write: ``y4m``, or FFmpeg's.

    Raises:
        VideoError: FFmpeg writes none of this name.

    """
    if form is None and not isinstance(target, Path):
        return Y4M
    if form is None:
        assert isinstance(target, Path)  # noqa: S101 - see above
        return STREAMED.get(target.suffix.lower()) or ContainerFormat.of(target).name
    if form in (Y4M, "yuv4mpegpipe"):
        return Y4M
    try:
        av.ContainerFormat(form, "w")
    except ValueError:
        raise VideoError(
            f"unknown format {form!r}: try y4m, matroska, nut, mpegts or mp4"
        ) from None
    return form


@contextmanager
def opened(
    target: Path | IO[bytes], name: Path, form: str, *, overwrite: bool
) -> Iterator[Path | IO[bytes]]:
    """Yield where ``target`` is written: a temporary path for a container, or a file object."""
    if not isinstance(target, Path):
        yield target
        with write_errors(name):
            target.flush()
        return
    with write_errors(name), ExitStack() as stack:
        if is_stream(target):
            yield stack.enter_context(target.open("ab", buffering=0))
            return
        temporary = stack.enter_context(atomic_write(target, replace=overwrite))
        if form == Y4M:
            yield stack.enter_context(temporary.open("wb", buffering=0))
        else:
            yield temporary


def name_of(file: IO[bytes]) -> str:
    """Return what messages call a file object that is written."""
    name = getattr(file, "name", None)
    return "standard output" if name in (1, "<stdout>") else str(name or "the stream")
