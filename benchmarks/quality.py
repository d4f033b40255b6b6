"""Make the table of quality.md: PSNR (RGB) above bicubic of every set of weights and of the choice.

`rt4ksr evaluate` scores the same, with SSIM, which takes ten times as long.

    python benchmarks/quality.py --data dev/report --scale 2 [--weights authors_rt4ksr_x2.pth]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image

from rt4ksr_client.contract import MODELS
from rt4ksr_client.formats.compression import Compression
from rt4ksr_client.model_choice import model_for
from rt4ksr_export.checkpoint import load_network, resolve_weights
from rt4ksr_export.degradations import compress, downscale
from rt4ksr_export.evaluation import bicubic, in_torch
from rt4ksr_export.pictures import find_pictures
from rt4ksr_export.scores import psnr_db

CONDITIONS = (
    ("clean", None, "4:2:0"),
    *((f"JPEG {quality}", quality, "4:2:0") for quality in (98, 95, 90, 85, 75, 60, 40)),
    *((f"JPEG {quality} 4:4:4", quality, "4:4:4") for quality in (95, 85, 75)),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of pictures")
    parser.add_argument("--scale", type=int, choices=(2, 3), default=2)
    parser.add_argument("--weights", action="append", default=[], help="further weights to score")
    args = parser.parse_args()
    scale = args.scale
    specs = [s for s in MODELS.values() if s.scale == scale and s.colours == "rgb"]
    names = [*(spec.name for spec in specs), *args.weights]
    methods = {n: in_torch(load_network(resolve_weights(n), scale=scale)) for n in names}
    print(f"| x{scale} | {' | '.join(names)} | auto |\n|---|{'---|' * (len(names) + 1)}")
    for label, quality, subsampling in CONDITIONS:
        found = Compression(quality, full_chroma=subsampling == "4:4:4", evidence="")
        chosen = model_for(found, specs[0], specs).name
        gains: dict[str, list[float]] = {name: [] for name in names}
        for path in find_pictures([args.data]):
            picture = Image.open(path).convert("RGB")
            width, height = (side // (2 * scale) * 2 * scale for side in picture.size)
            large = picture.crop((0, 0, width, height))
            small = downscale(large, scale)
            if quality is not None:
                small = compress(small, "JPEG", quality, subsampling)
            true, pixels, border = np.asarray(large), np.asarray(small), 2 * scale
            base_db = psnr_db(true, bicubic(scale)(pixels), border)
            for name, upscale in methods.items():
                gains[name].append(psnr_db(true, upscale(pixels), border) - base_db)
        rows = [gains[name] for name in (*names, chosen)]
        cells = " | ".join(f"{fmean(row):+.2f} (*{min(row):+.2f}*)" for row in rows)
        print(f"| {label} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
