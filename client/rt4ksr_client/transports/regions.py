"""Shared memory regions that are known to a server: made, reused, given back.

A region's name is removed from /dev/shm as soon as the server has mapped it. From then on the
kernel frees the memory once both sides are done with it, however this process ends. What a killed
process can leave is a name that the server had not mapped yet, and the server's own mapping;
:func:`is_leftover` tells both by the owner's process id and start time in the name.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import mmap
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from rt4ksr_client.frames import Frame
from rt4ksr_client.transports.grpc import GrpcTransport

__all__ = [
    "Region",
    "SystemRegion",
    "abandon",
    "is_leftover",
    "remove_leftover_names",
    "unique_name",
]

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory
_PREFIX = "rt4ksr_client"
_numbers = itertools.count()
_abandoned: set[str] = set()


class Region(abc.ABC):
    """Memory that this process and the server both see, ``size_bytes`` long.

    Raises:
        OSError: there is not that much of it.

    """

    def __init__(self, size_bytes: int) -> None:
        self.name = unique_name()
        self.size_bytes = size_bytes

    @abc.abstractmethod
    def register(self, control: GrpcTransport, *, timeout_s: float) -> None:
        """Make the region known to the server."""

    @abc.abstractmethod
    def unregister(self, control: GrpcTransport, *, timeout_s: float) -> None:
        """Undo :meth:`register`; the server refuses while it uses the region."""

    @abc.abstractmethod
    def write(self, batch: Frame) -> None:
        """Copy ``batch`` to the region's start."""

    @abc.abstractmethod
    def read(self, shape: tuple[int, ...]) -> Frame:
        """Return the region's start as an array."""

    def view(self, shape: tuple[int, ...], owner: Any) -> Frame | None:
        """Return the same without a copy, with ``owner`` kept alive by it; None if impossible."""
        return None


class SystemRegion(Region):
    """System shared memory: mapped by both sides, readable by this user only."""

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
        self._array = np.frombuffer(self._memory, np.uint8)

    def register(self, control: GrpcTransport, *, timeout_s: float) -> None:
        """See :class:`Region`."""
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=self.name, key=f"/{self.name}", byte_size=self.size_bytes
        )
        try:
            control.control("SystemSharedMemoryRegister", request, timeout_s=timeout_s)
        finally:
            self._path.unlink()

    def unregister(self, control: GrpcTransport, *, timeout_s: float) -> None:
        """See :class:`Region`."""
        request = service_pb2.SystemSharedMemoryUnregisterRequest(name=self.name)
        control.control("SystemSharedMemoryUnregister", request, timeout_s=timeout_s)

    def write(self, batch: Frame) -> None:
        """See :class:`Region`."""
        np.copyto(self._first(batch.shape), batch)

    def read(self, shape: tuple[int, ...]) -> Frame:
        """See :class:`Region`."""
        return self._first(shape).copy()

    def view(self, shape: tuple[int, ...], owner: Any) -> Frame | None:
        """See :class:`Region`."""
        # numpy keeps the object that answers __array_interface__ alive as long as any view of it.
        owner.__array_interface__ = self._first(shape).__array_interface__
        return np.asarray(owner)

    def _first(self, shape: tuple[int, ...]) -> Frame:
        return self._array[: int(np.prod(shape))].reshape(shape)


def unique_name() -> str:
    """Return a name that no other region on this host has, and that tells its owner."""
    return f"{_PREFIX}_{_owner(os.getpid())}_{next(_numbers)}_{secrets.token_hex(4)}"


def abandon(names: Iterable[str]) -> None:
    """Call these regions of this process leftovers from now on."""
    _abandoned.update(names)


def is_leftover(name: str) -> bool:
    """Whether ``name`` is of a region of this project that nobody owns any more.

    Owners in another PID namespace (a container that shares /dev/shm) cannot be seen from here:
    theirs are never called leftovers.
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
