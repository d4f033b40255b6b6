"""The frames to send: each request's is different and carries the request's number.

The number is a stamp, a small field of dark and bright cells. No cache can answer for the server,
and an answer to another request is detected. Away from the stamp, by more than the model's halo,
every answer to the same base frame is the same and can be compared.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from rt4ksr_client.contract import MODELS
from rt4ksr_client.errors import LoadTestError, PictureError, VideoError
from rt4ksr_client.files import open_picture
from rt4ksr_client.frames import Frame
from rt4ksr_loadtest.options import LoadOptions

__all__ = [
    "STAMP_HEIGHT_PX",
    "BaseFrame",
    "base_frames",
    "crop_tile",
    "generate_frames",
    "load_frames",
    "read_stamp",
    "request_size_px",
    "stamp_frame",
]

CELL_PX: Final = 8
COLUMNS: Final = 8
ROWS: Final = 4
STAMP_HEIGHT_PX: Final = ROWS * CELL_PX
STAMP_WIDTH_PX: Final = COLUMNS * CELL_PX
DARK, BRIGHT = 48, 208
SMALLEST_PX: Final = 128
GENERATED_FRAMES: Final = 2
MOST_FRAMES: Final = 8
TILES_PER_FRAME: Final = 4
VIDEO_SUFFIXES: Final = frozenset({".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".ts"})


@dataclass(frozen=True)
class BaseFrame:
    """A frame without a stamp: uint8 ``(H, W, 3)``, RGB, even sides. ``name`` is for display."""

    name: str
    pixels: Frame


def stamp_frame(base: Frame, number: int) -> Frame:
    """Return uint8 ``(1, H, W, 3)``: ``base`` with the lowest 32 bits of ``number`` on it."""
    bits = np.unpackbits(np.array([number & 0xFFFFFFFF], ">u4").view(np.uint8))
    cells = np.where(bits.reshape(ROWS, COLUMNS), BRIGHT, DARK).astype(np.uint8)
    batch: Frame = base[np.newaxis].copy()
    batch[0, :STAMP_HEIGHT_PX, :STAMP_WIDTH_PX] = np.kron(
        cells, np.ones((CELL_PX, CELL_PX), np.uint8)
    )[..., np.newaxis]
    return batch


def read_stamp(upscaled: Frame, scale: int) -> int:
    """Return the number on uint8 ``(1, s*H, s*W, 3)``; some other number from a wrong picture."""
    cell = CELL_PX * scale
    field = upscaled[0, : ROWS * cell, : COLUMNS * cell, 1].astype(np.uint16)
    cells = field.reshape(ROWS, cell, COLUMNS, cell).mean(axis=(1, 3))
    packed = np.packbits(cells > (DARK + BRIGHT) / 2)
    return int(packed.view(">u4")[0])


def base_frames(options: LoadOptions, model: str) -> tuple[BaseFrame, ...]:
    """Return what to send to ``model``.

    Raises:
        LoadTestError: ``--frames`` has no frame that can be sent.

    """
    if options.frames is not None:
        frames = load_frames(options.frames, options.tile_px)
    else:
        width_px, height_px = options.frame_px or nominal_size_px(model)
        frames = generate_frames(width_px, height_px, GENERATED_FRAMES, seed=1)
    if options.tile_px is not None:
        rng = random.Random(1)  # noqa: S311 - no secret
        frames = [
            crop_tile(frame, options.tile_px, rng)
            for frame in frames
            for _ in range(TILES_PER_FRAME)
        ]
    return tuple(frames)


def request_size_px(options: LoadOptions, model: str) -> tuple[int, int]:
    """Return width and height of the requests to ``model`` if their frames are generated."""
    if options.tile_px:
        return options.tile_px, options.tile_px
    return options.frame_px or nominal_size_px(model)


def nominal_size_px(model: str) -> tuple[int, int]:
    """Return the input size that ``model`` is made for; 1080p for a model not of this project."""
    spec = MODELS.get(model)
    return (1920, 1080) if spec is None else (spec.input_width_px, spec.input_height_px)


def generate_frames(width_px: int, height_px: int, count: int, seed: int) -> list[BaseFrame]:
    """Return frames with about the spectrum of photographs: less detail the finer it is."""
    rng = np.random.default_rng([seed, width_px, height_px])
    frames = []
    for i in range(count):
        total = np.full((height_px, width_px, 3), 128, np.int16)
        for octave in range(1, 9):
            cells = 2**octave
            small = rng.normal(128, 90 / octave**1.4, (cells, cells, 3)).clip(0, 255)
            layer = Image.fromarray(small.astype(np.uint8))
            total += np.asarray(layer.resize((width_px, height_px), Image.Resampling.BICUBIC))
            total -= 128
        frames.append(BaseFrame(f"generated {i + 1}", total.clip(0, 255).astype(np.uint8)))
    return frames


def load_frames(path: Path, tile_px: int | None) -> list[BaseFrame]:
    """Read up to ``MOST_FRAMES`` frames from a picture, a video or a folder of pictures.

    Frames smaller than 128 pixels or ``tile_px`` are skipped, odd sides lose a pixel.

    Raises:
        LoadTestError: there is no frame that can be sent.

    """
    if not path.exists():
        raise LoadTestError(f"--frames {path}: no such file or folder")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        found = _video_frames(path)
    else:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        found = _picture_frames(files)
    smallest_px = max(SMALLEST_PX, tile_px or 0)
    frames = []
    for name, pixels in itertools.islice(found, MOST_FRAMES):
        height, width = (side - side % 2 for side in pixels.shape[:2])
        if min(height, width) >= smallest_px:
            frames.append(BaseFrame(name, np.ascontiguousarray(pixels[:height, :width])))
    if not frames:
        raise LoadTestError(
            f"--frames {path}: no picture of at least {smallest_px} pixels a side found"
        )
    return frames


def _picture_frames(files: Sequence[Path]) -> Iterator[tuple[str, Frame]]:
    for file in files:
        try:
            yield file.name, np.asarray(open_picture(file).convert("RGB"))
        except PictureError:
            continue  # a folder of pictures often has other files in it


def _video_frames(path: Path) -> Iterator[tuple[str, Frame]]:
    try:
        from rt4ksr_client.video.containers import open_input, read_errors
    except ModuleNotFoundError:
        raise LoadTestError(
            f"--frames {path}: a video needs PyAV: pip install 'rt4ksr-triton[video]'"
        ) from None
    try:
        with open_input(path) as container, read_errors(path):
            for index, frame in enumerate(container.decode(video=0)):
                yield f"{path.name} #{index}", np.asarray(frame.to_ndarray(format="rgb24"))
    except (VideoError, IndexError) as exc:
        raise LoadTestError(f"--frames {path}: cannot be decoded: {exc}") from exc


def crop_tile(base: BaseFrame, tile_px: int, rng: random.Random) -> BaseFrame:
    """Return a square of ``base`` at a random even position."""
    height, width, _ = base.pixels.shape
    top = rng.randrange(0, height - tile_px + 1, 2)
    left = rng.randrange(0, width - tile_px + 1, 2)
    pixels = base.pixels[top : top + tile_px, left : left + tile_px]
    return BaseFrame(f"{base.name} at {left},{top}", np.ascontiguousarray(pixels))
