"""The last step: the segments' picture, and everything else of the source, in one file."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.stream import Stream

from rt4ksr_client.errors import VideoError
from rt4ksr_client.files import atomic_write, write_errors
from rt4ksr_client.pictures import warn
from rt4ksr_client.video.options import VideoOptions
from rt4ksr_client.video.segments import Segment
from rt4ksr_client.video.source import VideoFacts, opened, video_stream

__all__ = ["assemble", "check_container", "decode_times"]

Timed = tuple[Fraction, int, Any]


def check_container(source: Path, target: Path, options: VideoOptions) -> None:
    """Say before the work what ``target``'s format cannot hold.

    Raises:
        VideoError: an unknown format, or one that cannot hold the video or an audio stream.

    """
    with opened(source) as container:
        supported = _supported(target)
        codec = av.Codec(options.codec, "w").canonical_name
        if codec not in supported:
            raise VideoError(f"{target}: this format cannot hold {codec}: try .mkv")
        for stream in _others(container, source):
            name = _codec_name(stream)
            if name not in supported and stream.type == "audio":
                raise VideoError(f"{target}: this format cannot hold {name} audio: try .mkv")
            if name not in supported:
                warn(
                    f"{target}: cannot hold {stream.type} stream {stream.index} ({name}): left out"
                )


def assemble(
    segments: list[Segment], source: Path, target: Path, facts: VideoFacts, options: VideoOptions
) -> None:
    """Write ``target``, whole or not at all."""
    with write_errors(str(target)), atomic_write(target) as temporary, opened(source) as container:
        try:
            _write(segments, container, source, temporary, facts, options)
        except (av.FFmpegError, ValueError) as exc:
            if isinstance(exc, OSError) and exc.errno:
                raise
            raise VideoError(f"{target}: cannot be written: {exc}") from exc


def decode_times(pts: list[int]) -> list[int]:
    """Return the times at which packets, in the order of decoding, are to be decoded.

    They are the times shown, in order, as much earlier as the reordering needs: never after a
    packet is shown, always increasing, across segments too.
    """
    order = sorted(pts)
    rank = {value: index for index, value in enumerate(order)}
    delay = max((index - rank[value] for index, value in enumerate(pts)), default=0)
    step = max(1, min((b - a for a, b in itertools.pairwise(order)), default=1))
    early = [order[0] - (delay - index) * step for index in range(min(delay, len(pts)))]
    return early + order[: len(pts) - len(early)]


def _write(
    segments: list[Segment],
    container: InputContainer,
    source: Path,
    target: Path,
    facts: VideoFacts,
    options: VideoOptions,
) -> None:
    shift_s = Fraction(0)
    if options.start_s:
        shift_s = min(min(s.pts) for s in segments) * facts.time_base
    supported = _supported(target)
    with (
        av.open(str(target), "w", options=_muxer_options(target)) as output,
        opened(segments[0].path) as first,
    ):
        picture: Any = output.add_stream_from_template(first.streams.video[0])
        picture.time_base = facts.time_base
        original = video_stream(container, source)
        picture.metadata.update(_kept_metadata(original.metadata))
        copies = {
            stream.index: _copy_of(output, stream)
            for stream in _others(container, source)
            if _codec_name(stream) in supported
        }
        output.metadata.update(_kept_metadata(container.metadata))
        window_s = _window(segments, facts, options)
        output.set_chapters(_chapters(container.chapters(), window_s, shift_s))
        packets = heapq.merge(
            _picture_packets(segments, picture, facts, shift_s),
            _copied_packets(container, copies, window_s, shift_s),
            key=lambda timed: timed[:2],
        )
        for _, _, packet in packets:
            output.mux(packet)


def _picture_packets(
    segments: list[Segment], stream: Any, facts: VideoFacts, shift_s: Fraction
) -> Iterator[Timed]:
    shift = round(shift_s / facts.time_base)
    pts = [value - shift for segment in segments for value in segment.pts]
    dts = decode_times(pts)
    order = sorted(pts)
    last = max(1, round(1 / facts.rate / facts.time_base))
    durations = {a: b - a for a, b in itertools.pairwise(order)} | {order[-1]: last}
    times = zip(pts, dts, strict=True)
    extradata = None
    for segment in segments:
        with opened(segment.path) as container:
            coded = container.streams.video[0]
            extradata = extradata or coded.codec_context.extradata
            if coded.codec_context.extradata != extradata:
                raise VideoError("segments were encoded by different encoders: start over")
            for packet in container.demux(coded):
                if not packet.size:
                    continue
                packet.time_base = facts.time_base
                packet.pts, packet.dts = next(times)
                packet.duration = durations[packet.pts]
                packet.stream = stream
                yield packet.dts * facts.time_base, 0, packet
    if next(times, None) is not None:
        raise VideoError("a segment has lost frames: start over without --resume")


def _copied_packets(
    container: InputContainer,
    copies: dict[int, Any],
    window_s: tuple[Fraction, Fraction] | None,
    shift_s: Fraction,
) -> Iterator[Timed]:
    if not copies:
        return
    streams = [container.streams[index] for index in copies]
    for packet in container.demux(streams):
        if not packet.size or packet.pts is None or packet.time_base is None:
            continue
        at_s = packet.pts * packet.time_base
        if window_s is not None and not window_s[0] <= at_s < window_s[1]:
            continue
        shift = round(shift_s / packet.time_base)
        packet.pts -= shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        index = packet.stream.index
        packet.stream = copies[index]
        yield packet.dts * packet.time_base, index + 1, packet


def _window(
    segments: list[Segment], facts: VideoFacts, options: VideoOptions
) -> tuple[Fraction, Fraction] | None:
    """Return the seconds that the picture covers, or None where it is all of the source."""
    if options.start_s is None and options.end_s is None and options.frames is None:
        return None
    first = min(min(s.pts) for s in segments) * facts.time_base
    last = max(max(s.pts) for s in segments) * facts.time_base
    begin = first if options.start_s else Fraction(-(10**9))
    return begin, last + 1 / facts.rate


def _chapters(
    chapters: list[Any], window_s: tuple[Fraction, Fraction] | None, shift_s: Fraction
) -> list[Any]:
    kept = []
    for chapter in chapters:
        unit = Fraction(chapter["time_base"])
        begin, end = chapter["start"] * unit, chapter["end"] * unit
        if window_s is not None:
            begin, end = max(begin, window_s[0]), min(end, window_s[1])
        if begin < end:
            times = {"start": round((begin - shift_s) / unit), "end": round((end - shift_s) / unit)}
            kept.append({**chapter, **times})
    return kept


def _others(container: InputContainer, source: Path) -> list[Stream]:
    picture = video_stream(container, source)
    return [stream for stream in container.streams if stream.index != picture.index]


def _copy_of(output: OutputContainer, stream: Stream) -> Stream:
    copy: Stream = output.add_stream_from_template(stream)
    copy.metadata.update(_kept_metadata(stream.metadata))
    copy.disposition = stream.disposition
    return copy


def _kept_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Leave out what the muxer writes itself, and what was true of the source's coding only."""
    technical = {"encoder", "major_brand", "minor_version", "compatible_brands", "handler_name"}
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in technical | {"duration", "rotate", "bps", "vendor_id"}
        and not key.startswith(("_STATISTICS", "NUMBER_OF_", "BPS-", "DURATION-"))
    }


def _codec_name(stream: Stream) -> str:
    context = getattr(stream, "codec_context", None)
    return "" if context is None else context.codec.canonical_name


def _supported(target: Path) -> set[str]:
    try:
        with av.open("/dev/null", "w", format=_format_name(target)) as probe:
            return set(probe.supported_codecs)
    except (av.FFmpegError, ValueError) as exc:
        raise VideoError(f"{target}: unknown video format: try .mp4 or .mkv") from exc


def _format_name(target: Path) -> str:
    names = {".mkv": "matroska", ".webm": "webm", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov"}
    try:
        return names[target.suffix.lower()]
    except KeyError:
        raise VideoError(f"{target}: unknown video format: try one of {' '.join(names)}") from None


def _muxer_options(target: Path) -> dict[str, str]:
    return {"movflags": "+faststart"} if target.suffix.lower() in (".mp4", ".m4v", ".mov") else {}
