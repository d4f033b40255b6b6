"""PNG files of 4K pictures: this project's writer against Pillow's, by time and size.

Writers take turns; times are medians of CPU time, of all threads together.
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rt4ksr_client import files

ROOT = Path(__file__).parents[1]
SIZE_PX = (3840, 2160)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    photograph: Image.Image = Image.open(ROOT / "docs/pictures/nuthatch_1080p.jpg")
    photograph = photograph.resize(SIZE_PX, Image.Resampling.BICUBIC)
    pictures = {
        "photograph": photograph,
        "photograph, gray": photograph.convert("L"),
        "photograph, gray as RGB": photograph.convert("L").convert("RGB"),
        "screenshot": screenshot(),
        "flat drawing": drawing(),
        "gradient": gradient(),
    }
    writers: dict[str, Callable[[Image.Image], bytes]] = {
        "this project": lambda image: files.encode(image, "PNG"),
        "Pillow, level 1": lambda image: by_pillow(image, 1),
        "Pillow, level 6": lambda image: by_pillow(image, 6),
    }
    for picture, image in pictures.items():
        taken_s: dict[str, list[float]] = defaultdict(list)
        size_bytes: dict[str, int] = {}
        for _ in range(rounds):
            for writer, write in writers.items():
                start_s = process_time()
                data = write(image)
                taken_s[writer].append(process_time() - start_s)
                size_bytes[writer] = len(data)
        print(picture)
        for writer in writers:
            ms, mb = 1000 * median(taken_s[writer]), size_bytes[writer] / 1e6
            print(f"  {writer:16} {ms:6.0f} ms  {mb:7.3f} MB")


def by_pillow(image: Image.Image, level: int) -> bytes:
    """Return ``image`` as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def screenshot() -> Image.Image:
    """Return lines of text on two grounds."""
    image = Image.new("RGB", SIZE_PX, (250, 250, 250))
    draw = ImageDraw.Draw(image)
    draw.rectangle((2600, 0, *SIZE_PX), (32, 34, 40))
    font = ImageFont.load_default(22)
    words = ["def", "class", "return", "quick", "brown", "fox", "jumps", "lazy", "self", "None"]
    random = np.random.default_rng(1)
    for y in range(40, 2100, 30):
        draw.text((60, y), " ".join(random.choice(words, 25)), (30, 30, 60), font)
        draw.text((2640, y), " ".join(random.choice(words, 14)), (200, 220, 160), font)
    return image


def drawing() -> Image.Image:
    """Return discs of one colour each."""
    image = Image.new("RGB", SIZE_PX, "white")
    draw = ImageDraw.Draw(image)
    random = np.random.default_rng(2)
    for x, y, radius in random.integers((0, 0, 10), (*SIZE_PX, 300), (200, 3)):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, tuple(random.integers(0, 256, 3).tolist()))
    return image


def gradient() -> Image.Image:
    """Return three ramps: across, down and diagonal."""
    width, height = SIZE_PX
    y, x = np.mgrid[:height, :width]
    ramps = [x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)]
    return Image.fromarray(np.stack(ramps, axis=2).astype(np.uint8))


if __name__ == "__main__":
    main()
