"""One picture from a source to a target: decode, upscale, resample, encode; each stage timed."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

from PIL import Image

from rt4ksr_client import files, metadata
from rt4ksr_client.call import Cancellation
from rt4ksr_client.cli.output_size import Box, plan
from rt4ksr_client.cli.server import Models
from rt4ksr_client.errors import PictureError
from rt4ksr_client.pictures import join, split, warn

__all__ = ["STREAM", "Enlarged", "Settings", "enlarge"]

STREAM = Path("-")
"""Standard input, or standard output."""


@dataclass(frozen=True)
class Settings:
    """What becomes of each picture. ``format_name`` None: by the target's suffix.

    ``max_px``: larger sources are refused; None leaves it to Pillow's own limit.
    """

    box: Box | None = None
    format_name: str | None = None
    quality: int | None = None
    strip_metadata: bool = False
    max_px: int | None = None

    def format_for(self, target: Path) -> str:
        """Return the format to write ``target`` in."""
        if self.format_name is not None:
            return self.format_name
        return "PNG" if target == STREAM else files.format_of(target)


@dataclass
class Enlarged:
    """What was done, in pixels and in milliseconds by stage; ``models``: of each pass."""

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
        spent_ms = (perf_counter() - start_s) * 1000
        self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + spent_ms


def enlarge(
    source: Path,
    target: Path,
    models: Models,
    settings: Settings,
    cancellation: Cancellation | None = None,
) -> Enlarged:
    """Upscale ``source`` into ``target``, which is there whole in the end, or as it was.

    Raises:
        CancelledError: ``cancellation`` ended it.
        PictureError: not a picture, or a target that cannot be written.
        ServerError: the server, or the way to it.

    """
    _refuse_overwriting_the_source(source, target)
    format_name = settings.format_for(target)
    done = Enlarged(str(source), str(target))
    with done.timed("decode"):
        image = _decoded(source, settings.max_px)
    upscale = partial(_sized, models=models, box=settings.box, cancellation=cancellation, done=done)
    with image:  # an animation is read as it goes
        shots, durations_ms = _upscaled(image, str(source), format_name, upscale, done)
    if settings.strip_metadata:
        for shot in shots:
            for name in metadata.KEPT:
                shot.info.pop(name, None)
    with done.timed("encode"):
        with files.write_errors(str(target)):
            data = files.encode(
                shots,
                format_name,
                quality=settings.quality,
                durations_ms=durations_ms,
                loop=image.info.get("loop"),
            )
        _write(data, target)
    done.after_px, done.frames = shots[0].size, len(shots)
    return done


def _decoded(source: Path, max_px: int | None) -> Image.Image:
    if source != STREAM:
        return files.decode(source, str(source), max_px=max_px)
    return files.decode(io.BytesIO(sys.stdin.buffer.read()), "standard input", max_px=max_px)


def _upscaled(
    image: Image.Image,
    name: str,
    format_name: str,
    upscale: Callable[[Image.Image], Image.Image],
    done: Enlarged,
) -> tuple[list[Image.Image], list[float]]:
    moving = files.is_animated(image)
    if moving and format_name not in files.ANIMATED_FORMATS:
        warn(f"{name}: {format_name} has no animation: only the first frame is kept")
        moving = False
    pairs = files.animation_frames(image) if moving else iter([(image, 0.0)])
    shots: list[Image.Image] = []
    durations_ms: list[float] = []
    while True:
        with files.read_errors(name), done.timed("decode"):
            pair = next(pairs, None)
            if pair is None:
                return shots, durations_ms
            still = metadata.upright(pair[0])
        done.before_px = still.size
        with done.timed("upscale"):
            shots.append(upscale(still))
        durations_ms.append(pair[1])


def _sized(
    image: Image.Image,
    *,
    models: Models,
    box: Box | None,
    cancellation: Cancellation | None,
    done: Enlarged,
) -> Image.Image:
    wanted = plan(image.width, image.height, models.by_scale, box)
    done.models = tuple(models.name(scale) for scale in wanted.passes)
    if not wanted.passes:
        warn(f"{image.width}x{image.height} is that large already: only resampled")
        image = _plain(image)
    for scale in wanted.passes:
        image = models.upscale(image, scale, cancellation)
    size = (wanted.width_px, wanted.height_px)
    if image.size == size:
        return image
    resized = image.resize(size, Image.Resampling.LANCZOS)
    resized.info.update(image.info)
    return resized


def _plain(image: Image.Image) -> Image.Image:
    return join(*split(image))


def _write(data: bytes, target: Path) -> None:
    if target == STREAM:
        with files.write_errors("standard output"):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        return
    with files.write_errors(str(target)), files.atomic_write(target) as temporary:
        temporary.write_bytes(data)


def _refuse_overwriting_the_source(source: Path, target: Path) -> None:
    if target != STREAM and target.exists() and source.exists() and target.samefile(source):
        raise PictureError(f"{target}: this is the source itself: give another name with -o")
