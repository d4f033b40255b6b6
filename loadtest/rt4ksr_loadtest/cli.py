"""``rt4ksr loadtest``: runs Locust with this package's locustfile; and ``compare``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rt4ksr_client.cli.console import printable
from rt4ksr_client.cli.options import overwrite_option, verbose_option, verbosity
from rt4ksr_client.cli.process import MALLOC_ENVIRONMENT
from rt4ksr_client.cli.security import HEADERS_VARIABLE, header_option
from rt4ksr_client.cli.server import local_server
from rt4ksr_client.cli.targets import check_target
from rt4ksr_client.connection import DEFAULT_URL
from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest.options import OPTIONS, Option
from rt4ksr_loadtest.report import Comparison, compare_page, compare_runs, write_text
from rt4ksr_loadtest.report.wording import verdict_line
from rt4ksr_loadtest.result import read_result

__all__ = ["compare_command", "loadtest"]

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
LOG_LEVELS = ("WARNING", "INFO", "DEBUG")
DEFAULT_PROFILE = "smoke"
SATURATE_USERS = 32
PIPED_COLUMNS = 120


def text_checker(row: Option) -> Callable[[str], str]:
    """Return a click type that checks the text of an option and passes it on as it is."""

    def check(text: str) -> str:
        try:
            row.parse(text)
        except ValueError as exc:
            raise click.BadParameter(f"{text!r}: {exc}") from exc
        return text

    return check


def table_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add :data:`OPTIONS`; the function gets each under its name, as text or None."""
    for row in reversed(OPTIONS):
        default = DEFAULT_PROFILE if row.flag == "--profile" else row.default
        function = click.option(
            row.flag,
            row.name,
            type=click.Choice(row.choices) if row.choices else text_checker(row),
            default=default or None,
            show_default=bool(default),
            envvar=row.env_var or None,
            show_envvar=bool(row.env_var),
            metavar=row.metavar,
            help=row.help,
        )(function)
    return function


@click.group(invoke_without_command=True, context_settings={"max_content_width": 100})
@click.option(
    "--url",
    default=DEFAULT_URL,
    show_default=True,
    metavar="HOST:PORT",
    help="Address of the server: its gRPC port, or http://HOST:PORT; with TLS, grpcs://HOST:PORT "
    "or https://HOST/PREFIX; several separated by commas.",
)
@click.option("--local", is_flag=True, help="Start a server for this run. Needs the server extra.")
@click.option(
    "--model-repository",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With --local: the repository to serve. Default: the shipped models.",
)
@click.option(
    "--users",
    type=click.IntRange(min=1),
    metavar="N",
    help="Concurrent users; the most that saturate, ramp and spike go up to. Default: 32 for "
    "saturate, 8 for ramp and spike, otherwise 2 (open loop: 1).",
)
@header_option
@table_options
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes on this machine that generate the load. Default: 1.",
)
@overwrite_option("Replace the result and reports in the folder of --out.")
@verbose_option
@click.pass_context
def loadtest(
    ctx: click.Context,
    /,
    url: str,
    local: bool,
    model_repository: Path | None,
    users: int | None,
    processes: int | None,
    overwrite: bool,
    headers: tuple[str, ...],
    **texts: str | None,
) -> None:
    """Measure a Triton server under load: 4K frames per second, latency, and correct answers.

    \b
    rt4ksr loadtest --local                                       start a server, run for 10 s
    rt4ksr loadtest --profile saturate --transport shm --out results/           find the knee
    rt4ksr loadtest --profile steady --fps 24 --duration 120s --slo-p99-ms 200
    rt4ksr loadtest compare results/a results/b

    Closed loop (the default): each user waits for its answer before it sends the next frame; this
    measures throughput. Open loop (--fps): frames are due at that rate whether or not the server
    keeps up, and latency counts from when a frame was due.

    The exit code is 1 if an objective is missed or, without objectives, if a request failed. The
    same test with Locust's own options and web page: locust -f loadtest/locustfile.py.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    if ctx.invoked_subcommand is not None:
        return
    if texts["out"] is not None:
        for name in ("result.json", "report.html", "report.md"):
            check_target(Path(texts["out"], name), overwrite=overwrite, option="--out")
    profile, is_open = str(texts["load_profile"]), texts["fps"] is not None
    flags: dict[str, object] = {
        "--users": users or default_users(profile, is_open=is_open),
        "--processes": processes,
    }
    flags |= {row.locust_flag or row.flag: texts[row.name] for row in OPTIONS}
    with local_server(model_repository) if local else contextlib.nullcontext(url) as host:
        given = [f"{flag}={value}" for flag, value in flags.items() if value is not None]
        level = LOG_LEVELS[min(verbosity(ctx), 2)]
        ctx.exit(run_locust([f"--host={host}", f"--loglevel={level}", *given], headers))


def default_users(profile: str, *, is_open: bool) -> int:
    """Return the number of users of a profile where none was given."""
    if profile == "saturate":
        return SATURATE_USERS
    if profile in ("ramp", "spike"):
        return 8
    return 1 if is_open else 2


def run_locust(arguments: Sequence[str], headers: Sequence[str] = ()) -> int:
    """Run Locust without its web page and return its exit code.

    It gets the headers in its environment, which only the same user can see.
    Ctrl-C reaches Locust as well as this process, which waits for it: the report comes first.
    """
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"]
    environment = {**MALLOC_ENVIRONMENT, **os.environ}
    if headers:
        given = os.environ.get(HEADERS_VARIABLE, "").splitlines()
        environment[HEADERS_VARIABLE] = "\n".join([*given, *headers])
    process = subprocess.Popen([*command, "--only-summary", *arguments], env=environment)
    previous = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@loadtest.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write an HTML page with the plots of both runs.",
)
@click.option(
    "--noise",
    "noise_share",
    type=float,
    default=0.05,
    show_default=True,
    metavar="SHARE",
    help="How much worse B's figures may be, as a share of A's.",
)
@overwrite_option("Replace the page if it exists.")
@click.pass_context
def compare_command(
    ctx: click.Context, a: Path, b: Path, output: Path | None, noise_share: float, overwrite: bool
) -> None:
    """Compare two runs: A the earlier, B the later, each a folder or its result.json.

    \b
    rt4ksr loadtest compare results/a results/b -o compare.html

    The exit code is 1 if B's goodput, p50, p99 or share of failures is worse by more than the
    margin.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    if output is not None:
        for path in (a, b):
            file = path / "result.json" if path.is_dir() else path
            if output.exists() and file.exists() and output.samefile(file):
                raise LoadTestError(
                    f"{printable(output)} is one of the results: give another name with -o"
                )
        check_target(output, overwrite=overwrite)
    earlier, later = read_result(a), read_result(b)
    comparison = compare_runs(earlier, later, (printable(a), printable(b)), noise_share)
    print_comparison(comparison)
    if output is not None:
        write_text({output: compare_page(comparison, earlier, later)})
        click.echo(f"{printable(output)}: open it in a browser")
    if comparison.regressed:
        ctx.exit(1)


def print_comparison(comparison: Comparison) -> None:
    """Print figures, differences, warnings and verdicts on standard output."""
    console = Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS)
    for label, name in zip("AB", comparison.names, strict=True):
        console.print(Text(f"{label}: {name}"))
    console.print(_table(("figure", "A", "B", "change"), comparison.figures, "right"))
    if comparison.differences:
        console.print(Text("The runs differ in more than the server:", "yellow"))
        console.print(_table(("", "A", "B"), comparison.differences, "left"))
    for text in comparison.warnings:
        console.print(Text(f"warning: {printable(text)}", "yellow"))
    for verdict in comparison.verdicts:
        mark, colour = ("✔", "green") if verdict.passed else ("✘", "red")
        console.print(Text(f"{mark} {verdict.objective}: {verdict_line(verdict)}", colour))
    console.print(Text(comparison.summary, "bold red" if comparison.regressed else "bold green"))


def _table(
    head: Sequence[str], body: Iterable[Sequence[str]], justify: Literal["left", "right"]
) -> Table:
    table = Table(head[0])
    for name in head[1:]:
        table.add_column(name, justify=justify)
    for row in body:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
