"""The pictures below a folder, and what else is there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Final

from rt4ksr_client.cli.console import printable
from rt4ksr_client.cli.results import LIST_NAME, ResultFolder
from rt4ksr_client.cli.targets import Identity, identity_of, kind_of
from rt4ksr_client.files import readable_suffixes

__all__ = ["FolderScan"]

LONGEST_SUFFIX: Final = 8


class FolderScan:
    """Finds the pictures below a folder by their suffixes, without opening them.

    Hidden files and folders, links to folders and what is not a file are left out, and results: all
    files in ``outputs``, and in other subfolders what their lists name (see
    :class:`~rt4ksr_client.cli.results.ResultFolder`).

    Args:
        folder: where to look.
        outputs: the folders that the results go to.

    Attributes:
        pictures: the files, in order.
        failures: what cannot be read though its name is that of a picture or of a folder, with the
            reason.
        skipped: how many files and folders were left out, by reason.

    Raises:
        PictureError: a list of results cannot be read.

    """

    def __init__(self, folder: Path, outputs: Collection[Identity | None] = ()) -> None:
        self.pictures: list[Path] = []
        self.failures: list[tuple[Path, str]] = []
        self.skipped: Counter[str] = Counter()
        self._outputs = outputs
        self._suffixes = readable_suffixes()
        for root, subfolders, names in os.walk(folder, onerror=self._add_unreadable):
            results = None if root == str(folder) else ResultFolder(Path(root))
            for name in names:
                self._add_file(Path(root, name), results)
            subfolders[:] = [name for name in subfolders if self._enters(Path(root, name))]
        self.pictures.sort()

    def _add_unreadable(self, error: OSError) -> None:
        folder = Path(os.fsdecode(error.filename))
        self.failures.append((folder, f"{printable(folder)}: cannot be read: {error.strerror}"))

    def _enters(self, folder: Path) -> bool:
        if folder.name.startswith("."):
            self.skipped["hidden"] += 1
        elif folder.is_symlink():
            self.skipped["linked folder"] += 1
        elif identity_of(folder) in self._outputs:
            self._count_other_pictures(folder)
        else:
            return True
        return False

    def _count_other_pictures(self, output: Path) -> None:
        for root, _, names in os.walk(output):
            results = ResultFolder(Path(root))
            for name in names:
                if self._is_picture(name) and name not in results:
                    self.skipped["in the output folder"] += 1

    def _add_file(self, path: Path, results: ResultFolder | None) -> None:
        if path.name == LIST_NAME:
            return
        if path.name.startswith("."):
            self.skipped["hidden"] += 1
            return
        if results is not None and path.name in results:
            self.skipped["result of an earlier run"] += 1
            return
        is_picture = self._is_picture(path.name)
        try:
            kind = kind_of(path.stat().st_mode)
        except OSError as exc:
            kind = f"file that cannot be read ({exc.strerror})"
        if is_picture and kind is None:
            self.pictures.append(path)
        elif is_picture:
            self.failures.append((path, f"{printable(path)}: a {kind}: skipped"))
        else:
            self.skipped[kind or _shown_suffix(path)] += 1

    def _is_picture(self, name: str) -> bool:
        return not name.startswith(".") and Path(name).suffix.lower() in self._suffixes


def _shown_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return suffix if suffix[1:].isalnum() and len(suffix) <= LONGEST_SUFFIX else "other files"
