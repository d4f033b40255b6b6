"""What a stream of sound is, kept when its source is gone."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.packet import Packet

__all__ = ["SoundFormat"]


class SoundFormat:
    """The format of the stream ``source``, with a decoder of its own.

    FFmpeg frees what a stream consists of when its container is closed; a target may be opened
    later, and again. Has what :class:`~rt4ksr_client.video.sound.EncodedSound` reads of a stream.
    """

    def __init__(self, source: Any) -> None:
        context = source.codec_context
        self.codec_context = context and self._decoder(context)
        self.name = getattr(context, "name", "")
        self.index, self.disposition = source.index, source.disposition
        self.metadata = dict(source.metadata)
        self.time_base = Fraction(source.time_base or 1)
        self.rate, self.layout = source.rate, source.layout
        # NUT holds whatever there is; nothing is written.
        self._holder = av.open(SimpleNamespace(write=len), "w", format="nut")
        self.template = self._holder.add_stream_from_template(source, opaque=True)
        """A stream to copy, for any other container."""

    @staticmethod
    def _decoder(context: Any) -> Any:
        decoder: Any = av.CodecContext.create(context.name, "r")
        decoder.extradata = context.extradata
        with suppress(ValueError, av.FFmpegError):
            decoder.sample_rate, decoder.layout = context.sample_rate, context.layout
        return decoder

    def decode(self, packet: Packet[Any] | None) -> list[AudioFrame]:
        """Return the frames that are ready after ``packet``; None ends it."""
        frames: list[AudioFrame] = self.codec_context.decode(packet)
        return frames
