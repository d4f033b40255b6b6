from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import CancelledError

import pytest

from rt4ksr_client.call import Call, Cancellation
from rt4ksr_client.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
    WrongScaleError,
)
from rt4ksr_client.retry import Backoff, Retries

QUICK = Backoff(first_s=0.001, longest_s=0.01)


class Failing:
    """Fails ``times`` times, then answers with the number of attempts."""

    def __init__(self, error: type[ServerError], times: int) -> None:
        self.error = error
        self.times = times
        self.attempts = 0

    def __call__(self) -> int:
        self.attempts += 1
        if self.attempts <= self.times:
            raise self.error("no")
        return self.attempts


def run(attempt: Failing, retries: Retries, timeout_s: float = 5.0) -> int:
    return retries.run(attempt, Call(timeout_s), "test")


def test_pauses_grow_to_their_limit_with_jitter() -> None:
    draws = [list(itertools.islice(Backoff(0.1, 2.0, 0.5).pauses_s(), 6)) for _ in range(200)]

    for pauses in draws:
        for pause, top in zip(pauses, [0.1, 0.2, 0.4, 0.5, 0.5, 0.5], strict=True):
            assert top / 2 <= pause <= top
    assert len({pauses[0] for pauses in draws}) > 100


@pytest.mark.parametrize("wrong", [(0, 2, 1), (2, 2, 1), (0.1, 0.5, 1), (-1, 2, 1)])
def test_pauses_that_do_not_grow_are_rejected(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="grow"):
        Backoff(*wrong)


def test_an_overloaded_server_is_retried_until_it_answers() -> None:
    assert run(Failing(OverloadedError, 20), Retries(QUICK)) == 21


def test_retries_end_at_the_deadline() -> None:
    overloaded = Failing(OverloadedError, 10**9)
    begin_s = time.monotonic()

    with pytest.raises(OverloadedError):
        run(overloaded, Retries(QUICK), timeout_s=0.2)

    assert time.monotonic() - begin_s < 5  # by far: how late a pause ends is the machine's affair
    assert overloaded.attempts > 1


def test_a_pause_that_ends_late_does_not_hide_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Call, "sleep", lambda self, pause_s: time.sleep(0.3))

    with pytest.raises(OverloadedError):
        run(Failing(OverloadedError, 10**9), Retries(QUICK), timeout_s=0.2)


def test_each_attempt_has_the_time_that_is_left() -> None:
    given: list[float] = []
    call = Call(1.0)

    def attempt() -> None:
        given.append(call.required_s())
        if len(given) < 4:
            time.sleep(0.02)
            raise OverloadedError("no")

    Retries(QUICK).run(attempt, call, "test")

    assert given[0] <= 1.0
    assert all(later <= earlier - 0.02 for earlier, later in itertools.pairwise(given))


def test_no_attempt_is_made_after_the_deadline() -> None:
    attempt = Failing(OverloadedError, 0)

    with pytest.raises(DeadlineExceededError, match="within 0 s"):
        run(attempt, Retries(QUICK), timeout_s=0.0)
    assert attempt.attempts == 0


@pytest.mark.parametrize("error", [ServerUnreachableError, ModelNotReadyError])
def test_an_unreachable_server_fails_early_at_first_contact(error: type[ServerError]) -> None:
    silent = Failing(error, 10**9)

    with pytest.raises(error):
        run(silent, Retries(QUICK, first_contact_attempts=3))
    assert silent.attempts == 3


@pytest.mark.parametrize("error", [ServerUnreachableError, ModelNotReadyError])
def test_a_server_that_answered_before_is_retried_until_it_is_back(
    error: type[ServerError],
) -> None:
    retries = Retries(QUICK, first_contact_attempts=3)
    run(Failing(error, 0), retries)

    assert run(Failing(error, 30), retries) == 31


@pytest.mark.parametrize(
    "error", [ServerError, InvalidRequestError, DeadlineExceededError, WrongScaleError]
)
def test_permanent_failures_are_not_retried(error: type[ServerError]) -> None:
    attempt = Failing(error, 1)

    with pytest.raises(error):
        run(attempt, Retries(QUICK))
    assert attempt.attempts == 1


def test_cancelling_ends_a_pause_at_once() -> None:
    cancellation = Cancellation()
    threading.Timer(0.1, cancellation.cancel).start()
    begin_s = time.monotonic()

    with pytest.raises(CancelledError):
        Retries(Backoff(30, 1, 30)).run(Failing(OverloadedError, 9), Call(60, cancellation), "test")
    assert time.monotonic() - begin_s < 5


def test_every_retry_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    run(Failing(OverloadedError, 2), Retries(QUICK))

    assert [(record.levelname, record.name) for record in caplog.records] == [
        ("WARNING", "rt4ksr_client.retry")
    ] * 2
    assert "attempt 2 failed: no; retry in 0.0" in caplog.text
