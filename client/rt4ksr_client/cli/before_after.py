"""Draw a picture that compares an upscaled picture with bicubic interpolation."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["before_after", "busiest_box"]

Box = tuple[int, int, int, int]

DETAIL_WIDTH_PX = 320
DETAIL_HEIGHT_PX = 360
DETAIL_FACTOR = 3
"""The detail is enlarged by a whole number without smoothing, so that its pixels can be seen."""

_MARGIN_PX = 24
_LABEL_HEIGHT_PX = 56
_BACKGROUND, _INK, _FRAME = (250, 250, 250), (30, 30, 30), (225, 60, 40)


def before_after(source: Image.Image, upscaled: Image.Image) -> Image.Image:
    """Return the upscaled picture above an enlarged detail of it: bicubic beside RT4KSR.

    Args:
        source: the picture before upscaling.
        upscaled: the same picture, larger.

    """
    ours = upscaled.convert("RGB")
    bicubic = source.convert("RGB").resize(ours.size, Image.Resampling.BICUBIC)
    box = busiest_box(ours, DETAIL_WIDTH_PX, DETAIL_HEIGHT_PX)
    left = _detail(bicubic, box, f"bicubic, {ours.width}x{ours.height}")
    right = _detail(ours, box, f"RT4KSR, {ours.width}x{ours.height}")
    width_px = left.width + _MARGIN_PX + right.width
    above = _overview(ours, box, width_px)

    size = (width_px + 2 * _MARGIN_PX, above.height + left.height + 3 * _MARGIN_PX)
    canvas = Image.new("RGB", size, _BACKGROUND)
    canvas.paste(above, (_MARGIN_PX, _MARGIN_PX))
    top = above.height + 2 * _MARGIN_PX
    canvas.paste(left, (_MARGIN_PX, top))
    canvas.paste(right, (2 * _MARGIN_PX + left.width, top))
    return canvas


def busiest_box(image: Image.Image, width_px: int, height_px: int) -> Box:
    """Return ``(left, top, right, bottom)`` of the window with the most local contrast."""
    width_px, height_px = min(width_px, image.width), min(height_px, image.height)
    gray = np.asarray(image.convert("L")).astype(np.float64)
    across = np.abs(np.diff(gray, axis=1, prepend=gray[:, :1]))
    down = np.abs(np.diff(gray, axis=0, prepend=gray[:1]))
    contrast = across + down
    sums = np.pad(contrast.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = (
        sums[height_px:, width_px:]
        - sums[:-height_px, width_px:]
        - sums[height_px:, :-width_px]
        + sums[:-height_px, :-width_px]
    )
    top, left = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(left), int(top), int(left) + width_px, int(top) + height_px


def _detail(image: Image.Image, box: Box, label: str) -> Image.Image:
    detail = image.crop(box)
    size = (detail.width * DETAIL_FACTOR, detail.height * DETAIL_FACTOR)
    canvas = Image.new("RGB", (size[0], size[1] + _LABEL_HEIGHT_PX), _BACKGROUND)
    canvas.paste(detail.resize(size, Image.Resampling.NEAREST), (0, 0))
    font = ImageFont.load_default(size=32)
    ImageDraw.Draw(canvas).text((4, size[1] + 8), label, fill=_INK, font=font)
    return canvas


def _overview(image: Image.Image, box: Box, width_px: int) -> Image.Image:
    scale = width_px / image.width
    small = image.resize((width_px, round(image.height * scale)), Image.Resampling.LANCZOS)
    outline = tuple(round(edge * scale) for edge in box)
    ImageDraw.Draw(small).rectangle(outline, outline=_FRAME, width=5)
    return small
