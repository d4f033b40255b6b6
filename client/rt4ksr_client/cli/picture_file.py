"""Upscale one picture file: decode, upscale, resample, encode; the time of each stage is taken."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Final

from PIL import Image

from rt4ksr_client import files, metadata
from rt4ksr_client.call import Cancellation
from rt4ksr_client.cli.output_size import Box, plan_size
from rt4ksr_client.cli.server import Models
from rt4ksr_client.errors import PictureError
from rt4ksr_client.pictures import join, split, warn
from rt4ksr_client.upscaler import Upscaler

__all__ = ["STREAM", "Result", "Settings", "upscale_file"]

STREAM: Final = Path("-")
"""Standard input, or standard output."""


@dataclass(frozen=True)
class Settings:
    """How each picture is upscaled and written.

    Args:
        box: the size to fit into. Default: one pass through the model.
        format_name: a key of :data:`rt4ksr_client.files.FORMATS`. Default: by the target's suffix.
        quality: 1 to 100, for JPEG, WebP and AVIF.
        strip_metadata: write no ICC profile, EXIF, XMP, IPTC and resolution.
        max_px: reject sources with more pixels. Default: Pillow's own limit.

    """

    box: Box | None = None
    format_name: str | None = None
    quality: int | None = None
    strip_metadata: bool = False
    max_px: int | None = None

    def format_for(self, target: Path) -> str:
        """Return the format to write ``target`` in.

        Raises:
            PictureError: the suffix of ``target`` stands for none.

        """
        if self.format_name is not None:
            return self.format_name
        return "PNG" if target == STREAM else files.format_of(target)


@dataclass
class Result:
    """What was done, in pixels and in milliseconds by stage; ``models``: one for each pass."""

    source: str
    target: str
    before_px: tuple[int, int] = (0, 0)
    after_px: tuple[int, int] = (0, 0)
    frames: int = 0
    models: tuple[str, ...] = ()
    stages_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's time to ``stage``."""
        start_s = perf_counter()
        yield
        duration_ms = (perf_counter() - start_s) * 1000
        self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + duration_ms


def upscale_file(
    source: Path,
    target: Path,
    models: Models,
    settings: Settings,
    cancellation: Cancellation | None = None,
) -> Result:
    """Upscale ``source`` and write ``target``; on an error, an existing target is kept.

    Raises:
        concurrent.futures.CancelledError: ``cancellation`` ended it.
        PictureError: not a picture, or the target cannot be written.
        ServerError: see :meth:`rt4ksr_client.Upscaler.upscale`.

    """
    if target != STREAM and target.exists() and source.exists() and target.samefile(source):
        raise PictureError(f"{target}: this is the source itself: give another name with -o")
    format_name = settings.format_for(target)
    result = Result(str(source), str(target))
    frames: list[Image.Image] = []
    durations_ms: list[float] = []
    with result.timed("decode"):
        image = _decode(source, settings.max_px)
    upscalers = models.by_scale  # contacts, or starts, the server: no stage of the picture
    with image:  # the frames of an animation are read one by one
        originals = _upright_frames(image, str(source), format_name)
        while True:
            with result.timed("decode"):
                original = next(originals, None)
            if original is None:
                break
            frame, duration_ms = original
            with result.timed("upscale"):
                frames.append(_upscale(frame, upscalers, settings.box, result, cancellation))
            durations_ms.append(duration_ms)
    if settings.strip_metadata:
        for frame in frames:
            for name in metadata.KEPT:
                frame.info.pop(name, None)
    with result.timed("encode"), files.write_errors(str(target)):
        loop = image.info.get("loop")
        data = files.encode(
            frames, format_name, quality=settings.quality, durations_ms=durations_ms, loop=loop
        )
        _write(data, target)
    result.after_px, result.frames = frames[0].size, len(frames)
    return result


def _decode(source: Path, max_px: int | None) -> Image.Image:
    if source != STREAM:
        return files.decode(source, str(source), max_px=max_px)
    return files.decode(io.BytesIO(sys.stdin.buffer.read()), "standard input", max_px=max_px)


def _upright_frames(
    image: Image.Image, name: str, format_name: str
) -> Iterator[tuple[Image.Image, float]]:
    """Yield the frames that ``format_name`` can store, with their durations in milliseconds."""
    animated = files.is_animated(image)
    if animated and format_name not in files.ANIMATED_FORMATS:
        warn(f"{name}: {format_name} has no animation: only the first frame is kept")
        animated = False
    with files.read_errors(name):
        for frame, duration_ms in files.animation_frames(image) if animated else [(image, 0.0)]:
            yield metadata.upright(frame), duration_ms


def _upscale(
    image: Image.Image,
    upscalers: Mapping[int, Upscaler],
    box: Box | None,
    result: Result,
    cancellation: Cancellation | None,
) -> Image.Image:
    plan = plan_size(image.width, image.height, upscalers, box)
    passes = [upscalers[scale] for scale in plan.passes]
    result.before_px = image.size
    result.models = tuple(upscaler.served_model.name for upscaler in passes)
    if not passes:
        warn(f"{image.width}x{image.height} is that large already: only resampled")
        image = join(*split(image))
    for upscaler in passes:
        image = upscaler.upscale(image, cancellation=cancellation)
    size = (plan.width_px, plan.height_px)
    if image.size == size:
        return image
    resized = image.resize(size, Image.Resampling.LANCZOS)
    resized.info.update(image.info)
    return resized


def _write(data: bytes, target: Path) -> None:
    if target == STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with files.atomic_write(target) as temporary:
        temporary.write_bytes(data)
