"""The report as Markdown, short enough for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rt4ksr_loadtest.report import rows, words
from rt4ksr_loadtest.result import RunResult

__all__ = ["run_summary"]

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#&])")


def run_summary(result: RunResult) -> str:
    """Return the figures that count, the verdicts and what they were measured on."""
    asked = result.settings
    title = f"4K load test: {asked.profile} over {asked.transport}"
    parts = [
        f"### {_text(title)}: {words.verdict_summary(result)}",
        "\n".join(f"> **Warning:** {_text(said)}" for said in result.warnings),
        _table(["figure", "value"], [(n, f"{v} {u}") for n, v, u in rows.headline(result)]),
        _text(f"{words.where(result)} {words.load_in_words(result)}".strip()),
        _verdicts(result),
        _table(["failures", "requests"], rows.failures(result)),
        _table(["outage", "length"], rows.outages(result)),
        _table(*_head_and_body(rows.steps(result))),
        _split(result),
        _folded("Settings", rows.settings(result)),
        _folded("Machine and versions", rows.machine(result)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdicts(result: RunResult) -> str:
    return _table(
        ["objective", "measured", "verdict"],
        [
            (v.objective, words.verdict_line(v), "✔ met" if v.passed else "✘ missed")
            for v in result.verdicts
        ],
    )


def _split(result: RunResult) -> str:
    parts = [
        (name, words.ms(part_ms), words.percent(share))
        for name, part_ms, share in rows.server_split(result)
    ]
    return _table(["a request's time", "mean", "share"], parts)


def _folded(title: str, body: Iterable[Sequence[str]]) -> str:
    table = _table([title, ""], body)
    return f"<details><summary>{title}</summary>\n\n{table}\n\n</details>"


def _head_and_body(
    table: Sequence[Sequence[str]],
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    return (table[0], table[1:]) if table else ((), ())


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in body]
    if not lines:
        return ""
    rule = "|" + "---|" * len(head)
    return "\n".join(["| " + " | ".join(head) + " |", rule, *lines])


def _text(text: str) -> str:
    """Return ``text`` as Markdown that shows just that, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
