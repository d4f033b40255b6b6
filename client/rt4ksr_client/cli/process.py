"""What the command sets up for its own process: memory, and the standard streams."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from typing import Final, TextIO

import click

__all__ = [
    "MALLOC_ENVIRONMENT",
    "discard_output",
    "escape_unprintable_output",
    "keep_large_blocks",
    "open_closed_streams",
    "quieten_grpc",
    "show_warnings_in_one_line",
]

MMAP_THRESHOLD_BYTES: Final = 32 << 20
"""The largest that glibc accepts. Blocks above it, as a frame above 4K, are mapped anew."""
TRIM_THRESHOLD_BYTES: Final = 512 << 20

MALLOC_ENVIRONMENT: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(TRIM_THRESHOLD_BYTES),
}
"""The same for programs to start, as environment variables."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_large_blocks() -> None:
    """Tell glibc to keep freed blocks of a frame's size for the next frame.

    By default it gives each back to the kernel, which then maps and clears 25 MB for every 4K
    frame. What the user set in the environment stays; other C libraries have no such setting.
    """
    if MALLOC_ENVIRONMENT.keys() & os.environ.keys() or "malloc" in os.getenv("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
    mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)


def quieten_grpc() -> None:
    """Keep gRPC's own lines about failed handshakes off stderr; errors of ours say more."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def show_warnings_in_one_line() -> None:
    """Show Python's warnings like the command's own messages, without a line of its source."""

    def show(message: Warning | str, *_: object) -> None:
        click.echo(f"rt4ksr: warning: {message}", err=True)

    warnings.showwarning = show  # type: ignore[assignment] # which names all of them


def open_closed_streams() -> None:
    """Open /dev/null in place of standard streams that the program was started without.

    Otherwise the next file that is opened, perhaps a picture, would be what a library, or a program
    that is started, takes for standard output. Python's ``sys.stdin`` and ``sys.stdout`` stay None.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
        os.set_inheritable(descriptor, True)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for the whole process


def escape_unprintable_output() -> None:
    """Print an escape for a character that the encoding of a standard stream lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def discard_output(*streams: TextIO | None) -> None:
    """Forget what ``streams`` have not written yet: flushing at exit would wait, or fail."""
    for stream in streams:
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())  # type: ignore[union-attr]
            os.close(null)
        except (AttributeError, OSError, ValueError):  # not a file of the system, as in tests
            continue
