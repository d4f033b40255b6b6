"""Which pictures a command line means, and where each one goes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from rt4ksr_client.errors import PictureError

__all__ = ["Job", "default_target", "is_done", "jobs_in_folder"]

SUFFIX = "_4k"


@dataclass(frozen=True)
class Job:
    """One picture to be upscaled."""

    source: Path
    target: Path


def default_target(source: Path, extension: str) -> Path:
    """Return ``holiday_4k.png`` beside ``holiday.jpg``; ``album_4k`` beside a folder."""
    source = source.absolute() if source.name in ("", "..") else source
    if source.is_dir():
        return source.with_name(source.name + SUFFIX)
    return source.with_name(f"{source.stem}{SUFFIX}{extension}")


def jobs_in_folder(source: Path, target: Path, extension: str) -> list[Job]:
    """Return a job for every picture below ``source``, in the same folders below ``target``.

    Where two pictures differ in their suffix only, the target keeps it: ``a.jpg.png``.

    Raises:
        PictureError: there is no picture.

    """
    found = sorted(_pictures(source, target))
    if not found:
        raise PictureError(f"{source}: no pictures in this folder")
    targets = Counter(path.with_suffix(extension) for path in found)
    return [Job(path, _target(path, source, target, extension, targets)) for path in found]


def is_done(job: Job) -> bool:
    """Whether the target is there and not older than the source."""
    try:
        return job.target.stat().st_mtime >= job.source.stat().st_mtime
    except OSError:
        return False


def _target(path: Path, source: Path, target: Path, extension: str, targets: Counter[Path]) -> Path:
    alone = targets[path.with_suffix(extension)] == 1
    name = path.with_suffix(extension) if alone else path.with_name(path.name + extension)
    return target / name.relative_to(source)


def _pictures(source: Path, target: Path) -> Iterator[Path]:
    suffixes = _readable_suffixes()
    for folder, subfolders, names in os.walk(source):
        here = Path(folder)
        subfolders[:] = [n for n in subfolders if not n.startswith(".") and here / n != target]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield here / name


def _readable_suffixes() -> frozenset[str]:
    known = Image.registered_extensions()
    video_and_documents = {"MPEG", "PDF", "EPS", "WMF", "PS"}
    return frozenset(
        suffix
        for suffix, name in known.items()
        if name in Image.OPEN and name not in video_and_documents
    )
