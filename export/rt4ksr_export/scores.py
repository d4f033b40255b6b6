"""PSNR and SSIM by the conventions of super-resolution papers.

8-bit values; ``border`` pixels at each side (twice the scale here) are not scored; luma is Y of
BT.601 in limited range (16..235). SSIM as in Wang et al. 2004: Gaussian window, sigma 1.5,
population covariance; of RGB, the mean over the channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

__all__ = ["luma", "psnr_db", "ssim"]

_BT601 = np.array([65.481, 128.553, 24.966]) / 255


def luma(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return Y of BT.601, limited range, as float ``(H, W)``, of uint8 RGB ``(H, W, 3)``."""
    y: NDArray[np.float64] = 16.0 + pixels.astype(np.float64) @ _BT601
    return y


def psnr_db(true: NDArray[Any], test: NDArray[Any], border: int) -> float:
    """Peak signal-to-noise ratio in dB of two pictures on the 0..255 scale."""
    true, test = _crop_border(true, border), _crop_border(test, border)
    if np.array_equal(true, test):
        return float("inf")
    return float(peak_signal_noise_ratio(true, test, data_range=255))


def ssim(true: NDArray[Any], test: NDArray[Any], border: int) -> float:
    """Structural similarity, at most 1, of two pictures on the 0..255 scale."""
    return float(
        structural_similarity(
            _crop_border(true, border),
            _crop_border(test, border),
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=2 if true.ndim == 3 else None,
        )
    )


def _crop_border(pixels: NDArray[Any], border: int) -> NDArray[Any]:
    """Return ``(H, W)`` or ``(H, W, C)`` without ``border`` pixels at each side."""
    return pixels[border : pixels.shape[0] - border, border : pixels.shape[1] - border]
