"""The last step: the upscaled segments, and everything else of the source, in one file."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import av
import numpy as np
from av.packet import Packet
from av.stream import Discard

from rt4ksr_client.errors import VideoError
from rt4ksr_client.files import atomic_write
from rt4ksr_client.frames import Yuv420
from rt4ksr_client.pictures import warn
from rt4ksr_client.video.containers import (
    ContainerFormat,
    is_cover,
    kept_metadata,
    open_input,
    write_errors,
)
from rt4ksr_client.video.copies import (
    CopiedStream,
    Cut,
    OutputStream,
    TimedPacket,
    other_packets,
    warn_of_repairs,
)
from rt4ksr_client.video.decoding import nothing_lost, readable_packets
from rt4ksr_client.video.losses import losses
from rt4ksr_client.video.options import VideoOptions
from rt4ksr_client.video.segments import Segment, SegmentEncoder
from rt4ksr_client.video.sound import ENCODERS, EncodedSound
from rt4ksr_client.video.source import VideoSource
from rt4ksr_client.video.timecode import later_timecode
from rt4ksr_client.video.timing import Seam, constant_rate, decode_times

__all__ = ["Muxer"]

REHEARSED_PACKETS: Final = 500

logger = logging.getLogger(__name__)


class Muxer:
    """Writes ``target`` once every segment is there.

    A rehearsal with a black frame and the source's first packets finds out at once what the format
    can hold: the video must be among it, and some of the sound; other streams are left out with a
    warning. ``scale`` is that of the model.

    Raises:
        VideoError: an unknown format, one that cannot hold the video or any of its sound, or an
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
        self._tracks: dict[int, str | None] = {}
        """The encoder of each other stream by its index in the source, None for a copy."""
        self._through_tee = False
        with TemporaryDirectory(prefix="rt4ksr-") as folder:
            sample = Path(folder, "000000.mkv")
            width, height = source.width_px * scale, source.height_px * scale
            chroma = np.zeros((-(-height // 2), -(-width // 2), 2), np.uint8)
            blank = Yuv420(np.zeros((height, width), np.uint8), chroma)
            with SegmentEncoder(sample, (width, height), source, options) as encoder:
                encoder.write(source.start_pts, blank)
            self._choose_streams(Segment(sample, (source.start_pts,)))

    def _choose_streams(self, sample: Segment) -> None:
        with self._source.open() as (container, video):
            others = [
                stream
                for stream in container.streams
                if stream.index != video.index
                # Muxers make tracks of their own from the video's time code and from chapters.
                and not (stream.type == "data" and "timecode" in stream.metadata)
                and not (stream.type == "data" and stream.discard == Discard.all)
                and not (stream.type == "audio" and self._options.audio == "none")
            ]
            wanted = {stream.index: self._encoders_for(stream)[0] for stream in others}
            if self._rehearse(sample, wanted):
                self._tracks = wanted
            else:
                self._check_picture(sample, has_timecode="timecode" in video.metadata)
                self._leave_out([s for s in others if not self._take(s, sample)], sample)
            self._rehearse(sample, self._tracks, through_tee=self._through_tee)
            with open_input(self._trial_of(sample)) as output:
                for lost in losses(container, [video.index, *self._tracks], output):
                    warn(f"{self._target}: this format cannot hold {lost}: left out")
            for index, encoder in self._tracks.items():
                verb = f"encodes by {encoder}" if encoder else "copies"
                kind = container.streams[index].type
                logger.info("%s: %s %s stream %d", self._target, verb, kind, index)

    def _encoders_for(self, stream: Any) -> list[str | None]:
        """Return what to try for a stream, best first: None is a copy."""
        name, audio = codec_name(stream), self._options.audio
        if stream.type != "audio":
            return [None]
        if audio == "copy":
            # MP4 and MOV close gaps between samples of PCM. Encoded again, they are the same.
            closes_gaps = self._format.name in ("mp4", "mov") and name.startswith("pcm_")
            return [name, None] if closes_gaps else [None]
        return [None, ENCODERS[audio]] if name == audio else [ENCODERS[audio]]

    def _take(self, stream: Any, sample: Segment) -> bool:
        """Add ``stream`` to the tracks if the output can hold it beside them."""
        # In .mov, what is added through the tee cannot be decoded.
        tees = sorted({self._through_tee, self._format.name == "matroska"})
        for encoder, through_tee in itertools.product(self._encoders_for(stream), tees):
            tracks = {**self._tracks, stream.index: encoder}
            if self._rehearse(sample, tracks, through_tee=through_tee):
                self._tracks, self._through_tee = tracks, through_tee
                return True
        return False

    def _check_picture(self, sample: Segment, *, has_timecode: bool) -> None:
        if self._rehearse(sample, {}):
            return
        self._keeps_timecode = False
        if not has_timecode or not self._rehearse(sample, {}):
            name = self._options.codec_for(self._source.colours.depth)
            codec = av.Codec(name, "w").canonical_name
            raise VideoError(f"{self._target}: this format cannot hold {codec}: try .mkv")
        warn(f"{self._target}: this format cannot hold the time code: left out")

    def _leave_out(self, streams: Sequence[Any], sample: Segment) -> None:
        """Warn of ``streams``, which the output cannot hold.

        Raises:
            VideoError: there would be no sound, though it could be kept in another way.

        """
        for stream in streams:
            name = codec_name(stream) or stream.metadata.get("filename") or "unknown codec"
            kind = "cover picture" if is_cover(stream) else stream.type
            what = f"{kind} stream {stream.index} ({name})"
            if stream.type != "audio":
                warn(f"{self._target}: this format cannot hold {what}: left out")
                continue
            if not getattr(stream.codec_context, "sample_rate", 1):
                late = "begins late, with an unknown sample rate"
                warn(f"{self._source.path}: {what} {late}: left out")
                continue
            ways = [
                f"--audio {codec}"
                for codec, encoder in ENCODERS.items()
                if self._rehearse(sample, {stream.index: encoder})
            ]
            if encoder := self._encoders_for(stream)[-1]:
                what += f" encoded by {encoder}"
            remedy = f": {' or '.join(ways)} keeps it" if ways else ""
            if ways and not any(stream.container.streams[i].type == "audio" for i in self._tracks):
                elsewhere = "" if self._format.name == "matroska" else ", or try .mkv"
                raise VideoError(
                    f"{self._target}: this format cannot hold {what}{remedy}{elsewhere}; "
                    "--audio none leaves it out"
                )
            warn(f"{self._target}: this format cannot hold {what}: left out{remedy}")

    def _trial_of(self, sample: Segment) -> Path:
        return sample.path.with_name(f"rehearsal{self._target.suffix}")

    def _rehearse(
        self, sample: Segment, tracks: dict[int, str | None], *, through_tee: bool = False
    ) -> bool:
        """Write a file with the first packets of the streams; return whether all are in it."""
        trial = self._trial_of(sample)
        cut = Cut(None, self._source.begin_s)
        try:
            others = self._mux(
                trial, [sample], tracks, cut, (), most=REHEARSED_PACKETS, through_tee=through_tee
            )
            with open_input(trial) as found, self._source.open() as (container, video):
                kinds = Counter((stream.type, is_cover(stream)) for stream in found.streams)
                kinds.subtract(
                    (stream.type, is_cover(stream))
                    for stream in map(container.streams.__getitem__, [video.index, *tracks])
                    # A stream without packets is not found in every format.
                    if stream.index in self._first_packets or stream.type == "attachment"
                )
        except (av.FFmpegError, ValueError, VideoError) as exc:
            logger.info("%s: rehearsal with streams %s: %s", self._target, tracks, exc)
            return False
        # A tee writes nothing more after the first error.
        is_written = all(
            other.rejected <= (0 if through_tee else other.written) for other in others
        )
        return is_written and min(kinds.values()) >= 0

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
            others = self._mux(
                temporary, segments, self._tracks, cut, seams, through_tee=self._through_tee
            )
        warn_of_repairs(self._source.path, others)
        logger.info("%s: written from %d segments", self._target, len(segments))

    def _mux(
        self,
        path: Path,
        segments: Sequence[Segment],
        tracks: dict[int, str | None],
        cut: Cut,
        seams: tuple[Seam, ...],
        *,
        most: int | None = None,
        through_tee: bool = False,
    ) -> list[OutputStream]:
        """Write a file; return its streams beside the video."""
        with (
            self._source.open() as (container, original),
            self._format.open(path, metadata=container.metadata, through_tee=through_tee) as output,
            open_input(segments[0].path) as first,
        ):
            picture: Any = output.add_stream_from_template(first.streams.video[0], opaque=True)
            self._describe_picture(picture, original, segments, cut)
            self._format.tag(picture)
            is_strict = self._options.strict
            step = 0 if self._format.holds_equal_times else 1
            others: dict[int, OutputStream] = {}
            for index, encoder in tracks.items():
                stream = container.streams[index]
                if encoder:
                    others[index] = EncodedSound(
                        output, stream, encoder, seams, cut, is_strict=is_strict
                    )
                # None: its first packet was enough.
                elif added := self._format.add_copy(output, stream, self._first_packets.get(index)):
                    others[index] = CopiedStream(added, seams, cut, least_step=step)
            output.set_chapters(cut.chapters(container.chapters()))
            output.start_encoding()  # from here on, streams have the units of the format
            packets = heapq.merge(
                self._picture_packets(segments, picture, cut),
                other_packets(container, others, most=most),
                key=lambda timed: timed[:2],
            )
            for _, order, packet in packets:
                other = others.get(order - 1)
                try:
                    output.mux(packet)
                except (av.error.InvalidDataError, av.error.ArgumentError):
                    if other is None or is_strict:
                        raise
                    other.rejected += 1
                else:
                    if other is not None:
                        other.written += 1
        return list(others.values())

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
        rate, _ = constant_rate([value * source.time_base for value in pts], source.rate)
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
    return getattr(stream, "name", "") or "" if context is None else context.codec.canonical_name
