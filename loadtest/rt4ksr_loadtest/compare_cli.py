"""``rt4ksr loadtest compare``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rt4ksr_client.cli.console import printable
from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest.compare import Comparison, compare_page, compare_runs
from rt4ksr_loadtest.report import write_text
from rt4ksr_loadtest.report.words import verdict_line
from rt4ksr_loadtest.result import read_result

__all__ = ["compare_command"]

_PIPED_COLUMNS = 120


@click.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with the plots of both on top of each other, too.",
)
@click.option(
    "--noise",
    "noise_share",
    type=float,
    default=0.05,
    show_default=True,
    help="By how much of A's figures B's may be worse, as a share of 1.",
)
@click.pass_context
def compare_command(
    ctx: click.Context, a: Path, b: Path, output: Path | None, noise_share: float
) -> None:
    """Two runs side by side: A the earlier, B the later; folders, or the result.json in them.

    \b
    rt4ksr loadtest compare results/a results/b -o compare.html

    The exit code is 1 when B's goodput, p50, p99 or share of failures is worse by more than the
    margin.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    earlier, later = read_result(a), read_result(b)
    comparison = compare_runs(earlier, later, (printable(a), printable(b)), noise_share)
    _print(comparison)
    if output is not None:
        _refuse_a_result(output, (a, b))
        write_text({output: compare_page(comparison, earlier, later)})
        click.echo(f"{printable(output)}: open it in a browser")
    if comparison.regressed:
        ctx.exit(1)


def _refuse_a_result(output: Path, results: Sequence[Path]) -> None:
    for path in results:
        file = path / "result.json" if path.is_dir() else path
        if output.exists() and output.samefile(file):
            raise LoadTestError(f"{printable(output)}: this is a result: give another name with -o")


def _print(comparison: Comparison) -> None:
    console = Console(width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
    for label, name in zip("AB", comparison.names, strict=True):
        console.print(Text(f"{label}: {name}"))
    console.print(_table(("figure", "A", "B", "change"), comparison.figures, "right"))
    if comparison.differences:
        console.print(Text("Not alike, so a change need not be the server's:", "yellow"))
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
