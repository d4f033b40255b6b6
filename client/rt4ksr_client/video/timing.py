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
    "JUMP_AHEAD_S",
    "REORDERED_FRAMES",
    "ContinuousClock",
    "FrameTimes",
    "Seam",
    "Timing",
    "VideoClock",
    "clock_of",
    "constant_rate",
    "decode_times",
    "duration_of",
    "first_time",
    "in_order_of_time",
    "rate_of",
    "time_of",
]

REORDERED_FRAMES: Final = 16
"""Codecs show a frame at most this many frames later than it is stored."""
JUMP_BACK_S: Final = 1
JUMP_AHEAD_S: Final = 10
"""Steps from packet to packet that are taken for a clock set anew, as FFmpeg does."""
HEAD_PACKETS: Final = 256
"""Packets of a video that tell how its times are to be taken."""
TS_DISCONT: Final = 0x200
"""Flag of formats whose clock may jump ahead: MPEG-TS and MPEG-PS."""


@dataclass(frozen=True)
class Seam:
    """A stretch of a clock that is set anew: it runs from ``begin_s`` to ``end_s``.

    ``shift_s`` is added to the times in it, so that they follow those of the stretch before.
    """

    shift_s: Fraction
    begin_s: Fraction
    end_s: Fraction


class VideoClock:
    """Gives packets of the video the times they would have if the file's clock ran through.

    ``step_s`` is the time between two frames.
    """

    def __init__(self, step_s: Fraction, *, may_jump_ahead: bool) -> None:
        self._step_s = step_s
        self._may_jump_ahead = may_jump_ahead
        self._stretches: list[Seam] = []
        self._shown_s = Fraction(0)
        """Until when the frames of this stretch are shown, in the file's clock."""

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The stretches so far; none where the clock runs through."""
        return tuple(self._stretches) if len(self._stretches) > 1 else ()

    def correct(self, packet: Any) -> None:
        """Shift the times of the next packet, in the order of storage."""
        unit = packet.time_base
        decoded_s = None if packet.dts is None else packet.dts * unit
        shown_s = None if packet.pts is None else packet.pts * unit
        if decoded_s is not None and not self._stretches:
            self._stretches.append(Seam(Fraction(0), decoded_s, decoded_s + self._step_s))
        elif self._stretches:
            self._follow(decoded_s, shown_s)
        if shown_s is not None:
            self._shown_s = max(self._shown_s, shown_s + self._step_s)
        shift = round(self._stretches[-1].shift_s / unit) if self._stretches else 0
        packet.pts = None if packet.pts is None else packet.pts + shift
        packet.dts = None if packet.dts is None else packet.dts + shift

    def _follow(self, decoded_s: Fraction | None, shown_s: Fraction | None) -> None:
        """Begin a new stretch where the time steps back or far ahead."""
        # Where frames are shown in another order, the first ones may lack one of the times.
        time_s = shown_s if decoded_s is None else decoded_s
        if time_s is None:
            return
        last, end_s = self._stretches[-1], time_s + self._step_s
        ahead_s = end_s - last.end_s
        jumps_ahead = decoded_s is not None and self._may_jump_ahead and ahead_s > JUMP_AHEAD_S
        if ahead_s < -JUMP_BACK_S or jumps_ahead:
            gaps_s = [] if decoded_s is None else [last.end_s - decoded_s]
            gaps_s += [] if shown_s is None else [self._shown_s - shown_s]
            self._stretches.append(Seam(last.shift_s + max(gaps_s), time_s, end_s))
            self._shown_s = time_s
        elif decoded_s is not None:
            self._stretches[-1] = replace(last, end_s=end_s)


@dataclass(frozen=True)
class Timing:
    """What the first packets of a video say about time.

    ``packets`` is their number, None if the file was not read to its end. A source is ``seekable``
    where every frame has a time of its own that can be relied on. Times are to be ``sorted`` where
    they are in the order of storage instead of that of display, and are ``counted`` where there
    are none. ``first_pts`` is the earliest.
    """

    packets: int | None
    seekable: bool
    sorted: bool
    counted: bool
    first_pts: int

    @classmethod
    def scan(
        cls, container: InputContainer, stream: VideoStream, *, end_s: float | None = 0.0
    ) -> Timing:
        """Read the packets of a video, without decoding them.

        The first ones are enough to know how its times are to be taken. Where it is to be sought,
        they are read until ``end_s``, in seconds after the first one; None: to the end.
        """
        clock = clock_of(container, stream)
        unit = Fraction(stream.time_base or 1)
        known: list[int] = []
        head, count, has_all, is_whole = 0, 0, True, True
        # What cannot be read is reported when it is decoded; IndexError: see readable_packets.
        with suppress(av.error.InvalidDataError, IndexError):
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                count += 1
                pts = packet.pts = time_of(packet, container.format)
                has_all &= pts is not None
                if pts is not None:
                    known.append(pts)
                clock.correct(packet)
                if count == HEAD_PACKETS:
                    head = len(known)
                is_enough = end_s is not None and count >= HEAD_PACKETS
                if is_enough and (not known or (known[-1] - known[0]) * unit > (end_s or 0)):
                    is_whole = False
                    break
        first = known[: head or None]
        ascending = all(a < b for a, b in itertools.pairwise(first))
        unique = has_all and len(set(known)) == len(known)
        return cls(
            packets=count if is_whole else None,
            seekable=unique and not clock.seams,
            sorted=has_all and ascending and count > 1,
            counted=not known,
            first_pts=min(first, default=0),
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


def clock_of(container: InputContainer, stream: VideoStream) -> VideoClock:
    """Return a clock for the packets of a video from the beginning of its file."""
    may_jump_ahead = bool(container.format.flags & TS_DISCONT)
    return VideoClock(1 / rate_of(stream), may_jump_ahead=may_jump_ahead)


def rate_of(stream: VideoStream) -> Fraction:
    """Return how many frames per second the file declares, 25 where that cannot be."""
    declared = (stream.average_rate, stream.guessed_rate)
    return next((Fraction(rate) for rate in declared if rate and rate <= MAX_FPS), Fraction(25))


def duration_of(
    container: InputContainer, stream: VideoStream, timing: Timing, rate: Fraction
) -> float:
    """Return the length of a video in seconds, 0 where nothing says it."""
    if timing.counted:
        return float((timing.packets or 0) / rate)
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # Matroska counts from zero, wherever its first packet is.
    begin = max(0, container.start_time or 0) if "matroska" in container.format.name else 0
    return max(0, (container.duration or 0) - begin) / av.time_base


def time_of(packet: Packet[Any], form: av.ContainerFormat) -> int | None:
    """Return when a packet's frame is shown by what the file says, None where it does not.

    AVI knows no order of display: FFmpeg's guess at it is later than the sound. In streams that are
    broadcast, a packet that is shown long after it is decoded has a damaged header.
    """
    if form.name == "avi" and packet.dts is not None:
        return packet.dts
    if packet.pts is None or packet.dts is None or packet.time_base is None:
        return packet.pts
    ahead_s = abs(packet.pts - packet.dts) * packet.time_base
    return None if form.flags & TS_DISCONT and ahead_s > JUMP_AHEAD_S else packet.pts


class ContinuousClock:
    """Gives packets of another stream the times that they would have without the ``seams``."""

    def __init__(self, seams: tuple[Seam, ...]) -> None:
        self._seams = seams
        self._current = 0
        self._last_s: Fraction | None = None

    def correct(self, packet: Any) -> None:
        """Shift the times of the next packet by which stretch they are in."""
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


def first_time(frames: Iterator[VideoFrame], step: Fraction, *, default: int) -> int:
    """Return when the first of ``frames`` is shown.

    Where it has no time, it comes as many steps of ``step`` before one that has.
    """
    for index, frame in enumerate(itertools.islice(frames, HEAD_PACKETS)):
        if frame.pts is not None:
            return frame.pts - round(index * step)
    return default


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


def constant_rate(
    times_s: Sequence[Fraction], declared: Fraction
) -> tuple[Fraction, int] | tuple[None, None]:
    """Return the rate of frames shown at ``times_s``, ascending, and how many are missing.

    None where the rate varies. ``declared`` is what the source says. Times may be rounded to
    milliseconds.
    """
    steps = len(times_s) - 1
    if steps < 1:
        return declared, 0
    shortest = sorted(b - a for a, b in itertools.pairwise(times_s))[: steps * 9 // 10 + 1]
    measured = len(shortest) / sum(shortest)
    ntsc = Fraction(1000 * round(measured * Fraction(1001, 1000)), 1001)
    for rate in filter(None, (declared, Fraction(round(measured)), ntsc)):
        places = [(time - times_s[0]) * rate for time in times_s]
        shown = [round(place) for place in places]
        if any(abs(a - b) > rate / 1000 for a, b in zip(places, shown, strict=True)):
            continue
        apart = [b - a for a, b in itertools.pairwise(shown)]
        if apart.count(1) >= 0.9 * steps and 0 not in apart:
            return rate, shown[-1] - steps
    return None, None
