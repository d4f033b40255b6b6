"""Deadlines and cancellation."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import pytest

from rt4ksr_client.call import Call, Cancellation
from rt4ksr_client.errors import DeadlineExceededError


def test_a_cancellation_ends_calls_in_flight_and_rejects_later_ones() -> None:
    cancellation, stopped = Cancellation(), threading.Event()

    def works() -> None:
        with pytest.raises(CancelledError), cancellation.stopping(stopped.set):
            assert stopped.wait(10)
            raise OSError("the socket was shut down")

    thread = threading.Thread(target=works)
    thread.start()
    time.sleep(0.05)
    cancellation.cancel()
    thread.join(10)

    assert stopped.is_set()
    with pytest.raises(CancelledError), cancellation.stopping(lambda: None):
        raise AssertionError("it must not begin")


def test_a_call_counts_down_to_its_deadline() -> None:
    call = Call(10.0)

    assert 9 < call.required_s() <= call.timeout_s == 10.0
    assert call.left_s() <= 10.0


def test_the_error_after_the_deadline_names_what_was_waited_for() -> None:
    with pytest.raises(DeadlineExceededError, match=r"^host:1: no answer within 0 s$"):
        Call(0).required_s("host:1")
    assert Call(-1).left_s() < 0


def test_a_cancelled_call_raises_everywhere() -> None:
    cancellation = Cancellation()
    call = Call(10.0, cancellation)
    cancellation.cancel()

    for use in (call.required_s, call.raise_if_cancelled, lambda: call.sleep(60)):
        with pytest.raises(CancelledError):
            use()


def test_a_probe_has_its_own_deadline_and_the_same_cancellation() -> None:
    cancellation = Cancellation()
    probe = Call(0, cancellation).probe(5.0)

    assert probe.required_s() > 4
    cancellation.cancel()
    with pytest.raises(CancelledError):
        probe.required_s()


def test_waiting_for_a_lock_ends_at_the_deadline_and_at_a_cancellation() -> None:
    lock, cancellation = threading.Lock(), Cancellation()
    threading.Timer(0.2, cancellation.cancel).start()
    begin_s = time.monotonic()

    with lock:
        with pytest.raises(DeadlineExceededError), Call(0.1).holding(lock, "lock"):
            raise AssertionError("it is held")
        with pytest.raises(CancelledError), Call(60, cancellation).holding(lock, "lock"):
            raise AssertionError("it is held")
    with Call(1).holding(lock, "lock"):
        assert lock.locked()

    assert not lock.locked()
    assert time.monotonic() - begin_s < 5
