"""Which model a video goes to."""

from __future__ import annotations

from pathlib import Path

from rt4ksr_client.contract import DEFAULT_MODELS, models_for
from rt4ksr_client.video.colours import has_full_chroma
from rt4ksr_client.video.containers import open_input, video_stream

__all__ = ["models_of", "source_models"]


def source_models(path: Path, scale: int) -> list[str]:
    """Return the models for the video in a file, best first, by what its header says.

    Raises:
        VideoError: there is no video in it.

    """
    with open_input(path) as container:
        known = video_stream(container, path).codec_context.format
        if known is None:
            return models_of(8, has_full_chroma=False, scale=scale)
        depth = max((component.bits for component in known.components), default=8)
        return models_of(depth, has_full_chroma=has_full_chroma(known), scale=scale)


def models_of(depth: int, *, has_full_chroma: bool, scale: int) -> list[str]:
    """Return the models for codes of ``depth`` bits, best first.

    Video with all of its chroma is hardly compressed: the default model keeps more of it, by 0.9 dB
    of RGB (x2) where there is no compression at all, but takes 8 bits.
    """
    bits = 8 if depth == 8 else 16
    for_video = models_for("video", bits)[scale].name
    is_better_as_rgb = has_full_chroma and bits == 8
    return [DEFAULT_MODELS[scale].name, for_video] if is_better_as_rgb else [for_video]
