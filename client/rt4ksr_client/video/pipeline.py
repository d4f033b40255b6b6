"""A video from file to file: decoded, upscaled and encoded at the same time, then muxed."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import shlex
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import av

from rt4ksr_client.call import Cancellation
from rt4ksr_client.concurrency import in_order
from rt4ksr_client.errors import VideoError
from rt4ksr_client.files import is_stream
from rt4ksr_client.frames import Yuv420
from rt4ksr_client.pictures import warn
from rt4ksr_client.upscaler import DEFAULT_IN_FLIGHT, Upscaler
from rt4ksr_client.video.decoding import Faults
from rt4ksr_client.video.muxer import Muxer
from rt4ksr_client.video.options import VideoOptions
from rt4ksr_client.video.planes import from_rgb, from_video_frame, to_rgb
from rt4ksr_client.video.prefetch import prefetch
from rt4ksr_client.video.segments import SegmentEncoder, SegmentFolder
from rt4ksr_client.video.source import TimedFrame, VideoSource
from rt4ksr_client.video.timing import VideoClock, constant_rate
from rt4ksr_client.video.unchanged import Plan, RequestCost, Savings, UnchangedParts

__all__ = ["Progress", "for_model", "upscale_video", "upscaled_frames", "warn_of_faults"]

DECODED_AHEAD: Final = 4
CONVERTED_AT_ONCE: Final = 3
COMPLETE: Final = 0.9
"""Share of the header's duration below which a source is taken for cut off."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Progress:
    """``done`` of about ``expected`` frames; ``resumed`` of them by an earlier run.

    ``faults`` are those that this run has found in the source, ``savings`` what it did not compute
    again.
    """

    done: int
    expected: int
    resumed: int
    faults: Faults = dataclasses.field(default_factory=Faults)
    savings: Savings = dataclasses.field(default_factory=Savings, compare=False)


def upscale_video(
    source: Path,
    target: Path,
    upscaler: Upscaler,
    options: VideoOptions,
    *,
    resume: bool = False,
    overwrite: bool = True,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> Progress:
    """Upscale the video ``source`` into the file ``target``.

    ``target`` is complete in the end, or as it was. Finished segments are kept in a folder beside
    it until then. Audio, subtitles, chapters and metadata are copied; times and colours are kept
    exactly.

    Args:
        source: a file that FFmpeg can read.
        target: its suffix names the format: .mp4, .m4v, .mov, .mkv or .webm.
        upscaler: upscales the frames; several are in flight at once.
        options: the encoder, its settings, and the part to upscale.
        resume: continue after the last finished segment of an interrupted run.
        overwrite: replace ``target`` if it exists; False keeps it, even if it appears during the
            run.
        on_progress: called at the start and after every frame.

    Raises:
        VideoError: not a video, one that would come out wrong, or a target that cannot be written.
        PictureError: the model takes pictures in RGB.
        ServerError: the server failed, or cannot be reached.

    """
    if target.exists() and source.exists() and target.samefile(source):
        raise VideoError(f"{target}: this is the source itself: give another name with -o")
    if target.is_file() and not overwrite and not is_stream(target):
        raise VideoError(f"{target}: the file exists")
    video = VideoSource.probe(source, options, resume=resume)
    video = for_model(video, upscaler)
    muxer = Muxer(video, target, options, upscaler.served_model.scale)
    with SegmentFolder(target, run_identity(video, upscaler, options), resume=resume) as folder:
        clock = video.clock()
        progress = encode_segments(video, upscaler, options, folder, clock, on_progress)
        if not progress.done:
            folder.remove()
            raise VideoError(f"{source}: no frames between start and end")
        segments = folder.finished()
        written = sum(len(segment.pts) for segment in segments)
        if written != progress.done:
            raise VideoError(
                f"{folder.path}: {written} frames were encoded out of {progress.done}: "
                "start over without --resume"
            )
        pts = sorted(value for segment in segments for value in segment.pts)
        is_whole = options.end_s is None and options.frames is None
        if not (is_whole and warn_if_cut_off(video, pts[-1], clock)):
            _, missing = constant_rate([value * video.time_base for value in pts], video.rate)
            progress.faults.missing_frames = missing or 0
        warn_of_faults(source, progress.faults)
        try:
            muxer.write(segments, clock.seams, replace=overwrite)
        except VideoError as exc:
            other = shlex.quote(str(target.with_suffix(".mkv")))
            kept = f"the upscaled frames are kept, and used with: -o {other} --resume"
            raise VideoError(f"{exc}: {kept}") from exc
        folder.remove()
        return progress


def for_model(source: VideoSource, upscaler: Upscaler) -> VideoSource:
    """Return ``source`` with as many bits as the model takes, and say where those are fewer.

    Raises:
        PictureError: the model is for RGB, and the source has not all of its chroma.

    """
    served = upscaler.served_model
    if not source.colours.has_full_chroma:
        served.check_takes("yuv420")
    colours, bits = source.colours, served.bits
    if colours.depth <= bits:
        return source
    warn(f"{source.path}: {colours.depth} bits a value: upscaled with {bits}")
    return dataclasses.replace(source, colours=dataclasses.replace(colours, depth=bits))


def encode_segments(
    source: VideoSource,
    upscaler: Upscaler,
    options: VideoOptions,
    folder: SegmentFolder,
    clock: VideoClock,
    on_progress: Callable[[Progress], object],
) -> Progress:
    """Upscale every frame that is not in a finished segment of ``folder`` yet."""
    finished = folder.finished()
    resumed = sum(len(segment.pts) for segment in finished)
    last = max((pts for segment in finished for pts in segment.pts), default=None)
    if resumed:
        logger.info("%s: continues after %d frames", folder.path, resumed)
    faults = Faults()
    savings = Savings()
    progress = Progress(resumed, expected_frames(source, options), resumed, faults, savings)
    on_progress(progress)
    frames = source.frames(options, last, faults, clock)
    if options.frames is not None:
        frames = itertools.islice(frames, max(0, options.frames - resumed))
    with closing(upscaled_frames(frames, source, upscaler, savings)) as upscaled:
        for index in itertools.count(len(finished)):
            first = next(upscaled, None)
            if first is None:
                break
            height, width = first[1].luma.shape
            rest = itertools.islice(upscaled, options.segment_frames - 1)
            path = folder.segment_path(index)
            with SegmentEncoder(path, (width, height), source, options) as encoder:
                for pts, image in itertools.chain([first], rest):
                    encoder.write(pts, image)
                    progress = dataclasses.replace(progress, done=progress.done + 1)
                    on_progress(progress)
    logger.info("%s: %s", source.path, savings)
    return progress


def warn_if_cut_off(source: VideoSource, last_pts: int, clock: VideoClock) -> bool:
    """Say whether the file ends long before its header says, and warn if it does."""
    length_s = float((last_pts - source.start_pts) * source.time_base)
    if clock.seams or length_s >= source.duration_s * COMPLETE - 1 / source.rate:
        return False
    length_s = max(length_s, source.last_packet_s())  # sound may be longer than the picture
    is_cut_off = length_s < source.duration_s * COMPLETE
    if is_cut_off:
        warn(f"{source.path}: ends early, after {length_s:.1f} of {source.duration_s:.1f} seconds")
    return is_cut_off


def warn_of_faults(source: Path, faults: Faults) -> None:
    """Say in a line each what was wrong with the source."""
    lines = {
        "damaged packets skipped": faults.damaged_packets,
        "frames decoded with errors, and kept": faults.damaged_frames,
        "frames without a usable time, given one": faults.retimed_frames,
        "frames of another size, scaled to the first one's": faults.rescaled_frames,
        "frames missing, or pauses as long as so many": faults.missing_frames,
        "frames of other colours, converted to the first one's": faults.converted_frames,
        "frames hidden by the file's edit list, left out as players do": faults.hidden_frames,
    }
    for what, count in lines.items():
        if count:
            warn(f"{source}: {what}: {count}")


def upscaled_frames(
    frames: Iterator[TimedFrame],
    source: VideoSource,
    upscaler: Upscaler,
    savings: Savings,
    stop: Callable[[], None] = lambda: None,
) -> Generator[tuple[int, Yuv420], None, None]:
    """Yield time and planes of ``frames`` upscaled, in order.

    They are decoded, turned upright and compared ahead, and what has changed of several is sent at
    once. ``stop`` ends ``frames`` where the next one may never come.
    """
    served = upscaler.served_model
    if served.colours == "rgb":
        yield from upscaled_as_rgb(frames, source, upscaler, stop)
        return
    unchanged = UnchangedParts(served, RequestCost.measured(upscaler.upscale, served), savings)

    def upright(frame: TimedFrame, _: Cancellation) -> tuple[int, Yuv420]:
        image = from_video_frame(frame.image, served.bits)
        return frame.pts, source.orientation.apply(image)

    def plans() -> Iterator[tuple[int, Plan]]:
        with closing(in_order(upright, frames, CONVERTED_AT_ONCE)) as images:
            for pts, image in images:
                yield pts, unchanged.plan(image)

    def upscale(
        frame: tuple[int, Plan], cancellation: Cancellation
    ) -> tuple[int, Plan, list[Yuv420]]:
        pts, plan = frame
        parts = plan.parts
        return pts, plan, [upscaler.upscale(part, cancellation=cancellation) for part in parts]

    with closing(prefetch(plans(), DECODED_AHEAD, stop)) as planned:
        for pts, plan, answers in in_order(upscale, planned, DEFAULT_IN_FLIGHT):
            yield pts, unchanged.compose(plan, answers)


def upscaled_as_rgb(
    frames: Iterator[TimedFrame],
    source: VideoSource,
    upscaler: Upscaler,
    stop: Callable[[], None],
) -> Generator[tuple[int, Yuv420], None, None]:
    """Yield time and planes of ``frames``, which have all of their chroma, upscaled as RGB."""

    def upscale(frame: TimedFrame, cancellation: Cancellation) -> tuple[int, Yuv420]:
        image = source.orientation.turned(to_rgb(frame.image, source.colours))
        large = upscaler.upscale(image, cancellation=cancellation)
        return frame.pts, from_rgb(large, source.colours)

    with closing(prefetch(frames, DECODED_AHEAD, stop)) as decoded:
        yield from in_order(upscale, decoded, DEFAULT_IN_FLIGHT)


def expected_frames(source: VideoSource, options: VideoOptions) -> int:
    """Return about how many frames ``options`` choose, by what the file's header says."""
    frames = source.expected_frames
    if options.start_s is not None or options.end_s is not None:
        end_s = frames / source.rate if options.end_s is None else options.end_s
        frames = min(frames, round((end_s - (options.start_s or 0)) * source.rate))
    return frames if options.frames is None else min(frames, options.frames)


def run_identity(source: VideoSource, upscaler: Upscaler, options: VideoOptions) -> dict[str, Any]:
    """Return what must be the same for a run to continue where another one ended."""
    served, file = upscaler.served_model, source.path.stat()
    return {
        "source": str(source.path.absolute()),
        "bytes": file.st_size,
        "modified_ns": file.st_mtime_ns,
        "model": served.name,
        "scale": served.scale,
        "weights": str(getattr(served, "weights_sha256", "")),
        # Sound is not in the segments.
        "options": {**dataclasses.asdict(options), "fps": str(options.fps), "audio": None},
        "encoders": av.__version__,
    }
