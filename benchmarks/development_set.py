"""Make the pictures that weights are chosen on, and those that only report scores.

Photographs of two Debian packages and of scikit-image at a half, a third and a quarter of their
size (a photograph is smoother the larger it is), and drawings made here: text, screens, gradients,
renderings, fractals. None of them is trained on: ``train/`` gets drawings of other seeds for that.
The seeds are fixed, so that everybody gets the same pictures.

    apt-get download lomiri-wallpapers-20.04 libjxl-testdata endless-sky-data
    for package in *.deb; do dpkg-deb --extract "$package" packages/; done
    python benchmarks/development_set.py --packages packages/ --output dev/
    rt4ksr evaluate --data dev/report --scale 2 --weights auto --weights authors_rt4ksr_x2.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Part = Literal["choose", "report", "train"]

LARGEST_PX = (1440, 1080)
"""Larger pictures are cropped to their middle."""

SUPERSAMPLING = 3
"""Drawings are made this much larger, and averaged."""


@dataclass(frozen=True)
class Photograph:
    """A file, the parts of its size to use, and what it decides."""

    part: Part
    file: str
    divisors: tuple[int, ...] = (1,)


BACKGROUNDS, JXL = "usr/share/backgrounds", "usr/share/libjxl-testdata"
SKY = "usr/share/games/endless-sky/images"

PHOTOGRAPHS = (
    Photograph("choose", f"{BACKGROUNDS}/Fossa_by_Jasper_Roks.jpg", (2, 3, 4)),
    Photograph("choose", f"{BACKGROUNDS}/Painting-Colors_by__herobrine7gamer.jpg", (3, 4)),
    Photograph("choose", f"{JXL}/external/wesaturate/500px/u76c0g_bliznaca_srgb8.png"),
    Photograph("choose", f"{JXL}/jxl/hdr_room.png"),
    Photograph("choose", f"{SKY}/star/nova+.jpg", (2, 4)),
    Photograph("choose", "skimage/astronaut.png"),
    Photograph("choose", "skimage/coffee.png"),
    Photograph("choose", "skimage/ihc.png"),
    Photograph("choose", "skimage/motorcycle_left.png"),
    Photograph("report", f"{BACKGROUNDS}/Kleiber_by_Lukas_Baubkus.jpg", (2, 3, 4)),
    Photograph("report", f"{BACKGROUNDS}/Infinite-Sea_by_Aury88.jpg", (2, 3)),
    Photograph("report", f"{JXL}/jxl/flower/flower.png", (1, 2, 3)),
    Photograph("report", f"{JXL}/external/wesaturate/500px/cvo9xd_keong_macan_srgb8.png"),
    Photograph("report", f"{JXL}/external/wesaturate/500px/tmshre_riaphotographs_srgb8.png"),
    Photograph("report", f"{SKY}/ui/galaxy.jpg", (2, 4)),
    Photograph("report", "skimage/chelsea.png"),
    Photograph("report", "skimage/rocket.jpg"),
    Photograph("report", "skimage/retina.jpg", (1, 2)),
    Photograph("report", "skimage/hubble_deep_field.jpg", (1, 2)),
)


def photographs(packages: Path) -> Iterator[tuple[Part, str, Image.Image]]:
    """Yield part, name and picture, mode RGB."""
    for photograph in PHOTOGRAPHS:
        folder, _, name = photograph.file.partition("/")
        own = folder == "skimage"
        path = Path(skimage.__file__).parent / "data" / name if own else packages / photograph.file
        with Image.open(path) as picture:
            original = picture.convert("RGB")
        for divisor in photograph.divisors:
            size = (original.width // divisor, original.height // divisor)
            smaller = original.resize(size, Image.Resampling.BICUBIC)
            yield photograph.part, f"{path.stem.rstrip('+')}_{divisor}", middle(smaller)


def middle(picture: Image.Image) -> Image.Image:
    """Return the middle of ``picture``, at most :data:`LARGEST_PX`, in landscape or portrait."""
    widest = LARGEST_PX if picture.width >= picture.height else LARGEST_PX[::-1]
    width, height = (min(side, most) for side, most in zip(picture.size, widest, strict=True))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


Rng = np.random.Generator
PROSE = """
the frame of a stream is late when its answer is not there in time and nobody knows why it was sent
Real 4K 3840x2160 25 fps (p99 = 41.7 ms) network 0.35 GB/s; quality: 92 % sky roof
"""


def prose(rng: Rng, count: int) -> str:
    """Return ``count`` words in random order."""
    return " ".join(rng.choice(PROSE.split(), count))


def text(rng: Rng, size: tuple[int, int]) -> Image.Image:
    """Return a page of dark text in several sizes on white, or light text on black."""
    is_dark = bool(rng.integers(2))
    paper, ink = ((24, 26, 30), (230, 230, 225)) if is_dark else ((255, 255, 255), (20, 20, 25))
    page = Image.new("RGB", size, paper)
    draw, y = ImageDraw.Draw(page), size[1] // 30
    while y < size[1]:
        font_px = int(rng.choice([10, 12, 14, 18, 26])) * SUPERSAMPLING
        line = prose(rng, 30)
        draw.text((size[0] // 25, y), line, fill=ink, font=ImageFont.load_default(font_px))
        y += font_px * 3 // 2
    return page


def screen(rng: Rng, size: tuple[int, int]) -> Image.Image:
    """Return overlapping windows with titles, lines of text and buttons."""
    shot = gradient(rng, size)
    draw = ImageDraw.Draw(shot)
    for _ in range(5):
        width, height = (int(side * rng.uniform(0.3, 0.6)) for side in size)
        left, top = (int(rng.uniform(0, s - w)) for s, w in zip(size, (width, height), strict=True))
        bar, font_px = 26 * SUPERSAMPLING, int(rng.choice([11, 13, 15])) * SUPERSAMPLING
        color = tuple(rng.integers(0, 200, 3).tolist())
        corner = (left + width, top + height)
        draw.rounded_rectangle((left, top, *corner), bar // 3, fill=(246, 246, 248), outline=color)
        draw.rectangle((left, top, left + width, top + bar), fill=color)
        font = ImageFont.load_default(font_px)
        draw.text((left + bar, top + bar // 4), prose(rng, 3), fill="white", font=font)
        for y in range(top + 2 * bar, top + height - 2 * font_px, 2 * font_px):
            line = prose(rng, int(rng.integers(2, width // (5 * font_px) + 3)))
            draw.text(
                (left + font_px, y), line[: width * 2 // font_px - 6], fill="black", font=font
            )
    return shot


def grid(size: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return x and y of the pixels; y from -1 to 1, x likewise, wider by the aspect ratio."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return (2 * x - width) / height, (2 * y - height) / height


def gradient(rng: Rng, size: tuple[int, int]) -> Image.Image:
    """Return a few soft lights of random colors, as in a sky or a blurred background."""
    x, y = grid(size)
    pixels = np.zeros((*x.shape, 3), np.float32) + rng.uniform(20, 120, 3).astype(np.float32)
    for _ in range(6):
        left, top, spread = rng.uniform(-1.5, 1.5), rng.uniform(-1, 1), rng.uniform(0.3, 1.5)
        light = np.exp(-((x - left) ** 2 + (y - top) ** 2) / spread**2)
        pixels += light[..., None] * rng.uniform(-60, 90, 3).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def rendering(rng: Rng, size: tuple[int, int]) -> Image.Image:
    """Return shaded spheres over a chequered plane, without noise."""
    x, y = grid(size)
    depth = 1 / np.maximum(y + 0.25, 0.02)
    tiles = (np.floor(x * depth * 2) + np.floor(depth * 4)) % 2
    floor = 60 + 120 * tiles * np.clip(1.2 - depth / 12, 0.3, 1)
    sky = 170 - 70 * y
    pixels = np.where(y > -0.2, floor, sky)[..., None] * rng.uniform(0.6, 1, 3)
    for _ in range(9):
        left, top, radius = rng.uniform(-1.5, 1.5), rng.uniform(-0.5, 0.8), rng.uniform(0.08, 0.35)
        across, down = (x - left) / radius, (y - top) / radius
        toward = np.sqrt(np.maximum(0, 1 - across**2 - down**2))
        shade = np.clip(0.2 + 0.5 * toward - 0.4 * across - 0.5 * down, 0.05, 1)
        glint = np.clip(toward - 0.5 * (across + down) - 0.75, 0, 1) ** 2 * 900
        ball = shade[..., None] * rng.uniform(60, 255, 3) + glint[..., None]
        pixels = np.where((toward > 0)[..., None], ball, pixels)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def fractal(rng: Rng, size: tuple[int, int]) -> Image.Image:
    """Return a Julia set in smooth colors."""
    x, y = grid(size)
    turn = rng.uniform(0, 2 * np.pi)
    z = (x + 1j * y) * 1.2
    c = 0.7885 * np.exp(1j * turn)
    escape = np.zeros(x.shape, np.float32)
    for _ in range(60):
        inside = np.abs(z) < 8
        z = np.where(inside, z * z + c, z)
        escape += inside
    smooth = escape - np.log2(np.maximum(np.log(np.maximum(np.abs(z), 2)), 1e-3))
    waves = smooth[..., None] * rng.uniform(0.08, 0.2, 3) + rng.uniform(0, 6, 3)
    return Image.fromarray((127.5 + 127.5 * np.sin(waves)).astype(np.uint8))


def drawing(rng: Rng, size: tuple[int, int]) -> Image.Image:
    """Return flat shapes with outlines, as in cartoons and charts."""
    sheet = Image.new("RGB", size, tuple(rng.integers(180, 256, 3).tolist()))
    draw = ImageDraw.Draw(sheet)
    for _ in range(40):
        center, reach = rng.uniform(0, size), size[1] * rng.uniform(0.03, 0.25)
        corners = center + rng.uniform(-reach, reach, (int(rng.integers(3, 7)), 2))
        fill, width = tuple(rng.integers(0, 256, 3).tolist()), int(rng.integers(1, 4))
        points = [tuple(corner) for corner in corners.tolist()]
        if rng.random() < 0.4:
            box = (*(center - reach).tolist(), *(center + reach).tolist())
            draw.ellipse(box, fill, (15, 15, 20), width * SUPERSAMPLING)
        else:
            draw.polygon(points, fill, (15, 15, 20), width * SUPERSAMPLING)
    return sheet


DRAWINGS: dict[str, Callable[[Rng, tuple[int, int]], Image.Image]] = {
    draw.__name__: draw for draw in (text, screen, gradient, rendering, fractal, drawing)
}
SEEDS: dict[Part, range] = {"choose": range(1, 2), "report": range(2, 3), "train": range(10, 22)}
DRAWN_PX = (960, 640)


def drawings() -> Iterator[tuple[Part, str, Image.Image]]:
    """Yield part, name and picture, mode RGB."""
    large = DRAWN_PX[0] * SUPERSAMPLING, DRAWN_PX[1] * SUPERSAMPLING
    for part, seeds in SEEDS.items():
        for seed in seeds:
            for index, (name, draw) in enumerate(DRAWINGS.items()):
                picture = draw(np.random.default_rng([seed, index]), large)
                yield part, f"{name}_{seed}", picture.resize(DRAWN_PX, Image.Resampling.BOX)


def main() -> None:
    """Write ``choose/``, ``report/`` and ``train/``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True, help="the extracted packages")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    args = parser.parse_args()
    count = 0
    for pictures in (photographs(args.packages), drawings()):
        for part, name, picture in pictures:
            folder = args.output / part
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{name}.png", compress_level=1)
            count += 1
    print(f"{args.output}: {count} pictures")


if __name__ == "__main__":
    main()
