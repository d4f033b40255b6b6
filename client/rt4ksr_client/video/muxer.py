"""The last step: the upscaled segments, and everything else of the source, in one file."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Stream

from rt4ksr_client.errors import VideoError
from rt4ksr_client.files import atomic_write
from rt4ksr_client.pictures import warn
from rt4ksr_client.video.containers import (
    ContainerFormat,
    kept_metadata,
    open_input,
    write_errors,
)
from rt4ksr_client.video.decoding import nothing_lost, readable_packets
from rt4ksr_client.video.options import VideoOptions
from rt4ksr_client.video.segments import Segment
from rt4ksr_client.video.source import VideoSource
from rt4ksr_client.video.timing import ContinuousClock, Seam

__all__ = ["Muxer", "decode_times"]

TimedPacket = tuple[Fraction, int, Any]
"""When a packet is decoded in seconds, the order of streams at one time, and the packet."""

logger = logging.getLogger(__name__)


class Muxer:
    """Writes ``target`` once every segment is there.

    Says at once what its format cannot hold: a stream of sound is an error, others are left out
    with a warning.

    Raises:
        VideoError: an unknown format, or one that cannot hold the video or a stream of sound.

    """

    def __init__(self, source: VideoSource, target: Path, options: VideoOptions) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._format = ContainerFormat.of(target)
        self._copied: list[int] = []
        """Indices of the streams that are copied."""
        codec = av.Codec(options.codec, "w").canonical_name
        if codec not in self._format.codecs:
            raise VideoError(f"{target}: this format cannot hold {codec}: try .mkv")
        with source.open() as (container, video):
            for stream in container.streams:
                name = codec_name(stream)
                if stream.index == video.index:
                    continue
                if name in self._format.codecs:
                    self._copied.append(stream.index)
                    logger.info("%s: copies %s stream %d", target, stream.type, stream.index)
                elif stream.type == "audio":
                    raise VideoError(f"{target}: this format cannot hold {name} audio: try .mkv")
                else:
                    warn(
                        f"{target}: this format cannot hold {stream.type} stream {stream.index} "
                        f"({name}): left out"
                    )

    def write(self, segments: Sequence[Segment], *, replace: bool = True) -> None:
        """Write the target, whole or not at all; without ``replace``, only where no file is.

        Raises:
            VideoError: it cannot be written, or the segments are not of one run.

        """
        cut = Cut.of(segments, self._source, self._options)
        with (
            write_errors(self._target),
            atomic_write(self._target, replace=replace) as temporary,
            nothing_lost(temporary, sum(len(segment.pts) for segment in segments)),
            self._source.open() as (container, original),
            self._format.open(temporary) as output,
            open_input(segments[0].path) as first,
        ):
            picture: Any = output.add_stream_from_template(first.streams.video[0])
            picture.time_base = self._source.time_base
            picture.metadata.update(kept_metadata(original.metadata))
            picture.disposition = original.disposition
            copies: dict[int, Stream] = {}
            for index in self._copied:
                stream = container.streams[index]
                copies[index] = output.add_stream_from_template(stream)
                copies[index].metadata.update(kept_metadata(stream.metadata))
                copies[index].disposition = stream.disposition
            output.metadata.update(kept_metadata(container.metadata))
            output.set_chapters(cut.chapters(container.chapters()))
            packets = heapq.merge(
                self._picture_packets(segments, picture, cut),
                copied_packets(container, copies, cut, self._source.timing.seams),
                key=lambda timed: timed[:2],
            )
            damaged = 0
            for _, order, packet in packets:
                try:
                    output.mux(packet)
                except av.error.InvalidDataError:
                    if order == 0 or self._options.strict:
                        raise
                    damaged += 1
            if damaged:
                warn(f"{self._source.path}: damaged packets of other streams skipped: {damaged}")
        logger.info("%s: written from %d segments", self._target, len(segments))

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


class Cut:
    """The part of the source that is upscaled, in seconds of the source.

    ``window_s`` are its begin and end, None for all of it; ``shift_s`` is where the target begins.
    """

    def __init__(self, window_s: tuple[Fraction, Fraction] | None, shift_s: Fraction) -> None:
        self.window_s = window_s
        self.shift_s = shift_s

    @classmethod
    def of(cls, segments: Sequence[Segment], source: VideoSource, options: VideoOptions) -> Cut:
        """Return the part that ``segments`` cover."""
        if options.start_s is None and options.end_s is None and options.frames is None:
            return cls(None, Fraction(0))
        first_s = min(min(segment.pts) for segment in segments) * source.time_base
        end_s = max(max(segment.pts) for segment in segments) * source.time_base + 1 / source.rate
        if not options.start_s:  # what precedes the first frame is kept
            return cls((Fraction(-(10**9)), end_s), Fraction(0))
        return cls((first_s, end_s), first_s)

    def holds(self, time_s: Fraction) -> bool:
        """Whether a packet at this time belongs to the part."""
        return self.window_s is None or self.window_s[0] <= time_s < self.window_s[1]

    def chapters(self, chapters: Sequence[Any]) -> list[Any]:
        """Return those of ``chapters`` that overlap the part, in the target's times."""
        kept = []
        for chapter in chapters:
            unit = Fraction(chapter["time_base"])
            begin_s, end_s = chapter["start"] * unit, chapter["end"] * unit
            if self.window_s is not None:
                begin_s, end_s = max(begin_s, self.window_s[0]), min(end_s, self.window_s[1])
            if begin_s < end_s:
                begin, end = (round((s - self.shift_s) / unit) for s in (begin_s, end_s))
                kept.append({**chapter, "start": begin, "end": end})
        return kept


def copied_packets(
    container: InputContainer, copies: dict[int, Stream], cut: Cut, seams: tuple[Seam, ...]
) -> Iterator[TimedPacket]:
    """Yield the packets of the streams that are copied; ``copies`` by the index in the source.

    Where the source's clock is set anew, at its ``seams``, their times run on.
    """
    clocks = {index: ContinuousClock(seams) for index in copies}
    if not copies:
        return
    for packet in readable_packets(container, [container.streams[index] for index in copies]):
        if not packet.size or packet.pts is None or packet.time_base is None:
            continue
        clocks[packet.stream.index].correct(packet)
        if not cut.holds(packet.pts * packet.time_base):
            continue
        shift = round(cut.shift_s / packet.time_base)
        packet.pts -= shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        index = packet.stream.index
        packet.stream = copies[index]
        yield packet.dts * packet.time_base, index + 1, packet


def decode_times(pts: Sequence[int]) -> list[int]:
    """Return when packets with these ``pts``, in the order of decoding, are to be decoded.

    These are the same times in ascending order, as much earlier as the reordering needs: a packet
    is never decoded after it is shown, also across segments.
    """
    order = sorted(pts)
    rank = {value: index for index, value in enumerate(order)}
    delay = max((index - rank[value] for index, value in enumerate(pts)), default=0)
    step = max(1, min((b - a for a, b in itertools.pairwise(order)), default=1))
    early = [order[0] - (delay - index) * step for index in range(min(delay, len(pts)))]
    return early + order[: len(pts) - len(early)]


def codec_name(stream: Stream) -> str:
    """Return FFmpeg's name of a stream's codec; empty where it knows none."""
    context = getattr(stream, "codec_context", None)
    return "" if context is None else context.codec.canonical_name
