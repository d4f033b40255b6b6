"""Pillow pictures as frames for the network, and back. No input or output.

The network knows RGB. What else a picture has is carried around it: an alpha channel is scaled
beside it (colours premultiplied, so that invisible pixels do not bleed into visible edges), gray
comes back as gray, a palette as RGB or RGBA.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from rt4ksr_client.errors import PictureError
from rt4ksr_client.frames import Frame

__all__ = ["PictureParts", "join", "split"]

_GRAY_MODES = frozenset({"1", "L", "LA", "La"})
_DEEP_MODES = ("I", "F")


@dataclass(frozen=True)
class PictureParts:
    """A picture taken apart: ``frame`` for the network, the rest to be scaled beside it.

    ``frame``: uint8 ``(H, W, 3)``, RGB, premultiplied where ``alpha`` is there.
    ``alpha``: mode ``L`` of the same size, or None for an opaque picture.
    """

    frame: Frame
    alpha: Image.Image | None
    gray: bool


def split(image: Image.Image) -> PictureParts:
    """Take a picture of any 8-bit Pillow mode apart.

    Raises:
        PictureError: more than 8 bits a channel, or without a pixel.

    """
    if image.mode.startswith(_DEEP_MODES):
        raise PictureError(
            f"the picture has more than 8 bits a channel (mode {image.mode}): "
            "convert it to 8-bit first"
        )
    if 0 in image.size:
        raise PictureError(f"the picture has no pixels: it is {image.width}x{image.height}")
    gray = image.mode in _GRAY_MODES
    if not image.has_transparency_data:
        return PictureParts(np.asarray(image.convert("RGB")), None, gray)
    rgba = image.convert("RGBA")
    premultiplied = np.asarray(rgba.convert("RGBa"))[:, :, :3]
    return PictureParts(np.ascontiguousarray(premultiplied), rgba.getchannel("A"), gray)


def join(parts: PictureParts, upscaled: Frame) -> Image.Image:
    """Put an upscaled frame and the parts it came with together again.

    Returns mode ``RGB``, ``RGBA``, ``L`` or ``LA``.
    """
    image = Image.fromarray(upscaled)
    if parts.alpha is None:
        return image.convert("L") if parts.gray else image
    alpha = parts.alpha.resize(image.size, Image.Resampling.BICUBIC)
    colours = np.asarray(image)
    # Premultiplied colours never exceed alpha; the network may overshoot by a level or two.
    bounded = np.minimum(colours, np.asarray(alpha)[:, :, np.newaxis])
    straight = _unpremultiplied(bounded, alpha)
    return straight.convert("LA") if parts.gray else straight


def _unpremultiplied(colours: Frame, alpha: Image.Image) -> Image.Image:
    raw = np.dstack([colours, np.asarray(alpha)])
    return Image.frombuffer("RGBa", alpha.size, raw.tobytes(), "raw", "RGBa", 0, 1).convert("RGBA")
