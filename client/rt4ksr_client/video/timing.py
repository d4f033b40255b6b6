"""When the frames of a video are shown, also where the file says it wrongly or not at all."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rt4ksr_client.video.options import MAX_FPS

__all__ = [
    "ContinuousClock",
    "Enough",
    "FrameTimes",
    "Seam",
    "Timing",
    "in_order_of_time",
    "rate_of",
    "time_of",
]

REORDERED_FRAMES: Final = 16
"""Codecs show a frame at most this many frames later than it is stored."""
JUMP_BACK_S: Final = 1
JUMP_AHEAD_S: Final = 10
"""Steps from packet to packet that are taken for a clock set anew, as FFmpeg does."""
TS_DISCONT: Final = 0x200
"""Flag of formats whose clock may jump ahead: MPEG-TS and MPEG-PS."""


@dataclass(frozen=True)
class Seam:
    """Where the clock of a stream is set anew.

    From packet ``index`` of the video on, ``shift_s`` is added to every time. The file's clock
    runs from ``begin_s`` to ``end_s`` until the next seam.
    """

    index: int
    shift_s: Fraction
    begin_s: Fraction
    end_s: Fraction


@dataclass(frozen=True)
class Timing:
    """What the packets of a video say about time.

    ``packets`` is their number, None if the file was not read to its end. A source is ``seekable``
    where every frame has a time of its own that can be relied on. Times are to be ``sorted`` where
    they are in the order of storage instead of that of display, and are ``counted`` where there
    are none. ``first_pts`` is the earliest, ``span_s`` the seconds between the first and the last.
    """

    packets: int | None
    seekable: bool
    sorted: bool
    counted: bool
    first_pts: int
    span_s: float
    seams: tuple[Seam, ...]

    @classmethod
    def scan(cls, container: InputContainer, stream: VideoStream, enough: Enough) -> Timing:
        """Read the packets of a video, without decoding them, until there are ``enough``."""
        unit = Fraction(stream.time_base or 1)
        known: list[int] = []
        stored: list[int | None] = []
        count, has_all = 0, True
        # What cannot be read is reported when it is decoded; IndexError: see whole_packets.
        with suppress(av.error.InvalidDataError, IndexError):
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                count += 1
                pts = time_of(packet, container.format.name)
                has_all &= pts is not None
                if pts is not None:
                    known.append(pts)
                stored.append(pts if packet.dts is None else packet.dts)
                if enough.reached(count, ((stored[-1] or 0) - (stored[0] or 0)) * unit):
                    break
            else:
                enough = Enough()
        step = 1 / rate_of(stream)
        may_jump = bool(container.format.flags & TS_DISCONT)
        seams = tuple(find_seams(without_gaps(stored), unit, step, may_jump))
        ascending = all(a < b for a, b in itertools.pairwise(known))
        is_sorted = has_all and not seams and ascending and count > 1
        unique = has_all and len(set(known)) == len(known)
        return cls(
            packets=count if enough == Enough() else None,
            seekable=unique and not seams,
            sorted=is_sorted,
            counted=not known,
            first_pts=min(known, default=0),
            span_s=float(sum(seam.end_s - seam.begin_s for seam in seams))
            or float((max(known, default=0) - min(known, default=0)) * unit),
            seams=seams,
        )

    def checked(self, is_avi: bool, delay: int, frames: Iterable[VideoFrame]) -> Timing:
        """Decide whether times in ascending order are wrong, by the first of the ``frames``.

        They are right without frames that are shown later than they are stored. ``delay`` is the
        decoder's.
        """
        if not self.sorted:
            return self
        pts = [frame.pts or 0 for frame in itertools.islice(frames, 2 * REORDERED_FRAMES)]
        is_wrong = is_avi or delay > 0 or pts != sorted(pts)
        return replace(self, sorted=is_wrong, seekable=self.seekable and not is_wrong)


@dataclass(frozen=True)
class Enough:
    """How much of a file is looked at: all of it, or a number of packets or seconds."""

    packets: int | None = None
    duration_s: float | None = None

    def reached(self, packets: int, duration_s: Fraction) -> bool:
        """Whether this many packets over this many seconds are enough."""
        return (self.packets is not None and packets >= self.packets) or (
            self.duration_s is not None and duration_s > self.duration_s
        )


def rate_of(stream: VideoStream) -> Fraction:
    """Return how many frames per second the file declares, 25 where that cannot be."""
    declared = (stream.average_rate, stream.guessed_rate)
    return next((Fraction(rate) for rate in declared if rate and rate <= MAX_FPS), Fraction(25))


def time_of(packet: Packet[Any], format_name: str) -> int | None:
    """Return when a packet's frame is shown by what the file says, None where it does not.

    AVI knows no order of display: FFmpeg's guess at it is later than the sound.
    """
    if format_name == "avi" and packet.dts is not None:
        return packet.dts
    if packet.pts is None or packet.dts is None or packet.time_base is None:
        return packet.pts
    is_credible = abs(packet.pts - packet.dts) * packet.time_base <= JUMP_AHEAD_S
    return packet.pts if is_credible else None


def without_gaps(times: Sequence[int | None]) -> list[int]:
    """Replace each missing time by the one before it, at the beginning by the first there is."""
    last = next((time for time in times if time is not None), 0)
    return [last := last if time is None else time for time in times]


def find_seams(
    stored: Sequence[int], unit: Fraction, step_s: Fraction, may_jump_ahead: bool
) -> Iterator[Seam]:
    """Yield the stretches of a clock that is set anew, none where it runs through.

    The continued clock begins at zero: the file's own may begin at any hour.

    ``stored`` are the packets' times in the order of storage, in units of ``unit`` seconds.
    """
    begins = [0]
    for index, (a, b) in enumerate(itertools.pairwise(stored), 1):
        step = (b - a) * unit
        if step < -JUMP_BACK_S or (may_jump_ahead and step > JUMP_AHEAD_S):
            begins.append(index)
    if len(begins) == 1:
        return
    continued_s = Fraction(0)
    for begin, end in itertools.pairwise([*begins, len(stored)]):
        begin_s, end_s = stored[begin] * unit, stored[end - 1] * unit + step_s
        shift_s = continued_s - begin_s
        yield Seam(begin, shift_s, begin_s, end_s)
        continued_s = end_s + shift_s


class ContinuousClock:
    """Gives packets of one stream the times that they would have without the ``seams``."""

    def __init__(self, seams: tuple[Seam, ...]) -> None:
        self._seams = seams
        self._current = 0
        self._index = -1
        self._last_s: Fraction | None = None
        self._earliest = -(2**62)

    def correct_video(self, packet: Any) -> None:
        """Shift the times of the next packet of the video."""
        self._index += 1
        while (
            self._current + 1 < len(self._seams)
            and self._index >= self._seams[self._current + 1].index
        ):
            self._current += 1
        self._shift(packet)

    def correct(self, packet: Any) -> None:
        """Shift the times of the next packet of another stream, by which stretch they are in."""
        time = packet.pts if packet.dts is None else packet.dts
        if time is not None:
            time_s = time * packet.time_base
            jumps_back = self._last_s is not None and time_s < self._last_s - JUMP_BACK_S
            later = range(self._current + jumps_back, len(self._seams))
            self._current = min(
                later, key=lambda i: self._distance_s(i, time_s), default=self._current
            )
            self._last_s = time_s
        self._shift(packet)
        if self._seams and time is not None:
            # The sound of a recording may begin before its picture: it would overlap.
            begin = packet.pts if packet.dts is None else packet.dts
            self._earliest = max(self._earliest, begin) + 1
            packet.dts = self._earliest - 1
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)

    def _distance_s(self, index: int, time_s: Fraction) -> Fraction:
        seam = self._seams[index]
        outside_s = max(seam.begin_s - time_s, time_s - seam.end_s, Fraction(0))
        # Streams end a little earlier or later than the video: that is no new stretch.
        return outside_s if index == self._current else outside_s + JUMP_BACK_S

    def _shift(self, packet: Any) -> None:
        if self._seams:
            shift = round(self._seams[self._current].shift_s / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift


def in_order_of_time(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Give decoded frames, which come in the order of display, the same times in that order."""
    waiting: deque[VideoFrame] = deque()
    times: list[int] = []

    def first() -> VideoFrame:
        frame = waiting.popleft()
        frame.pts = heapq.heappop(times) if times else None
        return frame

    for frame in frames:
        waiting.append(frame)
        if frame.pts is not None:
            heapq.heappush(times, frame.pts)
        if len(waiting) > REORDERED_FRAMES:
            yield first()
    while waiting:
        yield first()


class FrameTimes:
    """Gives frames ascending times; ``given`` is how many needed one.

    ``start`` is the time of a first frame that has none, ``step`` that between two frames.
    """

    def __init__(self, start: int, step: Fraction) -> None:
        self._exact, self._step = Fraction(start) - step, step
        self._is_first = True
        self.given = 0

    def next(self, pts: int | None, following: int | None) -> int:
        """Return when a frame is shown.

        ``pts`` is what the file says about it, ``following`` about the frame after it.
        """
        last = round(self._exact)
        is_later = pts is not None and following is not None and following < pts
        if is_later and (self._is_first or (following or 0) > last + 1):
            pts = None  # an outlier: the frames after it would all be late
        if pts is None or (pts <= last and not self._is_first):
            self.given += 1
            self._exact += self._step
            if following is not None and last + 1 < following <= round(self._exact):
                self._exact = Fraction(last + following, 2)
        else:
            self._exact = Fraction(pts)
        self._exact = max(self._exact, Fraction(last + 1)) if not self._is_first else self._exact
        self._is_first = False
        return round(self._exact)
