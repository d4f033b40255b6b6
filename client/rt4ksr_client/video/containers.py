"""Container files: how they are opened, what they can hold, and what FFmpeg says about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer

from rt4ksr_client import files
from rt4ksr_client.errors import PictureError, VideoError

__all__ = ["ContainerFormat", "open_input", "read_errors", "write_errors"]

FORMATS: Final = {
    ".mkv": "matroska",
    ".webm": "webm",
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
}
"""FFmpeg's names of the formats that are written, by suffix."""


@dataclass(frozen=True)
class ContainerFormat:
    """A format that is written: FFmpeg's name of it, and of the codecs that it can hold."""

    name: str
    codecs: frozenset[str]

    @classmethod
    def of(cls, target: Path) -> ContainerFormat:
        """Return the format that the suffix of ``target`` stands for.

        Raises:
            VideoError: none that is written here.

        """
        name = FORMATS.get(target.suffix.lower())
        if name is None:
            known = " ".join(FORMATS)
            raise VideoError(f"{target}: unknown video format: try one of {known}")
        with av.open("/dev/null", "w", format=name) as probe:
            return cls(name, frozenset(probe.supported_codecs))

    @property
    def muxer_options(self) -> dict[str, str]:
        """FFmpeg's options of the muxer: players can start before they have read an MP4's end."""
        return {"movflags": "+faststart"} if self.name in ("mp4", "mov") else {}


@contextmanager
def open_input(path: Path) -> Iterator[InputContainer]:
    """Open a container to read; metadata that is not text is kept readable.

    Raises:
        VideoError: not a container that FFmpeg can read.

    """
    with read_errors(path):
        container = av.open(str(path), metadata_errors="replace")
    with container:
        yield container


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Raise :class:`VideoError` about ``path`` for any error of a demuxer or decoder."""
    try:
        yield
    except FileNotFoundError:
        raise VideoError(f"{path}: there is no such file") from None
    except (av.FFmpegError, OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise VideoError(f"{path}: cannot be read as a video: {reason}") from exc


@contextmanager
def write_errors(path: Path, what: str = "cannot be written") -> Iterator[None]:
    """Raise :class:`VideoError` about ``path`` for any error of an encoder, a muxer or a disk.

    ``what`` says what is wrong when the error is FFmpeg's.
    """
    try:
        with files.write_errors(str(path)):
            try:
                yield
            except (av.FFmpegError, ValueError) as exc:
                if isinstance(exc, OSError) and exc.errno:
                    raise
                raise VideoError(f"{path}: {what}: {exc}") from exc
    except PictureError as exc:
        raise VideoError(str(exc)) from exc
