"""Pillow pictures as frames for the network, and back. No input or output.

The network knows RGB. What else a picture has is carried around it: an alpha channel is scaled
beside it (invisible pixels take the colours next to them, so that nothing bleeds into the edges),
gray comes back as gray, a palette as RGB or RGBA, CMYK as sRGB. EXIF orientation is applied, and
what the picture says about itself goes into ``info`` of the result.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from rt4ksr_client import metadata
from rt4ksr_client.errors import PictureError
from rt4ksr_client.frames import Frame

__all__ = ["PictureWarning", "Surroundings", "join", "split", "warn"]

Floats = NDArray[np.float32]

_GRAY_MODES = frozenset({"1", "L", "LA", "La"})


class PictureWarning(UserWarning):
    """Something of a picture is not kept."""


@dataclass(frozen=True)
class Surroundings:
    """What a picture has besides its colours: carried around the network.

    ``alpha``: mode ``L`` of the picture's size, or None for an opaque picture.
    ``info``: what :func:`rt4ksr_client.metadata.collect` found.
    """

    alpha: Image.Image | None
    gray: bool
    info: dict[str, Any] = field(default_factory=dict)


def split(image: Image.Image) -> tuple[Frame, Surroundings]:
    """Take a picture apart: a frame for the network, the rest to be scaled beside it.

    The frame is uint8 ``(H, W, 3)``, RGB, not premultiplied; opaque everywhere. 16-bit gray
    becomes 8-bit, with a :class:`PictureWarning`.

    Raises:
        PictureError: 32 bits a channel, without a pixel, or a mode that has no way to RGB.

    """
    if 0 in image.size:
        raise PictureError(f"the picture has no pixels: it is {image.width}x{image.height}")
    image = metadata.upright(image)
    info = metadata.collect(image)
    eight_bit = _in_8_bits(image)
    if eight_bit.mode == "CMYK":
        eight_bit = _cmyk_as_rgb(eight_bit, info.pop("icc_profile", None))
    gray = eight_bit.mode in _GRAY_MODES
    try:
        if not eight_bit.has_transparency_data:
            rgb = eight_bit if eight_bit.mode == "RGB" else eight_bit.convert("RGB")
            return np.asarray(rgb), Surroundings(None, gray, info)
        rgba = eight_bit.convert("RGBA")
    except (ValueError, KeyError, TypeError) as exc:
        raise PictureError(f"a picture of mode {image.mode} cannot become RGB: {exc}") from exc
    return _without_holes(rgba), Surroundings(rgba.getchannel("A"), gray, info)


def join(upscaled: Frame, surroundings: Surroundings) -> Image.Image:
    """Put an upscaled frame and what surrounded it together again.

    Returns mode ``RGB``, ``RGBA``, ``L`` or ``LA``, with ``info`` of the surroundings.
    """
    image = _joined(upscaled, surroundings)
    image.info.update(surroundings.info)
    return image


def warn(message: str) -> None:
    """Say that something of a picture is not kept."""
    warnings.warn(message, PictureWarning, stacklevel=3)


def _joined(upscaled: Frame, surroundings: Surroundings) -> Image.Image:
    image = Image.fromarray(upscaled)
    alpha = surroundings.alpha
    if alpha is not None:
        image.putalpha(alpha.resize(image.size, Image.Resampling.BICUBIC))
    if surroundings.gray:
        return image.convert("L" if alpha is None else "LA")
    return image


def _without_holes(rgba: Image.Image) -> Frame:
    """Return the colours, those of invisible pixels replaced by visible ones near them."""
    values = np.asarray(rgba)
    colours, alpha = values[:, :, :3], values[:, :, 3:]
    if alpha.all():
        return np.ascontiguousarray(colours)
    # Floating point from half the size on only: less than half of the memory and the time.
    premultiplied = colours.astype(np.uint16) * alpha
    half = np.rint(_filled(_halved(premultiplied), _halved(alpha))).astype(np.uint8)
    return np.where(alpha > 0, colours, _doubled(half, alpha.shape))


def _filled(premultiplied: Floats, alpha: Floats) -> Floats:
    """Fill holes from the picture at half the size, and its holes from a quarter, and so on."""
    colours: Floats = premultiplied / np.maximum(alpha, np.float32(1e-6))
    if alpha.all() or alpha.size == 1:
        return colours
    half = _filled(_halved(premultiplied), _halved(alpha))
    return np.where(alpha > 0, colours, _doubled(half, alpha.shape))


def _halved(values: NDArray[Any]) -> Floats:
    height, width, channels = values.shape
    even = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    blocks = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, channels)
    means: Floats = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


def _doubled(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Repeat each pixel to 2x2, then cut to the height and width of ``shape``."""
    return values.repeat(2, axis=0).repeat(2, axis=1)[: shape[0], : shape[1]]


def _in_8_bits(image: Image.Image) -> Image.Image:
    # A 16-bit PGM, and a 16-bit gray PNG in some releases of Pillow, opens as 32-bit integers.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        warn("16 bits a channel: upscaled and written with 8")
        values = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode.startswith(("I", "F")):
        raise PictureError(
            f"the picture has 32 bits a channel (mode {image.mode}), with no agreed white: "
            "convert it to 8 or 16 bits first"
        )
    return image


def _cmyk_as_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile is None:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        warn("its CMYK colour profile cannot be used: colours are approximate")
        return image.convert("RGB")
    assert converted is not None  # noqa: S101 - None is for inPlace only
    return converted
