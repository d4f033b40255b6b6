"""How a live stream is upscaled: its latency, its encoder, and what happens without a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from types import MappingProxyType
from typing import Final, get_args

from rt4ksr_client.errors import VideoError
from rt4ksr_client.video.options import CODECS, AudioChoice, VideoOptions

__all__ = ["DEFAULT_LATENCY_S", "LIVE_CODECS", "LiveOptions"]

DEFAULT_LATENCY_S: Final = 0.5
SMALLEST_LATENCY_S: Final = 0.05

LIVE_CODECS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "libx264": {"preset": "ultrafast", "tune": "zerolatency"},
        "libx265": {"preset": "ultrafast", "tune": "zerolatency"},
        "libsvtav1": {"preset": "12", "svtav1-params": "pred-struct=1"},
        "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
        "h264_nvenc": {"preset": "p3", "tune": "ull", "rc": "cbr", "zerolatency": "1"},
        "hevc_nvenc": {"preset": "p3", "tune": "ull", "rc": "cbr", "zerolatency": "1"},
    }
)
"""Encoders and options with which they hold no frame back."""

QUALITIES: Final = ("crf", "cq", "b")
"""Options of constant quality, which a stream of constant bitrate replaces."""

BITS_PER_PIXEL: Final = 0.1
"""Of the default bitrate: 21 Mbit/s for 4K at 25 frames a second."""


@dataclass(frozen=True)
class LiveOptions:
    """Settings of :func:`~rt4ksr_client.live.upscale_live`.

    Args:
        latency_s: from a frame decoded to the same frame encoded, in seconds.
        codec: FFmpeg's name of the encoder, one of :data:`LIVE_CODECS`. Default: ``libx264``, and
            ``libx265`` for more than 8 bits.
        bitrate_bps: bits per second of the picture. Default: 0.1 a pixel.
        preset: the encoder's trade-off of speed and size. Default: its fastest.
        gop_s: seconds between key frames, at which a receiver can start.
        audio: what happens to sound, as in :class:`~rt4ksr_client.video.VideoOptions`; what the
            target cannot hold is encoded as AAC.
        deinterlace: join the fields of interlaced video, which is rejected otherwise.
        fps: frames per second of a source whose frames have no times. Default: what its header
            says, else 25.
        is_paced: read a file at its own rate, as if it were live.
        is_held: repeat the last frame while the source is gone; otherwise the output pauses.
        form: FFmpeg's name of the output's format. Default: by the target.
        input_options: options of FFmpeg's for the source, such as ``rtsp_transport``.

    Raises:
        VideoError: values that cannot work.

    """

    latency_s: float = DEFAULT_LATENCY_S
    codec: str | None = None
    bitrate_bps: int | None = None
    preset: str | None = None
    gop_s: float = 2.0
    audio: AudioChoice = "copy"
    deinterlace: bool = False
    fps: Fraction | None = None
    is_paced: bool = False
    is_held: bool = False
    form: str | None = None
    input_options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject what cannot work."""
        if not self.latency_s >= SMALLEST_LATENCY_S:
            least = f"{SMALLEST_LATENCY_S * 1000:.0f} ms"
            raise VideoError(f"a latency must be at least {least}, got {self.latency_s * 1000:g}")
        if self.codec is not None and self.codec not in LIVE_CODECS:
            raise VideoError(f"{self.codec} is no encoder for live: {', '.join(LIVE_CODECS)}")
        if self.audio not in get_args(AudioChoice):
            raise VideoError(f"audio must be one of {', '.join(get_args(AudioChoice))}")
        if (self.bitrate_bps is not None and self.bitrate_bps < 1) or self.gop_s <= 0:
            raise VideoError("bitrate and gop must be positive")

    @property
    def decoding(self) -> VideoOptions:
        """How the source is decoded."""
        return VideoOptions(
            codec=self.codec, deinterlace=self.deinterlace, fps=self.fps, audio=self.audio
        )

    def codec_for(self, depth: int) -> str:
        """Return the encoder for codes of ``depth`` bits."""
        return self.decoding.codec_for(depth)

    def encoder_options(self, options: Mapping[str, str], codec: str) -> dict[str, str]:
        """Return the encoder's ``options`` for files, with those for a stream instead."""
        kept = {key: value for key, value in options.items() if key not in QUALITIES}
        live = dict(LIVE_CODECS[codec])
        for key in live.keys() & kept.keys() & {"svtav1-params", "x265-params"}:
            live[key] = f"{kept[key]}:{live[key]}"
        kept.update(live)
        if self.preset is not None:
            kept["preset"] = self.preset
        return kept

    def bitrate_for(self, width_px: int, height_px: int, rate: Fraction) -> int:
        """Return the bits per second of upscaled frames of this size."""
        return self.bitrate_bps or round(width_px * height_px * rate * Fraction(BITS_PER_PIXEL))

    def most_in_flight(self, rate: Fraction) -> int:
        """Return how many frames may be under way: more could not be answered in time."""
        return max(2, ceil(self.latency_s * rate))


assert LIVE_CODECS.keys() <= CODECS.keys()  # noqa: S101 - both tables are constants
