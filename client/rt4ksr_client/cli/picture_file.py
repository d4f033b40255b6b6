"""Upscale one picture file: decode, upscale, resample, encode; the time of each stage is taken."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import IO, Final

from PIL import Image

from rt4ksr_client import files
from rt4ksr_client.atomic_write import copy_to_descriptor
from rt4ksr_client.call import Cancellation
from rt4ksr_client.cli.output_size import Box, plan_size
from rt4ksr_client.cli.server import Models
from rt4ksr_client.errors import PictureError
from rt4ksr_client.formats import metadata
from rt4ksr_client.formats.compression import Compression
from rt4ksr_client.formats.sequences import FrameSequence, Shot, write_sequence
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
    """What was done, in pixels and in milliseconds by stage.

    ``models``: one for each pass. ``compression``: what the first of them was chosen by, if it was.
    """

    source: str
    target: str
    before_px: tuple[int, int] = (0, 0)
    after_px: tuple[int, int] = (0, 0)
    frames: int = 0
    models: tuple[str, ...] = ()
    compression: Compression | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str, *, without_others: bool = False) -> Iterator[None]:
        """Add the block's time to ``stage``, or what of it went to no stage inside the block."""
        start_s, before_ms = perf_counter(), sum(self.stages_ms.values())
        yield
        duration_ms = (perf_counter() - start_s) * 1000
        if without_others:
            duration_ms -= sum(self.stages_ms.values()) - before_ms
        self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + duration_ms


def upscale_file(
    source: Path,
    target: Path,
    models: Models,
    settings: Settings,
    cancellation: Cancellation | None = None,
    *,
    replace: bool = False,
) -> Result:
    """Upscale ``source`` and write ``target``; on an error, an existing target is kept.

    Raises:
        concurrent.futures.CancelledError: ``cancellation`` ended it.
        PictureError: not a picture, or the target cannot be written, or exists without ``replace``.
        ServerError: see :meth:`rt4ksr_client.Upscaler.upscale`.

    """
    format_name = settings.format_for(target)
    result = Result(str(source), str(target))
    with result.timed("decode"):
        image = _decode(source, settings.max_px)
    upscalers = models.by_scale  # contacts, or starts, the server: no stage of the picture
    with image, files.write_errors(str(target)), result.timed("encode", without_others=True):
        sequence = FrameSequence(image, str(source), format_name)
        originals = iter(sequence)

        @cache
        def choose(upscaler: Upscaler) -> str:
            """Return the model for the file, whose frames do not know how it was compressed."""
            with result.timed("choose"):
                choice = upscaler.choose_model(image, cancellation=cancellation)
            result.compression = choice.compression
            return choice.model.name

        def upscaled() -> Iterator[Shot]:
            while True:
                with result.timed("decode"):
                    shot = next(originals, None)
                if shot is None:
                    return
                with result.timed("upscale", without_others=True):
                    picture = _upscale(
                        shot.picture,
                        upscalers,
                        choose,
                        settings.box,
                        format_name,
                        result,
                        cancellation,
                    )
                result.after_px = picture.size
                if settings.strip_metadata:
                    for name in metadata.KEPT:
                        picture.info.pop(name, None)
                yield shot._replace(picture=picture)

        result.frames = len(sequence)
        with _opened(target, replace) as stream:
            write_sequence(
                stream,
                upscaled(),
                format_name,
                count=len(sequence),
                has_alpha=sequence.has_alpha,
                quality=settings.quality,
                loop=sequence.loop,
                name="" if target == STREAM else str(target),
            )
    return result


def _decode(source: Path, max_px: int | None) -> Image.Image:
    if source != STREAM:
        return files.decode(source, str(source), max_px=max_px)
    name = "standard input"
    if sys.stdin is None:
        raise PictureError(f"{name}: it is closed: give the name of a file")
    with files.read_errors(name):
        content = files.read_stream(sys.stdin.buffer, name)
    return files.decode(content, name, max_px=max_px)


def _upscale(
    image: Image.Image,
    upscalers: Mapping[int, Upscaler],
    choose: Callable[[Upscaler], str],
    box: Box | None,
    format_name: str,
    result: Result,
    cancellation: Cancellation | None,
) -> Image.Image:
    plan = plan_size(image.width, image.height, upscalers, box)
    files.check_size(format_name, plan.width_px, plan.height_px)
    passes = [upscalers[scale] for scale in plan.passes]
    result.before_px = image.size
    names = [choose(upscaler) for upscaler in passes[:1]]
    names += [upscaler.served_model.name for upscaler in passes[1:]]  # of what is upscaled already
    result.models = tuple(names)
    if not passes:
        warn(f"{image.width}x{image.height} is that large already: only resampled")
        image = join(*split(image))
    for upscaler, name in zip(passes, names, strict=True):
        image = upscaler.upscale(image, model=name, cancellation=cancellation)
    size = (plan.width_px, plan.height_px)
    if image.size == size:
        return image
    resized = image.resize(size, Image.Resampling.LANCZOS)
    resized.info.update(image.info)
    return resized


@contextmanager
def _opened(target: Path, replace: bool) -> Iterator[IO[bytes]]:
    """Yield a file that can seek, which becomes ``target``."""
    if target != STREAM:
        with (
            files.atomic_write(target, replace=replace) as temporary,
            temporary.open("w+b") as stream,
        ):
            yield stream
        return
    with tempfile.TemporaryFile() as stream:
        yield stream
        stream.seek(0)
        sys.stdout.flush()
        try:
            descriptor = sys.stdout.fileno()
        except OSError:  # not a file of the system, as in tests
            shutil.copyfileobj(stream, sys.stdout.buffer)
        else:
            copy_to_descriptor(stream, descriptor)
