"""Convert Pillow pictures to frames for the network, and back. No input or output.

The network upscales RGB. The rest of a picture bypasses it: an alpha channel is resized separately
(invisible pixels take the colours next to them, so that nothing bleeds into the edges), gray comes
back as gray, a palette as RGB or RGBA, CMYK as sRGB. The EXIF orientation is applied, and the
metadata goes into ``info`` of the result.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from rt4ksr_client.contract import CHANNELS
from rt4ksr_client.errors import PictureError
from rt4ksr_client.formats import metadata
from rt4ksr_client.formats.color import refuse_hdr
from rt4ksr_client.frames import Frame

__all__ = [
    "FrameImage",
    "PictureWarning",
    "SideData",
    "join",
    "pixel_rows",
    "pixels_of",
    "split",
    "warn",
]

Floats = NDArray[np.float32]

_GRAY_MODES = frozenset({"1", "L", "LA", "La"})
_STRIP_PX = 1 << 16
"""Fits in a core's cache."""


class PictureWarning(UserWarning):
    """Something in a picture is lost: bit depth, metadata, transparency or frames.

    Or it has no effect on it, as ``wire="encoded"`` on frames of video.
    """


@dataclass(frozen=True)
class SideData:
    """The parts of a picture that bypass the network.

    ``alpha``: mode ``L``, of the picture's size, or None for an opaque picture.
    ``gray``: whether the picture is gray.
    ``info``: its metadata, see :func:`rt4ksr_client.formats.metadata.collect`.
    """

    alpha: Image.Image | None
    gray: bool
    info: dict[str, Any] = field(default_factory=dict)


class FrameImage(Image.Image):
    """A picture over a frame, which is copied into Pillow's memory when something needs it there.

    Until then it is read where it is. The copy of a 4K frame takes a third as long as its PNG.

    Args:
        frame: uint8 ``(H, W, 3)``, RGB, which nobody changes from now on.

    """

    _frame: Frame | None = None

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        self._frame = frame.view()
        self._frame.flags.writeable = False
        self._mode = "RGB"
        self._size = frame.shape[1], frame.shape[0]

    @property
    def frame(self) -> Frame | None:
        """The frame, read-only; None once it was copied."""
        return self._frame

    def load(self) -> Any:
        """Copy the frame, if that was not done."""
        frame = self._frame
        if frame is not None:
            self.im = Image.fromarray(frame).im  # first: another thread may be here, too
            self._frame = None
        return super().load()

    def __eq__(self, other: object) -> bool:
        """Compare as the plain picture that it stands for."""
        return self.copy() == (other.copy() if isinstance(other, FrameImage) else other)

    def close(self) -> None:
        """Release the memory."""
        self._frame = None
        super().close()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """See :class:`PIL.Image.Image`; as long as the frame is there, without a copy."""
        frame = self._frame
        if frame is None or not frame.flags.c_contiguous:
            return super().__array_interface__
        # The memory itself, so that an array keeps it alive longer than this picture does.
        return {"version": 3, "shape": frame.shape, "typestr": "|u1", "data": frame.data}


def pixel_rows(image: Image.Image, top: int, bottom: int) -> NDArray[np.uint8]:
    """Return rows of a picture with 8 bits per channel: ``(bottom - top, W)`` or ``(..., W, C)``.

    A view of a :class:`FrameImage`.
    """
    frame = image.frame if isinstance(image, FrameImage) else None
    if frame is not None:
        return frame[top:bottom]
    return np.asarray(image.crop((0, top, image.width, bottom)))


def pixels_of(image: Image.Image) -> Frame:
    """Return the pixels of a picture of mode ``RGB``; of a :class:`FrameImage`, a view."""
    lazy = image.frame if isinstance(image, FrameImage) else None
    if lazy is not None:
        return lazy
    # Strip by strip, for Pillow's own way through `bytes` needs twice the memory, and new pages of
    # that, which the system clears, take five times as long as the copy.
    frame = np.empty((image.height, image.width, CHANNELS), np.uint8)
    step = max(1, _STRIP_PX // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        frame[top:bottom] = pixel_rows(image, top, bottom)
    return frame


def split(image: Image.Image) -> tuple[Frame, SideData]:
    """Split a picture into a frame for the network and the parts that bypass it.

    The frame is uint8 ``(H, W, 3)``, RGB in 0..255, not premultiplied, upright, without holes.
    16-bit gray is reduced to 8 bits, with a :class:`PictureWarning`.

    Raises:
        PictureError: 32 bits per channel, no pixels, a mode that cannot become RGB, or HDR (PQ or
            HLG) by its colour profile.

    """
    if 0 in image.size:
        raise PictureError(f"the picture has no pixels: it is {image.width}x{image.height}")
    image = metadata.upright(image)
    info = metadata.collect(image)
    refuse_hdr(None, info.get("icc_profile"), "the picture")
    eight_bit = _to_8_bits(image)
    if eight_bit.mode == "CMYK":
        eight_bit = _cmyk_to_srgb(eight_bit, info.pop("icc_profile", None))
    gray = eight_bit.mode in _GRAY_MODES
    try:
        if not eight_bit.has_transparency_data:
            rgb = eight_bit if eight_bit.mode == "RGB" else eight_bit.convert("RGB")
            return pixels_of(rgb), SideData(None, gray, info)
        rgba = eight_bit.convert("RGBA")
    except (ValueError, KeyError, TypeError) as exc:
        raise PictureError(f"a picture of mode {image.mode} cannot become RGB: {exc}") from exc
    return _fill_holes(rgba), SideData(rgba.getchannel("A"), gray, info)


def join(upscaled: Frame, side_data: SideData) -> Image.Image:
    """Return an upscaled frame and its side data as a picture, metadata in ``info``.

    ``upscaled`` is uint8 ``(H, W, 3)``, RGB, which nobody changes from now on. The mode is ``RGB``,
    ``RGBA``, ``L`` or ``LA``.
    """
    image: Image.Image = FrameImage(upscaled)
    alpha = side_data.alpha
    if alpha is not None:
        image.putalpha(alpha.resize(image.size, Image.Resampling.BICUBIC))
    if side_data.gray:
        image = image.convert("L" if alpha is None else "LA")
    image.info.update(side_data.info)
    return image


def warn(message: str) -> None:
    """Issue a :class:`PictureWarning` at the caller's caller."""
    warnings.warn(message, PictureWarning, stacklevel=3)


def _fill_holes(rgba: Image.Image) -> Frame:
    """Return the colours, with those of invisible pixels replaced by visible ones near them."""
    values = np.asarray(rgba)
    colours, alpha = values[:, :, :3], values[:, :, 3:]
    if alpha.all():
        return np.ascontiguousarray(colours)
    # Floating point only at half the size and below: less than half the memory and the time.
    premultiplied = colours.astype(np.uint16) * alpha
    half = np.rint(_fill_pyramid(_halve(premultiplied), _halve(alpha))).astype(np.uint8)
    return np.where(alpha > 0, colours, _double(half, alpha.shape))


def _fill_pyramid(premultiplied: Floats, alpha: Floats) -> Floats:
    """Fill holes from the picture at half the size, whose holes come from a quarter, and so on."""
    colours: Floats = premultiplied / np.maximum(alpha, np.float32(1e-6))
    if alpha.all() or alpha.size == 1:
        return colours
    half = _fill_pyramid(_halve(premultiplied), _halve(alpha))
    return np.where(alpha > 0, colours, _double(half, alpha.shape))


def _halve(values: NDArray[Any]) -> Floats:
    height, width, channels = values.shape
    even = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    blocks = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, channels)
    means: Floats = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


def _double(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Repeat each pixel to 2x2, then crop to the height and width of ``shape``."""
    return values.repeat(2, axis=0).repeat(2, axis=1)[: shape[0], : shape[1]]


def _to_8_bits(image: Image.Image) -> Image.Image:
    # Pillow opens a 16-bit PGM, and in some releases a 16-bit gray PNG, as 32-bit integers.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        warn("16 bits per channel: upscaled and written with 8")
        values = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode.startswith(("I", "F")):
        raise PictureError(
            f"the picture has 32 bits per channel (mode {image.mode}), for which there is no "
            "standard white: convert it to 8 or 16 bits first"
        )
    return image


def _cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile is None:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        warn("the CMYK colour profile cannot be used: colours are approximate")
        return image.convert("RGB")
    assert converted is not None  # noqa: S101 - None only with inPlace
    return converted
