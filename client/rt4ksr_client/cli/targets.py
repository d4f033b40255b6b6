"""The file that a command writes: its name, and whether a file that is there may be replaced."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rt4ksr_client.cli.console import printable
from rt4ksr_client.errors import Rt4ksrError
from rt4ksr_client.files import is_stream

__all__ = [
    "Identity",
    "candidate_names",
    "check_target",
    "default_target",
    "identity_of",
    "is_folder",
    "kind_of",
    "own_name",
]

LONGEST_NAME_BYTES: Final = 240
"""File systems allow 255; the names of temporary files and folders beside a result are longer."""

KINDS: Final = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}

Identity = tuple[int, int]
"""Device and inode: the same for every spelling of a path, and for hard links."""


def check_target(
    target: Path, source: Path | None = None, *, overwrite: bool, option: str = "-o"
) -> None:
    """Reject a target that would cost the user a file; call it before the work.

    Args:
        target: the file to write.
        source: the file it is made from.
        overwrite: whether another file may be replaced.
        option: the option that names the target.

    Raises:
        Rt4ksrError: ``target`` is ``source``, a folder, or an existing file without ``overwrite``.

    """
    found = identity_of(target)
    if found is None or is_stream(target):
        return
    name = printable(target)
    if source is not None and found == identity_of(source):
        raise Rt4ksrError(f"{name}: this is the source itself: give another name with {option}")
    if is_folder(target):
        raise Rt4ksrError(f"{name}: a folder has this name: give another one with {option}")
    if not overwrite:
        raise Rt4ksrError(
            f"{name}: the file exists: --overwrite replaces it, {option} writes elsewhere"
        )


def identity_of(path: Path) -> Identity | None:
    """Return the identity of what is at ``path``, through links; None where nothing is."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def kind_of(mode: int) -> str | None:
    """Return what a path with the mode ``st_mode`` is; None for a regular file."""
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "special file")


def default_target(source: Path, label: str, extension: str) -> Path:
    """Return ``holiday_x2.png`` beside ``holiday.jpg``, or ``album_x2`` beside ``album``, a folder.

    ``label`` says what the result is, e.g. ``x2`` or ``4k``; ``extension`` includes its dot.
    """
    if is_folder(source):
        name = own_name(source)
        folder = source.parent if source.name == name else source.resolve().parent
        return folder / f"{name}_{label}"
    return source.with_name(next(candidate_names(source, f"_{label}{extension}")))


def is_folder(path: Path) -> bool:
    """Whether there is a folder at ``path``, which may be anything that a user wrote."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:  # Path.is_dir() fails if a name is too long
        return False


def own_name(folder: Path) -> str:
    """Return the name of ``folder``; those of ``.`` and ``..`` are known to the file system."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def candidate_names(source: Path, ending: str) -> Iterator[str]:
    """Yield names for a result of ``source``: a.png, a.jpg.png, a-2.jpg.png and so on.

    Long names are shortened to what a file system allows.
    """
    yield _shortened(source.stem, ending)
    yield _shortened(source.stem, source.suffix + ending)
    count = 2
    while True:
        yield _shortened(source.stem, f"-{count}{source.suffix}{ending}")
        count += 1


def _shortened(stem: str, ending: str) -> str:
    while len(os.fsencode(stem + ending)) > LONGEST_NAME_BYTES and len(stem) > 1:
        stem = stem[:-1]
    return stem + ending
