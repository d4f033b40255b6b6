"""Times of a live stream in the output: they run on whatever the source's clock does."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

__all__ = ["Timeline"]

JUMP_S: Final = 1
"""A step of the source's clock that differs from the one on the wall by more has no meaning."""


class Timeline:
    """Gives the frames of a source their times in the output, in seconds from its first one.

    They are the source's own, moved by ``shift_s``. Where its clock jumps, where it begins anew
    after a pause, and where frames have no times, the output goes on by the clock on the wall, in
    whole steps.

    Args:
        step_s: the time between two frames.

    """

    def __init__(self, step_s: Fraction) -> None:
        self.shift_s: Fraction | None = None
        """What is added to times of the source, of other streams too; None before the first."""
        self.jumps = 0
        """How often the source's clock has jumped."""
        self._step_s = step_s
        self._last_s = -step_s
        self._last_arrival_s = 0.0
        self._is_new = False

    def restart(self) -> None:
        """Expect a source whose clock has nothing to do with the one so far."""
        self._is_new = self.shift_s is not None

    def place(self, source_s: Fraction | None, arrival_s: float) -> Fraction:
        """Return the output's time for the next frame, later than that of the last one.

        Args:
            source_s: its time by the source; None if it has none.
            arrival_s: when it was decoded, on a monotonic clock.

        """
        waited_s = arrival_s - self._last_arrival_s
        self._last_arrival_s = arrival_s
        if self.shift_s is None:
            self.shift_s = -source_s if source_s is not None else Fraction(0)
            time_s = Fraction(0)
        elif source_s is None:
            time_s = self._last_s + self._step_s
        else:
            time_s = source_s + self.shift_s
            step_s = time_s - self._last_s
            has_jumped = step_s <= -JUMP_S or step_s > waited_s + JUMP_S
            if has_jumped or self._is_new:
                self.jumps += has_jumped and not self._is_new
                steps = max(1, round(waited_s / float(self._step_s)))
                time_s = self._last_s + steps * self._step_s
                self.shift_s = time_s - source_s
            elif step_s <= 0:
                time_s = self._last_s + self._step_s
        self._is_new = False
        self._last_s = time_s
        return time_s

    def repeat(self, now_s: float) -> Fraction:
        """Return the time of the last frame shown once more, ``now_s`` on the monotonic clock."""
        self._last_arrival_s = now_s
        self._last_s += self._step_s
        return self._last_s
