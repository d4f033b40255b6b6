"""The last step: the upscaled segments, and everything else of the source, in one file."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import av
import numpy as np
from av.packet import Packet

from rt4ksr_client.errors import VideoError
from rt4ksr_client.files import atomic_write
from rt4ksr_client.pictures import warn
from rt4ksr_client.video.colours import pad_for
from rt4ksr_client.video.containers import (
    ContainerFormat,
    kept_metadata,
    open_input,
    write_errors,
)
from rt4ksr_client.video.copies import (
    CopiedStream,
    Cut,
    TimedPacket,
    copied_packets,
)
from rt4ksr_client.video.decoding import nothing_lost, readable_packets
from rt4ksr_client.video.options import VideoOptions
from rt4ksr_client.video.segments import Segment, SegmentEncoder
from rt4ksr_client.video.source import TimedFrame, VideoSource
from rt4ksr_client.video.timecode import later_timecode
from rt4ksr_client.video.timing import Seam, constant_rate, decode_times

__all__ = ["Muxer"]

REHEARSED_PACKETS: Final = 500

logger = logging.getLogger(__name__)


class Muxer:
    """Writes ``target`` once every segment is there.

    A rehearsal with a black frame and the source's first packets finds out at once what the format
    can hold: the video must be among it, and all sound; other streams are left out with a warning.
    ``scale`` is that of the model.

    Raises:
        VideoError: an unknown format, one that cannot hold the video or a stream of sound, or an
            encoder that does not work.

    """

    def __init__(
        self, source: VideoSource, target: Path, options: VideoOptions, scale: int
    ) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._format = ContainerFormat.of(target)
        self._keeps_timecode = True
        self._first_packets = first_packets(source)
        self._copied: list[int] = []
        """Indices of the streams that are copied."""
        with TemporaryDirectory(prefix="rt4ksr-") as folder:
            sample = Path(folder, "000000.mkv")
            size = (source.height_px * scale, source.width_px * scale, 3)
            black = pad_for(options.pixel_format, np.zeros(size, np.uint8))
            with SegmentEncoder(
                sample, (black.shape[1], black.shape[0]), source, options
            ) as encoder:
                encoder.write(TimedFrame(source.start_pts, black))
            self._choose_streams(Segment(sample, (source.start_pts,)))

    def _choose_streams(self, sample: Segment) -> None:
        with self._source.open() as (container, video):
            others = [
                stream
                for stream in container.streams
                if stream.index != video.index
                # Muxers make a track of their own from the video's time code.
                and not (stream.type == "data" and "timecode" in stream.metadata)
            ]
            self._copied = [stream.index for stream in others]
            if not self._rehearse(sample, self._copied):
                self._check_picture(sample, has_timecode="timecode" in video.metadata)
                self._copied = []
                for stream in others:
                    if self._rehearse(sample, [*self._copied, stream.index]):
                        self._copied.append(stream.index)
                    else:
                        self._leave_out(stream)
            for index in self._copied:
                kind = container.streams[index].type
                logger.info("%s: copies %s stream %d", self._target, kind, index)

    def _check_picture(self, sample: Segment, *, has_timecode: bool) -> None:
        if self._rehearse(sample, []):
            return
        self._keeps_timecode = False
        if not has_timecode or not self._rehearse(sample, []):
            codec = av.Codec(self._options.codec, "w").canonical_name
            raise VideoError(f"{self._target}: this format cannot hold {codec}: try .mkv")
        warn(f"{self._target}: this format cannot hold the time code: left out")

    def _leave_out(self, stream: Any) -> None:
        name = codec_name(stream)
        first = self._first_packets.get(stream.index)
        if stream.type == "audio" and ContainerFormat("matroska").takes(stream, first):
            raise VideoError(f"{self._target}: this format cannot hold {name} audio: try .mkv")
        what = f"{stream.type} stream {stream.index}" + (f" ({name})" if name else "")
        if stream.type == "audio" and not getattr(stream.codec_context, "sample_rate", 1):
            warn(f"{self._source.path}: {what} begins late, with an unknown sample rate: left out")
        else:
            warn(f"{self._target}: this format cannot hold {what}: left out")

    def _rehearse(self, sample: Segment, copied: list[int]) -> bool:
        """Write a file with the first packets of the streams; return whether that works."""
        trial = sample.path.with_name(f"rehearsal{self._target.suffix}")
        cut = Cut(None, self._source.begin_s)
        try:
            copies = self._mux(trial, [sample], copied, cut, (), most=REHEARSED_PACKETS)
        except (av.FFmpegError, ValueError) as exc:
            logger.info("%s: rehearsal with streams %s: %s", self._target, copied, exc)
            return False
        return all(copy.rejected <= copy.written for copy in copies)

    def write(
        self, segments: Sequence[Segment], seams: tuple[Seam, ...], *, replace: bool = True
    ) -> None:
        """Write the target, whole or not at all; without ``replace``, only where no file is.

        ``seams`` are where the source's clock is set anew.

        Raises:
            VideoError: it cannot be written, or the segments are not of one run.

        """
        cut = cut_of(segments, self._source, self._options)
        with (
            write_errors(self._target),
            atomic_write(self._target, replace=replace) as temporary,
            nothing_lost(temporary, sum(len(segment.pts) for segment in segments)),
        ):
            copies = self._mux(temporary, segments, self._copied, cut, seams)
        lines = {
            "damaged packets of other streams skipped": sum(c.rejected for c in copies),
            "packets of other streams whose times step back, moved": sum(c.moved for c in copies),
            "packets of other streams without a time, left out": sum(c.timeless for c in copies),
        }
        for what, count in lines.items():
            if count:
                warn(f"{self._source.path}: {what}: {count}")
        logger.info("%s: written from %d segments", self._target, len(segments))

    def _mux(
        self,
        path: Path,
        segments: Sequence[Segment],
        copied: list[int],
        cut: Cut,
        seams: tuple[Seam, ...],
        *,
        most: int | None = None,
    ) -> list[CopiedStream]:
        """Write a file; return the streams that were copied."""
        with (
            self._source.open() as (container, original),
            self._format.open(path) as output,
            open_input(segments[0].path) as first,
        ):
            picture: Any = output.add_stream_from_template(first.streams.video[0], opaque=True)
            self._describe_picture(picture, original, segments, cut)
            self._format.tag(picture)
            added = {
                index: self._format.add_copy(
                    output, container.streams[index], self._first_packets.get(index)
                )
                for index in copied
            }
            output.metadata.update(kept_metadata(container.metadata))
            output.set_chapters(cut.chapters(container.chapters()))
            output.start_encoding()  # from here on, streams have the units of the format
            step = 0 if self._format.holds_equal_times else 1
            copies = {
                index: CopiedStream(stream, seams, cut, least_step=step)
                for index, stream in added.items()
                if stream is not None  # its first packet was enough
            }
            packets = heapq.merge(
                self._picture_packets(segments, picture, cut),
                copied_packets(container, copies, most=most),
                key=lambda timed: timed[:2],
            )
            for _, order, packet in packets:
                copy = copies.get(order - 1)
                try:
                    output.mux(packet)
                except (av.error.InvalidDataError, av.error.ArgumentError):
                    if copy is None or self._options.strict:
                        raise
                    copy.rejected += 1
                else:
                    if copy is not None:
                        copy.written += 1
        return list(copies.values())

    def _describe_picture(
        self, picture: Any, original: Any, segments: Sequence[Segment], cut: Cut
    ) -> None:
        source = self._source
        picture.time_base = source.time_base
        picture.disposition = original.disposition
        picture.metadata.update(kept_metadata(original.metadata))
        if timecode := picture.metadata.pop("timecode", None):
            skipped = round((cut.shift_s - source.begin_s) * source.rate)
            if self._keeps_timecode:
                picture.metadata["timecode"] = later_timecode(timecode, skipped, source.rate)
        pts = sorted(value for segment in segments for value in segment.pts)
        rate = constant_rate([value * source.time_base for value in pts], source.rate)
        # Matroska has a duration of all frames; time codes count in frames.
        keeps_rate = not self._format.declares_rate
        picture.codec_context.framerate = source.rate if keeps_rate else rate or 0

    def _picture_packets(
        self, segments: Sequence[Segment], stream: Any, cut: Cut
    ) -> Iterator[TimedPacket]:
        time_base = self._source.time_base
        shift = round(cut.shift_s / time_base)
        pts = [value - shift for segment in segments for value in segment.pts]
        order = sorted(pts)
        last = max(1, round(1 / self._source.rate / time_base))
        durations = {a: b - a for a, b in itertools.pairwise(order)} | {order[-1]: last}
        times = zip(pts, decode_times(pts), strict=True)
        extradata = None
        for segment in segments:
            with open_input(segment.path) as container:
                coded = container.streams.video[0]
                extradata = extradata or coded.codec_context.extradata
                if coded.codec_context.extradata != extradata:
                    raise VideoError(
                        "segments were encoded by different encoders: start over without --resume"
                    )
                for packet in container.demux(coded):
                    if not packet.size:
                        continue
                    packet.time_base = time_base
                    packet.pts, packet.dts = next(times)
                    packet.duration = durations[packet.pts]
                    packet.stream = stream
                    yield packet.dts * time_base, 0, packet
        if next(times, None) is not None:
            raise VideoError("a segment has lost frames: start over without --resume")


def first_packets(source: VideoSource) -> dict[int, Packet[Any]]:
    """Return the first packet of each stream that is at the beginning of the file, by its index."""
    with source.open() as (container, _):
        head = itertools.islice(
            readable_packets(container, list(container.streams)), REHEARSED_PACKETS
        )
        return {packet.stream.index: packet for packet in reversed(list(head)) if packet.size}


def cut_of(segments: Sequence[Segment], source: VideoSource, options: VideoOptions) -> Cut:
    """Return the part of ``source`` that ``segments`` cover."""
    if options.start_s is None and options.end_s is None and options.frames is None:
        return Cut(None, source.begin_s)
    first_s = min(min(segment.pts) for segment in segments) * source.time_base
    end_s = max(max(segment.pts) for segment in segments) * source.time_base + 1 / source.rate
    if not options.start_s:  # what precedes the first frame is kept
        return Cut((Fraction(-(10**9)), end_s), source.begin_s)
    return Cut((first_s, end_s), first_s)


def codec_name(stream: Any) -> str:
    """Return FFmpeg's name of a stream's codec; empty where it knows none."""
    context = getattr(stream, "codec_context", None)
    return stream.name or "" if context is None else context.codec.canonical_name
