"""Several servers behind one transport."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from rt4ksr_client.call import Call
from rt4ksr_client.errors import DeadlineExceededError, ServerUnreachableError
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports import Route, Transport
from rt4ksr_client.transports.fleet import FleetTransport
from rt4ksr_client.transports.messages import InferRequest, InferResponse, Tensor
from support.processes import becomes_true


class Local(Transport):
    """Answers at once with its number, or fails."""

    def __init__(self, number: int) -> None:
        self.address = f"server{number}:1"
        self.route = Route("local", "a test")
        self.number = number
        self.alive = True
        self.hangs = False
        self.questions = 0
        self.hold: threading.Event | None = None

    def infer(self, request: InferRequest, call: Call) -> InferResponse:
        if self.hold is not None:
            self.hold.wait(10)
        number = self.server_metadata(call)["number"]
        batch = np.full(request.outputs[0].shape or (), number, np.uint8)
        return InferResponse([Tensor.from_array(request.outputs[0].name, batch)])

    def server_metadata(self, call: Call) -> dict[str, Any]:
        self.questions += 1
        if not self.alive:
            raise ServerUnreachableError("down")
        if self.hangs:
            raise DeadlineExceededError("hangs")
        return {"number": self.number}

    def repository_index(self, call: Call) -> list[dict[str, Any]]:
        return [self.server_metadata(call)]

    def model_config(self, model: str, call: Call) -> dict[str, Any]:
        return {"model": model, **self.server_metadata(call)}

    def model_statistics(self, call: Call, *, model: str = "") -> list[dict[str, Any]]:
        return [{"model": model, **self.server_metadata(call)}]

    def model_ready(self, model: str, call: Call) -> bool:
        return bool(self.server_metadata(call)) and model == "m"

    def close(self) -> None:
        self.alive = False


MODEL = ServedModel("m", 1, 1, 0, 1, "", "")
SMALL = np.zeros((1, 2, 2, 3), np.uint8)


def answers(fleet: FleetTransport, count: int) -> list[int]:
    return [int(fleet.upscale(MODEL, (SMALL,), Call(1))[0].flat[0]) for _ in range(count)]


def test_calls_are_spread_evenly() -> None:
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


def test_a_server_that_failed_rests_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rt4ksr_client.transports.fleet.REST_S", 0.2)
    members = [Local(0), Local(1)]
    fleet = FleetTransport(members)
    members[0].alive = False

    with pytest.raises(ServerUnreachableError):
        answers(fleet, 2)
    assert answers(fleet, 4) == [1, 1, 1, 1]
    assert [record.getMessage() for record in caplog.records] == ["server0:1 rests for 0.2 s: down"]

    members[0].alive = True
    time.sleep(0.25)
    assert 0 in answers(fleet, 2)


def test_if_all_servers_are_down_each_is_still_tried() -> None:
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


def test_one_server_answers_every_question() -> None:
    fleet = FleetTransport([Local(0), Local(1)])

    assert fleet.server_metadata(Call(1)) == {"number": 0}
    assert fleet.repository_index(Call(1)) == [{"number": 1}]
    assert fleet.model_config("m", Call(1)) == {"model": "m", "number": 0}
    assert fleet.model_statistics(Call(1), model="m") == [{"model": "m", "number": 1}]
    assert fleet.model_ready("m", Call(1))
    assert not fleet.model_ready("other", Call(1))


def test_the_route_names_each_transport_once_and_every_reason() -> None:
    members = [Local(0), Local(1), Local(2)]
    members[1].route = Route("shm", "mapped", "encoded", "slow link")

    route = FleetTransport(members).negotiate(Call(1))

    assert (route.transport, route.wire) == ("local+shm", "raw+encoded")
    assert route.transport_reason == (
        "server0:1: local, a test; server1:1: shm, mapped; server2:1: local, a test"
    )
    assert "server1:1: encoded, slow link" in route.wire_reason


def test_a_server_that_hangs_gets_no_call_until_it_answers_a_question(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rt4ksr_client.transports.fleet.REST_S", 0.05)
    members = [Local(0), Local(1)]
    fleet = FleetTransport(members)
    members[0].hangs = True

    with pytest.raises(DeadlineExceededError):
        answers(fleet, 2)
    assert answers(fleet, 4) == [1, 1, 1, 1]
    time.sleep(0.3)
    assert members[0].questions > 2
    assert answers(fleet, 4) == [1, 1, 1, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "server0:1 missed a deadline: no calls for 0.05 s, and until it answers"
    ]

    members[0].hangs = False
    assert becomes_true(lambda: 0 in answers(fleet, 2), 5)
    fleet.close()


def test_if_all_servers_hang_each_is_still_tried() -> None:
    members = [Local(0), Local(1)]
    fleet = FleetTransport(members)
    for member in members:
        member.hangs = True
    for _ in range(4):
        with pytest.raises(DeadlineExceededError):
            answers(fleet, 1)

    assert [member.questions for member in members] == [2, 2]
    fleet.close()
