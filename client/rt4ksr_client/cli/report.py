"""What ``rt4ksr upscale`` prints about its pictures."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from typing import Final

import click

from rt4ksr_client.cli.console import accepts_output, print_json, printable
from rt4ksr_client.cli.jobs import Failure, Plan
from rt4ksr_client.cli.picture_file import Result

__all__ = ["Report"]

SHOWN_REASONS: Final = 6


@dataclasses.dataclass
class Report:
    """Prints what was done: lines for people, or JSON; ``quiet`` if stdout is the picture."""

    as_json: bool
    quiet: bool
    verbose: bool
    done_before: int = 0
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    finished: int = 0
    failures: list[Failure] = dataclasses.field(default_factory=list)

    def add(self, result: Result) -> None:
        """Print a finished picture."""
        self.finished += 1
        if self.as_json and not self.quiet:
            print_json(dataclasses.asdict(result))
        elif not self.quiet:
            sizes = "{}x{} -> {}x{}".format(*result.before_px, *result.after_px)
            click.echo(f"{printable(result.target)}: {sizes}")
        if self.verbose:
            stages = ", ".join(f"{name} {ms:.0f} ms" for name, ms in result.stages_ms.items())
            reason = "" if result.compression is None else f"{result.compression}; "
            models = ", ".join(result.models) or "no model"
            click.echo(f"  {models}: {reason}{stages}", err=True)

    def add_plan(self, plan: Plan) -> None:
        """Count what needs no work, and pictures that cannot be upscaled: :meth:`finish` says why.

        With JSON, the latter have their lines now.
        """
        self.done_before += plan.done_before
        self.skipped.update(plan.skipped)
        for failure in plan.failures:
            self._add_failure(failure)

    def add_failure(self, failure: Failure) -> None:
        """Print a picture that was not upscaled."""
        self._add_failure(failure)
        click.echo(f"rt4ksr: error: {_describe(failure)}", err=True)

    def _add_failure(self, failure: Failure) -> None:
        self.failures.append(failure)
        if self.as_json:
            print_json({"source": str(failure.source), "error": str(failure.error)})

    def finish(self, *, interrupted: bool = False) -> None:
        """Print how the run went, and all failures again: their lines above have scrolled away.

        Once interrupted, it does not wait for programs that do not read what it prints.
        """
        counts = {
            "upscaled": self.finished,
            "done_before": self.done_before,
            "failed": len(self.failures),
        }
        if self.as_json and (not interrupted or accepts_output(sys.stdout)):
            rows = [{"source": str(source), "error": str(error)} for source, error in self.failures]
            skipped = {"skipped": self.skipped.total(), "skipped_by_reason": dict(self.skipped)}
            print_json({**counts, **skipped, "failures": rows})
        if interrupted and not accepts_output(sys.stderr):
            return
        summary = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items())
        if self.skipped.total():
            summary += f", {self.skipped_summary()}"
        click.echo(summary + ":" * bool(self.failures), err=True)
        for failure in self.failures:
            click.echo(f"  {_describe(failure)}", err=True)

    def skipped_summary(self) -> str:
        """Return e.g. ``3 skipped (2 .txt, 1 hidden)``."""
        shown = self.skipped.most_common(SHOWN_REASONS)
        parts = [f"{count} {reason}" for reason, count in shown if count]
        rest = self.skipped.total() - sum(count for _, count in shown)
        parts += [f"{rest} more"] if rest else []
        return f"{self.skipped.total()} skipped ({', '.join(parts)})"


def _describe(failure: Failure) -> str:
    """Return the error with the picture's name, which most errors have already."""
    text, source = str(failure.error), str(failure.source)
    names = (source, printable(source))
    return printable(text if any(name in text for name in names) else f"{source}: {text}")
