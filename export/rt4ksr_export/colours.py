"""Between pictures and what a network computes with: *samples*.

Samples are float32, channels first, black is 0: RGB in [0, 1], ``(3, H, W)``, or packed 4:2:0,
``(6, H/2, W/2)`` (:func:`rt4ksr_export.network.pack_yuv420`), luma in [0, 1] and chroma in
[-0.5, 0.5]. *Codes* are what files and frames hold of them, uint8, of the same shape.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rt4ksr_client.contract import Colours
from rt4ksr_client.frames import Yuv420
from rt4ksr_export.fusion import BT709

__all__ = [
    "SITINGS",
    "Codes",
    "Samples",
    "Siting",
    "pack",
    "rgb_samples",
    "samples_from_codes",
    "samples_to_codes",
    "unpack",
    "yuv420_samples",
    "yuv420_to_rgb",
]

Samples = NDArray[np.float32]
Codes = NDArray[np.uint8]

Siting = Literal["left", "topleft"]
"""Where a sample of chroma lies in its block of 2x2 pixels: left as in H.264 and H.265 by default,
or in the corner as in BT.2020 video (ITU-T H.273, chroma sample location types 0 and 2)."""
SITINGS: Final[tuple[Siting, ...]] = get_args(Siting)

_SCALE: Final = {"rgb": np.full(3, 255.0), "yuv420": np.array([219.0] * 4 + [224.0] * 2)}
_OFFSET: Final = {"rgb": np.zeros(3), "yuv420": np.array([16.0] * 4 + [128.0] * 2)}
"""Codes are samples times scale plus offset: full range for RGB, limited for video."""


def samples_to_codes(samples: Samples, colours: Colours) -> Codes:
    """Return the codes of ``samples``, clipped and rounded half to even, as served."""
    scale, offset = (by[colours][:, None, None] for by in (_SCALE, _OFFSET))
    codes: Codes = np.rint(np.clip(samples * scale + offset, 0, 255)).astype(np.uint8)
    return codes


def samples_from_codes(codes: NDArray[Any], colours: Colours) -> Samples:
    """Return the samples of 8-bit ``codes``, which may have fractions."""
    scale, offset = (by[colours][:, None, None] for by in (_SCALE, _OFFSET))
    samples: Samples = ((codes - offset) / scale).astype(np.float32)
    return samples


def pack(frame: Yuv420) -> NDArray[Any]:
    """Return the planes of ``frame`` packed, ``(6, H/2, W/2)``."""
    luma, chroma = frame.luma, frame.chroma
    blocks = [luma[row::2, column::2] for row in range(2) for column in range(2)]
    return np.stack([*blocks, chroma[..., 0], chroma[..., 1]])


def unpack(codes: Codes) -> Yuv420:
    """Undo :func:`pack`."""
    luma = np.empty((2 * codes.shape[1], 2 * codes.shape[2]), codes.dtype)
    for index in range(4):
        luma[index // 2 :: 2, index % 2 :: 2] = codes[index]
    return Yuv420(luma, np.ascontiguousarray(np.moveaxis(codes[4:], 0, -1)))


def rgb_samples(pixels: NDArray[np.uint8]) -> Samples:
    """Return the samples of uint8 RGB ``(H, W, 3)``."""
    return np.moveaxis(pixels, -1, 0).astype(np.float32) / np.float32(255)


def yuv420_samples(pixels: NDArray[np.uint8], siting: Siting = "left") -> Samples:
    """Return uint8 RGB ``(H, W, 3)``, H and W even, as packed 4:2:0 of BT.709.

    Chroma is filtered with 1-2-1 around its position where that lies on a pixel, and averaged where
    it lies between two.
    """
    yuv = np.einsum("mc,hwc->mhw", BT709.numpy(), pixels / 255.0)
    chroma = _halve(yuv[1:], axis=2, on_pixel=True)
    chroma = _halve(chroma, axis=1, on_pixel=siting == "topleft")
    blocks = [yuv[0, row::2, column::2] for row in range(2) for column in range(2)]
    samples: Samples = np.stack([*blocks, *chroma]).astype(np.float32)
    return samples


def _halve(planes: NDArray[np.float64], axis: int, *, on_pixel: bool) -> NDArray[np.float64]:
    """Return every second sample of ``planes`` along ``axis``, or the means of pairs."""
    planes = np.moveaxis(planes, axis, -1)
    even, odd = planes[..., ::2], planes[..., 1::2]
    if on_pixel:
        before = np.concatenate([even[..., :1], odd[..., :-1]], axis=-1)
        halved = (before + 2 * even + odd) / 4
    else:
        halved = (even + odd) / 2
    return np.moveaxis(halved, -1, axis)


def yuv420_to_rgb(samples: Samples, siting: Siting = "left") -> NDArray[np.uint8]:
    """Return packed 4:2:0 of BT.709 as uint8 RGB ``(H, W, 3)``; chroma is interpolated linearly."""
    luma = np.empty((2 * samples.shape[1], 2 * samples.shape[2]))
    for index in range(4):
        luma[index // 2 :: 2, index % 2 :: 2] = samples[index]
    chroma = _double(samples[4:].astype(np.float64), axis=2, on_pixel=True)
    chroma = _double(chroma, axis=1, on_pixel=siting == "topleft")
    rgb = np.einsum("cm,mhw->hwc", np.linalg.inv(BT709.numpy()), np.stack([luma, *chroma]))
    pixels: NDArray[np.uint8] = np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    return pixels


def _double(planes: NDArray[np.float64], axis: int, *, on_pixel: bool) -> NDArray[np.float64]:
    """Interpolate ``planes`` to twice the samples along ``axis``; undoes :func:`_halve`'s shift."""
    planes = np.moveaxis(planes, axis, -1)
    before = np.concatenate([planes[..., :1], planes[..., :-1]], axis=-1)
    after = np.concatenate([planes[..., 1:], planes[..., -1:]], axis=-1)
    if on_pixel:
        pairs = planes, (planes + after) / 2
    else:
        pairs = (before + 3 * planes) / 4, (3 * planes + after) / 4
    doubled = np.stack(pairs, axis=-1).reshape(*planes.shape[:-1], -1)
    return np.moveaxis(doubled, -1, axis)
