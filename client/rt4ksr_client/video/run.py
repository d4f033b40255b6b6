"""A video from file to file: decode, upscale and encode at once, in segments, then one file."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

from rt4ksr_client.errors import VideoError
from rt4ksr_client.files import write_errors
from rt4ksr_client.frames import Frame
from rt4ksr_client.pictures import warn
from rt4ksr_client.upscaler import Upscaler
from rt4ksr_client.video.ahead import ahead
from rt4ksr_client.video.assembly import assemble, check_container
from rt4ksr_client.video.options import VideoOptions
from rt4ksr_client.video.segments import SegmentFolder, SegmentWriter
from rt4ksr_client.video.source import Shot, VideoFacts, read_shots

__all__ = ["Progress", "upscale_video"]

DECODED_AHEAD = 4

_COMPLETE = 0.9
"""Share of the length promised by the header below which a source is taken for cut off."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """``done`` of about ``expected`` frames; ``resumed`` of them by an earlier run."""

    done: int
    expected: int
    resumed: int


def upscale_video(
    source: Path,
    target: Path,
    upscaler: Upscaler,
    options: VideoOptions,
    *,
    resume: bool = False,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> Progress:
    """Upscale ``source`` into ``target``, which is there whole in the end, or as it was.

    Finished segments are kept beside ``target`` until then; ``resume`` goes on from them. Sound,
    subtitles, chapters and metadata are copied, times are kept to the unit, colours are BT.709.

    Raises:
        VideoError: not a video, one that would come out wrong, or a place that cannot be written.
        ServerError: the server, or the way to it.

    """
    if target.exists() and source.exists() and target.samefile(source):
        raise VideoError(f"{target}: this is the source itself: give another name with -o")
    facts = VideoFacts.of(source, options)
    check_container(source, target, options)
    folder = SegmentFolder(target, _identity(source, upscaler, options), resume=resume)
    progress = _encode(source, facts, upscaler, options, folder, on_progress)
    if not progress.done:
        folder.remove()
        raise VideoError(f"{source}: no frames between --start and --end")
    segments = folder.finished()
    if options.end_s is None and options.frames is None:
        _say_if_cut_off(source, facts, max(max(segment.pts) for segment in segments))
    assemble(segments, source, target, facts, options)
    folder.remove()
    return progress


def _encode(
    source: Path,
    facts: VideoFacts,
    upscaler: Upscaler,
    options: VideoOptions,
    folder: SegmentFolder,
    on_progress: Callable[[Progress], object],
) -> Progress:
    finished = folder.finished()
    resumed = sum(len(segment.pts) for segment in finished)
    last = max((pts for segment in finished for pts in segment.pts), default=None)
    progress = Progress(resumed, _expected(facts, options), resumed)
    on_progress(progress)
    shots = read_shots(source, facts, options, last)
    if options.frames is not None:
        shots = _first(shots, options.frames - resumed)
    upscaled = _upscaled(shots, upscaler)
    try:
        for index in itertools.count(len(finished)):
            begin = next(upscaled, None)
            if begin is None:
                return progress
            rest = itertools.islice(upscaled, options.segment_frames - 1)
            with (
                _said(folder.path),
                _writer(folder, index, begin[1], facts, options) as writer,
            ):
                for pts, frame in itertools.chain([begin], rest):
                    writer.write(pts, _even(frame, options))
                    progress = dataclasses.replace(progress, done=progress.done + 1)
                    on_progress(progress)
    finally:
        upscaled.close()
    return progress


def _say_if_cut_off(source: Path, facts: VideoFacts, last_pts: int) -> None:
    length_s = float((last_pts - facts.start_pts) * facts.time_base)
    if length_s < facts.duration_s * _COMPLETE - 1 / facts.rate:
        warn(f"{source}: ends early, after {length_s:.1f} of {facts.duration_s:.1f} seconds")


def _first(shots: Iterator[Shot], count: int) -> Iterator[Shot]:
    return itertools.islice(shots, max(0, count))


def _upscaled(
    shots: Iterator[Shot], upscaler: Upscaler
) -> Generator[tuple[int, Frame], None, None]:
    times: deque[int] = deque()

    def noted(shot: Shot) -> Frame:
        times.append(shot.pts)
        return shot.frame

    with closing(ahead(shots, DECODED_AHEAD)) as decoded:
        large = upscaler.map(map(noted, decoded))
        for frame in large:
            yield times.popleft(), frame


def _writer(
    folder: SegmentFolder, index: int, frame: Frame, facts: VideoFacts, options: VideoOptions
) -> SegmentWriter:
    height, width, _ = _even(frame, options).shape
    with _said(folder.path):
        return SegmentWriter(folder.name(index), (width, height), facts, options)


@contextmanager
def _said(place: Path) -> Iterator[None]:
    with write_errors(str(place)):
        try:
            yield
        except (av.FFmpegError, ValueError) as exc:
            if isinstance(exc, OSError) and exc.errno:
                raise
            raise VideoError(f"the encoder refuses: {exc}") from exc


def _even(frame: Frame, options: VideoOptions) -> Frame:
    """Repeat the last row or column where the pixel format has colours for pairs only."""
    across, down = _chroma_steps(options.pixel_format)
    height, width, _ = frame.shape
    if height % down or width % across:
        return np.pad(frame, ((0, -height % down), (0, -width % across), (0, 0)), mode="edge")
    return frame


def _chroma_steps(pixel_format: str) -> tuple[int, int]:
    known = av.VideoFormat(pixel_format, 2, 2)
    return 2 // known.chroma_width(2), 2 // known.chroma_height(2)


def _expected(facts: VideoFacts, options: VideoOptions) -> int:
    frames = facts.expected_frames
    if options.start_s is not None or options.end_s is not None:
        end_s = frames / facts.rate if options.end_s is None else options.end_s
        frames = min(frames, round((end_s - (options.start_s or 0)) * facts.rate))
    return frames if options.frames is None else min(frames, options.frames)


def _identity(source: Path, upscaler: Upscaler, options: VideoOptions) -> dict[str, Any]:
    """What must be the same for a run to go on where another one ended."""
    served, file = upscaler.served_model, source.stat()
    return {
        "source": str(source.absolute()),
        "bytes": file.st_size,
        "modified_ns": file.st_mtime_ns,
        "model": served.name,
        "scale": served.scale,
        "weights": str(getattr(served, "weights_sha256", "")),
        "options": dataclasses.asdict(options),
        "encoders": av.__version__,
    }
