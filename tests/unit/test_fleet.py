"""Several servers behind one transport."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from rt4ksr_client.call import Cancellation
from rt4ksr_client.errors import (
    ServerUnreachableError,
)
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports import (
    FleetTransport,
    Question,
    Transport,
)


class Local(Transport):
    """Answers at once with its number, or fails."""

    name = "local"
    reason = "a test"

    def __init__(self, number: int) -> None:
        self.address = f"server{number}:1"
        self.number = number
        self.alive = True
        self.hold: threading.Event | None = None

    def infer(
        self,
        model: str,
        batch: Frame,
        *,
        timeout_s: float,
        cancellation: Cancellation | None = None,
    ) -> Frame:
        if self.hold is not None:
            self.hold.wait(10)
        return np.full_like(batch, self.ask(Question.SERVER, timeout_s=timeout_s))

    def ask(self, question: Question, model: str = "", *, timeout_s: float) -> Any:
        if not self.alive:
            raise ServerUnreachableError("down")
        return self.number

    def close(self) -> None:
        self.alive = False


SMALL = np.zeros((1, 2, 2, 3), np.uint8)


def answers(fleet: FleetTransport, count: int) -> list[int]:
    return [int(fleet.infer("m", SMALL, timeout_s=1).flat[0]) for _ in range(count)]


def test_work_goes_round() -> None:
    fleet = FleetTransport([Local(0), Local(1), Local(2)])

    assert sorted(answers(fleet, 9)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_least_busy_server_gets_the_work() -> None:
    members = [Local(0), Local(1)]
    fleet = FleetTransport(members)
    members[0].hold = threading.Event()
    busy = threading.Thread(target=answers, args=(fleet, 1))
    busy.start()
    time.sleep(0.05)

    assert answers(fleet, 4) == [1, 1, 1, 1]

    members[0].hold.set()
    busy.join(10)


def test_a_server_that_failed_rests_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rt4ksr_client.transports.fleet.REST_S", 0.2)
    members = [Local(0), Local(1)]
    fleet = FleetTransport(members)
    members[0].alive = False

    with pytest.raises(ServerUnreachableError):
        answers(fleet, 2)
    assert answers(fleet, 4) == [1, 1, 1, 1]

    members[0].alive = True
    time.sleep(0.25)
    assert 0 in answers(fleet, 2)


def test_where_all_servers_are_down_each_is_still_tried() -> None:
    members = [Local(0), Local(1)]
    fleet = FleetTransport(members)
    fleet.close()
    for _ in range(3):
        with pytest.raises(ServerUnreachableError):
            answers(fleet, 1)

    members[1].alive = True
    for _ in range(2):
        try:
            assert answers(fleet, 1) == [1]
            break
        except ServerUnreachableError:
            continue
    else:
        pytest.fail("the server that came back was not tried")
