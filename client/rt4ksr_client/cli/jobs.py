"""Which files a command reads, and where each result goes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rt4ksr_client.errors import PictureError
from rt4ksr_client.files import readable_suffixes

__all__ = ["Job", "default_target", "find_pictures", "jobs_in_folder"]


@dataclass(frozen=True)
class Job:
    """One picture file to upscale."""

    source: Path
    target: Path

    def is_done(self) -> bool:
        """Whether the target exists and is not older than the source."""
        try:
            return self.target.stat().st_mtime >= self.source.stat().st_mtime
        except OSError:
            return False


def default_target(source: Path, label: str, extension: str) -> Path:
    """Return ``holiday_x2.png`` beside ``holiday.jpg``, or ``album_x2`` beside ``album``, a folder.

    ``label`` says what the result is, e.g. ``x2`` or ``4k``; ``extension`` includes its dot.
    """
    source = source.absolute() if source.name in ("", "..") else source
    if source.is_dir():
        return source.with_name(f"{source.name}_{label}")
    return source.with_name(f"{source.stem}_{label}{extension}")


def jobs_in_folder(source: Path, target: Path, extension: str) -> list[Job]:
    """Return a job for every picture below ``source``, in the same subfolders below ``target``.

    Hidden files and folders are skipped, and ``target`` if it is below ``source``. Where two
    pictures differ only in their suffix, the target keeps it: ``a.jpg.png``.

    Raises:
        PictureError: the folder has no pictures.

    """
    pictures = sorted(find_pictures(source, target))
    if not pictures:
        raise PictureError(f"{source}: no pictures in this folder")
    names = Counter(path.with_suffix(extension) for path in pictures)

    def target_name(path: Path) -> Path:
        name = path.with_suffix(extension)
        return name if names[name] == 1 else path.with_name(path.name + extension)

    return [Job(path, target / target_name(path).relative_to(source)) for path in pictures]


def find_pictures(source: Path, excluded: Path) -> Iterator[Path]:
    """Yield the picture files below ``source``, by their suffixes; skip the folder ``excluded``."""
    suffixes = readable_suffixes()
    for root, subfolders, names in os.walk(source):
        folder = Path(root)
        subfolders[:] = [
            name for name in subfolders if not name.startswith(".") and folder / name != excluded
        ]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield folder / name
