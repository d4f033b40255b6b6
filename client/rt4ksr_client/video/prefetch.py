"""An iterator that computes its next items in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from queue import Empty, Full, Queue
from typing import Any, TypeVar

__all__ = ["prefetch"]

Item = TypeVar("Item")

POLL_S = 0.1


def prefetch(
    items: Iterator[Item], depth: int, stop: Callable[[], None] = lambda: None
) -> Generator[Item, None, None]:
    """Yield ``items`` in order, computed up to ``depth`` ahead; closing it ends the thread.

    ``stop`` ends ``items`` where the next one may never come.
    """
    queue: Queue[tuple[str, Any]] = Queue(depth)
    stopped = threading.Event()

    def put(kind: str, value: Any = None) -> bool:
        while not stopped.is_set():
            try:
                queue.put((kind, value), timeout=POLL_S)
            except Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end")
        except BaseException as exc:
            put("error", exc)

    thread = threading.Thread(target=produce, name="rt4ksr-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            try:
                kind, value = queue.get(timeout=POLL_S)  # without end, Ctrl-C would not get through
            except Empty:
                continue
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        stop()
        thread.join()
        close = getattr(items, "close", None)
        if close is not None:
            close()
