"""A folder of pictures, decoded once, and the pairs drawn from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rt4ksr_client import metadata
from rt4ksr_client.errors import PictureError
from rt4ksr_client.files import decode
from rt4ksr_export.training.degradations import Degradation, Pixels

__all__ = ["PairSource", "find_pictures", "halved", "load_pictures", "sizes_to_train_on"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif"})

HALVED_FROM_PX = 2500
"""Longest side from which a picture is halved, until it is below: that removes the artefacts its
own compression left and the blur its demosaicing did."""

SMALLEST_COPY_PX = 360
"""Least shortest side of the smaller copies of a picture that are trained on as well."""

QUALITY_95 = 400
"""Sum of the luminance quantization table of a JPEG of quality 95 (libjpeg's scale), rounded up."""

MARGIN_PX = 4
"""Small pixels around a patch that are cut off again, so that its border was scaled (bicubic
reaches two pixels) and compressed like its middle."""


def find_pictures(folders: Iterable[Path]) -> list[Path]:
    """Return the picture files under ``folders``, sorted; a folder may also be a file.

    Raises:
        PictureError: a folder that does not exist, or no picture in any.

    """
    found: list[Path] = []
    for folder in folders:
        if not folder.exists():
            raise PictureError(f"{folder}: there is no such folder")
        candidates = [folder] if folder.is_file() else folder.rglob("*")
        found += [p for p in candidates if p.suffix.lower() in SUFFIXES and p.is_file()]
    if not found:
        raise PictureError(f"no pictures in {', '.join(map(str, folders))}")
    return sorted(set(found))


def load_pictures(
    paths: Sequence[Path],
    smallest_px: int,
    skipped: Callable[[Path, str], None],
    done: Callable[[], None] = lambda: None,
    sizes: Callable[[Image.Image], list[Pixels]] = lambda picture: [halved(picture)],
) -> list[Pixels]:
    """Decode ``paths`` to uint8 ``(H, W, 3)``; what cannot be used is told to ``skipped``.

    Args:
        paths: picture files.
        smallest_px: a picture with a shorter side is of no use.
        skipped: gets each unusable path and the reason.
        done: called after each path.
        sizes: :func:`halved` of each, or :func:`sizes_to_train_on`.

    Raises:
        PictureError: nothing is left.

    """
    pictures = []
    for path in paths:
        try:
            found = sizes(decode(path, str(path)))
        except PictureError as exc:
            skipped(path, str(exc))
        else:
            usable = [pixels for pixels in found if min(pixels.shape[:2]) >= smallest_px]
            if not usable:
                skipped(path, f"{path}: smaller than a patch of {smallest_px} pixels")
            pictures += usable
        done()
    if not pictures:
        raise PictureError(
            f"none of {len(paths)} pictures can be used: each is unreadable or smaller than a "
            f"patch of {smallest_px} pixels"
        )
    return pictures


def halved(picture: Image.Image) -> Pixels:
    """Return uint8 ``(H, W, 3)``, upright; halved until below ``HALVED_FROM_PX``."""
    picture = metadata.upright(picture).convert("RGB")
    while max(picture.size) >= HALVED_FROM_PX:
        picture = _half(picture)
    return np.asarray(picture)


def sizes_to_train_on(picture: Image.Image) -> list[Pixels]:
    """Return uint8 ``(H, W, 3)`` of ``picture`` in every size that is worth training on.

    That is :func:`halved`, then half of that and so on while its shortest side has at least
    ``SMALLEST_COPY_PX``. A JPEG of less than about quality 95 is halved at least once, however
    small it is, or the network would learn to draw its blocks.
    """
    largest = halved(picture)
    if _is_compressed(picture) and max(picture.size) < HALVED_FROM_PX:
        largest = np.asarray(_half(Image.fromarray(largest)))
    sizes = [largest]
    while min(sizes[-1].shape[:2]) >= 2 * SMALLEST_COPY_PX:
        sizes.append(np.asarray(_half(Image.fromarray(sizes[-1]))))
    return sizes


def _half(picture: Image.Image) -> Image.Image:
    size = (picture.width // 2, picture.height // 2)
    return picture.resize(size, Image.Resampling.BICUBIC)


def _is_compressed(picture: Image.Image) -> bool:
    tables: Mapping[int, Sequence[int]] = getattr(picture, "quantization", {})
    return sum(tables.get(0, ())) > QUALITY_95


@dataclass(frozen=True)
class PairSource:
    """Draws pairs of patches; the same seed and iteration give the same pairs, always.

    That is why an interrupted training needs no state of a random generator to go on exactly.
    """

    pictures: Sequence[Pixels]
    degradation: Degradation
    scale: int
    seed: int

    @cached_property
    def _chances(self) -> NDArray[np.float64]:
        """Cumulative: the larger a picture the more often, but far less than by its area."""
        weights = np.sqrt([p.shape[0] * p.shape[1] for p in self.pictures]).cumsum()
        chances: NDArray[np.float64] = weights / weights[-1]
        return chances

    def batch(
        self, iteration: int, size: int, patch_px: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return uint8 ``(size, patch, patch, 3)`` and ``(size, s*patch, s*patch, 3)``."""
        rng = np.random.default_rng([self.seed, iteration])
        pairs = [self._pair(rng, patch_px) for _ in range(size)]
        return np.stack([small for small, _ in pairs]), np.stack([large for _, large in pairs])

    def _pair(self, rng: np.random.Generator, patch_px: int) -> tuple[Pixels, Pixels]:
        side = (patch_px + 2 * MARGIN_PX) * self.scale
        large = _turned(self._crop(rng, side), int(rng.integers(8)))
        small = np.asarray(self.degradation(Image.fromarray(large), self.scale, rng))
        edge = MARGIN_PX * self.scale
        return small[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX], large[edge:-edge, edge:-edge]

    def _crop(self, rng: np.random.Generator, side: int) -> Pixels:
        """Return a square; of two drawn, the one with more to learn from."""
        drawn = [self._any_crop(rng, side) for _ in range(2)]
        return max(drawn, key=lambda pixels: float(pixels[::4, ::4].std()))

    def _any_crop(self, rng: np.random.Generator, side: int) -> Pixels:
        picture = self.pictures[int(np.searchsorted(self._chances, rng.random(), side="right"))]
        top = int(rng.integers(picture.shape[0] - side + 1))
        left = int(rng.integers(picture.shape[1] - side + 1))
        return picture[top : top + side, left : left + side]


def _turned(pixels: Pixels, which: int) -> Pixels:
    """Return one of the eight flips and rotations."""
    pixels = np.rot90(pixels, which % 4)
    return np.ascontiguousarray(pixels[:, ::-1] if which >= 4 else pixels)


def smallest_side_px(scale: int, patch_px: int) -> int:
    """Shortest side a picture may have to give a patch."""
    return (patch_px + 2 * MARGIN_PX) * scale
