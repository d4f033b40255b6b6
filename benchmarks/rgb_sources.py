"""RGB sources of video: the default model and 4:2:0 behind it, against 4:2:0 and the video model.

``python benchmarks/rgb_sources.py PICTURES...``: pictures are downscaled and not compressed, as RGB
and 4:4:4 sources hardly are. Both ways end in 4:2:0; PSNR of the RGB made from it, and of luma.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image

from rt4ksr_export.checkpoint import load_network, packaged_weights
from rt4ksr_export.colours import (
    Samples,
    samples_from_codes,
    samples_to_codes,
    yuv420_samples,
    yuv420_to_rgb,
)
from rt4ksr_export.degradations import Pixels, downscale
from rt4ksr_export.evaluation import in_torch
from rt4ksr_export.fusion import fuse
from rt4ksr_export.network import upscale_samples
from rt4ksr_export.pictures import find_pictures, halved
from rt4ksr_export.scores import psnr_db

LARGEST_PX = 900


def rounded(samples: Samples) -> Samples:
    """Return 4:2:0 as a file of 8 bits holds it."""
    return samples_from_codes(samples_to_codes(samples, "yuv420"), "yuv420")


def scores(true: Pixels, found: Samples, border: int) -> tuple[float, float]:
    """Return the PSNR in dB of RGB, and of luma."""
    rgb = psnr_db(true, yuv420_to_rgb(found), border)
    error = found[:4] - yuv420_samples(true)[:4]
    return rgb, float(-10 * np.log10(np.square(error).mean()))


def main(paths: list[Path]) -> None:
    """Print a line for each scale."""
    for scale in (2, 3):
        default = in_torch(load_network(packaged_weights(f"rt4ksr_x{scale}")))
        video = fuse(load_network(packaged_weights(f"rt4ksr_x{scale}_video")))
        by_default, by_video = [], []
        for path in find_pictures(paths):
            whole = halved(Image.open(path))
            height, width = (min(s, LARGEST_PX) // (2 * scale) * 2 * scale for s in whole.shape[:2])
            large = whole[:height, :width]
            small = np.asarray(downscale(Image.fromarray(large), scale))
            border = 2 * scale
            by_default.append(scores(large, rounded(yuv420_samples(default(small))), border))
            upscaled = upscale_samples(video, rounded(yuv420_samples(small)))
            by_video.append(scores(large, rounded(upscaled), border))
        for what, one in (("default", by_default), ("video", by_video)):
            rgb, luma = (fmean(values) for values in zip(*one, strict=True))
            print(f"x{scale} {what}: RGB {rgb:.2f} dB, luma {luma:.2f} dB")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
