"""What a reader of a result must know before believing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rt4ksr_loadtest.result import RunResult

__all__ = ["warnings_of"]

FEW_ANSWERS: Final = 100
CROWDED_SHARE: Final = 0.9
OFFERED_SHARE: Final = 0.95


def warnings_of(result: RunResult, silent_workers: Sequence[str]) -> tuple[str, ...]:
    """Return them, the gravest first."""
    found = [
        *_generator(result),
        *_workers(silent_workers),
        *_counts(result),
        *_rate(result),
        *_few(result),
    ]
    return tuple(found)


def _generator(result: RunResult) -> list[str]:
    generator, machine = result.generator, result.machine
    found = []
    if generator.is_limit:
        found.append(
            "The load generator is the limit, not the server: its busiest process used "
            f"{generator.busiest_worker_share:.0%} of a core and was up to "
            f"{generator.late_ms_p99:.0f} ms late (p99). Use --processes, or more machines."
        )
    server_cores = result.server.cpu_cores if result.server else None
    if machine.server_on_this_host and server_cores is not None:
        used = generator.cpu_cores + server_cores
        if used > CROWDED_SHARE * machine.generator_cores:
            found.append(
                f"Generator and server share {machine.generator_cores} cores and used {used:.1f} "
                f"of them, the generator {generator.cpu_cores:.1f}: on a machine of its own the "
                "server would do more."
            )
    return found


def _workers(silent: Sequence[str]) -> list[str]:
    return [
        f"Worker {name} did not report its end: what it did last is missing." for name in silent
    ]


def _counts(result: RunResult) -> list[str]:
    """The server answered everything that came back, right or wrong."""
    if result.server is None:
        return ["The server's statistics could not be read: its side of the figures is missing."]
    ours = result.totals.right + result.totals.failures.get("wrong picture", 0)
    theirs = result.server.success_count
    if theirs == ours or result.outages:
        return []
    under_way = max((interval.in_flight for interval in result.intervals), default=0)
    if result.settings.warmup_s and abs(theirs - ours) <= max(result.settings.users, under_way):
        return []  # begun in the warm-up, or answered in it
    return [
        f"The server counts {theirs} answers, this test {ours}: somebody else uses it, requests "
        "were given up, or a batch or a cache is counted differently."
    ]


def _rate(result: RunResult) -> list[str]:
    totals = result.totals
    open_loop = result.settings.load_model == "open"
    if open_loop and totals.achieved_fps < OFFERED_SHARE * totals.offered_fps:
        return [
            f"{totals.offered_fps:.2f} frames/s were offered, {totals.achieved_fps:.2f} answered: "
            "above saturation, latency grows for as long as the run lasts."
        ]
    return []


def _few(result: RunResult) -> list[str]:
    right = result.totals.right
    if right >= FEW_ANSWERS:
        return []
    if not right:
        return ["No answer was right."]
    return [f"Only {right} right answers: p99 is little more than the slowest of them."]
