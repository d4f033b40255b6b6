"""What becomes of a video: validated, and comparable with what an interrupted run was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rt4ksr_client.errors import VideoError

__all__ = ["CODECS", "VideoOptions"]

CODECS: Final[dict[str, dict[str, str]]] = {
    "libx264": {"crf": "18", "preset": "medium"},
    "libx265": {"crf": "20", "preset": "medium"},
    "libsvtav1": {"crf": "28", "preset": "8"},
    "libvpx-vp9": {"crf": "28", "b": "0", "row-mt": "1", "cpu-used": "4"},
    "ffv1": {"level": "3"},
    "h264_nvenc": {"cq": "19", "preset": "p5"},
    "hevc_nvenc": {"cq": "21", "preset": "p5"},
}
"""Encoders and their defaults: visually close to the frames they are given."""

_QUALITY: Final = {"h264_nvenc": "cq", "hevc_nvenc": "cq", "ffv1": None}


@dataclass(frozen=True)
class VideoOptions:
    """``start_s`` and ``end_s`` count from the video's first frame; ``frames`` is how many at most.

    ``segment_frames``: what an interrupted run loses at most.

    Raises:
        VideoError: options that contradict each other.

    """

    codec: str = "libx264"
    crf: int | None = None
    preset: str | None = None
    pixel_format: str = "yuv420p"
    start_s: float | None = None
    end_s: float | None = None
    frames: int | None = None
    deinterlace: bool = False
    segment_frames: int = 250

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.codec not in CODECS:
            raise VideoError(f"codec {self.codec!r}: choose one of {', '.join(CODECS)}")
        if self.crf is not None and _QUALITY.get(self.codec, "crf") is None:
            raise VideoError(f"{self.codec} is lossless: it has no quality to choose")
        if self.preset is not None and "preset" not in CODECS[self.codec]:
            raise VideoError(f"{self.codec} has no presets")
        if (self.start_s or 0) < 0 or (
            self.end_s is not None and self.end_s <= (self.start_s or 0)
        ):
            raise VideoError("--start must not be negative, and --end must lie after it")
        if (self.frames is not None and self.frames < 1) or self.segment_frames < 1:
            raise VideoError("a number of frames must be at least 1")

    @property
    def encoder_options(self) -> dict[str, str]:
        """FFmpeg's options of the encoder."""
        options = dict(CODECS[self.codec])
        if self.crf is not None:
            options[_QUALITY.get(self.codec) or "crf"] = str(self.crf)
        if self.preset is not None:
            options["preset"] = self.preset
        return options
