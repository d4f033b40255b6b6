"""The target of a live stream: frames encoded, sound beside them, written and opened again."""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import IO, Any, Final

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame

from rt4ksr_client.errors import VideoError
from rt4ksr_client.live.options import LiveOptions
from rt4ksr_client.live.sound import SoundFormat
from rt4ksr_client.live.source import is_network
from rt4ksr_client.live.statistics import LiveStatistics
from rt4ksr_client.pictures import warn
from rt4ksr_client.video.copies import CopiedStream, Cut, OutputStream
from rt4ksr_client.video.output_stream import FRAGMENTED, write_all
from rt4ksr_client.video.segments import add_encoder, encoded, ordinary_priority
from rt4ksr_client.video.sound import ENCODERS, EncodedSound
from rt4ksr_client.video.source import VideoSource

__all__ = ["UNIT", "LiveSink", "format_of"]

UNIT: Final = Fraction(1, 90_000)
"""Of the output's times, in seconds, as in MPEG transport streams."""

BY_PROTOCOL: Final = {
    "rtmp": "flv",
    "rtmps": "flv",
    "rtsp": "rtsp",
    "srt": "mpegts",
    "tcp": "mpegts",
    "udp": "mpegts",
    "rtp": "rtp_mpegts",
}
BY_SUFFIX: Final = {
    ".m3u8": "hls",
    ".ts": "mpegts",
    ".mkv": "matroska",
    ".mp4": "mp4",
    ".flv": "flv",
    ".nut": "nut",
}
MUXER_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "hls": {"hls_time": "2", "hls_list_size": "10", "hls_flags": "delete_segments"},
    "mpegts": {"flush_packets": "1"},
    "mp4": FRAGMENTED,
    "matroska": {"live": "1", "flush_packets": "1"},
}
HOLDS: Final = {"hls": "mpegts", "rtsp": "mpegts", "rtp_mpegts": "mpegts"}
"""Formats that write no single file, and one that holds the same streams."""
OPEN_TIMEOUT_S: Final = 5.0
MOST_PACKETS: Final = 4096
"""Of sound, kept while the target does not take any: more than a minute."""

logger = logging.getLogger(__name__)


def format_of(url: str, form: str | None = None) -> str:
    """Return FFmpeg's name of the format for the target ``url``, ``form`` if that is given.

    Raises:
        VideoError: none is known for it, or PyAV's FFmpeg has no such format or protocol.

    """
    scheme = url.split("://")[0] if "://" in url else ""
    name = form or BY_PROTOCOL.get(scheme) or BY_SUFFIX.get(Path(url).suffix.lower())
    if name is None and url == "-":
        name = "matroska"
    if name is None:
        known = " ".join([*(f"{p}://" for p in BY_PROTOCOL), *BY_SUFFIX])
        raise VideoError(f"{url}: unknown target: give --format, or one of {known}")
    if name not in av.formats_available:
        raise VideoError(f"{url}: this build of PyAV cannot write {name}")
    return name


class LiveSink:
    """Encodes frames and writes them with the sound beside them; opens the target when needed.

    A target on a network is opened again after an error; its frames are dropped meanwhile.

    Args:
        url: of the target.
        file: what to write to instead.
        options: of the stream.
        statistics: counts what happens.
        video: describes the source.
        size_px: width and height of the upscaled frames.
        sound: the streams of sound of the source.

    Raises:
        VideoError: a target that cannot be opened and would not come back, or an encoder that
            does not work.

    """

    def __init__(
        self,
        url: str,
        file: IO[bytes] | None,
        options: LiveOptions,
        statistics: LiveStatistics,
        video: VideoSource,
        size_px: tuple[int, int],
        sound: Sequence[SoundFormat],
    ) -> None:
        self.is_away = False
        """Whether the target is gone, and tried again."""
        self.url, self._file = url, file
        self._video = dataclasses.replace(video, time_base=UNIT)
        self._size_px = size_px
        self._options = options
        self._statistics = statistics
        self._format = format_of(url, options.form)
        self._packets: deque[Packet[Any]] = deque(maxlen=MOST_PACKETS)
        self._chunks: list[bytes] = []
        self._sound = [(stream, self._encoder_for(stream)) for stream in sound]
        self._container: OutputContainer | None = None
        self._others: list[OutputStream] = []

    def hear(self, packet: Packet[Any]) -> None:
        """Take a packet of sound, with its time in the output."""
        self._packets.append(packet)

    def open(self) -> None:
        """Open the target.

        Raises:
            VideoError: the encoder does not work, or the target cannot hold the streams.
            OSError: the target cannot be reached, or written.

        """
        if self._file is None and self._format == "hls":
            Path(self.url).parent.mkdir(parents=True, exist_ok=True)
        target: Any = self.url
        if self._file is not None:
            target = SimpleNamespace(write=self._chunks.append)
        elif not is_network(self.url):
            target = f"file:{Path(self.url).absolute()}"
        options = dict(MUXER_OPTIONS.get(self._format, {}))
        container = av.open(
            target, "w", format=self._format, options=options, timeout=OPEN_TIMEOUT_S
        )
        try:
            self._fill(container)
            with ordinary_priority():
                container.start_encoding()
        except BaseException:
            with suppress(av.FFmpegError, OSError, ValueError):
                container.close()
            raise
        self._container, self.is_away = container, False
        self._flush()

    def write(self, frame: VideoFrame, time_s: Fraction) -> None:
        """Encode ``frame``, shown at ``time_s``, and write it with the sound up to it.

        Raises:
            VideoError: the encoder does not work.
            OSError: the target cannot be written any more.

        """
        container = self._container
        if container is None:
            raise VideoError(f"{self.url}: not open")
        frame.pts, frame.time_base = round(time_s / UNIT), UNIT
        begin_s = perf_counter()
        packets = encoded(self._picture, frame)
        coded_s = perf_counter()
        self._statistics.spent("encode", coded_s - begin_s)
        for packet in packets:
            container.mux(packet)
        self._mux_sound(container, time_s)
        self._flush()
        self._statistics.spent("write", perf_counter() - coded_s)

    def finish(self) -> None:
        """Write what the encoder holds back, and the end of the stream.

        Raises:
            VideoError: the encoder does not work.
            OSError: the target cannot be written any more.

        """
        container, self._container = self._container, None
        if container is None:
            return
        try:
            for packet in encoded(self._picture, None):
                container.mux(packet)
            self._mux_sound(container, None)
            for other in self._others:
                for packet in other.rest():
                    container.mux(packet)
        finally:
            container.close()
        self._flush()

    def abandon(self) -> None:
        """Close a target that has failed; what is left is lost."""
        container, self._container = self._container, None
        self._chunks.clear()
        if container is not None:
            with suppress(av.FFmpegError, OSError, ValueError):
                container.close()
        self._chunks.clear()

    def may_come_back(self) -> bool:
        """Whether the target is on a network."""
        return self._file is None and is_network(self.url)

    def _fill(self, container: OutputContainer) -> None:
        """Add the picture and the sound."""
        width, height = self._size_px
        self._picture = add_encoder(container, self._size_px, self._video, self._options.decoding)
        context: Any = self._picture.codec_context
        codec = self._options.codec_for(self._video.colours.depth)
        context.options = self._options.encoder_options(context.options, codec)
        rate = self._video.rate
        context.bit_rate = self._options.bitrate_for(width, height, rate)
        context.gop_size = max(1, round(self._options.gop_s * rate))
        context.max_b_frames = 0
        self._others = [self._added(container, *one) for one in self._sound]

    def _added(
        self, container: OutputContainer, stream: SoundFormat, encoder: str | None
    ) -> OutputStream:
        """Add a stream of sound, copied or encoded again."""
        cut = Cut(None, Fraction(0))
        if encoder is not None:
            return EncodedSound(container, stream, encoder, (), cut, is_strict=False)
        copy: Any = container.add_stream_from_template(stream.template, opaque=True)
        return CopiedStream(copy, (), cut, least_step=1)

    def _encoder_for(self, stream: SoundFormat) -> str | None:
        """Return the encoder for a stream of sound; None to copy it."""
        wanted = self._options.audio
        name = stream.name
        if wanted in ENCODERS:
            return None if name == wanted else ENCODERS[wanted]
        form = HOLDS.get(self._format, self._format)
        rehearsal = av.open(SimpleNamespace(write=len), "w", format=form)
        try:
            rehearsal.add_stream_from_template(stream.template, opaque=True)
            rehearsal.start_encoding()
        except (av.FFmpegError, ValueError) as exc:
            logger.info("%s: %s cannot be copied: %s", self.url, name, exc)
            warn(f"{self.url}: {self._format} cannot hold {name}: the sound is encoded as AAC")
            return ENCODERS["aac"]
        finally:
            with suppress(av.FFmpegError, ValueError):
                rehearsal.close()
        return None

    def _mux_sound(self, container: OutputContainer, until_s: Fraction | None) -> None:
        while self._packets:
            packet = self._packets[0]
            time_s = (packet.dts or packet.pts or 0) * Fraction(packet.time_base or 1)
            if until_s is not None and time_s > until_s:
                return
            self._packets.popleft()
            for other in self._others:
                for ready in other.take(packet):
                    container.mux(ready)

    def _flush(self) -> None:
        if self._file is not None:
            for chunk in self._chunks:
                write_all(self._file, chunk)
            self._chunks.clear()
