"""What the commands print: results on stdout; warnings, progress and the log on stderr."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final

import click

from rt4ksr_client.pictures import PictureWarning

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = [
    "accepts_output",
    "log_to_stderr",
    "print_json",
    "printable",
    "progress_bar",
    "show_picture_warnings",
]

LOGGERS: Final = ("rt4ksr_client", "rt4ksr_export", "rt4ksr_loadtest", "rt4ksr_server")
LOG_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def accepts_output(stream: IO[str] | None) -> bool:
    """Whether something written to ``stream`` would not have to wait for its reader."""
    try:
        return stream is not None and bool(select.select([], [stream], [], 0)[1])
    except (OSError, ValueError):  # not a file of the system, as in tests
        return True


def printable(text: str | os.PathLike[str]) -> str:
    """Return ``text`` with an escape for every character that a terminal cannot show."""
    decoded = os.fsdecode(text).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in decoded)


def print_json(row: dict[str, Any], *, err: bool = False) -> None:
    """Print one line of ASCII JSON; bytes of file names that are not text become escapes.

    With ``err``, on stderr.
    """
    click.echo(json.dumps(row, ensure_ascii=True), err=err)


def progress_bar(*columns: Any) -> Progress:
    """Return a progress bar on stderr; it is invisible where stderr is not a terminal."""
    from rich.console import Console  # here, so that a command's help need not wait for it
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True)


def show_picture_warnings() -> None:
    """Print every :class:`PictureWarning` as one line on stderr, and no warning of a library."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, PictureWarning):
            click.echo(f"rt4ksr: warning: {printable(str(message))}", err=True)

    warnings.simplefilter("ignore")
    warnings.simplefilter("always", PictureWarning)
    warnings.showwarning = show  # type: ignore[assignment,unused-ignore]


@contextmanager
def log_to_stderr(level: int) -> Iterator[None]:
    """Print the log of this project's packages from ``level`` on while the block runs.

    In a block inside another one, the inner level counts.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.handlers.copy()) for logger in loggers]
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT, "%H:%M:%S"))
    for logger in loggers:
        logger.setLevel(level)
        logger.handlers = [handler]
    try:
        yield
    finally:
        for logger, (previous_level, handlers) in zip(loggers, before, strict=True):
            logger.setLevel(previous_level)
            logger.handlers = handlers


class _StderrHandler(logging.Handler):
    """Writes to what is stderr at that moment, so that a progress bar stays whole."""

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            click.echo(printable(line), err=True)
