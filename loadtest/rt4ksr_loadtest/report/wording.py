"""Numbers with their units and sentences about a result: the same on the page and in Markdown."""

from __future__ import annotations

from rt4ksr_loadtest.measurement.latency import SIGNIFICANT_DIGITS
from rt4ksr_loadtest.result import RunResult, Verdict

__all__ = [
    "NONE",
    "describe_headline",
    "describe_load",
    "duration",
    "memory",
    "ms",
    "number",
    "percent",
    "timeline_caption",
    "verdict_line",
    "verdict_summary",
]

NONE = "–"  # noqa: RUF001 - the dash that stands in tables where there is no value


def number(value: float) -> str:
    """Return ``value`` with at least three digits and separated thousands."""
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
    """Return a share of 1 in percent; 0 % and 100 % only where it is exactly that."""
    if 0 < share < 0.0001:
        return "< 0.01 %"
    if 0.9999 < share < 1:
        return "> 99.99 %"
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + " %"


def memory(count_bytes: int | None) -> str:
    """Return an amount of memory in MiB or GiB."""
    if count_bytes is None:
        return NONE
    if count_bytes >= 2**30:
        return f"{count_bytes / 2**30:.2f} GiB"
    return f"{count_bytes / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """Return a duration in hours, minutes and seconds."""
    if seconds < 120:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest_s, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def describe_load(result: RunResult) -> str:
    """Describe the kind of load, what its latency means and how exact it is."""
    settings = result.settings
    exact = f"Percentiles are exact to {SIGNIFICANT_DIGITS} significant digits."
    if settings.load_model == "closed":
        users = "1 user waits" if settings.users == 1 else f"{settings.users} users each wait"
        most = "up to " if result.steps else ""
        return (
            f"Closed loop: {most}{users} for an answer before sending the next frame. A slow "
            "server slows this load down, so the latency does not include a growing queue. "
            f"Latency counts from when a request was sent. {exact}"
        )
    rate = "at the rate of each step"
    if settings.rate_fps is not None and not result.steps:
        rate = f"at {number(settings.rate_fps)} per second"
    gaps = "at random (Poisson)" if settings.arrivals == "poisson" else "evenly spaced"
    return (
        f"Open loop: requests are due {rate}, {gaps}, whether or not the server keeps up. Latency "
        f"counts from when a request was due, and so includes all the time it waited. {exact}"
    )


def describe_headline(result: RunResult) -> str:
    """Say to which part of the run the headline figures belong; empty if to all that counts."""
    if result.knee is None:
        return ""
    level = result.steps[result.knee].level
    if result.settings.load_model == "open":
        load = f"{level:.4g} requests per second"
    else:
        load = "1 user" if level == 1 else f"{level:g} users"
    return f"The figures above are those at the knee: {load}."


def timeline_caption(result: RunResult) -> str:
    """Explain the shades on the plots over time."""
    sentences = ["Grey: warm-up, which no figure includes."] if result.settings.warmup_s else []
    if result.outages:
        sentences.append("Red: no server answered.")
    return " ".join([*sentences, "Latency is drawn where there were correct answers."])


def verdict_line(verdict: Verdict) -> str:
    """Return the measured value and the limit, with their unit."""
    bound = "at least" if verdict.unit == "frames/s" else "at most"
    # Without a correct answer the latency is given as 0.
    is_known = verdict.measured > 0 or verdict.unit != "ms"
    measured = _with_unit(verdict.measured, verdict.unit) if is_known else NONE
    return f"{measured} ({bound} {_with_unit(verdict.limit, verdict.unit)})"


def verdict_summary(result: RunResult) -> str:
    """Return one line on all objectives."""
    if not result.verdicts:
        return "no objectives set"
    missed = sum(not verdict.passed for verdict in result.verdicts)
    if not missed:
        return "✔ all objectives met"
    return f"✘ {missed} of {len(result.verdicts)} objectives missed"


def _with_unit(value: float, unit: str) -> str:
    """Return more digits than elsewhere, because 300.4 misses a limit of 300."""
    if unit == "%":
        return percent(value / 100)
    return f"{value:,.2f}".rstrip("0").rstrip(".") + f" {unit}"
