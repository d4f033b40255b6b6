"""Frames to send: each request's differs, and says which request it belongs to.

A frame carries a stamp, a small field of dark and bright cells that spell the request's number.
Nothing that caches answers can help the server, and an answer that belongs to another request is
found out. Away from the stamp (farther than the model's halo) the answer is that of the base
frame, so that it can be compared with an earlier one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rt4ksr_client.errors import LoadTestError, PictureError
from rt4ksr_client.files import open_picture
from rt4ksr_client.frames import Frame

__all__ = ["BaseFrame", "load_frames", "made_up_frames", "read_stamp", "stamped"]

CELL_PX: Final = 8
COLUMNS: Final = 8
ROWS: Final = 4
STAMP_HEIGHT_PX: Final = ROWS * CELL_PX
STAMP_WIDTH_PX: Final = COLUMNS * CELL_PX
DARK, BRIGHT = 48, 208
SMALLEST_PX: Final = 128
MOST_FRAMES: Final = 8
VIDEO_SUFFIXES: Final = frozenset({".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".ts"})


@dataclass(frozen=True)
class BaseFrame:
    """uint8 ``(H, W, 3)``, RGB, even sides, without a stamp; ``name`` is for people."""

    name: str
    pixels: Frame


def stamped(base: Frame, number: int) -> Frame:
    """Return uint8 ``(1, H, W, 3)``: ``base`` with the lowest 32 bits of ``number`` on it."""
    bits = np.unpackbits(np.array([number & 0xFFFFFFFF], ">u4").view(np.uint8))
    cells = np.where(bits.reshape(ROWS, COLUMNS), BRIGHT, DARK).astype(np.uint8)
    batch = base[np.newaxis].copy()
    batch[0, :STAMP_HEIGHT_PX, :STAMP_WIDTH_PX] = np.kron(
        cells, np.ones((CELL_PX, CELL_PX), np.uint8)
    )[..., np.newaxis]
    return batch


def read_stamp(upscaled: Frame, scale: int) -> int:
    """Return the number on uint8 ``(1, s*H, s*W, 3)``; a wrong picture gives some other number."""
    cell = CELL_PX * scale
    field = upscaled[0, : ROWS * cell, : COLUMNS * cell, 1].astype(np.uint16)
    cells = field.reshape(ROWS, cell, COLUMNS, cell).mean(axis=(1, 3))
    packed = np.packbits(cells > (DARK + BRIGHT) / 2)
    return int(packed.view(">u4")[0])


def made_up_frames(width_px: int, height_px: int, count: int, seed: int) -> list[BaseFrame]:
    """Return frames with the spectrum of photographs: much in the coarse, little in the fine."""
    rng = np.random.default_rng([seed, width_px, height_px])
    return [
        BaseFrame(f"made up {i + 1}", _photo_like(width_px, height_px, rng)) for i in range(count)
    ]


def _photo_like(width_px: int, height_px: int, rng: np.random.Generator) -> Frame:
    total = np.full((height_px, width_px, 3), 128, np.int16)
    for octave in range(1, 9):
        cells = 2**octave
        small = rng.normal(128, 90 / octave**1.4, (cells, cells, 3)).clip(0, 255)
        layer = Image.fromarray(small.astype(np.uint8))
        total += np.asarray(layer.resize((width_px, height_px), Image.Resampling.BICUBIC))
        total -= 128
    return total.clip(0, 255).astype(np.uint8)


def load_frames(path: Path, tile_px: int | None) -> list[BaseFrame]:
    """Read up to ``MOST_FRAMES`` frames from a picture, a video or a folder of pictures.

    Raises:
        LoadTestError: nothing there that can be sent.

    """
    if not path.exists():
        raise LoadTestError(f"--frames {path}: there is no such file or folder")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        found = _video_frames(path)
    else:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        found = _picture_frames(files)
    frames = [
        BaseFrame(name, _even(pixels))
        for name, pixels in itertools.islice(found, MOST_FRAMES)
        if min(pixels.shape[:2]) >= max(SMALLEST_PX, tile_px or 0)
    ]
    if not frames:
        least = max(SMALLEST_PX, tile_px or 0)
        raise LoadTestError(f"--frames {path}: no picture of at least {least} pixels a side in it")
    return frames


def _picture_frames(files: Sequence[Path]) -> Iterator[tuple[str, Frame]]:
    for file in files:
        try:
            yield file.name, np.asarray(open_picture(file).convert("RGB"))
        except PictureError:
            continue  # a folder of pictures often has other files in it


def _video_frames(path: Path) -> Iterator[tuple[str, Frame]]:
    try:
        import av
    except ModuleNotFoundError:
        raise LoadTestError(
            f"--frames {path}: a video needs PyAV: pip install 'rt4ksr-triton[video]'"
        ) from None
    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                pixels: Frame = frame.to_ndarray(format="rgb24")
                yield f"{path.name} #{index}", pixels
    except (av.FFmpegError, IndexError) as exc:
        raise LoadTestError(f"--frames {path}: cannot be decoded: {exc}") from exc


def _even(pixels: Frame) -> Frame:
    height, width = (side - side % 2 for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[:height, :width])


def tile_of(base: BaseFrame, tile_px: int, rng: random.Random) -> BaseFrame:
    """Return a square of ``base`` at a random even place."""
    height, width, _ = base.pixels.shape
    top = rng.randrange(0, height - tile_px + 1, 2)
    left = rng.randrange(0, width - tile_px + 1, 2)
    pixels: NDArray[np.uint8] = base.pixels[top : top + tile_px, left : left + tile_px]
    return BaseFrame(f"{base.name} at {left},{top}", np.ascontiguousarray(pixels))
