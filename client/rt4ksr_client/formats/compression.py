"""How strongly a picture is compressed, as a JPEG quality: from its file's tables, or its pixels.

Lossy compression leaves traces that survive a conversion to PNG. JPEG rounds each coefficient of an
8x8 discrete cosine transform (DCT) to a multiple of a step. Transformed on the same grid, the
decoded pixels have coefficients near those multiples, so that the mean of cos(2 pi c / step) over
the coefficients c is near 1 for that step, and near or below 0 for other steps, on other grids and
without JPEG. (The histograms of Fan and de Queiroz, "Identification of bitmap compression history",
2003, show the same.) The largest such step of each frequency makes a quantization table, and the
nearest table of libjpeg the quality.

A picture of which nothing is found counts as not compressed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from rt4ksr_client.formats.container import WEBP_QUANTIZER, webp_quantizer

__all__ = ["UNCOMPRESSED", "Compression", "compression_of", "quality_of_table"]

Floats = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Ints = NDArray[np.int64]

_LOSSY: Final = frozenset({"AVIF", "HEIF"})
"""Formats that hardly anybody stores pictures in without loss."""
_ASSUMED_QUALITY: Final = 90.0
"""For those: the model for JPEGs of 82 to 98 gains most for AVIF from 90 to 40 (Pillow's)."""

_QUALITY_OF_VP8: Final = (
    (0, 6, 12, 20, 27, 39, 45, 52, 59, 68, 78, 92, 127),
    (98, 97, 95, 93, 92, 88, 85, 82, 78, 75, 72, 68, 65),
)
"""Quantizers of VP8 and qualities of JPEG. The luma error would be that of JPEG at libwebp's own
quality (100, 95, 90, 85, 80, 70, 60, ... 10 for these quantizers). But its filter leaves fewer of
the blocks: weights for JPEGs of 35 to 82 gain more than those for 82 to 98 only below WebP 45."""

_LUMINANCE_TABLE: Final = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
).ravel()
"""Of the JPEG standard, Annex K; libjpeg multiplies it for every quality."""

_STRONG: Final = 50
"""A file of this quality or less hides what came before, and no choice would depend on it."""

_BLOCK_PX: Final = 8
_TILE_PX: Final = 72
"""A tile holds 64 blocks on each of the 64 possible grids."""
_TILES_ACROSS: Final = 6
_TILES_SEARCHED: Final = 8
_MOST_BLOCKS: Final = 3000
_SEARCHED: Final = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1))
"""Frequencies, across and down, by which the grid is found."""

_LEAST_REGULARITY: Final = 0.35
_LEAST_SIGNIFICANCE: Final = 7.0
"""In standard deviations of what coefficients without a step would give."""
_LEAST_COEFFICIENTS: Final = 20
_LEAST_STEPS: Final = 4
_LEAST_STEPS_OF_OTHER_TABLES: Final = 8


@dataclass(frozen=True)
class Compression:
    """The lossy compression of a picture.

    ``quality`` is that of the JPEG, on libjpeg's scale of 1 to 100, whose model fits, or None
    without compression. ``full_chroma``: whether chroma was kept at full resolution.
    ``evidence`` is a phrase.
    """

    quality: float | None
    full_chroma: bool
    evidence: str

    def __str__(self) -> str:
        """Return e.g. ``JPEG 75, 4:2:0 (by its pixels)``."""
        if self.quality is None:
            return self.evidence
        chroma = "4:4:4" if self.full_chroma else "4:2:0"
        return f"JPEG {self.quality:.0f}, {chroma} ({self.evidence})"


UNCOMPRESSED: Final = Compression(None, True, "no compression found")


def compression_of(image: Image.Image) -> Compression:
    """Return how a picture was compressed, in 8 to 20 ms.

    What counts is the strongest of all compressions that it went through. Conversions of a Pillow
    picture lose the tables of its file; then only the pixels say.

    Args:
        image: of any mode, as opened.

    """
    known = _of_file(image)
    if known.quality is not None and (not _tables(image) or known.quality <= _STRONG):
        return known
    found = _of_pixels(image)
    if found is None:
        return known
    return Compression(found.quality, known.full_chroma and found.full_chroma, found.evidence)


def quality_of_table(table: Sequence[int]) -> float:
    """Return the quality on libjpeg's scale of a luminance table of any encoder.

    Exact for libjpeg's own tables. Others, such as those of Photoshop, cameras and MozJPEG, count
    as the table with the same geometric mean of the steps above the antidiagonal. For those of
    Photoshop and MozJPEG, on photographs, that is within 5 of the quality at which the mean square
    error of luma is the same.

    Args:
        table: 64 steps, row by row, as Pillow has them.

    """
    sizes = _log_sizes(np.asarray(table).reshape(1, -1))
    return float(np.interp(-sizes[0], -_log_sizes(_libjpeg_tables()), np.arange(1, 101)))


def _of_file(image: Image.Image) -> Compression:
    """Return what the file says."""
    tables = _tables(image)
    if tables:
        first = tables[min(tables)]
        # Pillow has none of a gray JPEG, and -1 for unusual factors.
        full_chroma = JpegImagePlugin.get_sampling(image) == 0
        return Compression(quality_of_table(first), full_chroma, "by its quantization tables")
    if image.format == "WEBP":
        quantizer = _quantizer_of(image)
        if quantizer is not None:
            quality = float(np.interp(quantizer, *_QUALITY_OF_VP8))
            return Compression(quality, full_chroma=False, evidence="by its WebP quantizer")
    if image.format in _LOSSY:
        evidence = f"assumed for {image.format}"
        return Compression(_ASSUMED_QUALITY, full_chroma=False, evidence=evidence)
    return UNCOMPRESSED


def _quantizer_of(image: Image.Image) -> int | None:
    """Return the quantizer of a picture opened from a WebP file; None if it is not lossy."""
    if WEBP_QUANTIZER in image.info:
        found: int | None = image.info[WEBP_QUANTIZER]
        return found
    with suppress(OSError), Path(getattr(image, "filename", "")).open("rb") as stream:
        return webp_quantizer(stream)
    return None


def _tables(image: Image.Image) -> Mapping[int, Sequence[int]]:
    tables: Mapping[int, Sequence[int]] = getattr(image, "quantization", None) or {}
    return tables


@cache
def _libjpeg_tables() -> Ints:
    """Return the luminance tables of qualities 1 to 100, ``(100, 64)``."""
    quality = np.arange(1, 101)[:, np.newaxis]
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    tables: Ints = np.clip((_LUMINANCE_TABLE * percent + 50) // 100, 1, 255)
    return tables


def _log_sizes(tables: Ints) -> Floats64:
    """Return what the steps of each table amount to; the highest frequencies hardly count."""
    logarithms = np.log(tables)
    frequency = np.add.outer(np.arange(_BLOCK_PX), np.arange(_BLOCK_PX)).ravel()
    sizes: Floats64 = logarithms[:, frequency <= _BLOCK_PX].mean(axis=1)
    sizes += 0.01 * logarithms.mean(axis=1)
    return sizes


class _Regularity:
    """Measures how near coefficients are to the multiples of each of ``steps``."""

    def __init__(self, steps: Ints, bins_per_unit: int, largest: int = 128) -> None:
        self.steps = steps
        self._bins_per_unit, self._bins = bins_per_unit, largest * bins_per_unit
        values = np.arange(self._bins)[:, np.newaxis] / bins_per_unit
        # What was rounded to 0 says nothing, and the last bin holds all that is larger.
        counts = (values > steps / 2) & (np.arange(self._bins) < self._bins - 1)[:, np.newaxis]
        waves = np.cos(2 * np.pi * values / steps) * counts
        self._projection = np.hstack([counts, waves]).astype(np.float32)

    def measure(self, coefficients: Floats) -> tuple[Floats, Floats]:
        """Return regularity, -1 to 1, and its significance, by row and step.

        ``coefficients`` are ``(rows, count)``.
        """
        rows = len(coefficients)
        positions = np.abs(coefficients)
        positions *= self._bins_per_unit
        positions += np.float32(0.5)
        bins = np.minimum(positions, self._bins - 1, out=positions).astype(np.intp)
        bins += np.arange(rows)[:, np.newaxis] * self._bins
        histograms = np.bincount(bins.ravel(), minlength=rows * self._bins)
        sums = histograms.reshape(rows, self._bins).astype(np.float32) @ self._projection
        counts, waves = np.split(sums, 2, axis=1)
        regularity = waves / np.maximum(counts, 1)
        regularity[counts < _LEAST_COEFFICIENTS] = 0
        return regularity, regularity * np.sqrt(2 * counts)


@cache
def _coarse() -> _Regularity:
    return _Regularity(np.concatenate([np.arange(2, 32), np.arange(32, 97, 4)]), 2)


@cache
def _fine() -> _Regularity:
    return _Regularity(np.arange(2, 121), 4)


@cache
def _dct() -> Floats:
    """Return the orthonormal DCT of 8 values as a matrix."""
    n = np.arange(_BLOCK_PX)
    waves = np.cos((2 * n + 1) * n[:, np.newaxis] * np.pi / (2 * _BLOCK_PX)) / 2
    waves[0] /= math.sqrt(2)
    matrix: Floats = waves.astype(np.float32)
    return matrix


class _Found(NamedTuple):
    quality: float
    full_chroma: bool
    evidence: str


def _of_pixels(image: Image.Image) -> _Found | None:
    """Return the strongest JPEG compression that the pixels show, stronger than the file's own."""
    if min(image.size) < _TILE_PX or image.mode.startswith(("I", "F")):
        return None
    own = _tables(image)
    best: _Found | None = None
    for grid, is_distinct in _grids(image):
        luma_table, chroma_table = (
            np.asarray(own.get(index, own[0])) if own and grid == (0, 0) else None
            for index in range(2)
        )
        steps = _steps_of(_blocks(image, grid, 0))
        quality = _quality_of_steps(_foreign(steps, luma_table), is_distinct=is_distinct)
        if quality is not None and (best is None or quality < best.quality):
            steps = _steps_of(np.concatenate([_blocks(image, grid, 1), _blocks(image, grid, 2)]))
            full_chroma = np.count_nonzero(_foreign(steps, chroma_table)) >= _LEAST_STEPS
            best = _Found(quality, bool(full_chroma), "by its pixels")
    return best


def _grids(image: Image.Image) -> list[tuple[tuple[int, int], bool]]:
    """Return the grids that a JPEG may have had, down and across, and whether one stands out."""
    tiles = _tiles(image)
    waves = _dct()[:3].T
    across = sliding_window_view(tiles, _BLOCK_PX, axis=2)[:, :, : _TILE_PX - _BLOCK_PX] @ waves
    both = sliding_window_view(across, _BLOCK_PX, axis=1)[:, : _TILE_PX - _BLOCK_PX] @ waves
    by_grid = both.reshape(len(tiles), 8, 8, 8, 8, 9)[..., [3 * x + y for x, y in _SEARCHED]]
    rows = np.ascontiguousarray(by_grid.transpose(2, 4, 5, 0, 1, 3))
    regularity, significance = _coarse().measure(rows.reshape(64 * len(_SEARCHED), -1))
    significance[regularity < _LEAST_REGULARITY] = 0
    scores = significance.max(axis=1).reshape(8, 8, -1).sum(axis=2)
    down, across_px = divmod(int(scores.argmax()), _BLOCK_PX)
    others = np.delete(np.delete(scores, down, axis=0), across_px, axis=1).max()
    is_distinct = scores.max() > max(2.5 * others, 3 * _LEAST_SIGNIFICANCE)
    grids = [((0, 0), bool(is_distinct and (down, across_px) == (0, 0)))]
    if (down, across_px) != (0, 0) and scores.max() > max(1.5 * others, 2 * _LEAST_SIGNIFICANCE):
        grids.append(((down, across_px), bool(is_distinct)))
    return grids


def _tiles(image: Image.Image) -> Floats:
    """Return the luma of the tiles with most texture, ``(count, 72, 72)``."""
    spans = [
        np.unique(np.linspace(0, (side - _TILE_PX) // _BLOCK_PX, _TILES_ACROSS).astype(int))
        for side in image.size
    ]
    tiles = [
        _plane(image, (x, y, x + _TILE_PX, y + _TILE_PX), 0)
        for x in (spans[0] * _BLOCK_PX).tolist()
        for y in (spans[1] * _BLOCK_PX).tolist()
    ]

    def texture(tile: Floats) -> float:
        steps = np.abs(np.diff(tile[::_BLOCK_PX], axis=1))
        return float(np.minimum(steps, 16).mean() * (steps > 0).mean())

    return np.stack(sorted(tiles, key=texture, reverse=True)[:_TILES_SEARCHED])


_YCC: Final = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
"""JFIF's Y, Cb and Cr of RGB."""


def _plane(image: Image.Image, box: tuple[int, int, int, int], channel: int) -> Floats:
    """Return luma or chroma within ``box``, around 0, not rounded."""
    pixels = np.asarray(image.crop(box).convert("RGB"), dtype=np.float32)
    plane: Floats = pixels @ _YCC[channel] - np.float32(128 if channel == 0 else 0)
    return plane


def _blocks(image: Image.Image, grid: tuple[int, int], channel: int) -> Floats:
    """Return at most about 3000 blocks of luma or chroma on a grid, in rows over the picture."""
    top, left = grid
    rows, columns = (image.height - top) // _BLOCK_PX, (image.width - left) // _BLOCK_PX
    right = left + columns * _BLOCK_PX
    every = max(1, math.ceil(rows * columns / _MOST_BLOCKS))
    starts = range(top, top + rows * _BLOCK_PX, every * _BLOCK_PX)
    strips = [_plane(image, (left, y, right, y + _BLOCK_PX), channel) for y in starts]
    blocks: Floats = np.stack(strips).reshape(-1, _BLOCK_PX, columns, _BLOCK_PX)
    return blocks.transpose(0, 2, 1, 3).reshape(-1, _BLOCK_PX, _BLOCK_PX)


def _steps_of(blocks: Floats) -> Ints:
    """Return the step of each of the 64 frequencies, row by row, 0 where none is found."""
    coefficients = (_dct() @ blocks @ _dct().T).reshape(len(blocks), -1)
    regularity, significance = _fine().measure(np.ascontiguousarray(coefficients.T))
    passes = (regularity > _LEAST_REGULARITY) & (significance > _LEAST_SIGNIFICANCE)
    # A step's divisors are as regular: the largest counts, or the most regular one next to it.
    top = np.where(passes, regularity, 0).max(axis=1, keepdims=True)
    all_steps = _fine().steps
    largest = np.where(passes & (regularity > 0.85 * top), all_steps, 0).max(axis=1, keepdims=True)
    nearby = passes & (all_steps <= largest) & (all_steps >= 0.85 * largest)
    best = np.where(nearby, regularity, -1).argmax(axis=1)
    return np.where(nearby.any(axis=1), all_steps[best], 0)


def _foreign(steps: Ints, own: Ints | None) -> Ints:
    """Return the steps that are not those of the file's own table: larger ones, if most are."""
    steps = steps.copy()
    steps[0] = 0  # that of the mean, which a few flat colours may imitate
    if own is None:
        return steps
    larger = np.where(steps >= 1.25 * own, steps, 0)
    is_most = np.count_nonzero(larger) >= np.count_nonzero(steps) / 2
    return larger if is_most else np.zeros_like(steps)


def _quality_of_steps(steps: Ints, *, is_distinct: bool) -> float | None:
    """Return the quality that steps on a grid stand for; None if they may be chance.

    Args:
        steps: by frequency, 0 for unknown ones.
        is_distinct: whether no other grid shows steps, which is evidence without a known table.

    """
    known = steps > 0
    count = np.count_nonzero(known)
    if count < _LEAST_STEPS:
        return None
    tables, found = _libjpeg_tables()[:, known], steps[known]
    errors = np.median(np.abs(np.log(tables / found)), axis=1)
    nearest = np.flatnonzero(errors <= errors.min() + 1e-9)
    table = tables[nearest[len(nearest) // 2]]
    fits = np.count_nonzero(np.abs(table - found) <= np.maximum(0.6, 0.12 * found))
    if fits >= max(_LEAST_STEPS, 0.6 * count):
        return float(nearest.mean()) + 1
    if is_distinct and count >= _LEAST_STEPS_OF_OTHER_TABLES:
        return float(nearest.mean()) + 1
    return None
