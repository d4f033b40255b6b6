"""One picture that shows what upscaling did: bicubic beside ours, and a detail enlarged."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rt4ksr_client.frames import Frame

__all__ = ["before_after", "busiest_box"]

Box = tuple[int, int, int, int]

DETAIL_WIDTH_PX = 320
DETAIL_HEIGHT_PX = 360
ENLARGED = 3
"""Whole-number factor, without smoothing, so that the pixels shown are the pixels there are."""

_MARGIN_PX = 24
_LABEL_HEIGHT_PX = 56
_BACKGROUND, _INK, _FRAME = (250, 250, 250), (30, 30, 30), (225, 60, 40)


def before_after(source: Image.Image, upscaled: Image.Image) -> Image.Image:
    """Return the whole upscaled picture above one detail of it, as bicubic and as ours.

    Args:
        source: the picture before upscaling.
        upscaled: the same picture, larger.

    """
    ours = upscaled.convert("RGB")
    bicubic = source.convert("RGB").resize(ours.size, Image.Resampling.BICUBIC)
    box = busiest_box(ours, DETAIL_WIDTH_PX, DETAIL_HEIGHT_PX)
    pair = _side_by_side(
        _labelled(_enlarged(bicubic.crop(box)), f"bicubic, {ours.width}x{ours.height}"),
        _labelled(_enlarged(ours.crop(box)), f"RT4KSR, {ours.width}x{ours.height}"),
    )
    return _above(_overview(ours, box, pair.width), pair)


def busiest_box(image: Image.Image, width_px: int, height_px: int) -> Box:
    """Return ``(left, top, right, bottom)`` of the window with the most local contrast."""
    width_px, height_px = min(width_px, image.width), min(height_px, image.height)
    contrast = _contrast(np.asarray(image.convert("L")))
    sums = np.pad(contrast.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = (
        sums[height_px:, width_px:]
        - sums[:-height_px, width_px:]
        - sums[height_px:, :-width_px]
        + sums[:-height_px, :-width_px]
    )
    top, left = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(left), int(top), int(left) + width_px, int(top) + height_px


def _contrast(gray: Frame) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    values = gray.astype(np.float64)
    across = np.abs(np.diff(values, axis=1, prepend=values[:, :1]))
    down = np.abs(np.diff(values, axis=0, prepend=values[:1]))
    total: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = across + down
    return total


def _enlarged(image: Image.Image) -> Image.Image:
    size = (image.width * ENLARGED, image.height * ENLARGED)
    return image.resize(size, Image.Resampling.NEAREST)


def _labelled(image: Image.Image, text: str) -> Image.Image:
    canvas = Image.new("RGB", (image.width, image.height + _LABEL_HEIGHT_PX), _BACKGROUND)
    canvas.paste(image, (0, 0))
    ImageDraw.Draw(canvas).text(
        (4, image.height + 8), text, fill=_INK, font=ImageFont.load_default(size=32)
    )
    return canvas


def _overview(image: Image.Image, box: Box, width_px: int) -> Image.Image:
    scale = width_px / image.width
    small = image.resize((width_px, round(image.height * scale)), Image.Resampling.LANCZOS)
    outline = tuple(round(edge * scale) for edge in box)
    ImageDraw.Draw(small).rectangle(outline, outline=_FRAME, width=5)
    return small


def _side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    size = (left.width + _MARGIN_PX + right.width, max(left.height, right.height))
    canvas = Image.new("RGB", size, _BACKGROUND)
    canvas.paste(left, (0, 0))
    canvas.paste(right, (left.width + _MARGIN_PX, 0))
    return canvas


def _above(top: Image.Image, bottom: Image.Image) -> Image.Image:
    size = (top.width + 2 * _MARGIN_PX, top.height + bottom.height + 3 * _MARGIN_PX)
    canvas = Image.new("RGB", size, _BACKGROUND)
    canvas.paste(top, (_MARGIN_PX, _MARGIN_PX))
    canvas.paste(bottom, (_MARGIN_PX, top.height + 2 * _MARGIN_PX))
    return canvas
