"""A pool of regions that are registered with one server, and reused from call to call."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence, Set
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
    SharedMemoryError,
)
from rt4ksr_client.transports.base import closed, explain
from rt4ksr_client.transports.forking import fork_count
from rt4ksr_client.transports.grpc import GrpcTransport
from rt4ksr_client.transports.regions import Region, abandon, is_leftover

__all__ = ["RegionPool"]

MAX_IDLE: Final = 12
"""Idle regions beyond this number are given back to the system."""

MAX_LENT: Final = 16
"""While the user holds more results than this, further ones are copied: /dev/shm is small."""

_ROUND_BYTES: Final = 1 << 20
_CONTROL_TIMEOUT_S: Final = 2.0
_UNREGISTER_TIMEOUT_S: Final = 1.0
_CLOSE_TIMEOUT_S: Final = 5.0
_POLL_INTERVAL_S: Final = 0.05


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

    def take(self, size_bytes: int, call: Call, *, leaving_bytes: int = 0) -> Region:
        """Return a region of at least ``size_bytes`` that nobody uses.

        A new one is only made where it leaves ``leaving_bytes`` free for the server.

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
            return self._register(size_bytes, call, leaving_bytes)
        finally:
            with self._lock:
                self._registering -= 1

    def _register(self, size_bytes: int, call: Call, leaving_bytes: int) -> Region:
        self._sweep()
        size_bytes = -(-size_bytes // _ROUND_BYTES) * _ROUND_BYTES
        try:
            self._kind.check_room(size_bytes, leaving_bytes)
        except OSError:
            self.release_idle()
            self._kind.check_room(size_bytes, leaving_bytes)
        region = self._kind(size_bytes)
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
                    regions.append(self.take(size_bytes, call, leaving_bytes=sum(sizes_bytes)))
                except ServerError as exc:
                    raise explain(exc, self._control, "", call) from exc
            yield regions
            may_be_in_use = False
        except (
            OSError,
            InvalidRequestError,
            ModelNotReadyError,
            OverloadedError,
            SharedMemoryError,
        ):
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

    def release_idle(self) -> None:
        """Give the regions that nobody uses back to the system, where memory is short."""
        self._sweep(most_idle=0)

    def _sweep(self, most_idle: int = MAX_IDLE) -> None:
        """Unregister what is retired, and the oldest of too many idle regions."""
        with self._lock:
            while len(self._idle) > most_idle:
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
