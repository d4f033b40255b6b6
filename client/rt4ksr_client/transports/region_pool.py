"""A server's shared memory regions: reused from frame to frame, given back at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Set

from rt4ksr_client.errors import DeadlineExceededError, ServerError, ServerUnreachableError
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports.grpc import GrpcTransport
from rt4ksr_client.transports.regions import Region, abandon

__all__ = ["RegionPool"]

MAX_IDLE = 12
"""Idle regions beyond this number are given back to the system."""

MAX_LENT = 16
"""While the user holds more results than this, further ones are copied: /dev/shm is small."""

_ROUND_BYTES = 1 << 20
_UNREGISTER_TIMEOUT_S = 1.0
_CLOSE_TIMEOUT_S = 5.0
_POLL_INTERVAL_S = 0.05


class RegionPool:
    """Regions of the kind ``make`` makes, registered with one server.

    May be shared between threads.
    """

    def __init__(self, control: GrpcTransport, make: Callable[[int], Region]) -> None:
        self._control = control
        self._make = make
        self._lock = threading.Lock()
        # Appending to a list and removing from it are atomic: a region also comes back from the
        # garbage collector, which must not wait for a lock.
        self._idle: list[Region] = []
        self._known: list[Region] = []
        self._retired: list[Region] = []

    def take(self, size_bytes: int, *, timeout_s: float) -> Region:
        """Return a region of at least ``size_bytes`` that nobody uses.

        Raises:
            OSError: there is not that much shared memory.
            ServerError: the server did not accept the region.

        """
        with self._lock:
            fitting = [region for region in self._idle if region.size_bytes >= size_bytes]
            if fitting:
                region = min(fitting, key=lambda one: one.size_bytes)
                self._idle.remove(region)
                return region
        self._sweep()
        region = self._make(-(-size_bytes // _ROUND_BYTES) * _ROUND_BYTES)
        region.register(self._control, timeout_s=timeout_s)
        self._known.append(region)
        return region

    def give_back(self, region: Region) -> None:
        """Take back a region that neither this side nor the server uses any more."""
        if region in self._known:
            self._idle.append(region)

    def lend(self, region: Region, shape: tuple[int, ...]) -> Frame:
        """Return the batch in ``region``, which comes back when the last view of it is gone."""
        if len(self._known) - len(self._idle) - len(self._retired) <= MAX_LENT:
            array = region.view(shape, _Loan(self, region))
            if array is not None:
                return array
        array = region.read(shape)
        self.give_back(region)
        return array

    def retire(self, region: Region) -> None:
        """Never reuse ``region``: the server may still write to it."""
        if region in self._known:
            self._retired.append(region)

    def forget_all_but(self, names: Set[str]) -> None:
        """Drop every region that is not among ``names``: the server does not know it."""
        with self._lock:
            for regions in (self._known, self._idle, self._retired):
                for region in [one for one in regions if one.name not in names]:
                    regions.remove(region)

    def close(self) -> None:
        """Unregister every region, waiting shortly for those that the server still uses.

        What it uses for longer is a leftover then, which a later client removes.
        """
        end_s = time.monotonic() + _CLOSE_TIMEOUT_S
        with self._lock:
            left = list(self._known)
        while True:
            left = [region for region in left if not self._unregistered(region)]
            if not left or time.monotonic() > end_s:
                break
            time.sleep(_POLL_INTERVAL_S)
        abandon(region.name for region in left)
        self.forget_all_but(frozenset())

    def _sweep(self) -> None:
        """Unregister what is retired, and the oldest of too many idle regions."""
        with self._lock:
            while len(self._idle) > MAX_IDLE:
                self._retired.append(self._idle.pop(0))
            for region in [one for one in self._retired if self._unregistered(one)]:
                self._retired.remove(region)
                self._known.remove(region)

    def _unregistered(self, region: Region) -> bool:
        """Whether the server does not know the region any more; it refuses while it uses it."""
        try:
            region.unregister(self._control, timeout_s=_UNREGISTER_TIMEOUT_S)
        except (ServerUnreachableError, DeadlineExceededError):
            return True
        except ServerError:
            return False
        return True


class _Loan:
    """Kept alive by the array that is lent, through ``__array_interface__``."""

    __array_interface__: dict[str, object]

    def __init__(self, pool: RegionPool, region: Region) -> None:
        self._pool = pool
        self._region = region

    def __del__(self) -> None:
        self._pool.give_back(self._region)
