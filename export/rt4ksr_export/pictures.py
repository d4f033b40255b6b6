"""Folders of pictures, decoded once, and the training pairs drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rt4ksr_client.errors import PictureError
from rt4ksr_client.files import decode
from rt4ksr_client.formats import metadata
from rt4ksr_export.colours import Samples
from rt4ksr_export.degradations import Degradation, Pixels, VideoDegradation

__all__ = [
    "PairSource",
    "find_pictures",
    "halved",
    "load_pictures",
    "sizes_to_train_on",
    "smallest_side_px",
]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif"})

HALVED_FROM_PX = 2500
"""Pictures are halved until their longest side is below: that removes the artefacts of their own
compression and the blur of demosaicing."""

SMALLEST_COPY_PX = 360
"""The shortest side of the smallest additional copy of a picture to train on."""

QUALITY_95 = 400
"""Sum of the luminance quantization table of a JPEG of quality 95 (libjpeg's scale), rounded up."""

MARGIN_PX = 4
"""Small pixels around a patch that are cut off after degradation, so that its border was downscaled
(bicubic reaches two pixels) and compressed like its middle."""


def find_pictures(folders: Iterable[Path]) -> list[Path]:
    """Return the picture files under ``folders``, sorted; a folder may also be a file.

    Raises:
        PictureError: a folder does not exist, or there is no picture in any.

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
    """Decode ``paths`` to uint8 ``(H, W, 3)`` and skip unusable files.

    Args:
        paths: picture files.
        smallest_px: skip pictures with a shorter side.
        skipped: called with each skipped path and the reason.
        done: called after each path.
        sizes: what to make of a picture: :func:`halved`, or :func:`sizes_to_train_on`.

    Raises:
        PictureError: all of them are unusable.

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
        picture = _half_size(picture)
    return np.asarray(picture)


def sizes_to_train_on(picture: Image.Image) -> list[Pixels]:
    """Return uint8 ``(H, W, 3)`` of ``picture`` in every size to train on.

    That is :func:`halved`, then half of that and so on while the shortest side has at least
    ``SMALLEST_COPY_PX``. A JPEG below about quality 95 is halved at least once, however small it
    is; otherwise the network would learn to draw its blocks. Any other large picture is used in
    full size, too, in which photographs are smooth.
    """
    tables: Mapping[int, Sequence[int]] = getattr(picture, "quantization", {})
    is_compressed = sum(tables.get(0, ())) > QUALITY_95
    largest = halved(picture)
    if is_compressed and max(picture.size) < HALVED_FROM_PX:
        largest = np.asarray(_half_size(Image.fromarray(largest)))
    sizes = [largest]
    while min(sizes[-1].shape[:2]) >= 2 * SMALLEST_COPY_PX:
        sizes.append(np.asarray(_half_size(Image.fromarray(sizes[-1]))))
    if not is_compressed and max(picture.size) >= HALVED_FROM_PX:
        sizes.insert(0, np.asarray(metadata.upright(picture).convert("RGB")))
    return sizes


def _half_size(picture: Image.Image) -> Image.Image:
    """Return ``picture`` with half the width and height, antialiased."""
    size = (picture.width // 2, picture.height // 2)
    return picture.resize(size, Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class PairSource:
    """Draws pairs of patches: the same seed and iteration always give the same pairs.

    A resumed training therefore needs no state of a random generator.
    """

    pictures: Sequence[Pixels]
    degradation: Degradation | VideoDegradation
    scale: int
    seed: int
    crops: int = 2

    @cached_property
    def _cumulative_probabilities(self) -> NDArray[np.float64]:
        """The probability of a picture grows with the square root of its area."""
        weights = np.sqrt([p.shape[0] * p.shape[1] for p in self.pictures]).cumsum()
        probabilities: NDArray[np.float64] = weights / weights[-1]
        return probabilities

    def batch(self, iteration: int, size: int, patch_px: int) -> tuple[Samples, Samples]:
        """Return ``size`` small and large patches, ``patch_px`` and s times that many pixels wide.

        They are samples, such as ``(size, 3, patch_px, patch_px)`` for RGB.
        """
        rng = np.random.default_rng([self.seed, iteration])
        pairs = [self.pair(rng, patch_px) for _ in range(size)]
        return np.stack([small for small, _ in pairs]), np.stack([large for _, large in pairs])

    def pair(self, rng: np.random.Generator, patch_px: int) -> tuple[Samples, Samples]:
        """Return a small and a large patch: of random crops, the one with the most contrast."""
        side = smallest_side_px(self.scale, patch_px)
        crops = [self.crop(rng, side) for _ in range(self.crops)]
        crop = max(crops, key=lambda pixels: float(pixels[::4, ::4].std()))
        large = Image.fromarray(_flip_or_rotate(crop, int(rng.integers(8))))
        small_samples, large_samples = self.degradation.pair(large, self.scale, rng)
        margin = MARGIN_PX * small_samples.shape[-1] // (side // self.scale)
        edge = margin * self.scale
        return (
            small_samples[:, margin:-margin, margin:-margin],
            large_samples[:, edge:-edge, edge:-edge],
        )

    def crop(self, rng: np.random.Generator, side: int) -> Pixels:
        """Return a random square of a random picture."""
        index = np.searchsorted(self._cumulative_probabilities, rng.random(), side="right")
        picture = self.pictures[int(index)]
        top = int(rng.integers(picture.shape[0] - side + 1))
        left = int(rng.integers(picture.shape[1] - side + 1))
        return picture[top : top + side, left : left + side]


def _flip_or_rotate(pixels: Pixels, which: int) -> Pixels:
    """Return one of the eight flips and rotations; ``which`` is 0 to 7."""
    pixels = np.rot90(pixels, which % 4)
    return np.ascontiguousarray(pixels[:, ::-1] if which >= 4 else pixels)


def smallest_side_px(scale: int, patch_px: int) -> int:
    """Shortest side of a picture that has room for a patch and its margin."""
    return (patch_px + 2 * MARGIN_PX) * scale
