"""Shared memory regions that a server maps: created, registered, reused, unregistered.

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
import threading
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from rt4ksr_client.call import Call
from rt4ksr_client.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
)
from rt4ksr_client.transports.base import closed, explain
from rt4ksr_client.transports.forking import fork_count
from rt4ksr_client.transports.grpc import GrpcTransport

__all__ = [
    "Region",
    "RegionPool",
    "SystemRegion",
    "abandon",
    "is_leftover",
    "offsets_bytes",
    "remove_leftover_names",
    "unique_name",
]

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory

MAX_IDLE: Final = 12
"""Idle regions beyond this number are given back to the system."""

MAX_LENT: Final = 16
"""While the user holds more results than this, further ones are copied: /dev/shm is small."""

_PREFIX: Final = "rt4ksr_client"
_ALIGNMENT_BYTES: Final = 64
_ROUND_BYTES: Final = 1 << 20
_CONTROL_TIMEOUT_S: Final = 2.0
_UNREGISTER_TIMEOUT_S: Final = 1.0
_CLOSE_TIMEOUT_S: Final = 5.0
_POLL_INTERVAL_S: Final = 0.05

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


class RegionPool:
    """Regions of one kind that are registered with one server, and reused from call to call.

    May be shared between threads.
    """

    def __init__(self, control: GrpcTransport, kind: type[Region]) -> None:
        self._control = control
        self._kind = kind
        self._lock = threading.Lock()
        # Appending to a list and removing from it are atomic: a region also comes back from the
        # garbage collector, which must not wait for a lock.
        self._idle: list[Region] = []
        self._known: list[Region] = []
        self._retired: list[Region] = []
        self._answered = False
        self._registering = 0
        self._closed = False

    def take(self, size_bytes: int, call: Call) -> Region:
        """Return a region of at least ``size_bytes`` that nobody uses.

        Raises:
            OSError: there is not that much shared memory.
            ServerError: the server did not accept the region.

        """
        with self._lock:
            if self._closed:
                raise closed()
            fitting = [region for region in self._idle if region.size_bytes >= size_bytes]
            if fitting:
                region = min(fitting, key=lambda one: one.size_bytes)
                self._idle.remove(region)
                return region
            self._registering += 1
        try:
            return self._register(size_bytes, call)
        finally:
            with self._lock:
                self._registering -= 1

    def _register(self, size_bytes: int, call: Call) -> Region:
        self._sweep()
        region = self._kind(-(-size_bytes // _ROUND_BYTES) * _ROUND_BYTES)
        try:
            region.register(self._control, call)
        except BaseException:
            # The server may have mapped it all the same. One that has never answered is not asked.
            if self._answered and not self._closed:
                self._known.append(region)
                self._retired.append(region)
            else:
                abandon([region.name])
            raise
        self._known.append(region)
        self._answered = True
        return region

    @contextlib.contextmanager
    def borrow(self, *sizes_bytes: int, call: Call) -> Iterator[list[Region]]:
        """Take regions for one request; what is still in the list at the end comes back.

        After an error that leaves open whether the server still writes to them, they are never
        reused.
        """
        regions: list[Region] = []
        may_be_in_use = True
        try:
            for size_bytes in sizes_bytes:
                try:
                    regions.append(self.take(size_bytes, call))
                except ServerError as exc:
                    raise explain(exc, self._control, "", call) from exc
            yield regions
            may_be_in_use = False
        except (OSError, InvalidRequestError, ModelNotReadyError, OverloadedError):
            may_be_in_use = False
            raise
        finally:
            for region in regions:
                if may_be_in_use:
                    self.retire(region)
                else:
                    self.give_back(region)

    def give_back(self, region: Region) -> None:
        """Take back a region that neither this side nor the server uses any more."""
        if region in self._known:
            self._idle.append(region)

    def retire(self, region: Region) -> None:
        """Take back a region that must not be written to again."""
        if region in self._known:
            self._retired.append(region)

    def lend(self, region: Region, size_bytes: int) -> NDArray[np.uint8]:
        """Return the region's first bytes; it comes back when the last view of them is gone."""
        if len(self._known) - len(self._idle) - len(self._retired) <= MAX_LENT:
            view = region.view(size_bytes, _Loan(self, region))
            if view is not None:
                return view
        copy = region.read(size_bytes)
        self.give_back(region)
        return copy

    def registered(self, call: Call) -> set[str]:
        """Return the names of all regions that the server knows, of any client."""
        reply = self._control_regions("Status", call.probe(_CONTROL_TIMEOUT_S))
        return set(reply.regions)

    def unregister_leftovers(self, call: Call) -> None:
        """Have the server unmap the regions of clients that are gone."""
        for name in filter(is_leftover, self.registered(call)):
            with contextlib.suppress(ServerError):
                self._control_regions("Unregister", call.probe(_CONTROL_TIMEOUT_S), name=name)

    def has_lost(self, regions: Sequence[Region], call: Call) -> bool:
        """Return whether the server does not know all of ``regions``, as after a restart."""
        try:
            registered = self.registered(call)
        except ServerError:
            return False
        self._forget_all_but(registered)
        return not registered.issuperset(region.name for region in regions)

    def close(self) -> None:
        """Unregister every region, waiting briefly for those that are being registered or in use.

        What the server uses for longer becomes a leftover, which a later client removes.
        """
        end_s = time.monotonic() + _CLOSE_TIMEOUT_S
        with self._lock:
            self._closed = True
        unregistered: set[str] = set()
        while True:
            is_complete = not self._registering
            left = [region for region in self._known.copy() if region.name not in unregistered]
            for region in left:
                if time.monotonic() <= end_s and self._unregister(region):
                    unregistered.add(region.name)
            left = [region for region in left if region.name not in unregistered]
            if (is_complete and not left) or time.monotonic() > end_s:
                break
            time.sleep(_POLL_INTERVAL_S)
        abandon(region.name for region in left)
        self._forget_all_but(frozenset())

    def _forget_all_but(self, names: Set[str]) -> None:
        """Drop every region that is not among ``names``: the server does not know it."""
        with self._lock:
            for regions in (self._known, self._idle, self._retired):
                for region in [one for one in regions if one.name not in names]:
                    regions.remove(region)

    def _sweep(self) -> None:
        """Unregister what is retired, and the oldest of too many idle regions."""
        with self._lock:
            while len(self._idle) > MAX_IDLE:
                self._retired.append(self._idle.pop(0))
        # No lock over a call to the server. Popping is atomic: no two threads get one region.
        retired = []
        with contextlib.suppress(IndexError):
            while True:
                retired.append(self._retired.pop())
        for region in retired:
            if self._unregister(region):
                with contextlib.suppress(ValueError):  # forgotten meanwhile
                    self._known.remove(region)
            else:
                self._retired.append(region)

    def _unregister(self, region: Region) -> bool:
        """Return whether the server has unmapped the region; it refuses while it uses it."""
        try:
            self._control_regions("Unregister", Call(_UNREGISTER_TIMEOUT_S), name=region.name)
        except (ServerUnreachableError, DeadlineExceededError):
            return True
        except ServerError:
            return False
        return True

    def _control_regions(self, verb: str, call: Call, **fields: str) -> Any:
        method = f"{self._kind.kind}SharedMemory{verb}"
        request = getattr(service_pb2, f"{method}Request")(**fields)
        return self._control.control(method, request, call)


class _Loan:
    """Kept alive by the array that is lent, through ``__array_interface__``."""

    __array_interface__: dict[str, object]

    def __init__(self, pool: RegionPool, region: Region) -> None:
        self._pool = pool
        self._region = region
        self._fork_count = fork_count()

    def __del__(self) -> None:
        if self._fork_count == fork_count():
            self._pool.give_back(self._region)
        else:
            # A child forked meanwhile may still look at the picture.
            self._pool.retire(self._region)


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
