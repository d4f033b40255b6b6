"""Which frames of a live stream are sent: those whose answers can be there in time.

No clock and no server in here: times are given, so that a test can run through hours.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Admission"]

CROWDED: Final = 0.6
"""Share of the budget from which on an answer says that too much is under way."""
ROOMY: Final = 0.35
"""Share of the budget up to which more may be under way."""
PATIENCE: Final = 3
"""Failures in a row after which only now and then a frame is sent, to see whether it works."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 0.5


class Admission:
    """Bounds the requests of a live stream by how soon recent ones were answered.

    As many are under way as the server answers within about half of the budget. A frame that comes
    while there is no room is not sent: with a server of half the rate that is every other frame.

    Args:
        budget_s: from sending a frame to where its answer is of no use any more.
        most: requests under way at once, at least 1.

    """

    def __init__(self, budget_s: float, most: int) -> None:
        self.in_flight = 0
        self._budget_s = budget_s
        self._most = self._limit = most
        self._failures = 0
        self._next_try_s = float("-inf")
        self._lowered_s = float("-inf")
        self._was_refused = False

    @property
    def limit(self) -> int:
        """Requests that may be under way now."""
        return self._limit

    def admits(self, now_s: float) -> bool:
        """Return whether a frame that arrives ``now_s`` is to be sent."""
        is_trying = self._failures >= PATIENCE
        room = self.in_flight < (1 if is_trying else self._limit)
        if not room or (is_trying and now_s < self._next_try_s):
            self._was_refused = True
            return False
        return True

    def send(self) -> None:
        """Count a request that is sent."""
        self.in_flight += 1

    def answer(self, sent_s: float, now_s: float) -> None:
        """Learn from an answer that came in time, to what was sent at ``sent_s``."""
        self.in_flight -= 1
        self._failures = 0
        waited_s = now_s - sent_s
        if waited_s > CROWDED * self._budget_s:
            self._lower(sent_s, now_s)
        elif waited_s < ROOMY * self._budget_s and self._was_refused:
            self._limit = min(self._most, self._limit + 1)
            self._was_refused = False

    def fail(self, sent_s: float, now_s: float) -> None:
        """Learn from a request that failed, or was not answered in time."""
        self.in_flight -= 1
        self._failures += 1
        self._lower(sent_s, now_s)
        times = max(0, self._failures - PATIENCE)
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(times, 10))
        self._next_try_s = now_s + pause_s

    def _lower(self, sent_s: float, now_s: float) -> None:
        """Let less be under way; what was sent before this took effect says nothing new."""
        if sent_s >= self._lowered_s:
            self._limit = max(1, self._limit - 1)
            self._lowered_s = now_s
        self._was_refused = False
