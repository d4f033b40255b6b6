"""What a client does when its process forks: the child starts afresh, the parent goes on.

Connections, locks and shared memory belong to the process that opened them. In the child, each
object that holds any is told to open its own at its next use. It neither uses nor closes what it
inherited: that would end the parent's.
"""

from __future__ import annotations

import abc
import os
import weakref

__all__ = ["ProcessBound", "fork_count"]


class ProcessBound(abc.ABC):
    """An object with state that a forked child must not use."""

    @abc.abstractmethod
    def start_afresh(self) -> None:
        """Drop inherited state, right after the fork in the child, where no other thread runs."""

    def watch_forks(self) -> None:
        """Have :meth:`start_afresh` called in every child that is forked from now on."""
        _watching.add(self)


def fork_count() -> int:
    """Return a number that every fork of this process changes."""
    return _forks


_watching: weakref.WeakSet[ProcessBound] = weakref.WeakSet()
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


def _start_all_afresh() -> None:
    for one in list(_watching):
        one.start_afresh()


# Counted twice, so that what another thread does around the moment of the fork is noticed too.
os.register_at_fork(
    before=_count_fork, after_in_parent=_count_fork, after_in_child=_start_all_afresh
)
