"""The source of a live stream: opened, decoded, and opened again when it goes away."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import monotonic, thread_time
from typing import IO, Any, Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rt4ksr_client.contract import MAX_INPUT_PX
from rt4ksr_client.errors import VideoError
from rt4ksr_client.live.options import LiveOptions
from rt4ksr_client.live.sound import SoundFormat
from rt4ksr_client.live.statistics import LiveStatistics
from rt4ksr_client.pictures import warn
from rt4ksr_client.video.containers import ffmpeg_url, video_stream
from rt4ksr_client.video.decoding import Faults, decode, deinterlaced
from rt4ksr_client.video.input_stream import too_large
from rt4ksr_client.video.source import VideoSource
from rt4ksr_client.video.timing import Timing

__all__ = ["DecodedFrame", "LiveSource", "is_hopeless", "is_network", "reason_of"]

OPEN_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 3.0
"""A source that sends nothing for so long is opened again."""
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0

LOW_LATENCY: Final = {"probesize": "1000000", "analyzeduration": "500000", "fpsprobesize": "0"}
"""FFmpeg's options: begin with what half a second of the stream says."""
BY_PROTOCOL: Final = {"rtsp": {"rtsp_transport": "tcp"}}
GENERATED: Final = "lavfi:"
"""Before a filter graph of FFmpeg's that makes a test picture."""
DEVICES: Final = {"/dev/video": "v4l2"}

logger = logging.getLogger(__name__)


def is_network(url: str) -> bool:
    """Whether ``url`` names a source or a target that may come back when it has gone."""
    return "://" in url and not url.startswith("file:")


@dataclass(frozen=True)
class DecodedFrame:
    """A frame, its time by the source's clock, and when it was decoded, on the monotonic clock.

    ``is_first`` marks the first one after the source was opened.
    """

    image: VideoFrame
    source_s: Fraction | None
    arrival_s: float
    is_first: bool


class LiveSource:
    """A source by FFmpeg's name of it, or a file object.

    Sources on a network and devices are opened again when they end or send nothing; a file and a
    pipe end.

    Args:
        url: what FFmpeg opens: ``rtsp://``, ``udp://``, ``/dev/video0``, a file.
        options: of the stream.
        statistics: counts what happens.
        file: what to read instead; ``url`` is its name then.

    """

    def __init__(
        self,
        url: str,
        options: LiveOptions,
        statistics: LiveStatistics,
        file: IO[bytes] | None = None,
    ) -> None:
        self.url = url
        self.faults = Faults()
        self.sound: list[SoundFormat] = []
        """The stream of sound, if there is any, as the source was opened first."""
        self.video: VideoSource
        """What the first frame says, once :meth:`frames` has given one."""
        self.is_away = False
        """Whether the source is gone, and waited for."""
        self._file = file
        self._options = options
        self._statistics = statistics
        self._is_known = False
        self._comes_back = file is None and (is_network(url) or self._device() is not None)
        self._is_generated = url.startswith(GENERATED)
        self._is_paced = options.is_paced or self._is_generated
        if file is None and not self._comes_back and not self._is_generated:
            self._check_file()

    def _check_file(self) -> None:
        path = Path(self.url)
        if not path.exists():
            raise VideoError(f"{self.url}: there is no such file")
        if path.is_file() and not self._options.is_paced:
            raise VideoError(
                f"{self.url}: a file has no clock of its own: add --pace to read it at its rate, "
                "or use rt4ksr video"
            )

    def _device(self) -> str | None:
        """Return FFmpeg's format of a device."""
        for prefix, form in DEVICES.items():
            if self.url.startswith(prefix):
                return form
        return None

    def frames(
        self, on_sound: Callable[[Packet[Any]], object], stopped: threading.Event
    ) -> Iterator[DecodedFrame]:
        """Yield the frames as they are decoded, until the end of a file, or ``stopped`` is set.

        Args:
            on_sound: is given the packets of sound.
            stopped: ends it from another thread.

        Raises:
            VideoError: no source that can be read, or one that would come out wrong.

        """
        pause_s = FIRST_PAUSE_S
        while not stopped.is_set():
            try:
                with self._open() as container:
                    for frame in self._decoded(container, on_sound, stopped):
                        pause_s, self.is_away = FIRST_PAUSE_S, False
                        yield frame
                        if stopped.is_set():
                            return
                reason = "it has ended"
            except (av.FFmpegError, OSError) as exc:
                reason = reason_of(exc, self.url)
                if not self._comes_back or is_hopeless(exc):
                    raise VideoError(f"{self.url}: cannot be read: {reason}") from exc
            if not self._comes_back or stopped.is_set():
                return
            if not self.is_away:
                self.is_away = True
                self._statistics.count("reconnects")
                warn(f"{self.url}: {reason}: trying to open it again")
            stopped.wait(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    def _open(self) -> InputContainer:
        form = self._device()
        options = dict(self._options.input_options)
        if self._comes_back:
            options = {**LOW_LATENCY, **BY_PROTOCOL.get(self.url.split(":")[0], {}), **options}
        if self._file is not None:
            file: Any = self._file
            opened: InputContainer = av.open(file, metadata_errors="replace", options=options)
            return opened
        name, timeout = self.url, (OPEN_TIMEOUT_S, READ_TIMEOUT_S) if self._comes_back else None
        if self._is_generated:
            name, form = self.url.removeprefix(GENERATED), "lavfi"
        elif not self._comes_back:
            name = ffmpeg_url(Path(self.url))
        logger.info("opening %s", self.url)
        container: InputContainer = av.open(
            name, format=form, options=options, timeout=timeout, metadata_errors="replace"
        )
        return container

    def _decoded(
        self,
        container: InputContainer,
        on_sound: Callable[[Packet[Any]], object],
        stopped: threading.Event,
    ) -> Iterator[DecodedFrame]:
        stream = video_stream(container, Path(self.url))
        if stream.width * stream.height > MAX_INPUT_PX:
            raise too_large(self.url, stream.width, stream.height)
        if not self._is_known:
            is_heard = self._options.audio != "none"
            self.sound = [SoundFormat(s) for s in container.streams.audio[:1] if is_heard]
        heard = container.streams.audio[0].index if container.streams.audio else None

        def hear(packet: Packet[Any]) -> None:
            if self.sound and packet.stream.index == heard and packet.size:
                on_sound(packet)

        frames = decode(container, stream, self.faults, on_other=hear)
        first = next(frames, None)
        if first is None:
            raise av.error.EOFError(0, "it sends no frames")
        if not self._is_known:
            self.video = self._described(container, stream, first)
            self._is_known = True
        images: Iterator[VideoFrame] = itertools.chain([first], frames)
        if self._options.deinterlace:
            images = deinterlaced(images, stream)
        images = self.video.uniform(images, self._options.decoding, self.faults)
        yield from self._arriving(images, stream, stopped)

    def _arriving(
        self, images: Iterator[VideoFrame], stream: VideoStream, stopped: threading.Event
    ) -> Iterator[DecodedFrame]:
        """Yield ``images`` when they are decoded, or with ``is_paced`` when they are due."""
        begin: tuple[float, Fraction] | None = None
        step_s = 1 / self.video.rate
        before_s = thread_time()
        for index, image in enumerate(images):
            now_s = thread_time()
            self._statistics.spent("decode", now_s - before_s)
            unit = Fraction(image.time_base or stream.time_base or 1)
            source_s = None if image.pts is None else image.pts * unit
            if self._is_paced:
                shown_s = index * step_s if source_s is None else source_s
                begin = begin or (monotonic(), shown_s)
                if stopped.wait(max(0.0, begin[0] + float(shown_s - begin[1]) - monotonic())):
                    return
            yield DecodedFrame(image, source_s, monotonic(), is_first=index == 0)
            before_s = thread_time()

    def _described(
        self, container: InputContainer, stream: VideoStream, first: VideoFrame
    ) -> VideoSource:
        """Return what the first frame says.

        Raises:
            VideoError: it would come out wrong.

        """
        return VideoSource.described(
            container,
            stream,
            Path(self.url),
            first,
            first.pts or 0,
            Timing(None, seekable=False, sorted=False, counted=first.pts is None, first_pts=0),
            self._options.decoding,
        )


def reason_of(error: Exception, url: str) -> str:
    """Return what is wrong with a source or target."""
    if isinstance(error, av.error.ProtocolNotFoundError):
        scheme = url.split("://")[0]
        return f"the FFmpeg in PyAV has no protocol {scheme}: pipe through a program that has it"
    return getattr(error, "strerror", None) or str(error)


def is_hopeless(error: Exception) -> bool:
    """Whether opening a source again will not help: FFmpeg cannot read such a thing."""
    kinds = ["ProtocolNotFoundError", "DemuxerNotFoundError", "DecoderNotFoundError"]
    found = tuple(getattr(av.error, kind) for kind in kinds if hasattr(av.error, kind))
    return isinstance(error, found)
