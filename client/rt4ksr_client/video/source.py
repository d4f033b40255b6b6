"""A video to upscale: what it is, whether it can be upscaled correctly, and its frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rt4ksr_client.errors import VideoError
from rt4ksr_client.frames import Frame
from rt4ksr_client.video.colours import BT709, check_colours, tag_or, to_rgb
from rt4ksr_client.video.containers import open_input, read_errors
from rt4ksr_client.video.options import VideoOptions

__all__ = ["TimedFrame", "VideoSource"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TimedFrame:
    """A frame and when it is shown: ``pts``, in the ``time_base`` of its source.

    ``image`` is uint8 ``(H, W, 3)``, RGB, upright.
    """

    pts: int
    image: Frame


@dataclass(frozen=True)
class VideoSource:
    """A file, and what the output takes over from its video. Sizes are upright, in pixels.

    ``time_base`` is the unit of times in seconds, ``rate`` the frames per second, ``aspect`` that
    of a pixel, ``rotation`` degrees counterclockwise. ``primaries`` and ``transfer`` are codes of
    ISO/IEC 23091-2.
    """

    path: Path
    width_px: int
    height_px: int
    time_base: Fraction
    rate: Fraction
    aspect: Fraction
    start_pts: int
    duration_s: float
    expected_frames: int
    rotation: int
    primaries: int
    transfer: int

    @classmethod
    def probe(cls, path: Path, options: VideoOptions) -> VideoSource:
        """Look at the first frame of a file.

        Raises:
            VideoError: no video, or one that would come out wrong.

        """
        with open_input(path) as container:
            stream = video_stream(container, path)
            with read_errors(path):
                frame = next(container.decode(stream), None)
            if frame is None:
                raise VideoError(f"{path}: the video has no frames")
            check_colours(frame, path)
            if frame.interlaced_frame and not options.deinterlace:
                raise VideoError(f"{path}: interlaced: add --deinterlace, or deinterlace it first")
            assert stream.time_base is not None  # noqa: S101 - every stream of a file has one
            rotation = round(frame.rotation) % 360
            size = (frame.width, frame.height)
            aspect = stream.sample_aspect_ratio or Fraction(1)
            if rotation in (90, 270):
                size, aspect = size[::-1], 1 / aspect
            rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            duration_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
            if not duration_s and container.duration:
                duration_s = container.duration / 1e6
            source = cls(
                path=path,
                width_px=size[0],
                height_px=size[1],
                time_base=stream.time_base,
                rate=rate,
                aspect=aspect,
                start_pts=time_of(frame),
                duration_s=duration_s,
                expected_frames=stream.frames or round(duration_s * rate),
                rotation=rotation,
                primaries=tag_or(BT709, frame.color_primaries),
                transfer=tag_or(BT709, frame.color_trc),
            )
            codec = stream.codec_context.name
        logger.info("%s: %s, %dx%d, %s frames/s, %.1f s", path, codec, *size, rate, duration_s)
        return source

    @contextmanager
    def open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Open the file; the second value is its video.

        Raises:
            VideoError: it cannot be read any more.

        """
        with open_input(self.path) as container:
            yield container, video_stream(container, self.path)

    def pts_at(self, seconds: float) -> int:
        """Return the time ``seconds`` after the first frame, in the unit of ``time_base``."""
        return self.start_pts + round(seconds / self.time_base)

    def frames(self, options: VideoOptions, after_pts: int | None) -> Iterator[TimedFrame]:
        """Decode the frames that ``options`` choose, from the first one after ``after_pts``.

        A frame that is not later than the one before it is left out.

        Raises:
            VideoError: the file is broken, or its frames change their size.

        """
        last = self.pts_at(options.start_s or 0.0) - 1
        last = last if after_pts is None else max(last, after_pts)
        first_wanted, left_out = last, 0
        end = None if options.end_s is None else self.pts_at(options.end_s)
        with self.open() as (container, stream), read_errors(self.path):
            stream.thread_type = "AUTO"
            if last >= self.start_pts:
                container.seek(last, stream=stream, backward=True)
            frames: Iterator[VideoFrame] = container.decode(stream)
            if options.deinterlace:
                frames = deinterlaced(frames, stream)
            for frame in frames:
                # Filters count in units of their own.
                unit = frame.time_base or self.time_base
                pts = round(time_of(frame) * unit / self.time_base)
                if end is not None and pts >= end:
                    break
                if pts > last:
                    last = pts
                    yield TimedFrame(pts, self.upright(to_rgb(frame)))
                elif pts > first_wanted:
                    left_out += 1
        if left_out:
            logger.warning("%s: left out %d frames not later than the last", self.path, left_out)

    def upright(self, image: Frame) -> Frame:
        """Return a stored picture as it is shown: rotated.

        Raises:
            VideoError: it is not of this source's size.

        """
        turns = self.rotation // 90
        turned = np.ascontiguousarray(np.rot90(image, turns)) if turns else image
        if turned.shape[:2] != (self.height_px, self.width_px):
            raise VideoError(f"{self.path}: the video changes its size from frame to frame")
        return turned


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the first video stream that is not a cover picture.

    Raises:
        VideoError: there is none.

    """
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise VideoError(f"{path}: there is no video in this file")


def time_of(frame: VideoFrame) -> int:
    """Return when a frame is shown, in the unit of its ``time_base``.

    Raises:
        VideoError: the file does not say.

    """
    pts = frame.pts if frame.pts is not None else frame.dts
    if pts is None:
        raise VideoError(
            "a frame has no time: make the times with 'ffmpeg -fflags +genpts -i IN -c copy OUT'"
        )
    return pts


def deinterlaced(frames: Iterator[VideoFrame], stream: VideoStream) -> Iterator[VideoFrame]:
    """Yield ``frames`` with the fields of each joined to a whole picture (bwdif)."""
    graph = av.filter.Graph()
    source = graph.add_buffer(template=stream)
    filtered = graph.add("bwdif", "mode=send_frame:deint=all")
    sink = graph.add("buffersink")
    source.link_to(filtered)
    filtered.link_to(sink)
    graph.configure()

    def pull() -> Iterator[VideoFrame]:
        while True:
            try:
                frame = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(frame, VideoFrame)  # noqa: S101 - the graph has nothing else
            yield frame

    for frame in frames:
        graph.push(frame)
        yield from pull()
    graph.push(None)
    yield from pull()
