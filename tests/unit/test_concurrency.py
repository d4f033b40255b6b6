from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from rt4ksr_client.call import Cancellation
from rt4ksr_client.concurrency import check_in_flight, in_order


def test_results_come_in_order() -> None:
    def work(item: int, cancellation: Cancellation) -> int:
        time.sleep(random.uniform(0, 0.005))
        return item * item

    assert list(in_order(work, range(100), 8)) == [i * i for i in range(100)]


@pytest.mark.parametrize("in_flight", [1, 3, 8])
def test_no_more_items_are_fetched_than_are_in_flight(in_flight: int) -> None:
    fetched = 0

    def items() -> Iterator[int]:
        nonlocal fetched
        for i in range(50):
            fetched += 1
            yield i

    for done, _ in enumerate(in_order(lambda item, _: item, items(), in_flight)):
        assert fetched <= done + in_flight


def test_no_item_is_fetched_before_the_first_result_is_requested() -> None:
    def items() -> Iterator[int]:
        raise AssertionError("too early")
        yield 1

    in_order(lambda item, _: item, items(), 4)


def test_several_items_are_in_flight_at_once() -> None:
    together = threading.Barrier(3)

    def work(item: int, cancellation: Cancellation) -> int:
        together.wait(10)
        return item

    assert list(in_order(work, range(9), 3)) == list(range(9))


def blocked(item: int, cancellation: Cancellation) -> int:
    if item:
        cancellation.sleep(60)
    return item


def threads() -> int:
    return sum(thread.name.startswith("rt4ksr") for thread in threading.enumerate())


def test_closing_early_cancels_the_work_in_flight() -> None:
    results = in_order(blocked, range(10), 4)
    assert next(results) == 0
    begin_s = time.monotonic()

    results.close()

    assert time.monotonic() - begin_s < 5
    assert threads() == 0


def test_an_error_is_raised_in_its_place_and_cancels_the_rest() -> None:
    def work(item: int, cancellation: Cancellation) -> int:
        if item == 2:
            raise LookupError("two")
        if item > 2:
            cancellation.sleep(60)
        return item

    results = in_order(work, range(10), 4)

    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(LookupError, match="two"):
        next(results)
    assert threads() == 0


def test_an_error_of_the_iterable_cancels_the_rest() -> None:
    def items() -> Iterator[int]:
        yield from (0, 1, 2)
        raise OSError("the film is torn")

    with pytest.raises(OSError, match="torn"):
        list(in_order(blocked, items(), 9))
    assert threads() == 0


def test_an_outer_cancellation_cancels_the_work() -> None:
    outer = Cancellation()
    threading.Timer(0.1, outer.cancel).start()

    with pytest.raises(CancelledError):
        list(in_order(blocked, range(4), 2, within=outer))
    assert threads() == 0


@pytest.mark.parametrize("wrong", [0, -1])
def test_fewer_than_one_in_flight_is_rejected(wrong: int) -> None:
    with pytest.raises(ValueError, match="in_flight"):
        check_in_flight(wrong)
