"""An iterator that works ahead in a thread of its own, by a bounded number of items."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from queue import Empty, Full, Queue
from typing import Any, TypeVar

__all__ = ["ahead"]

Item = TypeVar("Item")

_POLL_S = 0.1


def ahead(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """Yield ``items`` in order, computed up to ``depth`` ahead; closing it ends the thread."""
    queue: Queue[tuple[str, Any]] = Queue(depth)
    stopped = threading.Event()

    def put(kind: str, value: Any = None) -> bool:
        while not stopped.is_set():
            try:
                queue.put((kind, value), timeout=_POLL_S)
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

    thread = threading.Thread(target=produce, name="rt4ksr-decode", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = _taken(queue)
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
        close = getattr(items, "close", None)
        if close is not None:
            close()


def _taken(queue: Queue[tuple[str, Any]]) -> tuple[str, Any]:
    while True:
        try:
            return queue.get(timeout=_POLL_S)
        except Empty:
            continue
