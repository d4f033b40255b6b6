"""Draw quality_crops.jpg: a face, text, grass, roofs and a sky, from JPEGs, beside the originals.

    python docs/pictures/crops.py --packages packages/

where ``packages/`` holds ``endless-sky-data``, extracted (see ``benchmarks/development_set.py``).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageDraw, ImageFont

from rt4ksr_export.checkpoint import load_network, packaged_weights
from rt4ksr_export.degradations import compress, downscale
from rt4ksr_export.evaluation import bicubic, in_torch
from rt4ksr_export.pictures import halved

OUTPUT = Path(__file__).with_name("quality_crops.jpg")
CELL_PX, HEADING_PX, GAP_PX = 240, 22, 4
SCALE, QUALITY = 2, 75
LAND = "usr/share/games/endless-sky/images/land"


@dataclass(frozen=True)
class Crop:
    """A square of ``side_px`` in a picture, shown in :data:`CELL_PX`."""

    file: str
    left_px: int
    top_px: int
    side_px: int = 120


CROPS = (
    Crop("skimage/astronaut.png", 170, 60),
    Crop("skimage/page.png", 10, 40),
    Crop("skimage/grass.png", 200, 200),
    Crop(f"{LAND}/city14-sfiera.jpg", 70, 225),
    Crop("skimage/rocket.jpg", 250, 120),
)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True, help="the extracted packages")
    args = parser.parse_args()
    default, low = (
        in_torch(load_network(packaged_weights(name)))
        for name in ("rt4ksr_x2", "rt4ksr_x2_jpeg_low")
    )
    headings = (f"JPEG {QUALITY}", "bicubic", "rt4ksr_x2", "auto: rt4ksr_x2_jpeg_low", "original")
    step = CELL_PX + GAP_PX
    size = (step * len(headings) - GAP_PX, HEADING_PX + step * len(CROPS) - GAP_PX)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        draw.text((step * column + 4, 4), heading, fill="black", font=ImageFont.load_default(13))
    for row, crop in enumerate(CROPS):
        folder, _, name = crop.file.partition("/")
        own = folder == "skimage"
        path = Path(skimage.__file__).parent / "data" / name if own else args.packages / crop.file
        with Image.open(path) as picture:
            large = Image.fromarray(halved(picture))
        small = compress(downscale(large, SCALE), "JPEG", QUALITY)
        pixels = np.asarray(small.crop((0, 0, small.width // 2 * 2, small.height // 2 * 2)))
        nearest = pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        shown = (nearest, bicubic(SCALE)(pixels), default(pixels), low(pixels), np.asarray(large))
        for column, cell in enumerate(shown):
            box = (
                crop.left_px,
                crop.top_px,
                crop.left_px + crop.side_px,
                crop.top_px + crop.side_px,
            )
            zoomed = (
                Image.fromarray(cell).crop(box).resize((CELL_PX, CELL_PX), Image.Resampling.NEAREST)
            )
            sheet.paste(zoomed, (step * column, HEADING_PX + step * row))
    sheet.save(OUTPUT, quality=86, subsampling=0)


if __name__ == "__main__":
    main()
