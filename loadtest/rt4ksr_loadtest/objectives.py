"""Objectives: whether a run met them, or is worse than an earlier run."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest.result import RunResult, Verdict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Figures", "Objectives", "figures_of", "judge", "judge_against", "load_objectives"]


@dataclass(frozen=True)
class Objectives:
    """What a run must reach; None for no objective.

    ``p99_ms``: at most; ``goodput_fps``: 4K frames a second, at least; ``error_share``: failures
    of all requests, 0 to 1, at most.

    Raises:
        ValueError: a limit that makes no sense.

    """

    p99_ms: float | None = None
    goodput_fps: float | None = None
    error_share: float | None = None

    def __post_init__(self) -> None:
        """Reject limits that no run, or every run, would meet."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{field.name} must be a number, got {value!r}")
            if not math.isfinite(value):
                raise ValueError(f"{field.name} must be finite, got {value}")
        for name in ("p99_ms", "goodput_fps"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.error_share is not None and not 0 <= self.error_share <= 1:
            raise ValueError(f"error_share must be between 0 and 1, got {self.error_share}")


def load_objectives(path: Path | None, **overrides: float | None) -> Objectives:
    """Read objectives from TOML; ``overrides`` that are not None take precedence.

    Raises:
        LoadTestError: the file is missing or malformed, or a limit makes no sense.

    """
    try:
        values = {} if path is None else tomllib.loads(path.read_text(encoding="utf-8"))
        values |= {name: value for name, value in overrides.items() if value is not None}
        known = [field.name for field in fields(Objectives)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"unknown: {', '.join(unknown)} (known: {', '.join(known)})")
        return Objectives(**values)
    except OSError as exc:
        raise LoadTestError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # malformed TOML and UTF-8 are ValueErrors too
        raise LoadTestError(f"{path or 'objectives'}: {exc}") from exc


@dataclass(frozen=True)
class Figures:
    """The figures by which a run is judged, and ``where`` in the run they were measured.

    ``p50_ms`` and ``p99_ms`` are None without a correct answer.
    """

    where: str
    goodput_fps: float
    error_share: float
    p50_ms: float | None
    p99_ms: float | None


def figures_of(result: RunResult) -> Figures:
    """Return the figures at the knee or, if a run has none, of the whole measured window.

    A run that looks for the knee overloads the server on purpose, so its whole says nothing.
    """
    if result.knee is not None:
        step = result.steps[result.knee]
        right = step.goodput_fps > 0
        return Figures(
            where=" at the knee",
            goodput_fps=step.goodput_fps,
            error_share=_error_share(step.right, step.failures),
            p50_ms=step.p50_ms if right else None,
            p99_ms=step.p99_ms if right else None,
        )
    totals, latency = result.totals, result.latency
    return Figures(
        where="",
        goodput_fps=totals.goodput_fps,
        error_share=_error_share(totals.right, sum(totals.failures.values())),
        p50_ms=latency.p50_ms if totals.right else None,
        p99_ms=latency.p99_ms if totals.right else None,
    )


def judge(result: RunResult, objectives: Objectives) -> tuple[Verdict, ...]:
    """Return one verdict for each objective that was set.

    Without a correct answer the latency objective is missed.
    """
    measured = figures_of(result)
    verdicts = []
    if objectives.p99_ms is not None:
        verdicts.append(_latency("p99", measured.p99_ms, objectives.p99_ms, measured.where))
    if objectives.goodput_fps is not None:
        verdicts.append(_goodput(measured, objectives.goodput_fps))
    if objectives.error_share is not None:
        verdicts.append(_errors(measured, objectives.error_share))
    return tuple(verdicts)


def judge_against(result: RunResult, earlier: RunResult, noise_share: float) -> tuple[Verdict, ...]:
    """Return verdicts on whether ``result`` is as good as ``earlier``.

    Two runs of the same server differ: goodput may be lower, and latency and the share of failures
    higher, by ``noise_share`` (0.05: 5 %) of the earlier figure. A single failure after a run
    without any is therefore a regression.

    Raises:
        LoadTestError: ``noise_share`` is not in [0, 1).

    """
    if not 0 <= noise_share < 1:
        raise LoadTestError(f"the noise margin must be at least 0 and below 1, got {noise_share}")
    now, before = figures_of(result), figures_of(earlier)
    more = 1 + noise_share
    verdicts = [
        _goodput(now, before.goodput_fps * (1 - noise_share)),
        _errors(now, min(1.0, before.error_share * more)),
    ]
    for name, value, limit in (
        ("p50", now.p50_ms, before.p50_ms),
        ("p99", now.p99_ms, before.p99_ms),
    ):
        if limit is not None:
            verdicts.append(_latency(name, value, limit * more, now.where))
    return tuple(verdicts)


def _latency(name: str, measured_ms: float | None, limit_ms: float, where: str) -> Verdict:
    if measured_ms is None:
        return Verdict(f"{name} latency{where} (no correct answer)", limit_ms, 0.0, "ms", False)
    return Verdict(
        f"{name} latency{where}", limit_ms, measured_ms, "ms", passed=measured_ms <= limit_ms
    )


def _goodput(measured: Figures, limit_fps: float) -> Verdict:
    fps = measured.goodput_fps
    return Verdict(f"goodput{measured.where}", limit_fps, fps, "frames/s", passed=fps >= limit_fps)


def _errors(measured: Figures, limit_share: float) -> Verdict:
    share = measured.error_share
    return Verdict(
        f"failures{measured.where}",
        limit_share * 100,
        share * 100,
        "%",
        passed=share <= limit_share,
    )


def _error_share(right: int, failures: int) -> float:
    return failures / (right + failures) if right + failures else 1.0
