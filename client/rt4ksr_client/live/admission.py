"""Which frames of a live stream are sent: those whose answers can be there in time.

No clock and no server in here: times are given, so that a test can run through hours.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Admission"]

CROWDED: Final = 0.65
"""Share of the budget from which on an answer says that too much is under way."""
ROOMY: Final = 0.35
"""Share of the budget up to which more may be under way."""
LONE: Final = 0.42
"""The same where only one may be: behind it, a second one takes about twice as long."""
PATIENCE: Final = 3
"""Failures in a row after which only now and then a frame is sent, to see whether it works."""
RETRY_S: Final = 5.0
"""After so long, as much is tried again as was too much."""
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
        self._too_many = most + 1
        self._failures = 0
        self._next_try_s = float("-inf")
        self._changed_s = self._crowded_s = float("-inf")
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
        if self._failures >= PATIENCE:  # it was gone: find out anew what it can take
            self._limit, self._too_many, self._changed_s = 1, self._most + 1, now_s
        self._failures = 0
        waited_s = now_s - sent_s
        if sent_s < self._changed_s:
            return  # it says nothing about the limit of now
        if waited_s > CROWDED * self._budget_s:
            # With two, a server that takes one at a time never waits for the next.
            self._lower(now_s, to=max(min(2, self._limit), self._limit - 1))
        elif waited_s < (ROOMY if self._limit > 1 else LONE) * self._budget_s and self._was_refused:
            if self._limit + 1 < self._too_many or now_s > self._crowded_s + RETRY_S:
                self._limit = min(self._most, self._limit + 1)
                self._changed_s = now_s
            self._was_refused = False

    def fail(self, sent_s: float, now_s: float) -> None:
        """Learn from a request that failed, or was not answered in time."""
        self.in_flight -= 1
        self._failures += 1
        if sent_s >= self._changed_s:
            self._lower(now_s, to=self._limit // 2)
        times = max(0, self._failures - PATIENCE)
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(times, 10))
        self._next_try_s = now_s + pause_s

    def _lower(self, now_s: float, to: int) -> None:
        """Let less be under way."""
        self._too_many = self._limit
        self._limit = max(1, to)
        self._changed_s = self._crowded_s = now_s
        self._was_refused = False
