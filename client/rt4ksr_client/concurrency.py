"""Run several pieces of work at once and yield their results in order."""

from __future__ import annotations

import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rt4ksr_client.call import Cancellation

__all__ = ["check_in_flight", "in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item, Cancellation], Result],
    items: Iterable[Item],
    in_flight: int,
    *,
    within: Cancellation | None = None,
) -> Generator[Result, None, None]:
    """Yield ``work(item, cancellation)`` for each of ``items``, in order, from several threads.

    At most ``in_flight`` items are being worked on or waiting to be fetched; ``items`` is consumed
    no further. However the generator ends (exhausted, an error, closed early, Ctrl-C, ``within``
    cancelled), the work in flight is cancelled, and has ended when the generator returns.
    """
    cancellation = Cancellation()
    pending: deque[Future[Result]] = deque()
    with contextlib.ExitStack() as stack:
        if within is not None:
            stack.enter_context(within.stopping(cancellation.cancel))
        threads = stack.enter_context(ThreadPoolExecutor(in_flight, "rt4ksr"))
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        stack.callback(cancellation.cancel)
        for item in items:
            context = contextvars.copy_context()  # of a trace, mostly
            pending.append(threads.submit(context.run, work, item, cancellation))
            del item  # a frame lives no longer than its work
            if len(pending) == in_flight:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def check_in_flight(in_flight: int) -> None:
    """Raise ValueError unless ``in_flight`` is at least 1."""
    if in_flight < 1:
        raise ValueError(f"in_flight must be at least 1, got {in_flight}")
