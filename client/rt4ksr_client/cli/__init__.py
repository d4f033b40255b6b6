"""The ``rt4ksr`` command: a table of subcommands, each loaded only when it is used.

Adding a subcommand is one row of :data:`COMMANDS` and the click command it names.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import click

import rt4ksr_client
from rt4ksr_client.errors import MissingExtraError, Rt4ksrError

__all__ = ["COMMANDS", "cli", "main"]

_INTERRUPTED, _TERMINATED = 130, 143
"""What shells expect of a program that Ctrl-C or SIGTERM ended."""


@dataclass(frozen=True)
class CommandRow:
    """Where a subcommand lives, which extra brings what it imports, and its line in the help."""

    module: str
    attribute: str
    extra: str | None
    short_help: str


COMMANDS = {
    "upscale": CommandRow("rt4ksr_client.cli.upscale", "upscale", None, "Upscale pictures."),
    "video": CommandRow("rt4ksr_client.cli.video", "video", "video", "Upscale a video."),
    "compare": CommandRow(
        "rt4ksr_client.cli.compare", "compare", None, "A page: bicubic and ours, with a slider."
    ),
    "status": CommandRow(
        "rt4ksr_client.cli.status", "status", None, "What a server serves, and how it did."
    ),
    "demo": CommandRow(
        "rt4ksr_client.cli.demo", "demo", "server", "A real server, a photograph, and 4K."
    ),
    "serve": CommandRow("rt4ksr_server.cli", "serve", "server", "Run a Triton server."),
    "export": CommandRow(
        "rt4ksr_export.cli", "export", "export", "Turn weights into a model repository."
    ),
    "train": CommandRow(
        "rt4ksr_export.training.cli", "train", "train", "Train or fine-tune weights."
    ),
    "evaluate": CommandRow(
        "rt4ksr_export.evaluate_cli",
        "evaluate_command",
        "train",
        "Measure PSNR and SSIM of weights or a server.",
    ),
    "loadtest": CommandRow(
        "rt4ksr_loadtest.cli", "loadtest", "loadtest", "Stress-test a server with 4K work."
    ),
}


class _LazyGroup(click.Group):
    """Imports a subcommand when it is called; the help needs no import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = COMMANDS.get(cmd_name)
        return None if row is None else _load(cmd_name, row)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.short_help) for name, row in COMMANDS.items()])


def _load(name: str, row: CommandRow) -> click.Command:
    try:
        command: click.Command = getattr(importlib.import_module(row.module), row.attribute)
    except ModuleNotFoundError as exc:
        if row.extra is None or (exc.name or "").startswith("rt4ksr_client"):
            raise
        raise MissingExtraError(
            f"'rt4ksr {name}' needs {exc.name}: pip install 'rt4ksr-triton[{row.extra}]'"
        ) from exc
    return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(rt4ksr_client.__version__, prog_name="rt4ksr")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Real-time 4K super-resolution, served: RT4KSR on NVIDIA Triton.

    \b
    rt4ksr serve                               a Triton server on this host, until Ctrl-C
    rt4ksr upscale in.jpg out.png --scale 2    in another terminal
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace


def main(argv: list[str] | None = None) -> None:
    """Run the command line; an error of ours is one line on stderr and exit code 1.

    SIGTERM unwinds everything as Ctrl-C does: files whole or as they were, servers ended.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        with _sigterm_unwinds():
            # click itself would exit with 1 on Ctrl-C.
            code = cli.main(arguments, prog_name="rt4ksr", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt) as exc:
        # click turns the one into the other.
        terminated = isinstance(exc.__cause__ or exc, _Terminated)
        click.echo(f"rt4ksr: {'terminated' if terminated else 'interrupted'}", err=True)
        sys.exit(_TERMINATED if terminated else _INTERRUPTED)
    except Rt4ksrError as exc:
        if "--debug" in arguments:
            raise
        fail(str(exc))
    except BrokenPipeError:
        # The reader of our output is gone; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, for whoever handles Ctrl-C."""


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    def terminate(signum: int, frame: FrameType | None) -> None:
        # Once is enough: a second one must not cut the clearing up short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def fail(message: str) -> Any:
    """Print ``message`` as an error and exit with 1."""
    click.echo(f"rt4ksr: error: {message}", err=True)
    sys.exit(1)
