"""When to retry a request, and how long to wait before it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from rt4ksr_client.call import Call
from rt4ksr_client.errors import (
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
)

__all__ = ["Backoff", "Retries"]

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backoff:
    """Growing pauses between attempts, each drawn from ``[pause/2, pause]``.

    The jitter keeps clients that were rejected together from coming back together.
    """

    first_s: float = 0.05
    factor: float = 2.0
    longest_s: float = 1.0

    def __post_init__(self) -> None:
        """Reject pauses that do not grow."""
        if not 0 < self.first_s <= self.longest_s or self.factor < 1:
            raise ValueError(f"these pauses do not grow: {self}")

    def pauses_s(self) -> Iterator[float]:
        """Yield pauses in seconds, without end."""
        pause_s = self.first_s
        while True:
            yield pause_s * random.uniform(0.5, 1)  # noqa: S311 - no secret
            pause_s = min(pause_s * self.factor, self.longest_s)


class Retries:
    """Retries requests that no server worked on: unreachable, not ready, or overloaded.

    An overloaded server is asked until the deadline. A server that does not answer, or lacks the
    model, is retried that long only if it has answered before (it is being restarted). At first
    contact the address is probably wrong, so fail early: after ``first_contact_attempts``.

    May be shared between threads.
    """

    def __init__(self, backoff: Backoff = Backoff(), *, first_contact_attempts: int = 4) -> None:
        self._backoff = backoff
        self._first_contact_attempts = first_contact_attempts
        self._answered = False

    def run(self, attempt: Callable[[], Answer], call: Call, what: str) -> Answer:
        """Call ``attempt`` until it returns, the deadline passes, or a retry would be useless.

        Args:
            attempt: raises ServerError if it fails.
            call: its deadline and cancellation also end the pauses.
            what: names what was waited for, in the error.

        Raises:
            ServerError: the last attempt's error.
            DeadlineExceededError: the deadline has passed.

        """
        failure: ServerError | None = None
        for attempts, pause_s in enumerate(self._backoff.pauses_s(), start=1):
            if failure is not None and call.left_s() <= 0:
                raise failure  # the pause ended late: this says more than that time is up
            call.required_s(what)
            try:
                answer = attempt()
            except ServerError as error:
                if not self._is_retryable(error, attempts) or pause_s >= call.left_s():
                    raise
                failure = error
            else:
                self._answered = True
                return answer
            logger.warning("attempt %d failed: %s; retry in %.2f s", attempts, failure, pause_s)
            call.sleep(pause_s)
        raise AssertionError("the pauses have no end")

    def _is_retryable(self, error: ServerError, attempts: int) -> bool:
        if isinstance(error, (ServerUnreachableError, ModelNotReadyError)):
            return self._answered or attempts < self._first_contact_attempts
        return isinstance(error, OverloadedError)
