"""What a result says, in words and formatted numbers: the same on the page and in Markdown."""

from __future__ import annotations

from rt4ksr_loadtest.result import RunResult, Verdict

__all__ = [
    "NONE",
    "as_bytes",
    "duration",
    "load_in_words",
    "ms",
    "number",
    "percent",
    "timeline_caption",
    "verdict_line",
    "verdict_summary",
    "where",
]

NONE = "–"  # noqa: RUF001 - the dash that stands in tables where there is no value


def number(value: float) -> str:
    """Return ``value`` with at least three digits, thousands apart."""
    magnitude = abs(value)
    if magnitude == 0:
        return "0"
    if magnitude >= 100:
        return f"{value:,.0f}"
    if magnitude >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if magnitude >= 0.1 else f"{value:.2g}"


def ms(value_ms: float | None) -> str:
    """Return a time with its unit."""
    return NONE if value_ms is None else f"{number(value_ms)} ms"


def percent(share: float) -> str:
    """Return a share of 1 in percent; a few are never said as 0 %, nor almost all as 100 %."""
    if 0 < share < 0.0001:
        return "< 0.01 %"
    if 0.9999 < share < 1:
        return "> 99.99 %"
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + " %"


def as_bytes(count: int | None) -> str:
    """Return an amount of memory in MiB or GiB."""
    if count is None:
        return NONE
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 120:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest_s, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def load_in_words(result: RunResult) -> str:
    """Say what kind of load it was, and what its latency means."""
    settings = result.settings
    if settings.load_model == "closed":
        users = "1 user waits" if settings.users == 1 else f"{settings.users} users each wait"
        most = "up to " if result.steps else ""
        return (
            f"Closed loop: {most}{users} for an answer before asking again. A slow server slows "
            "this load down, so its latency says nothing of a queue that grows. Latency counts "
            "from when a request was sent."
        )
    rate = "at the rate of each step"
    if settings.rate_fps is not None and not result.steps:
        rate = f"at {number(settings.rate_fps)} a second"
    gaps = "at random (Poisson)" if settings.arrivals == "poisson" else "evenly spaced"
    return (
        f"Open loop: requests are due {rate}, {gaps}, whether or not the server keeps up. Latency "
        "counts from when a request was due, so that all the time it had to wait shows."
    )


def where(result: RunResult) -> str:
    """Say of which part of the run the headline figures are; nothing if of all that counts."""
    if result.knee is None:
        return ""
    level = result.steps[result.knee].level
    return f"The figures above are those at the knee: {level_of(result, level)}."


def level_of(result: RunResult, level: float) -> str:
    """Return a step's level with its unit."""
    if result.settings.load_model == "closed":
        return "1 user" if level == 1 else f"{level:g} users"
    return f"{level:.4g} requests a second"


def timeline_caption(result: RunResult) -> str:
    """Say what the shades on the plots over time are."""
    said = ["Grey: warm-up, which counts for no figure."] if result.settings.warmup_s else []
    if result.outages:
        said.append("Red: no server answered.")
    return " ".join([*said, "Latency is drawn where there were right answers."])


def verdict_line(verdict: Verdict) -> str:
    """Return what was measured and the limit, with their unit."""
    bound = "at least" if verdict.unit == "frames/s" else "at most"
    # No right answer takes no time at all: a latency of 0 is none.
    told = verdict.measured > 0 or verdict.unit != "ms"
    measured = _with_unit(verdict.measured, verdict.unit) if told else NONE
    return f"{measured} ({bound} {_with_unit(verdict.limit, verdict.unit)})"


def verdict_summary(result: RunResult) -> str:
    """Return one line on all objectives."""
    if not result.verdicts:
        return "no objectives set"
    missed = sum(not verdict.passed for verdict in result.verdicts)
    if not missed:
        return "✔ every objective met"
    return f"✘ {missed} of {len(result.verdicts)} objectives missed"


def _with_unit(value: float, unit: str) -> str:
    """More digits than elsewhere: 300.4 is past a limit of 300."""
    if unit == "%":
        return percent(value / 100)
    return f"{value:,.2f}".rstrip("0").rstrip(".") + f" {unit}"
