"""One load test in one process: a worker's, the master's, or the only one."""

from __future__ import annotations

import logging
import random
import time
import weakref
from dataclasses import dataclass
from typing import Any, Final

import gevent
from gevent.lock import RLock
from locust import LoadTestShape
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from rt4ksr_client.call import Call
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports import Transport
from rt4ksr_loadtest.load.answers import AnswerChecker
from rt4ksr_loadtest.load.frames import BaseFrame, base_frames, request_size_px
from rt4ksr_loadtest.load.shapes import Level, LoadShape
from rt4ksr_loadtest.measurement.machines import ServerMonitor, machine_facts
from rt4ksr_loadtest.measurement.recorder import Recorder
from rt4ksr_loadtest.measurement.summary import FinishedRun, measure_level, summarize
from rt4ksr_loadtest.measurement.timeline import Timeline
from rt4ksr_loadtest.options import LoadOptions
from rt4ksr_loadtest.result import RunResult, Step

__all__ = ["DRAIN", "DRAINED", "GRACE_S", "LoadRun", "all_runs", "make_grpc_cooperative", "run_of"]

DRAIN: Final = "rt4ksr_drain"
DRAINED: Final = "rt4ksr_drained"
GRACE_S: Final = 3.0
POLL_S: Final = 0.05
THIS_PROCESS: Final = "this process"

logger = logging.getLogger(__name__)
runs: weakref.WeakKeyDictionary[Environment, LoadRun] = weakref.WeakKeyDictionary()


def run_of(environment: Environment) -> LoadRun:
    """Return the run of Locust's ``environment``."""
    return runs[environment]


def all_runs() -> tuple[LoadRun, ...]:
    """Return the runs of this process: one, in practice."""
    return tuple(runs.values())


def make_grpc_cooperative() -> None:
    """Let other greenlets run while gRPC waits; a second call has no effect.

    Call it after a fork only: gRPC's threads do not survive one.
    """
    from grpc.experimental import gevent as grpc_gevent

    grpc_gevent.init_gevent()


@dataclass(frozen=True)
class Workload:
    """What to send to one model, and the check of its answers."""

    model: ServedModel
    frames: tuple[BaseFrame, ...]
    checker: AnswerChecker


class LoadRun:
    """The run of an environment, which may begin several times, from Locust's web page.

    Workers record. The master adds up what they send and monitors the server. A run in a single
    process does both.
    """

    def __init__(self, environment: Environment, options: LoadOptions) -> None:
        runs[environment] = self
        self._environment = environment
        self.options = self.given = options
        """Those of the run, and those that Locust was started with."""
        self.shape: LoadShape | None = None
        self.recorder = Recorder()
        self.timeline: Timeline | None = None
        self.failures_seen: set[str] = set()
        self.draining = False
        self.stop_s: float | None = None
        self._monitor: ServerMonitor | None = None
        self._workloads: dict[str, Workload] = {}
        self._preparing = RLock()
        self._drained: set[str] = set()
        self._silent: set[str] = set()
        self._sampler: gevent.Greenlet | None = None

    @property
    def is_worker(self) -> bool:
        """Whether another process adds up the figures."""
        return isinstance(self._environment.runner, WorkerRunner)

    @property
    def is_master(self) -> bool:
        """Whether other processes send the requests."""
        return isinstance(self._environment.runner, MasterRunner)

    def begin(self, options: LoadOptions) -> None:
        """Start recording."""
        now_s = time.time()
        logger.info(
            "%s loop, %d users, transport %s to %s",
            "open" if options.is_open else "closed",
            options.users,
            options.transport,
            options.url,
        )
        self.options = options
        self.recorder, self.timeline = Recorder(), Timeline(now_s, now_s + options.warm_up_s)
        self.draining, self.stop_s = False, None
        for state in (self._drained, self._silent, self._workloads, self.failures_seen):
            state.clear()
        if not self.is_worker:
            make_grpc_cooperative()
            self._monitor = ServerMonitor(options)
            self.timeline.absorb_server(now_s, self._monitor.read())
        self._sampler = gevent.spawn(self._sample_each_second)

    def follow_profile(self) -> None:
        """Have Locust ask the profile, from its start on, for the number of users."""
        self._environment.shape_class = _ProfileShape(self)

    def measure(self, level: Level) -> Step:
        """Return what a level of the profile brought, as far as is known by now."""
        if self.timeline is None:
            raise RuntimeError("no level of load is measured before the run begins")
        return measure_level(self.timeline, level)

    def workload(self, model: str, transport: Transport) -> Workload:
        """Return what to send to ``model``; prepared at the first call.

        Raises:
            ServerError: the server does not describe the model.
            LoadTestError: there are no frames to send.

        """
        with self._preparing:
            if model not in self._workloads:
                served = transport.served_model(model, Call(self.options.timeout_s))
                rng = random.Random()  # noqa: S311 - no secret
                checker = AnswerChecker(served, self.options.check_share, rng)
                frames = base_frames(self.options, served)
                self._workloads[model] = Workload(served, frames, checker)
            return self._workloads[model]

    def absorb(self, worker: str, seconds: dict[int, dict[str, Any]]) -> None:
        """Add what a worker recorded."""
        if self.timeline is not None:
            self.timeline.absorb(worker, seconds)

    def worker_drained(self, worker: str, seconds: dict[int, dict[str, Any]]) -> None:
        """Add a worker's last seconds."""
        self.absorb(worker, seconds)
        self._drained.add(worker)

    def drain(self) -> None:
        """Send nothing more, and wait for the answers in flight, here or at the workers."""
        if self.draining or self.timeline is None:
            return
        self.draining = True
        self.stop_s = time.time()
        self.timeline.stop(self.stop_s)
        logger.info("the load stops; waiting for the answers in flight")
        deadline_s = time.monotonic() + self.options.timeout_s + GRACE_S
        if self.is_master:
            self._drain_workers(deadline_s)
        while self.recorder.in_flight and time.monotonic() < deadline_s:
            gevent.sleep(POLL_S)

    def finish(self) -> RunResult | None:
        """Drain and return the result; None for a worker, or if it was returned before."""
        self.drain()
        if self._sampler is None or self.timeline is None:
            return None
        self._sampler.kill()
        self._sampler = None
        if self._monitor is None:
            return None
        self._sample()
        self._monitor.close()
        return summarize(
            FinishedRun(
                options=self.options,
                timeline=self.timeline,
                stop_s=self.stop_s or time.time(),
                levels=self.shape.levels() if self.shape is not None else [],
                input_size_px={model: self._size_px(model) for model in self.options.shares},
                machine=machine_facts(self.options, self._monitor),
                silent_workers=sorted(self._silent),
            )
        )

    def _drain_workers(self, deadline_s: float) -> None:
        runner: Any = self._environment.runner
        clients = runner.clients
        waited = {c.id for c in (*clients.running, *clients.spawning)} - self._drained
        runner.send_message(DRAIN)
        while not waited <= self._drained and time.monotonic() < deadline_s:
            waited -= {c.id for c in clients.missing}
            gevent.sleep(POLL_S)
        self._silent |= waited - self._drained
        for worker in sorted(self._silent):
            logger.warning("worker %s did not report its last seconds", worker)

    def _sample_each_second(self) -> None:
        while True:
            gevent.sleep(1 - time.time() % 1)
            self._sample()

    def _sample(self) -> None:
        if not self.is_master:
            self.recorder.sample()
        if self._monitor is None or self.timeline is None:
            return
        if not self.is_master:
            self.absorb(THIS_PROCESS, self.recorder.take())
        self.timeline.absorb_server(time.time(), self._monitor.read())
        if self.shape is not None and (level := self.shape.current()) is not None:
            self.timeline.window(level.settled_s)

    def _size_px(self, model: str) -> tuple[int, int]:
        if model not in self._workloads:
            return request_size_px(self.options, model)
        return self._workloads[model].frames[0].size_px


class _ProfileShape(LoadTestShape):
    """Has Locust follow the profile of ``run``."""

    use_common_options = True

    def __init__(self, run: LoadRun) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run = run

    def reset_time(self) -> None:
        """Begin again; Locust calls this when a run starts."""
        super().reset_time()  # type: ignore[no-untyped-call]
        self._run.shape = LoadShape(self._run.options, self._run.measure)

    def tick(self) -> tuple[int, float] | None:
        """Return users and spawn rate for now; None when it is over."""
        return self._run.shape.tick() if self._run.shape is not None else None
