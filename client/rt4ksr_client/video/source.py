"""A video to upscale: what it is, whether it can be upscaled correctly, and its frames."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rt4ksr_client.errors import VideoError
from rt4ksr_client.pictures import warn
from rt4ksr_client.video.colours import ColourTags
from rt4ksr_client.video.containers import open_input, read_errors, video_stream
from rt4ksr_client.video.decoding import (
    Faults,
    decode,
    deinterlaced,
    next_key_frame,
    readable_packets,
    streams_found_late,
)
from rt4ksr_client.video.options import VideoOptions
from rt4ksr_client.video.orientation import Orientation
from rt4ksr_client.video.planes import conformed
from rt4ksr_client.video.timing import (
    FrameTimes,
    Timing,
    VideoClock,
    clock_of,
    duration_of,
    first_time,
    in_order_of_time,
    rate_of,
)

__all__ = ["TimedFrame", "VideoSource"]

SEEK_BACK_S: Final = (0, 10, 60)
SAMPLES: Final = 8
"""Frames all over a file that are looked at before the work."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TimedFrame:
    """A frame and when it is shown: ``pts``, in the ``time_base`` of its source.

    ``image`` is as it is stored, not turned.
    """

    pts: int
    image: VideoFrame


@dataclass(frozen=True)
class VideoSource:
    """A file, and what the output takes over from its video. Sizes are upright, in pixels.

    ``time_base`` is the unit of times in seconds, ``rate`` the frames per second, ``aspect`` that
    of a pixel. The target begins at ``begin_s``.
    """

    path: Path
    width_px: int
    height_px: int
    time_base: Fraction
    rate: Fraction
    aspect: Fraction
    start_pts: int
    begin_s: Fraction
    duration_s: float
    expected_frames: int
    orientation: Orientation
    colours: ColourTags
    timing: Timing

    @classmethod
    def probe(cls, path: Path, options: VideoOptions, *, resume: bool = False) -> VideoSource:
        """Look at the first packets of a file, its first frame and a few more.

        With ``resume``, or a part that begins later, the file is to be sought: its packets are read
        to the end where it has no table of their times.

        Raises:
            VideoError: no video, or one that would come out wrong.

        """
        with open_input(path) as container, read_errors(path):
            is_sought = resume or options.start_s is not None
            has_table = "mp4" in container.format.name
            until_s = 0.0 if has_table or not is_sought else options.end_s
            timing = Timing.scan(container, video_stream(container, path), end_s=until_s)
        with open_input(path) as container:
            stream = video_stream(container, path)
            with read_errors(path):
                frames = decode(container, stream, Faults(), clock_of(container, stream))
                frame = next(frames, None)
                if frame is None:
                    raise VideoError(f"{path}: the video has no frames")
                delay, is_avi = stream.codec_context.delay, container.format.name == "avi"
                rate, unit = options.fps or rate_of(stream), Fraction(stream.time_base or 1)
                frames = itertools.chain([frame], frames)
                if frame.pts is None:
                    start = first_time(frames, 1 / (rate * unit), default=timing.first_pts)
                else:
                    timing = timing.checked(is_avi, delay, frames)
                    start = timing.first_pts if timing.sorted else frame.pts
            source = cls.described(container, stream, path, frame, start, timing, options)
            codec = stream.codec_context.name
        if not source.expected_frames:
            guess = round(source.duration_s * rate)
            source = dataclasses.replace(source, expected_frames=guess)
        size = (source.width_px, source.height_px)
        logger.info(
            "%s: %s, %dx%d, %s frames/s, %.1f s", path, codec, *size, rate, source.duration_s
        )
        source.check_samples(options)
        return source

    @classmethod
    def described(
        cls,
        container: InputContainer,
        stream: VideoStream,
        path: Path,
        frame: VideoFrame,
        start_pts: int,
        timing: Timing,
        options: VideoOptions,
    ) -> VideoSource:
        """Describe a video by its header and its first ``frame``, shown at ``start_pts``.

        Raises:
            VideoError: it would come out wrong.

        """
        check_fields(frame, path, options)
        if options.fps is not None and not timing.counted and not timing.sorted:
            raise VideoError(f"{path}: its frames have times of their own: leave out --fps")
        if stream.metadata.get("alpha_mode") == "1":
            warn(f"{path}: the alpha channel is not kept")
        try:
            orientation = Orientation.of(frame)
        except ValueError as exc:
            raise VideoError(f"{path}: {exc}: turn it upright first") from None
        rate, unit = options.fps or rate_of(stream), Fraction(stream.time_base or 1)
        size = (frame.width, frame.height)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if orientation.transposed:
            size, aspect = size[::-1], 1 / aspect
        is_counted = timing.counted or options.fps is not None
        if is_counted and options.fps is None:
            shown = f"shown at {float(rate):g} frames/s: --fps sets another rate"
            warn(f"{path}: its frames have no times, and are {shown}")
        begin_s = max(Fraction(0), Fraction(container.start_time or 0, av.time_base))
        return cls(
            path=path,
            width_px=size[0],
            height_px=size[1],
            time_base=1 / rate if is_counted else unit,
            rate=rate,
            aspect=aspect,
            start_pts=0 if is_counted else start_pts,
            begin_s=Fraction(0) if is_counted else min(begin_s, start_pts * unit),
            duration_s=duration_of(container, stream, timing, rate),
            expected_frames=stream.frames or timing.packets or 0,
            orientation=orientation,
            colours=ColourTags.of(frame, stream, path),
            timing=dataclasses.replace(timing, counted=is_counted),
        )

    def check_samples(self, options: VideoOptions) -> None:
        """Look at a few frames all over the part that is upscaled, where the file can be sought.

        Raises:
            VideoError: one is interlaced, or of another size than the first with
                ``options.strict``.

        """
        if not self.timing.seekable or options.frames is not None:
            return
        begin_s, end_s = options.start_s or 0.0, options.end_s or self.duration_s
        with self.open() as (container, stream), read_errors(self.path):
            size = None
            for index in range(SAMPLES):
                pts = self.pts_at(begin_s + (end_s - begin_s) * index / SAMPLES)
                if not self.seek(container, stream, pts + 1):
                    return
                frame = next_key_frame(container, stream)
                if frame is None:
                    continue
                check_fields(frame, self.path, options)
                size = size or (frame.width, frame.height)
                if (frame.width, frame.height) == size:
                    continue
                if options.strict:
                    raise size_error(self.path, frame)
                changed = f"its size changes to {frame.width}x{frame.height}"
                warn(f"{self.path}: {changed}: scaled to {size[0]}x{size[1]}")
                return

    @contextmanager
    def open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Open the file; the second value is its video.

        Its frames are decoded one after the other: with several at a time, FFmpeg reports the
        errors in some of them too late.

        Raises:
            VideoError: it cannot be read any more.

        """
        with open_input(self.path) as container:
            yield container, video_stream(container, self.path)

    @contextmanager
    def open_at(self, begin: int) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Open the file at a key frame before ``begin``, or at its beginning if it has no index."""
        with self.open() as opened:
            if begin <= self.start_pts or (self.timing.seekable and self.seek(*opened, begin)):
                yield opened
                return
        with self.open() as opened:
            yield opened

    def last_packet_s(self) -> float:
        """Return how long the file lasts by its packets, of whatever stream, in seconds."""
        with self.open() as (container, _):
            ends = (
                (packet.pts + (packet.duration or 0)) * packet.time_base
                for packet in readable_packets(container, list(container.streams))
                if packet.pts is not None and packet.time_base is not None
            )
            return float(max(ends, default=Fraction(0)) - self.begin_s)

    def pts_at(self, seconds: float) -> int:
        """Return the time ``seconds`` after the first frame, in the unit of ``time_base``."""
        return self.start_pts + round(seconds / self.time_base)

    def clock(self) -> VideoClock:
        """Return a clock for the packets of the video from its beginning."""
        with self.open() as (container, stream):
            return clock_of(container, stream)

    def frames(
        self,
        options: VideoOptions,
        after_pts: int | None,
        faults: Faults,
        clock: VideoClock | None = None,
    ) -> Iterator[TimedFrame]:
        """Decode the frames that ``options`` choose, from the first one after ``after_pts``.

        What is wrong with them is counted in ``faults``; ``clock`` has the seams in the end.

        Raises:
            VideoError: the file cannot be read, its fields are interlaced, or ``options.strict``
                and it is damaged or its frames change their size.

        """
        begin = self.pts_at(options.start_s or 0.0)
        begin = begin if after_pts is None else max(begin, after_pts + 1)
        end = None if options.end_s is None else self.pts_at(options.end_s)
        with self.open_at(begin) as (container, stream), read_errors(self.path):
            clock = clock or clock_of(container, stream)
            decoded = decode(container, stream, faults, clock, strict=options.strict)
            frames = self.uniform(decoded, options, faults)
            if options.deinterlace:
                frames = deinterlaced(frames, stream)
            for frame, pts in self.timed(frames, faults):
                if end is not None and pts >= end:
                    break
                if pts >= begin:
                    yield TimedFrame(pts, frame)
            else:
                for kind in streams_found_late(container):
                    warn(f"{self.path}: {kind} that begins in the middle of the file: left out")

    def seek(self, container: InputContainer, stream: VideoStream, begin: int) -> bool:
        """Go to a key frame before ``begin``; False where the file cannot be sought.

        Some formats are only sought by estimates.
        """
        try:
            for back_s in SEEK_BACK_S:
                target = max(self.start_pts, begin - 1 - round(back_s / self.time_base))
                container.seek(target, stream=stream, backward=True)
                frame = next_key_frame(container, stream)
                if frame and frame.pts is not None and frame.pts < begin:
                    break
            else:
                target = self.start_pts - round(SEEK_BACK_S[-1] / self.time_base)
            container.seek(target, stream=stream, backward=True)
        except (av.FFmpegError, OSError) as exc:
            logger.info("%s: cannot be sought: %s", self.path, exc)
            return False
        return True

    def uniform(
        self, frames: Iterator[VideoFrame], options: VideoOptions, faults: Faults
    ) -> Iterator[VideoFrame]:
        """Check ``frames``, and convert those unlike the first one: size, pixel format, colours.

        Raises:
            VideoError: one is interlaced, or unlike the first one with ``options.strict``.

        """
        size = (self.width_px, self.height_px)
        stored = size[::-1] if self.orientation.transposed else size
        pixel_format = None
        for frame in frames:
            check_fields(frame, self.path, options)
            pixel_format = pixel_format or frame.format.name
            has_size = (frame.width, frame.height) == stored
            has_colours = self.colours.are_those_of(frame) and frame.format.name == pixel_format
            if options.strict and not has_size:
                raise size_error(self.path, frame)
            if options.strict and not has_colours:
                what = "its pixel format or its colours change"
                raise VideoError(f"{self.path}: {what}: leave out --strict to convert them back")
            faults.rescaled_frames += not has_size
            faults.converted_frames += not has_colours
            yield frame if has_size and has_colours else conformed(frame, stored, self.colours)

    def timed(
        self, frames: Iterator[VideoFrame], faults: Faults
    ) -> Iterator[tuple[VideoFrame, int]]:
        """Yield ``frames`` with their times in units of ``time_base``, each later than the last."""
        times = FrameTimes(self.start_pts, 1 / (self.rate * self.time_base))
        if self.timing.sorted and not self.timing.counted:
            frames = in_order_of_time(frames)
        held: tuple[VideoFrame, int | None] | None = None
        for frame in frames:
            pts = self.pts_of(frame)
            if held is not None:
                yield held[0], times.next(held[1], pts)
            held = frame, pts
        if held is not None:
            yield held[0], times.next(held[1], None)
        if not self.timing.counted:
            faults.retimed_frames += times.given

    def pts_of(self, frame: VideoFrame) -> int | None:
        """Return what the file says about a frame's time, in units of ``time_base``."""
        if frame.pts is None or self.timing.counted:
            return None
        # Filters count in units of their own.
        unit = frame.time_base or self.time_base
        return round(frame.pts * unit / self.time_base)


def size_error(path: Path, frame: VideoFrame) -> VideoError:
    """Return the error about a frame of another size than the first one, with ``--strict``."""
    size = f"{frame.width}x{frame.height}"
    return VideoError(f"{path}: its size changes to {size}: leave out --strict to scale it back")


def check_fields(frame: VideoFrame, path: Path, options: VideoOptions) -> None:
    """Reject an interlaced frame unless it is to be deinterlaced.

    Raises:
        VideoError: it is interlaced.

    """
    if frame.interlaced_frame and not options.deinterlace:
        raise VideoError(f"{path}: interlaced: add --deinterlace, or deinterlace it first")
