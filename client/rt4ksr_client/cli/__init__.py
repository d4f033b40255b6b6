"""The ``rt4ksr`` command: a table of subcommands, each imported only when it is used.

To add a subcommand, add a row to :data:`COMMANDS` and the click command that it names.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import click

import rt4ksr_client
from rt4ksr_client.cli import process
from rt4ksr_client.cli.console import accepts_output, printable
from rt4ksr_client.cli.options import verbose_option
from rt4ksr_client.errors import MissingExtraError, Rt4ksrError

__all__ = ["COMMANDS", "CommandRow", "cli", "load_command", "main"]

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes that shells expect of a program ended by Ctrl-C or SIGTERM."""


@dataclass(frozen=True)
class CommandRow:
    """Where a subcommand is, which extra installs what it imports, and its line in the help."""

    module: str
    attribute: str
    extra: str | None
    short_help: str


COMMANDS = {
    "upscale": CommandRow("rt4ksr_client.cli.upscale", "upscale", None, "Upscale pictures."),
    "video": CommandRow("rt4ksr_client.cli.video", "video", "video", "Upscale a video."),
    "live": CommandRow("rt4ksr_client.cli.live", "live", "live", "Upscale a live stream."),
    "compare": CommandRow(
        "rt4ksr_client.cli.compare",
        "compare",
        None,
        "Compare a picture with bicubic, on a web page with a slider.",
    ),
    "status": CommandRow(
        "rt4ksr_client.cli.status",
        "status",
        None,
        "Show a server's models, their statistics and the transport in use.",
    ),
    "demo": CommandRow(
        "rt4ksr_client.cli.demo",
        "demo",
        "server",
        "Start a server, upscale a picture and show the time of each stage.",
    ),
    "serve": CommandRow("rt4ksr_server.cli", "serve", "server", "Run a Triton server."),
    "export": CommandRow(
        "rt4ksr_export.cli.export",
        "export",
        "export",
        "Export weights as a Triton model repository.",
    ),
    "train": CommandRow("rt4ksr_export.cli.train", "train", "train", "Train or fine-tune weights."),
    "evaluate": CommandRow(
        "rt4ksr_export.cli.evaluate",
        "evaluate_command",
        "train",
        "Measure PSNR and SSIM of weights or of a server.",
    ),
    "loadtest": CommandRow(
        "rt4ksr_loadtest.cli", "loadtest", "loadtest", "Measure a server under load."
    ),
}


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _LazyGroup(click.Group):
    """Imports a subcommand when it is called; the group's help imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.short_help) for name, row in COMMANDS.items()])


def load_command(name: str) -> click.Command:
    """Import the subcommand ``name``; every command and subcommand has ``-v``.

    Raises:
        MissingExtraError: what it imports is not installed.

    """
    row = COMMANDS[name]
    try:
        command: click.Command = getattr(importlib.import_module(row.module), row.attribute)
    except ModuleNotFoundError as exc:
        if row.extra is None or (exc.name or "").startswith("rt4ksr_client"):
            raise
        raise MissingExtraError(
            f"'rt4ksr {name}' needs {exc.name}: pip install 'rt4ksr-triton[{row.extra}]'"
        ) from exc
    subcommands = command.commands.values() if isinstance(command, click.Group) else ()
    for one in (command, *subcommands):
        if not any("--verbose" in option.opts for option in one.params):
            verbose_option(one)
    return command


@click.group(cls=_LazyGroup, context_settings=SETTINGS)
@click.version_option(rt4ksr_client.__version__, prog_name="rt4ksr")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@verbose_option
def cli(debug: bool) -> None:
    """Upscale pictures and video to 4K with RT4KSR on NVIDIA Triton.

    \b
    Get started:
      pip install 'rt4ksr-triton[server]'    the commands, and a Triton server for the CPU
      pip install 'rt4ksr-triton[gpu]'       instead of it: the server for an NVIDIA GPU
      rt4ksr serve                           run the server on this machine, until Ctrl-C
      rt4ksr upscale small.jpg               in another terminal: writes small_x2.png

    'rt4ksr COMMAND --help' explains a command and gives examples. Without a running server,
    upscale, video, compare and status start one for the call.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace


def main(argv: list[str] | None = None) -> None:
    """Run the command line; an :class:`Rt4ksrError` becomes one line on stderr and exit code 1.

    SIGTERM is handled like Ctrl-C: no partial file is left, and servers are stopped.
    """
    arguments = sys.argv[1:] if argv is None else argv
    process.keep_large_blocks()
    process.open_closed_streams()
    process.escape_unprintable_output()
    process.quieten_grpc()
    process.show_warnings_in_one_line()
    try:
        if sys.stdout is None:
            raise Rt4ksrError("standard output is closed: write to a file, or to /dev/null")
        with _sigterm_raises():
            # In standalone mode, click would exit with 1 on Ctrl-C.
            code = cli.main(arguments, prog_name="rt4ksr", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as exc:
        exc.show()
        if isinstance(exc, click.NoSuchOption):
            _show_how_to_name_files(arguments)
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt) as exc:
        # click raises Abort from KeyboardInterrupt.
        terminated = isinstance(exc.__cause__ or exc, _Terminated)
        if accepts_output(sys.stderr):
            click.echo(f"rt4ksr: {'terminated' if terminated else 'interrupted'}", err=True)
        process.discard_output(sys.stdout, sys.stderr)
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    except BrokenPipeError:  # nobody reads stdout any more
        process.discard_output(sys.stdout)
        sys.exit(1)
    except (Rt4ksrError, OSError) as exc:
        if "--debug" in arguments:
            raise
        place = f"{printable(exc.filename)}: " if isinstance(exc, OSError) and exc.filename else ""
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        click.echo(f"rt4ksr: error: {place}{reason}", err=True)
        if isinstance(exc, OSError):  # perhaps of stdout itself
            process.discard_output(sys.stdout)
        sys.exit(1)


def _show_how_to_name_files(arguments: list[str]) -> None:
    for word in arguments:
        if word.startswith("-") and os.path.lexists(word):
            click.echo(f"A file of this name is given as ./{printable(word)}", err=True)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, handled wherever Ctrl-C is."""


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def terminate(signum: int, frame: FrameType | None) -> None:
        # A second SIGTERM must not interrupt the cleanup.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
