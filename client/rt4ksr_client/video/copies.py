"""Streams that are copied: which part of them, and times that the output can hold."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from av.container import InputContainer
from av.stream import Stream

from rt4ksr_client.pictures import warn
from rt4ksr_client.video.containers import is_cover
from rt4ksr_client.video.decoding import readable_packets
from rt4ksr_client.video.timing import (
    JUMP_AHEAD_S,
    REORDERED_FRAMES,
    ContinuousClock,
    Seam,
    decode_times,
)

__all__ = [
    "CopiedStream",
    "Cut",
    "OutputStream",
    "TimedPacket",
    "other_packets",
    "warn_of_repairs",
]

TimedPacket = tuple[Fraction, int, Any]
"""When a packet is decoded in seconds, the order of streams at one time, and the packet."""


class Cut:
    """The part of the source that is upscaled, in seconds of the source.

    ``window_s`` are its begin and end, None for all of it; ``shift_s`` is where the target begins.
    """

    def __init__(self, window_s: tuple[Fraction, Fraction] | None, shift_s: Fraction) -> None:
        self.window_s = window_s
        self.shift_s = shift_s

    def holds(self, time_s: Fraction) -> bool:
        """Whether a packet at this time belongs to the part."""
        return self.window_s is None or self.window_s[0] <= time_s < self.window_s[1]

    def nears(self, time_s: Fraction) -> bool:
        """Whether a packet at this time may be needed to decode the part."""
        return self.window_s is None or self.window_s[0] - 1 <= time_s < self.window_s[1] + 1

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


class OutputStream(Protocol):
    """A stream of the output beside the upscaled video.

    ``written`` and ``rejected`` count what the muxer did with its packets, ``moved`` those whose
    times stepped back, ``timeless`` those that are left out since they have no time.
    """

    written: int
    rejected: int
    moved: int
    timeless: int

    def take(self, packet: Any) -> Iterator[Any]:
        """Yield the packets that can be written once this one of the source is there."""

    def rest(self) -> Iterator[Any]:
        """Yield what is left at the end of the source."""


class CopiedStream:
    """Gives the packets of one stream times that ascend, in the unit of its ``output``.

    Where the source's clock is set anew, at its ``seams``, the times run on. Times must differ by
    ``least_step`` units.
    """

    def __init__(
        self, output: Stream, seams: tuple[Seam, ...], cut: Cut, *, least_step: int
    ) -> None:
        self.output = output
        self.moved = 0
        self.written = 0
        self.rejected = 0
        self.timeless = 0
        self._clock = ContinuousClock(seams)
        self._cut = cut
        self._least_step = least_step
        self._held: list[Any] = []
        """Packets whose times are only known by those after them."""
        self._hidden: Any = None
        """The last packet of sound that an edit list hides: decoders need it for the next one."""
        self._last_s: Fraction | None = None
        self._last: int | None = None

    def take(self, packet: Any) -> Iterator[Any]:
        """Yield the packets that can be written once this one is there."""
        if is_cover(self.output):
            packet.pts = packet.dts = 0
            packet.stream = self.output
            yield packet
            return
        if self.output.type == "audio" and packet.is_discard:
            self._hidden = packet
            return
        hidden, self._hidden = self._hidden, None
        if hidden is not None:
            yield from self._ordered(hidden)
        yield from self._ordered(packet)

    def _ordered(self, packet: Any) -> Iterator[Any]:
        """Yield the packets whose times are known once this one is there."""
        if packet.pts is None:
            packet.pts = packet.dts
        if packet.pts is None:
            self.timeless += 1
            return
        if packet.dts is None and (self.output.type != "video" or self._last_s is not None):
            packet.dts = packet.pts
        if packet.dts is None:  # the first frames of a video that are shown in another order
            if len(self._held) < REORDERED_FRAMES:
                self._held.append(packet)
                return
            packet.dts = packet.pts
        time_s = packet.dts * packet.time_base
        jumps = self._last_s is not None and time_s > self._last_s + JUMP_AHEAD_S
        if jumps and not self._held and self.output.type in ("audio", "video"):
            self._held.append(packet)
            return
        yield from self._release(packet.dts)
        yield from self._timed(packet)

    def rest(self) -> Iterator[Any]:
        """Yield what is left at the end of the source."""
        yield from self._release(None)

    def _release(self, following: int | None) -> Iterator[Any]:
        """Yield the packets that are held; ``following`` is when the one after them is decoded."""
        held, self._held = self._held, []
        if held and held[0].dts is not None:
            if following is not None and following < held[0].dts:
                held[0].pts = held[0].dts = following - (held[0].duration or 1)
                self.moved += 1
        elif following is not None:
            for back, packet in enumerate(reversed(held), 1):
                packet.dts = min(packet.pts, following - back * (packet.duration or 1))
        else:
            for packet, dts in zip(held, decode_times([p.pts for p in held]), strict=True):
                packet.dts = dts
        for packet in held:
            yield from self._timed(packet)

    def _timed(self, packet: Any) -> Iterator[Any]:
        """Yield ``packet`` in the target's times if it belongs to the part."""
        self._last_s = packet.dts * packet.time_base
        self._clock.correct(packet)
        begins = self._cut.window_s is not None and self._last is None
        if not self._cut.holds(packet.pts * packet.time_base) or (
            begins and self.output.type == "video" and not packet.is_keyframe
        ):
            return
        given, unit = packet.time_base, Fraction(self.output.time_base or packet.time_base)
        packet.pts, packet.dts = (
            round((time * given - self._cut.shift_s) / unit) for time in (packet.pts, packet.dts)
        )
        packet.duration = round((packet.duration or 0) * given / unit)
        packet.time_base = unit
        if self._last is not None and packet.dts < self._last + self._least_step:
            self.moved += packet.dts < self._last
            packet.dts = self._last + self._least_step
            packet.pts = max(packet.pts, packet.dts)
        self._last = packet.dts
        packet.stream = self.output
        yield packet


def other_packets(
    container: InputContainer, others: Mapping[int, OutputStream], *, most: int | None = None
) -> Iterator[TimedPacket]:
    """Yield the packets of the other streams of the output; ``others`` by index in the source.

    With ``most``, only those among the first packets of the source.
    """
    if not others:
        return
    if most is None:
        found = readable_packets(container, [container.streams[index] for index in others])
    else:
        found = itertools.islice(readable_packets(container, list(container.streams)), most)

    for packet in found:
        index = packet.stream.index
        if packet.size and index in others:
            for ready in others[index].take(packet):
                yield ready.dts * ready.time_base, index + 1, ready
    for index, other in others.items():
        for ready in other.rest():
            yield ready.dts * ready.time_base, index + 1, ready


def warn_of_repairs(path: Path, streams: Iterable[OutputStream]) -> None:
    """Say in a line each what was wrong with the other streams of the source at ``path``."""
    written = list(streams)
    lines = {
        "damaged packets of other streams skipped": sum(s.rejected for s in written),
        "packets of other streams whose times step back, moved": sum(s.moved for s in written),
        "packets of other streams without a time, left out": sum(s.timeless for s in written),
    }
    for what, count in lines.items():
        if count:
            warn(f"{path}: {what}: {count}")
