"""The frames to send: each request's is different and carries the request's number.

The number is a stamp, a small field of dark and bright cells. No cache can answer for the server,
and an answer to another request is detected. Away from the stamp, by more than the model's halo,
every answer to the same base frame is the same and can be compared.

A frame is in the colours and bits of the model that it is for. A video's planes go to a model of
4:2:0 as they are; of a picture, Pillow's YCbCr is taken, with the mean of 2x2 pixels as chroma.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rt4ksr_client.contract import MODELS, FrameTensor
from rt4ksr_client.errors import LoadTestError, PictureError, VideoError
from rt4ksr_client.files import open_picture
from rt4ksr_client.frames import Planes, planes_of
from rt4ksr_client.served_model import ServedModel
from rt4ksr_loadtest.options import LoadOptions

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    Picture = Image.Image | VideoFrame

__all__ = [
    "STAMP_HEIGHT_PX",
    "BaseFrame",
    "base_frame",
    "base_frames",
    "crop_tile",
    "generate_frames",
    "level_of",
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
DARK, BRIGHT, GRAY = 48, 208, 128
SMALLEST_PX: Final = 128
GENERATED_FRAMES: Final = 2
MOST_FRAMES: Final = 8
TILES_PER_FRAME: Final = 4
VIDEO_SUFFIXES: Final = frozenset({".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".ts", ".y4m"})


@dataclass(frozen=True)
class BaseFrame:
    """A frame without a stamp, of even sides: its planes, ``(H, W, C)`` each, and a name."""

    name: str
    planes: Planes

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height."""
        height_px, width_px, _ = self.planes[0].shape
        return width_px, height_px


def stamp_frame(base: Planes, tensors: Sequence[FrameTensor], number: int) -> Planes:
    """Return ``(1, H, W, C)`` of each plane: ``base`` with the lowest 32 bits of ``number`` on it.

    ``tensors`` are those of the model that it is for.
    """
    bits = np.unpackbits(np.array([number & 0xFFFFFFFF], ">u4").view(np.uint8))
    cells = np.where(bits.reshape(ROWS, COLUMNS), BRIGHT, DARK)
    field = np.kron(cells, np.ones((CELL_PX, CELL_PX), np.int64))[..., np.newaxis]
    batch = tuple(plane[np.newaxis].copy() for plane in base)
    for plane, tensor in zip(batch, tensors, strict=True):
        step = tensor.subsampling
        values = field if step == 1 else GRAY
        plane[0, : STAMP_HEIGHT_PX // step, : STAMP_WIDTH_PX // step] = values * level_of(plane)
    return batch


def read_stamp(upscaled: NDArray[Any], scale: int) -> int:
    """Return the number on ``(1, s*H, s*W, C)``; some other number from a wrong picture.

    ``upscaled`` is the first plane of an answer.
    """
    cell = CELL_PX * scale
    field = upscaled[0, : ROWS * cell, : COLUMNS * cell]
    cells = field.reshape(ROWS, cell, COLUMNS, cell, -1).mean(axis=(1, 3, 4))
    packed = np.packbits(cells > level_of(upscaled) * (DARK + BRIGHT) / 2)
    return int(packed.view(">u4")[0])


def level_of(plane: NDArray[Any]) -> int:
    """Return how many codes of ``plane`` are one level of 8 bits."""
    return 1 << 8 * (plane.dtype.itemsize - 1)


def base_frames(options: LoadOptions, model: ServedModel) -> tuple[BaseFrame, ...]:
    """Return what to send to ``model``.

    Raises:
        LoadTestError: ``--frames`` has no frame that can be sent.

    """
    if options.frames is not None:
        frames = load_frames(options.frames, options.tile_px, model)
    else:
        width_px, height_px = options.frame_px or nominal_size_px(model.name)
        frames = [
            base_frame(name, picture, model)
            for name, picture in generate_frames(width_px, height_px, GENERATED_FRAMES, seed=1)
        ]
    if options.tile_px is not None:
        rng = random.Random(1)  # noqa: S311 - no secret
        frames = [
            crop_tile(frame, model.inputs, options.tile_px, rng)
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


def generate_frames(
    width_px: int, height_px: int, count: int, seed: int
) -> Iterator[tuple[str, Image.Image]]:
    """Yield frames with about the spectrum of photographs: less detail the finer it is."""
    rng = np.random.default_rng([seed, width_px, height_px])
    for i in range(count):
        total = np.full((height_px, width_px, 3), 128, np.int16)
        for octave in range(1, 9):
            cells = 2**octave
            small = rng.normal(128, 90 / octave**1.4, (cells, cells, 3)).clip(0, 255)
            layer = Image.fromarray(small.astype(np.uint8))
            total += np.asarray(layer.resize((width_px, height_px), Image.Resampling.BICUBIC))
            total -= 128
        yield f"generated {i + 1}", Image.fromarray(total.clip(0, 255).astype(np.uint8))


def load_frames(path: Path, tile_px: int | None, model: ServedModel) -> list[BaseFrame]:
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
    frames = [
        base_frame(name, picture, model)
        for name, picture in itertools.islice(found, MOST_FRAMES)
        if min(picture.width // 2 * 2, picture.height // 2 * 2) >= smallest_px
    ]
    if not frames:
        raise LoadTestError(
            f"--frames {path}: no picture of at least {smallest_px} pixels a side found"
        )
    return frames


def _picture_frames(files: Sequence[Path]) -> Iterator[tuple[str, Picture]]:
    for file in files:
        try:
            yield file.name, open_picture(file)
        except PictureError:
            continue  # a folder of pictures often has other files in it


def _video_frames(path: Path) -> Iterator[tuple[str, Picture]]:
    try:
        from rt4ksr_client.video.containers import open_input, read_errors
    except ModuleNotFoundError:
        raise LoadTestError(
            f"--frames {path}: a video needs PyAV: pip install 'rt4ksr-triton[video]'"
        ) from None
    try:
        with open_input(path) as container, read_errors(path):
            for index, frame in enumerate(container.decode(video=0)):
                yield f"{path.name} #{index}", frame
    except (VideoError, IndexError) as exc:
        raise LoadTestError(f"--frames {path}: cannot be decoded: {exc}") from exc


def base_frame(name: str, picture: Picture, model: ServedModel) -> BaseFrame:
    """Return ``picture`` in the colours and bits of ``model``, with even sides."""
    if isinstance(picture, Image.Image):
        planes = planes_of_picture(picture, model)
    elif model.colours == "rgb":
        planes = (picture.to_ndarray(format="rgb24"),)
    else:
        from rt4ksr_client.video.planes import from_video_frame

        planes = planes_of(from_video_frame(picture, model.bits))
    height_px, width_px = (side - side % 2 for side in planes[0].shape[:2])
    return BaseFrame(name, cut(planes, model.inputs, 0, 0, height_px, width_px))


def planes_of_picture(picture: Image.Image, model: ServedModel) -> Planes:
    """Return what the tensors of ``model`` hold of a picture."""
    planes: Planes = (np.asarray(picture.convert("RGB")),)
    if model.colours == "yuv420":
        luma, *chroma = picture.convert("RGB").convert("YCbCr").split()
        halves = [np.asarray(channel.reduce(2)) for channel in chroma]
        planes = np.asarray(luma)[..., np.newaxis], np.stack(halves, axis=-1)
    return tuple(plane.astype(f"u{model.bits // 8}") << (model.bits - 8) for plane in planes)


def crop_tile(
    base: BaseFrame, tensors: Sequence[FrameTensor], tile_px: int, rng: random.Random
) -> BaseFrame:
    """Return a square of ``base`` at a random even position."""
    width_px, height_px = base.size_px
    top = rng.randrange(0, height_px - tile_px + 1, 2)
    left = rng.randrange(0, width_px - tile_px + 1, 2)
    planes = cut(base.planes, tensors, top, left, tile_px, tile_px)
    return BaseFrame(f"{base.name} at {left},{top}", planes)


def cut(
    planes: Planes,
    tensors: Sequence[FrameTensor],
    top: int,
    left: int,
    height_px: int,
    width_px: int,
) -> Planes:
    """Return a rectangle of ``planes``, contiguous; all four numbers are even, in pixels."""
    parts = []
    for plane, tensor in zip(planes, tensors, strict=True):
        y, x, height, width = (n // tensor.subsampling for n in (top, left, height_px, width_px))
        parts.append(np.ascontiguousarray(plane[y : y + height, x : x + width]))
    return tuple(parts)
