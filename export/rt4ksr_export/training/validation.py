"""Validation while training: PSNR on middle pieces of a few pictures, and a preview."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from rt4ksr_client.cli.before_after import before_after
from rt4ksr_export.fusion import fuse
from rt4ksr_export.network import RT4KSR
from rt4ksr_export.scores import psnr_db
from rt4ksr_export.training.degradations import Degradation, Pixels

__all__ = ["Validation", "upscale_pixels"]

PIECE_PX = 384


class Validation:
    """Pairs fixed at the start.

    Args:
        pictures: uint8 ``(H, W, 3)`` each.
        degradation: makes the small pictures.
        scale: of the network.
        seed: of the degradation's choices.

    """

    def __init__(
        self, pictures: Sequence[Pixels], degradation: Degradation, scale: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        self._scale = scale
        self._large = [_middle(p, PIECE_PX // (2 * scale) * 2 * scale) for p in pictures]
        self._small = [np.asarray(degradation(Image.fromarray(p), scale, rng)) for p in self._large]
        self.bicubic_psnr_db = self._mean_psnr_db([self._bicubic(p) for p in self._small])

    def psnr_db(self, network: RT4KSR) -> float:
        """Mean PSNR (RGB) over the pairs, in dB."""
        fused = fuse(network)
        return self._mean_psnr_db([upscale_pixels(fused, small) for small in self._small])

    def preview(self, network: RT4KSR) -> Image.Image:
        """Return the first pair, bicubic beside the network."""
        upscaled = upscale_pixels(fuse(network), self._small[0])
        return before_after(Image.fromarray(self._small[0]), Image.fromarray(upscaled))

    def _mean_psnr_db(self, upscaled: Sequence[Pixels]) -> float:
        border = 2 * self._scale
        scores = [
            psnr_db(large, ours, border) for large, ours in zip(self._large, upscaled, strict=True)
        ]
        return float(np.mean(scores))

    def _bicubic(self, small: Pixels) -> Pixels:
        height, width, _ = small.shape
        size = (width * self._scale, height * self._scale)
        return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def upscale_pixels(network: torch.nn.Module, small: Pixels) -> Pixels:
    """Run a network on uint8 ``(H, W, 3)``, H and W even; rounded half to even as served."""
    batch = torch.from_numpy(small.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        raw = network(batch)[0].permute(1, 2, 0)
    upscaled: Pixels = (raw.clamp(0, 1) * 255).round().byte().numpy()
    return upscaled


def _middle(pixels: Pixels, side: int) -> Pixels:
    height, width, _ = pixels.shape
    side = min(side, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])
