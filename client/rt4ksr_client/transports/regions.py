"""Shared memory regions that this process and a server map.

A region's name is removed from /dev/shm as soon as the server has mapped it. From then on the
kernel frees the memory once both sides are done with it, however this process ends. A killed
process can leave a name that the server had not mapped yet, and the server's own mapping;
:func:`is_leftover` recognises both by the owner's process id and start time in the name.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import mmap
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from rt4ksr_client.call import Call
from rt4ksr_client.transports.grpc import GrpcTransport

__all__ = [
    "Region",
    "SystemRegion",
    "abandon",
    "is_leftover",
    "offsets_bytes",
    "remove_leftover_names",
    "unique_name",
]

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory

SERVER_GROWTH_BYTES: Final = 32 << 20
"""What a server takes at once when its own pool in /dev/shm, which its Python models need, is too
small for a request."""

_PREFIX: Final = "rt4ksr_client"
_ALIGNMENT_BYTES: Final = 64

_numbers = itertools.count()
_abandoned: set[str] = set()


class Region(abc.ABC):
    """Memory that this process and the server both map, ``size_bytes`` long.

    Raises:
        OSError: there is not that much of it.

    """

    kind: str
    """Its name in Triton's messages."""

    def __init__(self, size_bytes: int) -> None:
        self.name = unique_name()
        self.size_bytes = size_bytes

    @classmethod
    @abc.abstractmethod
    def check_room(cls, size_bytes: int, leaving_bytes: int) -> None:
        """Check that a region of that size leaves enough memory for the server.

        Raises:
            OSError: it does not.

        """

    @abc.abstractmethod
    def register(self, control: GrpcTransport, call: Call) -> None:
        """Make the region known to the server."""

    @abc.abstractmethod
    def write(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Copy ``arrays`` in, at :func:`offsets_bytes`."""

    @abc.abstractmethod
    def read(self, size_bytes: int) -> NDArray[np.uint8]:
        """Return a copy of the first ``size_bytes``."""

    def view(self, size_bytes: int, owner: Any) -> NDArray[np.uint8] | None:
        """Return the same without a copy, keeping ``owner`` alive; None if impossible."""
        return None


class SystemRegion(Region):
    """System shared memory: mapped by both sides, readable by this user only."""

    kind = "System"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self._path = FOLDER / self.name
        handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            # Reserves the memory now: without it, a full /dev/shm would be a SIGBUS later.
            os.posix_fallocate(handle, 0, size_bytes)
            self._memory = mmap.mmap(handle, size_bytes)
        except BaseException:
            self._path.unlink()
            raise
        finally:
            os.close(handle)
        self._bytes = np.frombuffer(self._memory, np.uint8)

    @classmethod
    def check_room(cls, size_bytes: int, leaving_bytes: int) -> None:
        """See :class:`Region`."""
        found = os.statvfs(FOLDER)
        total_bytes, free_bytes = (
            blocks * found.f_frsize for blocks in (found.f_blocks, found.f_bavail)
        )
        needed_bytes = size_bytes + max(leaving_bytes, SERVER_GROWTH_BYTES)
        if total_bytes > 0 and free_bytes < needed_bytes:  # a tmpfs of size 0 has no limit
            raise OSError(
                f"{FOLDER} has {free_bytes >> 20} MiB free of {total_bytes >> 20}, and client and "
                f"server need {needed_bytes >> 20}: give the container more, as with "
                "'docker run --shm-size 1g'"
            )

    def register(self, control: GrpcTransport, call: Call) -> None:
        """See :class:`Region`."""
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=self.name, key=f"/{self.name}", byte_size=self.size_bytes
        )
        try:
            control.control("SystemSharedMemoryRegister", request, call)
        finally:
            self._path.unlink()

    def write(self, arrays: Sequence[NDArray[Any]]) -> None:
        """See :class:`Region`."""
        for array, offset in zip(arrays, offsets_bytes([a.nbytes for a in arrays]), strict=False):
            target = self._bytes[offset : offset + array.nbytes].view(array.dtype)
            np.copyto(target.reshape(array.shape), array)

    def read(self, size_bytes: int) -> NDArray[np.uint8]:
        """See :class:`Region`."""
        return self._bytes[:size_bytes].copy()

    def view(self, size_bytes: int, owner: Any) -> NDArray[np.uint8] | None:
        """See :class:`Region`."""
        # numpy keeps the object that answers __array_interface__ alive as long as any view of it.
        owner.__array_interface__ = self._bytes[:size_bytes].__array_interface__
        return np.asarray(owner)


def offsets_bytes(sizes_bytes: Sequence[int]) -> list[int]:
    """Return where in a region each of several tensors begins, and where the last one ends."""
    if not sizes_bytes:
        return [0]
    offsets = [0]
    for size_bytes in sizes_bytes[:-1]:
        end = offsets[-1] + size_bytes
        offsets.append(-(-end // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES)
    return [*offsets, offsets[-1] + sizes_bytes[-1]]


def unique_name() -> str:
    """Return a name that no other region on this host has, and that identifies its owner."""
    return f"{_PREFIX}_{_owner(os.getpid())}_{next(_numbers)}_{secrets.token_hex(4)}"


def abandon(names: Iterable[str]) -> None:
    """Count these regions of this process as leftovers from now on."""
    _abandoned.update(names)


def is_leftover(name: str) -> bool:
    """Return whether ``name`` is of a region of this project that has no owner any more.

    Owners in another PID namespace (a container that shares /dev/shm) are invisible from here:
    their regions never count as leftovers.
    """
    if name in _abandoned:
        return True
    with contextlib.suppress(ValueError):
        prefix, namespace, pid, start, _, _ = name.lstrip("/").rsplit("_", 5)
        if prefix == _PREFIX and namespace == _pid_namespace():
            return _owner(int(pid)) != f"{namespace}_{pid}_{start}"
    return False


def remove_leftover_names() -> None:
    """Remove the names that killed processes left in /dev/shm."""
    for path in FOLDER.glob(f"{_PREFIX}_*"):
        if is_leftover(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _owner(pid: int) -> str:
    """Name a process for good: its id may be reused, its id and start time are not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{_pid_namespace()}_{pid}_{fields[19]}"


def _pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)
