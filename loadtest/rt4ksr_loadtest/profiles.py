"""The course of the load over time: profiles, and how far one has come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from rt4ksr_loadtest.collect import Level
from rt4ksr_loadtest.options import LoadOptions
from rt4ksr_loadtest.result import Step

__all__ = ["Course", "plan"]

DURATIONS_S: Final = {"smoke": 10.0, "steady": 60.0, "spike": 60.0, "soak": 600.0}
MOST_RAMP_STEPS: Final = 10
SATURATE_LEVELS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
RISE: Final = 1.05
"""Throughput that rises by less than 5 % no longer rises."""

STEPS_WITHOUT_RISE: Final = 2
SPAWN_RATE: Final = 100.0


def plan(options: LoadOptions) -> list[tuple[int, float]]:
    """Return users and seconds of each level of a profile; of ``saturate``, all that may come."""
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


class Course:
    """Goes through the levels of a profile; the warm-up is spent at the first.

    Args:
        options: of the run, its ``profile`` set.
        measured: what a level brought, as far as is known by now.
        ended: hears of each level when it is over.

    """

    def __init__(
        self,
        options: LoadOptions,
        measured: Callable[[Level], Step],
        ended: Callable[[Level], None],
    ) -> None:
        self._options = options
        self._measured = measured
        self._ended = ended
        self._levels = plan(options)
        self._index = 0
        self._begun_s: float | None = None
        self._best_fps = 0.0
        self._without_rise = 0

    def tick(self) -> tuple[int, float] | None:
        """Return users and spawn rate for now; None when the profile is over."""
        now_s = time.time()
        if self._begun_s is None:
            self._begun_s = now_s + self._options.warm_up_s
        users, length_s = self._levels[self._index]
        if now_s >= self._begun_s + length_s:
            level = Level(self._level_of(users), self._begun_s, now_s)
            self._ended(level)
            self._index += 1
            self._begun_s = now_s
            if self._index == len(self._levels) or self._saturated(level):
                self._index = len(self._levels)
                return None
        return self._levels[self._index][0], SPAWN_RATE

    def current(self) -> Level | None:
        """Return the level under way, as far as it came; None in the warm-up and at the end."""
        now_s = time.time()
        if self._begun_s is None or now_s <= self._begun_s or self._index == len(self._levels):
            return None
        return Level(self._level_of(self._levels[self._index][0]), self._begun_s, now_s)

    def _level_of(self, users: int) -> float:
        options = self._options
        return users * options.rate_fps_per_user if options.is_open else float(users)

    def _saturated(self, level: Level) -> bool:
        if self._options.profile != "saturate":
            return False
        step, limit_ms = self._measured(level), self._options.objectives.p99_ms
        if limit_ms is not None and step.p99_ms > limit_ms:
            return True
        rose = step.goodput_fps > RISE * self._best_fps
        self._without_rise = 0 if rose else self._without_rise + 1
        self._best_fps = max(self._best_fps, step.goodput_fps)
        return self._without_rise >= STEPS_WITHOUT_RISE
