"""What a tritonserver could leave behind, looked up without its own help."""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def server_name(http_url: str) -> str:
    """The unique name it was given, which its shared memory regions start with."""
    with urllib.request.urlopen(f"http://{http_url}/v2", timeout=5) as answer:
        return str(json.load(answer)["name"])


def regions(name: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{name}*"))


def child_pids(pid: int) -> list[int]:
    """The child processes of ``pid``: the Python stubs of a tritonserver."""
    children = Path(f"/proc/{pid}/task/{pid}/children").parent.parent.glob("*/children")
    return [int(child) for file in children for child in file.read_text().split()]


def private_bytes(pid: int) -> int:
    """The memory that the process ``pid`` shares with no other."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def tritonserver_of(pid: int) -> int | None:
    """The tritonserver that the program ``pid`` started through its supervisor, once it runs."""
    children = [child for parent in child_pids(pid) for child in child_pids(parent)]
    for child in children:
        if b"--model-repository" in Path(f"/proc/{child}/cmdline").read_bytes():
            return child
    return None


def region_prefix(pid: int) -> str:
    """What the names of the shared memory regions of tritonserver ``pid`` start with."""
    flags = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return next(flag.partition("=")[2] for flag in flags if flag.startswith("--id="))


def group_is_gone(pid: int) -> bool:
    """Whether neither tritonserver ``pid`` nor any of its stubs is left, not even as a zombie."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False


def becomes_true(condition: Callable[[], object], timeout_s: float = 15.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def settled(value: Callable[[], T], still_s: float = 0.2, timeout_s: float = 15.0) -> T:
    """Return ``value()`` once it has been the same for ``still_s`` seconds."""
    deadline_s, last, since_s = time.monotonic() + timeout_s, value(), time.monotonic()
    while time.monotonic() - since_s < still_s:
        assert time.monotonic() < deadline_s, f"still changing after {timeout_s:g} s: {last}"
        time.sleep(0.02)
        now = value()
        if now != last:
            last, since_s = now, time.monotonic()
    return last


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
