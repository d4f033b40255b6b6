"""A file is written whole or not at all; a FIFO or a device is written to."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import select
import stat
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from rt4ksr_client.errors import PictureError

__all__ = ["atomic_write", "copy_to_descriptor", "is_stream", "write_errors"]

_LONGEST_SUFFIX_BYTES: Final = 32
_BLOCK_BYTES: Final = 1 << 20
_WAIT_FOR_READER_S: Final = 10
_WRITE_FAILURES: Final = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.ENOENT: "there is no such folder",
    errno.ENOTDIR: "there is no such folder",
    errno.EISDIR: "a folder has this name",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EEXIST: "the file exists",
    errno.ENXIO: "nothing reads from it",
    errno.ELOOP: "its symbolic links go in a circle",
}


logger = logging.getLogger(__name__)


@contextmanager
def write_errors(name: str) -> Iterator[None]:
    """Raise :class:`PictureError` about ``name`` for any error of encoding or writing in the block.

    A broken pipe passes through.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        reason = _WRITE_FAILURES.get(exc.errno or 0, str(exc))
        raise PictureError(f"{name}: cannot be written: {reason}") from exc
    except (ValueError, KeyError, TypeError, OverflowError, SystemError, struct.error) as exc:
        raise PictureError(f"{name}: cannot be written: {exc}") from exc


@contextmanager
def atomic_write(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary file; at the end ``path`` has its content, after an error its old one.

    A regular file is replaced in one step, by renaming a file beside it. It keeps its permissions;
    a new one gets those of any new file. A symbolic link stays one: the file it points to is
    replaced, or created. What is not a regular file (see :func:`is_stream`) is written to.

    Args:
        path: the file to write.
        replace: False keeps a file of this name, whenever it was created.

    Raises:
        FileExistsError: without ``replace``: the file exists.
        OSError: the folder, or the stream, cannot be written to.

    """
    if is_stream(path):
        with tempfile.TemporaryDirectory(prefix="rt4ksr-") as folder:
            temporary = Path(folder, f"stream{_short_suffix(path)}")
            yield temporary
            _append(temporary, path)
        return
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    old = target.stat() if target.is_file() else None
    permissions = stat.S_IMODE(old.st_mode) if old else 0o666
    temporary = _new_file_beside(target, permissions | stat.S_IWUSR)
    try:
        yield temporary
        if old:
            with suppress(OSError):  # only root may give a file away
                os.chown(temporary, old.st_uid, old.st_gid)
            temporary.chmod(permissions)
        if replace:
            temporary.replace(target)
        else:
            _rename_to_new(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_stream(path: Path) -> bool:
    """Whether ``path`` is written to and never replaced: a device, a FIFO, an open file of ours.

    The last kind are ``/dev/stdout``, ``/dev/fd/3`` and links to them, whatever they lead to.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    if not stat.S_ISREG(mode):
        return not stat.S_ISDIR(mode)
    while path.is_symlink():
        folder = Path(os.path.realpath(path.parent))
        if folder.is_relative_to("/proc"):
            return True
        path = folder / path.readlink()
    return False


def copy_to_descriptor(content: IO[bytes], descriptor: int) -> None:
    """Write the rest of ``content``, without a buffer that an interruption would leave filled."""
    while block := content.read(_BLOCK_BYTES):
        left = memoryview(block)
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:  # who gave us the descriptor may want it so
                select.select([], [descriptor], [])


def _append(source: Path, stream: Path) -> None:
    descriptor = _open_stream(stream)
    try:
        with source.open("rb") as content:
            copy_to_descriptor(content, descriptor)
    except BrokenPipeError:
        raise PictureError(f"{stream}: cannot be written: its reader has ended") from None
    finally:
        os.close(descriptor)


def _open_stream(stream: Path) -> int:
    """Open for writing; wait for a program that reads the FIFO, but not forever."""
    deadline_s = time.monotonic() + _WAIT_FOR_READER_S
    while True:
        try:
            # Not truncated: behind /dev/stdout may be a file that others write to, too.
            descriptor = os.open(stream, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
        except OSError as exc:
            if exc.errno != errno.ENXIO or not stream.is_fifo() or time.monotonic() > deadline_s:
                raise
            logger.info("%s: waiting for a program that reads this FIFO", stream)
            time.sleep(0.1)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def _rename_to_new(temporary: Path, target: Path) -> None:
    """Rename in one step; FileExistsError where ``target`` exists."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        temporary.rename(target)
    else:
        temporary.unlink()


def _new_file_beside(target: Path, permissions: int) -> Path:
    """Create an empty file; the kernel takes the umask off its permissions."""
    while True:
        path = target.with_name(f".rt4ksr-{secrets.token_hex(4)}{_short_suffix(target)}")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, permissions))
        except FileExistsError:
            continue
        return path


def _short_suffix(path: Path) -> str:
    """Return the suffix, by which encoders choose a format; a name may have 255 bytes in all."""
    return path.suffix if len(os.fsencode(path.suffix)) <= _LONGEST_SUFFIX_BYTES else ""
