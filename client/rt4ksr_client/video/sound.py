"""Sound that is encoded again: at the same times, whatever the encoder takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

import av
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import OutputContainer
from av.filter import Graph
from av.packet import Packet

from rt4ksr_client.video.containers import kept_metadata
from rt4ksr_client.video.copies import Cut
from rt4ksr_client.video.timing import ContinuousClock, Seam

__all__ = ["ENCODERS", "EncodedSound"]

ENCODERS: Final = {"aac": "aac", "opus": "libopus"}
"""FFmpeg's encoders, by the names of their codecs."""

BITS_PER_S: Final = {"aac": 96_000, "libopus": 64_000}
"""Bits per second and channel."""

MAX_DEVIATION_S: Final = 0.02
"""A gap or an overlap from here on is made good; containers round times by less."""

logger = logging.getLogger(__name__)


class EncodedSound:
    """Encodes the packets of the stream ``source`` again, into a new stream of ``output``.

    Gaps are filled with silence, and of what overlaps, the second is left out. Rate and channels
    stay what they are where the encoder takes them. Otherwise, the rate is the next higher one, and
    the channels are mixed to the usual layout of as many, or to stereo.

    Where the source's clock is set anew, at its ``seams``, the times run on. ``rejected`` counts
    packets that could not be decoded, which ``is_strict`` makes an error.
    """

    def __init__(
        self,
        output: OutputContainer,
        source: Any,
        encoder: str,
        seams: tuple[Seam, ...],
        cut: Cut,
        *,
        is_strict: bool,
    ) -> None:
        if source.codec_context is None:
            raise ValueError(f"nothing decodes stream {source.index}")
        self.written = self.rejected = self.moved = self.timeless = 0
        self._source = source
        self._clock = ContinuousClock(seams)
        self._cut = cut
        self._is_strict = is_strict
        self._graph: Graph | None = None
        self._entry: tuple[str, str, int] | None = None
        self._end_s = Fraction(0)
        self._next_pts = -(2**62)
        rates = av.Codec(encoder, "w").audio_rates or [source.rate]
        rate = min((rate for rate in rates if rate >= source.rate), default=max(rates))
        stream: Any = output.add_stream(encoder, rate=rate)
        self._stream: AudioStream = stream
        stream.layout = layout_for(encoder, rate, source.layout)
        stream.bit_rate = BITS_PER_S.get(encoder, 0) * stream.channels
        stream.codec_context.flags |= Flags.global_header  # PyAV asks the format: not of a tee
        stream.metadata.update(kept_metadata(source.metadata))
        stream.disposition = source.disposition

    def take(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        """Yield the packets that are ready after ``packet`` of the source."""
        self._clock.correct(packet)
        if packet.pts is None or self._cut.nears(packet.pts * Fraction(packet.time_base or 1)):
            yield from self._encode(packet)

    def rest(self) -> Iterator[Packet[Any]]:
        """Yield what is left at the end of the source."""
        yield from self._encode(None)
        yield from self._filtered(None)
        yield from self._stream.encode(None)

    def _encode(self, packet: Packet[Any] | None) -> Iterator[Packet[Any]]:
        try:
            frames = self._source.decode(packet)
        except (av.error.InvalidDataError, av.error.UnknownError) as exc:
            if self._is_strict:
                raise
            logger.info("packet of stream %d cannot be decoded: %s", self._source.index, exc)
            self.rejected += 1
            return
        for frame in frames:
            if frame.pts is None or not frame.time_base:  # held back by the decoder to the end
                frame.time_base = Fraction(self._source.time_base or 1)
                frame.pts = round(self._end_s / frame.time_base)
            length_s = Fraction(frame.samples, frame.sample_rate)
            self._end_s = frame.pts * frame.time_base + length_s
            entry = (frame.format.name, frame.layout.name, frame.sample_rate)
            if self._graph is None or entry != self._entry:
                yield from self._filtered(None)
                self._graph, self._entry = self._graph_from(frame), entry
            yield from self._filtered(frame)

    def _graph_from(self, frame: AudioFrame) -> Graph:
        graph = Graph()
        nodes = [
            graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format,
                layout=frame.layout,
                time_base=frame.time_base,
            ),
            graph.add("aresample", f"async=1:min_hard_comp={MAX_DEVIATION_S}"),
            graph.add(
                "aformat",
                f"sample_rates={self._stream.rate}:sample_fmts={self._stream.format.name}"
                f":channel_layouts={self._stream.layout.name}",
            ),
        ]
        if self._cut.window_s is not None:
            begin_s, end_s = self._cut.window_s
            start = f"start={float(begin_s):.6f}:" if begin_s > 0 else ""
            nodes.append(graph.add("atrim", f"{start}end={float(end_s):.6f}"))
        graph.link_nodes(*nodes, graph.add("abuffersink")).configure()
        return graph

    def _filtered(self, frame: AudioFrame | None) -> Iterator[Packet[Any]]:
        if self._graph is None:
            return
        self._graph.push(frame)
        while True:
            try:
                filtered: Any = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            # The end of one graph may overlap with the next one by some samples.
            pts = filtered.pts - round(self._cut.shift_s / filtered.time_base)
            filtered.pts = max(pts, self._next_pts)
            self._next_pts = filtered.pts + filtered.samples
            yield from self._stream.encode(filtered)


def layout_for(encoder: str, rate: int, wanted: AudioLayout) -> str:
    """Return the layout of channels that ``encoder`` takes and that is nearest to ``wanted``."""
    # 5.1(side) has the channels of 5.1 by other names, which need a layout of its own in AAC.
    usual, count = wanted.name.removesuffix("(side)"), wanted.nb_channels
    is_named = wanted.name != f"{count} channels"
    for name in (usual, wanted.name, f"{count}c") if is_named else (f"{count}c",):
        context: Any = av.CodecContext.create(encoder, "w")
        try:
            context.sample_rate, context.layout = rate, name
            context.format = context.codec.audio_formats[0]
            context.open()
        except (av.FFmpegError, ValueError) as exc:
            logger.info("%s does not take the channels %s: %s", encoder, name, exc)
        else:
            return str(context.layout.name)
    return "stereo"
