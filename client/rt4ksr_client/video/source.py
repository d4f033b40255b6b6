"""A video file: what it is, whether it can be upscaled rightly, and its frames as RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream

from rt4ksr_client.errors import VideoError
from rt4ksr_client.frames import Frame
from rt4ksr_client.pictures import warn
from rt4ksr_client.video.options import VideoOptions

__all__ = [
    "ACCURATE_BICUBIC",
    "FULL_CHROMA_INPUT",
    "FULL_CHROMA_OUTPUT",
    "Shot",
    "VideoFacts",
    "av_errors",
    "opened",
    "read_shots",
    "video_stream",
]

# libswscale's flags by number: PyAV names them from 18 on, and Python 3.10 has no PyAV 18.
ACCURATE_BICUBIC: Final = Interpolation.BICUBIC.value | 0x40000  # SWS_ACCURATE_RND
FULL_CHROMA_OUTPUT: Final = 0x2000  # SWS_FULL_CHR_H_INT
FULL_CHROMA_INPUT: Final = 0x4000  # SWS_FULL_CHR_H_INP

_SD_HEIGHT_PX: Final = 576
_HDR: Final = {16: "PQ (HDR10)", 18: "HLG"}
_BT2020_PRIMARIES: Final = 9
# What sws_scale knows, by the number that streams carry (ISO/IEC 23091-2).
_MATRICES: Final = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
}
_RGB, _UNSPECIFIED = 0, 2


@dataclass(frozen=True)
class Shot:
    """One frame: its time in the source stream's units, and uint8 ``(H, W, 3)``, RGB, upright."""

    pts: int
    frame: Frame


@dataclass(frozen=True)
class VideoFacts:
    """What the output takes over from the source. Sizes are upright, in pixels."""

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
    def of(cls, path: Path, options: VideoOptions) -> VideoFacts:
        """Look at the first frame.

        Raises:
            VideoError: no video, or one that would come out wrong.

        """
        with opened(path) as container:
            stream = video_stream(container, path)
            with av_errors(path):
                frame = next(container.decode(stream), None)
            if frame is None:
                raise VideoError(f"{path}: the video has no frames")
            _refuse_wrong_colours(frame, path)
            _refuse_interlaced(frame, path, options)
            return cls._from(container, stream, frame)

    @classmethod
    def _from(cls, container: InputContainer, stream: VideoStream, frame: VideoFrame) -> VideoFacts:
        rotation = round(frame.rotation) % 360
        aspect = stream.sample_aspect_ratio or Fraction(1)
        size = (frame.width, frame.height)
        if rotation in (90, 270):
            size, aspect = size[::-1], 1 / aspect if aspect else Fraction(1)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        assert stream.time_base is not None  # noqa: S101 - every stream of a file has one
        duration_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if not duration_s and container.duration:
            duration_s = container.duration / 1e6
        return cls(
            width_px=size[0],
            height_px=size[1],
            time_base=stream.time_base,
            rate=Fraction(rate),
            aspect=aspect or Fraction(1),
            start_pts=_time_of(frame),
            duration_s=duration_s,
            expected_frames=stream.frames or round(duration_s * rate),
            rotation=rotation,
            primaries=_known(frame.color_primaries, 1),
            transfer=_known(frame.color_trc, 1),
        )

    def pts_at(self, seconds: float) -> int:
        """Return the time ``seconds`` after the first frame, in the stream's units."""
        return self.start_pts + round(seconds / self.time_base)


def read_shots(
    path: Path, facts: VideoFacts, options: VideoOptions, after_pts: int | None
) -> Iterator[Shot]:
    """Yield the frames within ``--start`` and ``--end``, from the first one after ``after_pts``.

    A frame that is not later than the one before it is left out.

    Raises:
        VideoError: the file is broken, or changes its size on the way.

    """
    last = facts.pts_at(options.start_s or 0.0) - 1
    last = last if after_pts is None else max(last, after_pts)
    end = None if options.end_s is None else facts.pts_at(options.end_s)
    with opened(path) as container, av_errors(path):
        stream = video_stream(container, path)
        stream.thread_type = "AUTO"
        if last >= facts.start_pts:
            container.seek(last, stream=stream, backward=True)
        for frame in _fields_joined(container.decode(stream), stream, options):
            # Filters count in units of their own.
            pts = round(_time_of(frame) * (frame.time_base or facts.time_base) / facts.time_base)
            if end is not None and pts >= end:
                return
            if pts > last:
                last = pts
                yield Shot(pts, _upright_rgb(frame, facts, path))


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Open a file to read; metadata that is no text is kept readable."""
    with av_errors(path):
        container = av.open(str(path), metadata_errors="replace")
    with container:
        yield container


@contextmanager
def av_errors(path: Path) -> Iterator[None]:
    """Turn what FFmpeg says about ``path`` into VideoError."""
    try:
        yield
    except FileNotFoundError:
        raise VideoError(f"{path}: there is no such file") from None
    except (av.FFmpegError, OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise VideoError(f"{path}: cannot be read as a video: {reason}") from exc


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the first video stream that is not a cover picture.

    Raises:
        VideoError: there is none.

    """
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise VideoError(f"{path}: there is no video in this file")


def _time_of(frame: VideoFrame) -> int:
    pts = frame.pts if frame.pts is not None else frame.dts
    if pts is None:
        raise VideoError(
            "a frame has no time: make the times with 'ffmpeg -fflags +genpts -i IN -c copy OUT'"
        )
    return pts


def _known(code: Any, otherwise: int) -> int:
    value = int(code or _UNSPECIFIED)
    return otherwise if value in (0, _UNSPECIFIED) else value


def _refuse_wrong_colours(frame: VideoFrame, path: Path) -> None:
    transfer = int(frame.color_trc or _UNSPECIFIED)
    if transfer in _HDR:
        raise VideoError(
            f"{path}: {_HDR[transfer]} video needs tone mapping first, e.g. ffmpeg -vf "
            "zscale=t=linear,tonemap=hable,zscale=p=bt709:t=bt709:m=bt709,format=yuv420p"
        )
    matrix = int(frame.colorspace)
    wide = int(frame.color_primaries or _UNSPECIFIED) == _BT2020_PRIMARIES
    if wide or matrix not in (*_MATRICES, _RGB, _UNSPECIFIED):
        raise VideoError(f"{path}: BT.2020 or another wide gamut: convert it to BT.709 first")
    depth = max(component.bits for component in frame.format.components)
    if depth > 8:
        warn(f"{path}: {depth} bits a channel: upscaled with 8")
    if any(component.is_alpha for component in frame.format.components):
        warn(f"{path}: the transparency is not kept")


def _refuse_interlaced(frame: VideoFrame, path: Path, options: VideoOptions) -> None:
    if frame.interlaced_frame and not options.deinterlace:
        raise VideoError(f"{path}: interlaced: add --deinterlace, or deinterlace it first")


def _fields_joined(
    frames: Iterator[VideoFrame], stream: VideoStream, options: VideoOptions
) -> Iterator[VideoFrame]:
    if not options.deinterlace:
        yield from frames
        return
    graph = av.filter.Graph()
    source = graph.add_buffer(template=stream)
    filtered = graph.add("bwdif", "mode=send_frame:deint=all")
    sink = graph.add("buffersink")
    source.link_to(filtered)
    filtered.link_to(sink)
    graph.configure()
    for frame in frames:
        graph.push(frame)
        yield from _pulled(graph)
    graph.push(None)
    yield from _pulled(graph)


def _pulled(graph: av.filter.Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, VideoFrame)  # noqa: S101 - the graph has nothing else
        yield frame


def _upright_rgb(frame: VideoFrame, facts: VideoFacts, path: Path) -> Frame:
    turns = facts.rotation // 90
    size = (frame.width, frame.height)[:: -1 if turns % 2 else 1]
    if size != (facts.width_px, facts.height_px):
        raise VideoError(f"{path}: the video changes its size from frame to frame")
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=_matrix(frame),
        src_color_range=_range(frame),
        dst_color_range=ColorRange.JPEG,
        interpolation=ACCURATE_BICUBIC | FULL_CHROMA_OUTPUT,
    )
    array: Frame = rgb.to_ndarray().view(np.uint8)
    return np.ascontiguousarray(np.rot90(array, turns)) if turns else array


def _matrix(frame: VideoFrame) -> Colorspace:
    """Return the stream's matrix; untagged, BT.601 for SD and BT.709 above, as players take it."""
    untagged = Colorspace.ITU601 if frame.height <= _SD_HEIGHT_PX else Colorspace.ITU709
    return _MATRICES.get(int(frame.colorspace), untagged)


def _range(frame: VideoFrame) -> ColorRange:
    if int(frame.color_range) in (ColorRange.MPEG, ColorRange.JPEG):
        return ColorRange(int(frame.color_range))
    full = frame.format.name.startswith("yuvj") or frame.format.is_rgb
    return ColorRange.JPEG if full else ColorRange.MPEG
