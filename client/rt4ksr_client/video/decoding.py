"""Decoded frames of a video, as many as there are, and a count of what was wrong with it."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rt4ksr_client.errors import VideoError
from rt4ksr_client.video.containers import open_input
from rt4ksr_client.video.timing import VideoClock, time_of

__all__ = [
    "Faults",
    "decode",
    "deinterlaced",
    "next_key_frame",
    "nothing_lost",
    "readable_packets",
    "streams_found_late",
]

FARTHEST_KEY_FRAME: Final = 1000
"""Packets that are read in search of a key frame; some streams have only one."""

logger = logging.getLogger(__name__)


@dataclass
class Faults:
    """What was wrong with a video, and got repaired or left out.

    Args:
        damaged_packets: packets that could not be decoded and were skipped.
        damaged_frames: frames that were decoded with errors and kept.
        retimed_frames: frames that were given a time, since they had none that can be used.
        rescaled_frames: frames that were scaled to the size of the first one.
        converted_frames: frames of another pixel format, matrix or range, converted to the first
            one's.
        hidden_frames: frames that the file tells players not to show, by an edit list.
        missing_frames: frames that are not in the file, by the times of the others at a constant
            rate.

    """

    damaged_packets: int = 0
    damaged_frames: int = 0
    retimed_frames: int = 0
    rescaled_frames: int = 0
    converted_frames: int = 0
    hidden_frames: int = 0
    missing_frames: int = 0


def decode(
    container: InputContainer,
    stream: VideoStream,
    faults: Faults,
    clock: VideoClock | None = None,
    *,
    strict: bool = False,
    on_other: Callable[[Packet[Any]], object] | None = None,
) -> Iterator[VideoFrame]:
    """Decode the frames of ``stream`` in the order of display; a damaged packet is skipped.

    With ``clock``, the frames' times run on where the file's clock is set anew. ``on_other`` is
    given the packets of the other streams.

    Raises:
        VideoError: a damaged packet or frame, with ``strict``.

    """
    path = Path(container.name.removeprefix("file:"))
    for packet in whole_packets(container, stream, faults, on_other):
        if packet.size:
            packet.pts = time_of(packet, container.format)
            faults.hidden_frames += packet.is_discard
            if clock is not None:
                clock.correct(packet)
        for frame in decode_packet(packet, faults):
            faults.damaged_frames += frame.is_corrupt
            if strict and (faults.damaged_packets or faults.damaged_frames):
                break
            yield frame
        if strict and (faults.damaged_packets or faults.damaged_frames):
            raise VideoError(f"{path}: damaged: leave out --strict to upscale what can be decoded")


def whole_packets(
    container: InputContainer,
    stream: VideoStream,
    faults: Faults,
    on_other: Callable[[Packet[Any]], object] | None = None,
) -> Iterator[Packet[Any]]:
    """Yield the packets of ``stream``, and an empty one at the end, up to an unreadable place."""
    wanted = [stream] if on_other is None else list(container.streams)
    try:
        for packet in container_packets(container, wanted):
            if on_other is not None and packet.stream.index != stream.index:
                on_other(packet)
            elif packet.size:
                yield packet
    except av.error.InvalidDataError as exc:
        logger.info("%s: the rest cannot be read: %s", container.name, exc)
        faults.damaged_packets += 1
    end: Packet[Any] = Packet()
    end.stream, end.time_base = stream, Fraction(stream.time_base or 1)
    yield end


def readable_packets(container: InputContainer, streams: list[Any]) -> Iterator[Packet[Any]]:
    """Yield the packets of ``streams`` up to an unreadable place."""
    with suppress(av.error.InvalidDataError):
        yield from container_packets(container, streams)


def container_packets(container: InputContainer, streams: list[Any]) -> Iterator[Packet[Any]]:
    """Yield the packets of ``streams``, without those of streams that appear in the middle."""
    with suppress(IndexError):  # PyAV's at the end of a file in which another stream has appeared
        yield from container.demux(streams)


def streams_found_late(container: InputContainer) -> list[str]:
    """Return the kinds of the streams that have appeared since the file was opened.

    PyAV lists none of them, but FFmpeg's description of the file does. Damaged data also look like
    streams, of an unknown kind.
    """
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        description: str = container.dumps_format()  # type: ignore[attr-defined]
    finally:
        av.logging.set_level(level)
    found = re.findall(
        r"^ *Stream #0:(\d+).*?: (Audio|Subtitle|Video): ", description, re.MULTILINE
    )
    return [kind.lower() for index, kind in found if int(index) >= len(container.streams)]


def decode_packet(packet: Packet[Any], faults: Faults) -> Iterator[VideoFrame]:
    """Yield the frames that a decoder has ready after ``packet``."""
    is_last = not packet.size
    while True:
        try:
            for frame in packet.decode():
                assert isinstance(frame, VideoFrame)  # noqa: S101 - a video has nothing else
                yield frame
        except av.error.EOFError:
            return
        except (av.error.InvalidDataError, av.error.UnknownError) as exc:
            logger.info("packet at %s cannot be decoded: %s", packet.pts, exc)
            faults.damaged_packets += 1
            if is_last:  # frames may be left behind the broken one
                continue
        return


def next_key_frame(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    """Decode nothing but the next key frame; None where there is none for a while.

    The file has to be sought before anything else is decoded.
    """
    for packet in itertools.islice(readable_packets(container, [stream]), FARTHEST_KEY_FRAME):
        if packet.size and packet.is_keyframe:
            packet.pts = time_of(packet, container.format)
            with suppress(av.error.InvalidDataError, av.error.EOFError):
                for frame in [*stream.decode(packet), *stream.decode(None)]:
                    return frame
            stream.codec_context.flush_buffers()
    return None


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


@contextmanager
def nothing_lost(path: Path, frames: int) -> Iterator[None]:
    """Count the frames of the video that the block has written and closed.

    Raises:
        VideoError: there are not as many as ``frames``.

    """
    yield
    with open_input(path) as container:
        packets = container.demux(container.streams.video[0])
        found = sum(1 for packet in packets if packet.size and not packet.is_discard)
    if found != frames:
        raise VideoError(f"{path.suffix} took {found} of {frames} frames: nothing is written")
