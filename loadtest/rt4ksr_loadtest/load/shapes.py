"""Load shapes: how many users each profile has over time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rt4ksr_loadtest.options import LoadOptions
from rt4ksr_loadtest.result import Step

__all__ = ["Level", "LoadShape", "plan_levels"]

DURATIONS_S: Final = {"smoke": 10.0, "steady": 60.0, "spike": 60.0, "soak": 600.0}
MOST_RAMP_STEPS: Final = 10
SATURATE_LEVELS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SPAWN_RATE: Final = 100.0
SETTLE_SHARE: Final = 0.2
"""Share of a level's planned duration in which it settles, and is not measured."""

RISE: Final = 1.05
"""Throughput that rises by less than 5 % has stopped rising."""

STEPS_WITHOUT_RISE: Final = 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Level:
    """A level of load, in users (closed loop) or requests per second (open loop).

    It lasts from ``start_s`` to ``end_s`` and is measured from ``settled_s`` on, by the wall clock.
    """

    level: float
    start_s: float
    settled_s: float
    end_s: float

    @property
    def is_settled(self) -> bool:
        """Whether it lasted long enough to be measured."""
        return self.end_s > self.settled_s


def plan_levels(options: LoadOptions) -> list[tuple[int, float]]:
    """Return users and seconds of each level of a profile; for ``saturate``, of all possible."""
    users, profile = options.users, options.profile
    if profile == "saturate":
        levels = [level for level in SATURATE_LEVELS if level < users]
        return [(level, options.step_s) for level in (*levels, users)]
    if profile == "ramp":
        count = min(users, MOST_RAMP_STEPS)
        length_s = options.duration_s / count if options.duration_s else options.step_s
        return [(round(users * (i + 1) / count), length_s) for i in range(count)]
    duration_s = options.duration_s or DURATIONS_S[profile or "steady"]
    if profile == "spike":
        low = max(1, users // 4)
        return [(low, duration_s / 3), (users, duration_s / 3), (low, duration_s / 3)]
    return [(users, duration_s)]


class LoadShape:
    """Goes through the levels of a profile, after a warm-up at the first.

    Args:
        options: of the run, with a ``profile``.
        measure: returns what a level brought, as far as is known by now.

    """

    def __init__(self, options: LoadOptions, measure: Callable[[Level], Step]) -> None:
        self.ended: list[Level] = []
        self._options = options
        self._measure = measure
        self._plan = plan_levels(options)
        self._begun_s: float | None = None
        self._best_fps = 0.0
        self._steps_without_rise = 0
        self._is_over = False

    def tick(self) -> tuple[int, float] | None:
        """Return users and spawn rate for now; None when the profile is over."""
        if self._is_over:
            return None
        now_s = time.time()
        if self._begun_s is None:
            self._begun_s = now_s + self._options.warm_up_s
        users, length_s = self._plan[len(self.ended)]
        if now_s >= self._begun_s + length_s:
            level = self._level(now_s)
            self.ended.append(level)
            self._begun_s = now_s
            if len(self.ended) == len(self._plan) or self._is_saturated(level):
                self._is_over = True
                return None
            users, _ = self._plan[len(self.ended)]
            logger.info("now %d users", users)
        return users, SPAWN_RATE

    def current(self) -> Level | None:
        """Return the present level, up to now; None in the warm-up and at the end."""
        now_s = time.time()
        if self._is_over or self._begun_s is None or now_s <= self._begun_s:
            return None
        return self._level(now_s)

    def levels(self) -> list[Level]:
        """Return the levels until now that lasted long enough to be measured."""
        current = self.current()
        return [*self.ended, *([current] if current is not None and current.is_settled else [])]

    def _level(self, now_s: float) -> Level:
        users, length_s = self._plan[len(self.ended)]
        rate_fps = self._options.rate_fps_per_user
        start_s = self._begun_s or now_s
        return Level(
            level=users * rate_fps if self._options.is_open else float(users),
            start_s=start_s,
            settled_s=start_s + SETTLE_SHARE * length_s,
            end_s=now_s,
        )

    def _is_saturated(self, level: Level) -> bool:
        if self._options.profile != "saturate":
            return False
        step, limit_ms = self._measure(level), self._options.objectives.p99_ms
        if limit_ms is not None and step.p99_ms > limit_ms:
            logger.info("saturated: p99 of %.0f ms misses the objective", step.p99_ms)
            return True
        rises = step.goodput_fps > RISE * self._best_fps
        self._steps_without_rise = 0 if rises else self._steps_without_rise + 1
        self._best_fps = max(self._best_fps, step.goodput_fps)
        if self._steps_without_rise < STEPS_WITHOUT_RISE:
            return False
        logger.info("saturated: throughput stopped rising at %.2f frames/s", self._best_fps)
        return True
