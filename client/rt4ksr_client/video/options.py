"""How a video is upscaled: the encoder, its settings, and the part of the source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, get_args

import av

from rt4ksr_client.errors import VideoError

__all__ = ["CODECS", "MAX_FPS", "AudioChoice", "VideoOptions"]

CODECS: Final[dict[str, dict[str, str]]] = {
    "libx264": {"crf": "18", "preset": "medium"},
    "libx265": {"crf": "20", "preset": "medium", "x265-params": "log-level=error"},
    "libsvtav1": {"crf": "28", "preset": "8"},
    "libvpx-vp9": {"crf": "28", "b": "0", "row-mt": "1", "cpu-used": "4"},
    "ffv1": {"level": "3"},
    "h264_nvenc": {"cq": "19", "preset": "p5"},
    "hevc_nvenc": {"cq": "21", "preset": "p5"},
    "av1_nvenc": {"cq": "30", "preset": "p5"},
}
"""Encoders and their default options, which lose little that can be seen."""

QUALITY_OPTIONS: Final = {
    "h264_nvenc": "cq",
    "hevc_nvenc": "cq",
    "av1_nvenc": "cq",
    "ffv1": None,
}
"""What encoders call their quality where that is not ``crf``; None where they have none."""

PLANAR_420: Final = re.compile(r"yuv420p(\d+)le")

MAX_FPS: Final = 1000

AudioChoice = Literal["copy", "aac", "opus", "none"]


@dataclass(frozen=True)
class VideoOptions:
    """Settings of :func:`~rt4ksr_client.video.upscale_video`.

    Args:
        codec: FFmpeg's name of the encoder; by default ``libx264``, and ``libx265`` for more than 8
            bits. One of ``libx264``, ``libx265``, ``libsvtav1``, ``libvpx-vp9``, ``ffv1``
            (lossless), and NVIDIA's ``h264_nvenc``, ``hevc_nvenc`` and ``av1_nvenc`` (from the RTX
            40 series on; the H100 and H200 have no encoder).
        crf: quality of the encoder: lower is better, and larger. Default: by codec.
        preset: the encoder's trade-off of speed and size, e.g. ``veryfast``. Default: by codec.
        pixel_format: FFmpeg's name of the format to encode in. Default: 4:2:0 with the source's
            bits, or as many of them as the encoder takes.
        start_s: begin this many seconds after the first frame.
        end_s: end this many seconds after the first frame.
        frames: upscale at most this many frames.
        deinterlace: join the fields of interlaced video, which is rejected otherwise.
        fps: frames per second of a source whose frames have no times. Default: what its header
            says, else 25.
        strict: stop at damaged data and at a change of size, which are repaired otherwise.
        audio: what happens to sound: ``copy`` it, encode it as ``aac`` or ``opus`` where it is
            something else, or ``none``.
        segment_frames: how many frames an interrupted run loses at most.

    Raises:
        VideoError: options that contradict each other.

    """

    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    pixel_format: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    frames: int | None = None
    deinterlace: bool = False
    fps: Fraction | None = None
    strict: bool = False
    audio: AudioChoice = "copy"
    segment_frames: int = 250

    def __post_init__(self) -> None:
        """Reject what cannot work."""
        codec = self.codec or "libx264"
        if codec not in CODECS:
            raise VideoError(f"unknown codec {codec!r}: choose one of {', '.join(CODECS)}")
        if self.crf is not None and QUALITY_OPTIONS.get(codec, "crf") is None:
            raise VideoError(f"{codec} is lossless: leave out crf")
        if self.preset is not None and "preset" not in CODECS[codec]:
            raise VideoError(f"{codec} has no presets: leave out preset")
        if self.audio not in get_args(AudioChoice):
            raise VideoError(f"audio must be one of {', '.join(get_args(AudioChoice))}")
        if (self.start_s or 0) < 0 or (
            self.end_s is not None and self.end_s <= (self.start_s or 0)
        ):
            raise VideoError("start must not be negative, and end must be after it")
        if (self.frames is not None and self.frames < 1) or self.segment_frames < 1:
            raise VideoError("frames and segment_frames must be at least 1")
        if self.fps is not None and not 0 < self.fps <= MAX_FPS:
            raise VideoError(f"fps must be above 0, and {MAX_FPS} at most")

    def codec_for(self, depth: int) -> str:
        """Return the encoder for codes of ``depth`` bits."""
        return self.codec or ("libx264" if depth == 8 else "libx265")

    def pixel_format_for(self, depth: int) -> str:
        """Return the format to encode codes of ``depth`` bits in."""
        if self.pixel_format is not None:
            return self.pixel_format
        if depth == 8:
            return "yuv420p"
        formats = av.Codec(self.codec_for(depth), "w").video_formats or []
        planar = {int(found[1]) for f in formats if (found := PLANAR_420.fullmatch(f.name))}
        if not planar:
            return "p010le" if any(f.name == "p010le" for f in formats) else "yuv420p"
        return f"yuv420p{min(planar, key=lambda bits: (bits < depth, abs(bits - depth)))}le"

    def encoder_options(self, codec: str) -> dict[str, str]:
        """Return FFmpeg's options of the encoder."""
        options = dict(CODECS[codec])
        if self.crf is not None:
            options[QUALITY_OPTIONS.get(codec) or "crf"] = str(self.crf)
        if self.preset is not None:
            options["preset"] = self.preset
        return options
