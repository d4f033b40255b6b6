"""Which files of a folder are results of ``rt4ksr upscale``, and of which source each is.

A folder of results has a list of them, the file ``.rt4ksr.jsonl``: one JSON object per line, added
when a result is complete. Of several lines about one result, the last one counts. A result that is
not in the list, or was changed since, is somebody else's file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rt4ksr_client.files import read_errors

__all__ = ["LIST_NAME", "FileStamp", "ResultEntry", "ResultFolder", "fold"]

LIST_NAME: Final = ".rt4ksr.jsonl"
COARSEST_NS: Final = 2_000_000_000
COARSE_NS: Final = 10_000_000
"""File systems of memory cards round times: FAT to 2 seconds, exFAT to 10 milliseconds."""


@dataclass(frozen=True)
class FileStamp:
    """What changes when a file does."""

    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Return the stamp of the file.

        Raises:
            OSError: there is none.

        """
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class ResultEntry:
    """A line of the list. ``options`` are those that change the result, without defaults."""

    name: str
    source: str
    """The path of the source, relative to the folder of the result."""
    source_stamp: FileStamp
    options: Mapping[str, Any]
    stamp: FileStamp

    def is_unchanged(self, found: FileStamp) -> bool:
        """Whether the file with the stamp ``found`` is as it was written."""
        if self.stamp.size_bytes != found.size_bytes:
            return False
        rounds = found.mtime_ns % COARSE_NS == 0
        difference_ns = abs(self.stamp.mtime_ns - found.mtime_ns)
        return difference_ns == 0 or (rounds and difference_ns <= COARSEST_NS)


class ResultFolder:
    """A folder that results are written to, and the list of them. May be shared between threads.

    Its results are found by names without regard to case, as file systems may compare them.
    """

    def __init__(self, path: Path) -> None:
        """Read the list.

        Raises:
            PictureError: the list cannot be read.

        """
        self.path = path
        self._real = os.path.realpath(path)
        self._list = path / LIST_NAME
        self._entries: dict[str, ResultEntry] = {}
        self._by_source: dict[tuple[str, str], ResultEntry] = {}
        self._by_stamp: dict[tuple[str, FileStamp, str], ResultEntry] = {}
        self._adding = threading.Lock()
        if self._list.is_file():  # not a FIFO, at which opening would wait
            with read_errors(str(self._list)):
                content = self._list.read_bytes()
            for line in content.splitlines():
                if (entry := _parse(line)) is not None:
                    self._remember(entry)

    def __contains__(self, name: str) -> bool:
        """Whether the file ``name`` is a result, changed since or not."""
        return fold(name) in self._entries

    def entry(self, name: str) -> ResultEntry | None:
        """Return what is known about the file ``name``."""
        return self._entries.get(fold(name))

    def entry_for(self, source: Path, suffix: str) -> ResultEntry | None:
        """Return the result of ``source`` whose name ends in ``suffix``.

        A result follows its source when that is moved: then a file of the same name, size and time
        is somewhere else, and nothing where it was.
        """
        found = self._by_source.get((self.relative(source), suffix))
        if found is None:
            with suppress(OSError):
                found = self._by_stamp.get((source.name, FileStamp.of(source), suffix))
            if found is not None and os.path.lexists(self.path / found.source):
                return None
        return found if found is not None and self.entry(found.name) == found else None

    def is_free(self, name: str) -> bool:
        """Whether no result has the name ``name``, or the one that had is gone."""
        entry = self.entry(name)
        return entry is None or not os.path.lexists(self.path / entry.name)

    def relative(self, source: Path) -> str:
        """Return how the list calls ``source``."""
        parent = os.path.realpath(source.parent)
        return os.path.relpath(os.path.join(parent, source.name), self._real)  # noqa: PTH118

    def add(
        self, name: str, source: Path, source_stamp: FileStamp, options: Mapping[str, Any]
    ) -> None:
        """Add the file ``name``, which was just written.

        Raises:
            OSError: the list cannot be written.

        """
        stamp = FileStamp.of(self.path / name)
        entry = ResultEntry(name, self.relative(source), source_stamp, options, stamp)
        line = json.dumps(dataclasses.asdict(entry)).encode() + b"\n"
        with self._adding:
            # One write, behind a line that a crash cut off: several programs may add at once.
            descriptor = os.open(self._list, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                length = os.fstat(descriptor).st_size
                if length and os.pread(descriptor, 1, length - 1) != b"\n":
                    line = b"\n" + line
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
            self._remember(entry)

    def _remember(self, entry: ResultEntry) -> None:
        suffix = Path(entry.name).suffix
        self._entries[fold(entry.name)] = entry
        self._by_source[entry.source, suffix] = entry
        self._by_stamp[Path(entry.source).name, entry.source_stamp, suffix] = entry


def fold(name: str | os.PathLike[str]) -> str:
    """Return what ``name`` has in common with all names that a file system may take for it."""
    return unicodedata.normalize("NFC", os.fspath(name)).casefold()


def _parse(line: bytes) -> ResultEntry | None:
    """Return what a line says; None if it is not one of ours."""
    try:
        row = json.loads(line)
        return ResultEntry(
            name=str(row["name"]),
            source=str(row["source"]),
            source_stamp=FileStamp(**row["source_stamp"]),
            options=dict(row["options"]),
            stamp=FileStamp(**row["stamp"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
