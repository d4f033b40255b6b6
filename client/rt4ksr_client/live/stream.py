"""A live stream from source to target: three threads, and one clock.

The source's thread decodes, and sends the frames that the server can answer in time. The output's
thread takes each frame when it is due, and interpolates it if there is no answer. The target's
thread encodes and writes. Between them are queues that hold no more than the latency.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from time import monotonic, perf_counter
from typing import IO, Any, Final

import av
import numpy as np
from av.video.frame import VideoFrame

from rt4ksr_client.call import Cancellation
from rt4ksr_client.errors import ServerError, VideoError
from rt4ksr_client.frames import Yuv420
from rt4ksr_client.live.admission import Admission
from rt4ksr_client.live.options import LiveOptions
from rt4ksr_client.live.sink import LiveSink
from rt4ksr_client.live.sound import SoundFormat
from rt4ksr_client.live.source import DecodedFrame, LiveSource, is_hopeless, reason_of
from rt4ksr_client.live.statistics import LiveStatistics, Snapshot
from rt4ksr_client.live.timeline import Timeline
from rt4ksr_client.pictures import warn
from rt4ksr_client.upscaler import Upscaler
from rt4ksr_client.video.planes import ACCURATE_BICUBIC, from_video_frame, to_video_frame
from rt4ksr_client.video.source import VideoSource
from rt4ksr_client.video.unchanged import Plan, RequestCost, Savings, UnchangedParts

__all__ = ["upscale_live"]

WARM_UP_PX: Final = 64
SHORTEST_LEAD_S: Final = 0.01
LEAD_DECAY: Final = 0.995
WAITING_FRAMES_S: Final = 0.5
"""Of video that may wait for the target."""
EARLY_PACKETS: Final = 256
"""Of sound, kept until the first frame is decoded."""
POLL_S: Final = 0.1
MOST_LATENCIES: Final = 4
"""Of frames that wait at most."""
HOLD_AFTER: Final = 3
"""Frame times without a frame after which the last one is repeated."""
STATUS_EVERY_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0

ANY_COST: Final = RequestCost(fixed_s=64.0 * 64.0, px_s=1.0)
"""A request costs as much as 64x64 pixels: measuring it would take time that a stream has not."""

logger = logging.getLogger(__name__)


@dataclass
class LiveFrame:
    """A frame on its way: its time in the output, and when it is due, on the monotonic clock.

    ``answer`` is what the server makes of it, None if it was not sent.
    """

    image: VideoFrame
    time_s: Fraction
    arrival_s: float
    due_s: float
    plan: Plan | None = None
    answer: Future[list[Yuv420]] | None = None
    cancellation: Cancellation | None = None
    is_held: bool = False


def upscale_live(
    source: str,
    target: str,
    upscaler: Upscaler,
    options: LiveOptions,
    *,
    deep: Upscaler | None = None,
    source_file: IO[bytes] | None = None,
    target_file: IO[bytes] | None = None,
    stopped: threading.Event | None = None,
    statistics: LiveStatistics | None = None,
    on_status: Callable[[Snapshot], object] = lambda snapshot: None,
) -> Snapshot:
    """Upscale the stream ``source`` into ``target`` until it ends, or until ``stopped`` is set.

    Args:
        source: what FFmpeg opens, such as ``rtsp://camera/stream`` or ``udp://127.0.0.1:5000``.
        target: likewise, such as ``srt://player:9000`` or ``out/stream.m3u8``.
        upscaler: upscales frames of 4:2:0; of high priority, best.
        options: of the stream.
        deep: upscales frames of more than 8 bits; by default, they are cut to what ``upscaler``
            takes.
        source_file: what to read instead; ``source`` is its name then.
        target_file: what to write to instead.
        stopped: ends the stream properly from another thread.
        statistics: counts what becomes of the frames.
        on_status: called once a second with what has happened since.

    Returns:
        What has happened in all.

    Raises:
        VideoError: a source or target that does not work, and would not by trying again.
        PictureError: the model takes pictures in RGB.
        ServerError: the server did not describe its model.

    """
    for one in {upscaler, deep or upscaler}:
        served = one.served_model
        served.check_takes("yuv420", served.bits)
        # Connections and shared memory are there before the first frame comes.
        one.upscale(black(WARM_UP_PX, served.bits))
    statistics = statistics or LiveStatistics()
    stream = LiveStream(
        LiveSource(source, options, statistics, source_file),
        partial(LiveSink, target, target_file, options, statistics),
        (upscaler, deep or upscaler),
        options,
        statistics,
        stopped or threading.Event(),
    )
    return stream.run(on_status)


def black(side_px: int, bits: int) -> Yuv420:
    """Return a frame of zeros."""
    dtype = f"uint{bits}"
    half_px = side_px // 2
    return Yuv420(np.zeros((side_px, side_px), dtype), np.zeros((half_px, half_px, 2), dtype))


class LiveStream:
    """The threads of a stream, and what they share."""

    def __init__(
        self,
        source: LiveSource,
        sink_for: Callable[[VideoSource, tuple[int, int], Sequence[SoundFormat]], LiveSink],
        upscalers: tuple[Upscaler, Upscaler],
        options: LiveOptions,
        statistics: LiveStatistics,
        stopped: threading.Event,
    ) -> None:
        self._source, self._sink_for = source, sink_for
        self._upscalers = upscalers
        self._options = options
        self._statistics, self._stopped = statistics, stopped
        self._failure: BaseException | None = None
        self._early_sound: deque[Any] = deque(maxlen=EARLY_PACKETS)
        self._lock = threading.Lock()
        """Of the timeline, with the order of ``_due``, and of the admission."""
        self._due: queue.Queue[LiveFrame | None] = queue.Queue()
        self._ready: queue.Queue[tuple[VideoFrame, LiveFrame] | None] = queue.Queue()
        self._lead_s, self._encode_s = SHORTEST_LEAD_S, 0.0
        self._has_video = threading.Event()

    def run(self, on_status: Callable[[Snapshot], object]) -> Snapshot:
        """Run until the end; see :func:`upscale_live`."""
        threads = [
            threading.Thread(target=self._guard, args=(work,), name=f"live-{name}", daemon=True)
            for name, work in (
                ("source", self._read),
                ("output", self._show),
                ("target", self._write),
            )
        ]
        self._reader, *others = threads
        for thread in threads:
            thread.start()
        next_status_s = monotonic() + STATUS_EVERY_S
        try:
            while others[-1].is_alive() and not self._stopped.is_set():
                others[-1].join(POLL_S)
                if monotonic() >= next_status_s and self._has_video.is_set():
                    on_status(self._statistics.recent())
                    next_status_s += STATUS_EVERY_S
        finally:
            self._stopped.set()
            # The source's thread may wait for what never comes: it is a daemon.
            self._due.put(None)
            for thread in others:
                thread.join()
        if self._failure is not None:
            raise self._failure
        return self._statistics.total()

    def _guard(self, work: Callable[[], None]) -> None:
        """Run the work of a thread; its failure ends the stream."""
        try:
            work()
        except BaseException as exc:
            if self._failure is None:
                self._failure = exc
            self._stopped.set()
        finally:
            self._due.put(None)
            if work == self._show:
                self._ready.put(None)

    def _hear(self, packet: Any) -> None:
        """Give a packet of sound the times of the output, once the first frame says them."""
        shift_s = self._timeline.shift_s if self._has_video.is_set() else None
        if shift_s is None:
            self._early_sound.append(packet)
            return
        while self._early_sound:
            self._place(self._early_sound.popleft(), shift_s)
        self._place(packet, shift_s)

    def _place(self, packet: Any, shift_s: Fraction) -> None:
        shift = round(shift_s / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + shift
        packet.dts = None if packet.dts is None else packet.dts + shift
        if (packet.dts if packet.pts is None else packet.pts or 0) >= 0:
            self._sink.hear(packet)

    # The source's thread

    def _read(self) -> None:
        pool: ThreadPoolExecutor | None = None
        try:
            for frame in self._source.frames(self._hear, self._stopped):
                if pool is None:
                    self._begin()
                    most = self._options.most_in_flight(self._source.video.rate)
                    most_due = MOST_LATENCIES * most
                    pool = ThreadPoolExecutor(most, thread_name_prefix="live-send")
                elif frame.is_first:
                    self._timeline.restart()
                while self._due.qsize() >= most_due and not self._stopped.is_set():
                    self._stopped.wait(POLL_S / 10)  # a pipe that is faster than its own clock
                self._send(self._placed(frame), pool)
        finally:
            if pool is not None:
                pool.shutdown(wait=False)

    def _begin(self) -> None:
        """Prepare for frames as the first one."""
        video, options = self._source.video, self._options
        self._upscaler = self._upscalers[video.colours.depth > 8]
        self._served = self._upscaler.served_model
        self._unchanged = UnchangedParts(self._served, ANY_COST, Savings())
        scale = self._served.scale
        width, height = (side * scale for side in (video.width_px, video.height_px))
        self._size_px = (width + width % 2, height + height % 2)
        self._pixel_format = options.decoding.pixel_format_for(video.colours.depth)
        self._timeline = Timeline(1 / video.rate)
        self._admission = Admission(options.latency_s, options.most_in_flight(video.rate))
        self._ready.maxsize = max(2, round(WAITING_FRAMES_S * video.rate))
        self._sink = self._sink_for(video, self._size_px, self._source.sound)
        self._has_video.set()

    def _placed(self, frame: DecodedFrame) -> LiveFrame:
        """Queue ``frame`` with its time in the output."""
        due_s = frame.arrival_s + self._options.latency_s
        with self._lock:
            jumps = self._timeline.jumps
            time_s = self._timeline.place(frame.source_s, frame.arrival_s)
            self._statistics.count("clock_jumps", self._timeline.jumps - jumps)
            live = LiveFrame(frame.image, time_s, frame.arrival_s, due_s)
            self._due.put(live)
        return live

    def _send(self, live: LiveFrame, pool: ThreadPoolExecutor) -> None:
        """Send a frame if it may be answered in time."""
        with self._lock:
            if not self._admission.admits(monotonic()):
                return
        image = from_video_frame(live.image, self._served.bits)
        plan = self._unchanged.plan(self._source.video.orientation.apply(image))
        live.plan = plan
        live.cancellation = Cancellation(max(0.001, live.due_s - self._lead_s - monotonic()))
        with self._lock:
            self._admission.send()
            self._statistics.in_flight = self._admission.in_flight
        live.answer = pool.submit(self._ask, plan, live.cancellation)

    def _ask(self, plan: Plan, cancellation: Cancellation) -> list[Yuv420]:
        """Upscale the parts of a frame, and learn how long that takes. In a thread of the pool."""
        sent_s = monotonic()
        is_answered = False
        try:
            answers = [
                self._upscaler.upscale(part, cancellation=cancellation) for part in plan.parts
            ]
            is_answered = cancellation.end_s is None or monotonic() <= cancellation.end_s
            return answers
        except ServerError as exc:
            self._statistics.count("failed")
            logger.info("a frame failed: %s", exc)
            raise
        finally:
            now_s = monotonic()
            with self._lock:
                if is_answered:
                    self._admission.answer(sent_s, now_s)
                    self._statistics.answered(now_s - sent_s)
                else:
                    self._admission.fail(sent_s, now_s)
                self._statistics.in_flight = self._admission.in_flight

    # The output's thread

    def _show(self) -> None:
        step_s = None
        last: LiveFrame | None = None
        while True:
            try:
                live = self._due.get(timeout=step_s)
            except queue.Empty:
                assert last is not None  # noqa: S101 - only then is there a timeout
                step_s = float(1 / self._source.video.rate)
                if repeated := self._repeated(last):
                    last = repeated
                    self._hand_over(self._interpolated(last), last)
                continue
            if live is None:
                return
            self._statistics.count("frames_in")
            if self._options.is_held:
                step_s = HOLD_AFTER * float(1 / self._source.video.rate)
            wait_s = live.due_s - self._lead_s - monotonic()
            if wait_s > 0 and not (self._stopped.is_set() and live.answer is None):
                self._stopped.wait(wait_s) if live.answer is None else self._wait(live, wait_s)
            begin_s = perf_counter()
            self._hand_over(self._finished(live), live)
            needed_s = perf_counter() - begin_s + self._encode_s + SHORTEST_LEAD_S
            lead_s = max(SHORTEST_LEAD_S, needed_s, self._lead_s * LEAD_DECAY)
            self._lead_s = min(lead_s, self._options.latency_s / 2)
            last = live

    def _wait(self, live: LiveFrame, wait_s: float) -> None:
        """Wait until a frame is due; at the end of the stream, only for its answer."""
        end_s = monotonic() + wait_s
        while (left_s := end_s - monotonic()) > 0:
            if not self._stopped.is_set():
                self._stopped.wait(left_s)
            elif live.answer is None or live.answer.done():
                return
            else:
                with suppress(Exception, CancelledError):
                    live.answer.result(left_s)

    def _repeated(self, last: LiveFrame) -> LiveFrame | None:
        """Return the last frame once more, due now; None if another one has come."""
        now_s = monotonic()
        with self._lock:
            if not self._due.empty():
                return None
            time_s = self._timeline.repeat(now_s)
        return LiveFrame(last.image, time_s, now_s, now_s, is_held=True)

    def _finished(self, live: LiveFrame) -> VideoFrame:
        """Return the frame for the encoder: by the network if its answer is there."""
        if live.answer is not None and live.plan is not None:
            if live.answer.done():
                with suppress(Exception, CancelledError):
                    # A plan that follows one that failed cannot be composed.
                    image = self._unchanged.compose(live.plan, live.answer.result())
                    self._statistics.count("by_network")
                    return to_video_frame(image, self._pixel_format, self._source.video.colours)
            else:
                self._statistics.count("late")
            if live.cancellation is not None:
                live.cancellation.cancel()
            self._unchanged.forget()
        self._statistics.count("interpolated")
        return self._interpolated(live)

    def _interpolated(self, live: LiveFrame) -> VideoFrame:
        """Return the frame upscaled with libswscale's bicubic interpolation."""
        begin_s = perf_counter()
        video = self._source.video
        image = video.orientation.apply(from_video_frame(live.image))
        small = to_video_frame(image, self._pixel_format, video.colours)
        large = small.reformat(*self._size_px, interpolation=ACCURATE_BICUBIC)
        video.colours.apply(large)
        self._statistics.spent("interpolate", perf_counter() - begin_s)
        return large

    def _hand_over(self, frame: VideoFrame, live: LiveFrame) -> None:
        """Queue a frame for the encoder; the oldest one is dropped where the target is slow."""
        self._statistics.count("held", int(live.is_held))
        while self._failure is None:
            try:
                # At the end, what is left is written however long that takes.
                self._ready.put((frame, live), timeout=POLL_S if self._is_over() else 0)
                return
            except queue.Full:
                if self._is_over():
                    continue
                with suppress(queue.Empty):
                    self._ready.get_nowait()
                    self._statistics.count("dropped")

    def _is_over(self) -> bool:
        """Whether no more frames come."""
        return self._stopped.is_set() or not self._reader.is_alive()

    # The target's thread

    def _write(self) -> None:
        pause_s, next_try_s, is_open = FIRST_PAUSE_S, 0.0, False
        while (item := self._ready.get()) is not None:
            frame, live = item
            if not is_open and monotonic() < next_try_s:
                self._statistics.count("dropped")
                continue
            try:
                if not is_open:
                    self._sink.open()
                    is_open, pause_s = True, FIRST_PAUSE_S
                begin_s = perf_counter()
                self._sink.write(frame, live.time_s)
                taken_s = perf_counter() - begin_s
                self._encode_s = max(taken_s, self._encode_s * LEAD_DECAY)
                self._statistics.encoded(monotonic() - live.arrival_s)
            except (av.FFmpegError, OSError) as exc:
                self._lose_target(exc, is_open=is_open)
                is_open, next_try_s = False, monotonic() + pause_s
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
                self._statistics.count("dropped")
        if is_open:
            try:
                self._sink.finish()
            except (av.FFmpegError, OSError) as exc:
                self._lose_target(exc, is_open=True)

    def _lose_target(self, error: Exception, *, is_open: bool) -> None:
        """Say that the target is gone.

        Raises:
            VideoError: it will not come back.

        """
        self._sink.abandon()
        reason = reason_of(error, self._sink.url)
        if is_hopeless(error) or not self._sink.may_come_back():
            raise VideoError(f"{self._sink.url}: cannot be written: {reason}") from error
        if not self._sink.is_away:
            self._sink.is_away = True
            self._statistics.count("reconnects")
            what = "gone" if is_open else "not there"
            warn(f"{self._sink.url}: {what} ({reason}): trying to open it again")
