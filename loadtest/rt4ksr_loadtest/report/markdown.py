"""The report as Markdown, short enough for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rt4ksr_loadtest.report import tables, wording
from rt4ksr_loadtest.result import RunResult

__all__ = ["run_summary"]

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#&])")


def run_summary(result: RunResult) -> str:
    """Return the headline figures, the verdicts, and what was measured on which machine."""
    asked = result.settings
    title = f"4K load test: {asked.profile} over {asked.transport}"
    split = [
        (name, wording.ms(part_ms), wording.percent(share))
        for name, part_ms, share in tables.server_split(result)
    ]
    verdicts = [
        (v.objective, wording.verdict_line(v), "✔ met" if v.passed else "✘ missed")
        for v in result.verdicts
    ]
    load = f"{wording.describe_headline(result)} {wording.describe_load(result)}".strip()
    head, *steps = tables.steps(result) or ((),)
    parts = [
        f"### {_text(title)}: {wording.verdict_summary(result)}",
        "\n".join(f"> **Warning:** {_text(warning)}" for warning in result.warnings),
        _table(["figure", "value"], [(n, f"{v} {u}") for n, v, u in tables.headline(result)]),
        _text(load),
        _table(["objective", "measured", "verdict"], verdicts),
        _table(["failures", "requests"], tables.failures(result)),
        _table(["outage", "length"], tables.outages(result)),
        _table(head, steps),
        _table(["part of a request's time", "mean", "share"], split),
        _folded("Settings", tables.settings(result)),
        _folded("Machine and versions", tables.machine(result)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _folded(title: str, body: Iterable[Sequence[str]]) -> str:
    table = _table([title, ""], body)
    return f"<details><summary>{title}</summary>\n\n{table}\n\n</details>"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in body]
    if not lines:
        return ""
    rule = "|" + "---|" * len(head)
    return "\n".join(["| " + " | ".join(head) + " |", rule, *lines])


def _text(text: str) -> str:
    """Escape ``text`` for Markdown, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
