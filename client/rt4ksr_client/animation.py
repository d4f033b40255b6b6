"""Animated GIF, WebP, PNG and AVIF: every frame of the file, and what the encoder must know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from PIL import Image

__all__ = ["ANIMATED_FORMATS", "frames", "is_animated", "timing"]

ANIMATED_FORMATS: Final = frozenset({"GIF", "WEBP", "PNG", "AVIF"})

_DEFAULT_DURATION_MS: Final = 100
"""What browsers take for a frame that says 0."""


def is_animated(image: Image.Image) -> bool:
    """Whether the file has several frames in time (pages of a TIFF are not)."""
    return image.format in ANIMATED_FORMATS and getattr(image, "n_frames", 1) > 1


def frames(image: Image.Image) -> Iterator[tuple[Image.Image, float]]:
    """Yield each frame as the viewer would see it, and its milliseconds on screen.

    Pillow composes partial frames onto the ones before them. A default image that an APNG does not
    show as part of the animation is left out.
    """
    count = getattr(image, "n_frames", 1)
    first = 1 if image.info.get("default_image") and count > 1 else 0
    for index in range(first, count):
        image.seek(index)
        shown = image.copy()
        yield shown, float(shown.info.get("duration") or _DEFAULT_DURATION_MS)


def timing(format_name: str, durations_ms: list[float], loop: int | None) -> dict[str, Any]:
    """Return the encoder's arguments; ``loop`` 0 is for ever, None plays once."""
    options: dict[str, Any] = {"duration": [round(ms) for ms in durations_ms]}
    if format_name == "AVIF":
        return options
    if format_name == "GIF":
        # GIF clears each frame: the next one may be transparent where this one was not.
        options["disposal"] = 2
    if loop is not None or format_name != "GIF":
        options["loop"] = 1 if loop is None else loop
    return options
