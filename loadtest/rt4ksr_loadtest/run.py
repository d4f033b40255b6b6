"""One load test in one process: a worker's, the master's, or the only one."""

from __future__ import annotations

import random
import time
import weakref
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import gevent
from gevent.lock import RLock
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner
from msgspec.structs import replace

from rt4ksr_client.transports import Transport
from rt4ksr_loadtest.cautions import warnings_of
from rt4ksr_loadtest.checking import Checker
from rt4ksr_loadtest.collect import (
    Collected,
    Level,
    knee_of,
    latency_of,
    server_work,
)
from rt4ksr_loadtest.frames import BaseFrame, load_frames, made_up_frames, tile_of
from rt4ksr_loadtest.gates import judge
from rt4ksr_loadtest.machine import machine_facts
from rt4ksr_loadtest.options import LoadOptions, nominal_size_px
from rt4ksr_loadtest.probe import Probe
from rt4ksr_loadtest.profiles import Course
from rt4ksr_loadtest.recorder import Recorder
from rt4ksr_loadtest.result import RunResult, Settings

__all__ = ["LoadRun", "all_runs", "cooperative_grpc", "run_of", "set_run"]

MADE_UP_FRAMES: Final = 2
DRAIN: Final = "rt4ksr_drain"
DRAINED: Final = "rt4ksr_drained"
GRACE_S: Final = 3.0
NAP_S: Final = 0.05

_runs: weakref.WeakKeyDictionary[Environment, LoadRun] = weakref.WeakKeyDictionary()


def run_of(environment: Environment) -> LoadRun:
    """Return the run of Locust's ``environment``."""
    return _runs[environment]


def set_run(environment: Environment, run: LoadRun) -> None:
    """Make ``run`` the one of ``environment``."""
    _runs[environment] = run


def all_runs() -> tuple[LoadRun, ...]:
    """Return the runs of this process: one, in practice."""
    return tuple(_runs.values())


def cooperative_grpc() -> None:
    """Make gRPC let other greenlets run while it waits; harmless a second time.

    After a fork only: gRPC's threads do not survive one.
    """
    from grpc.experimental import gevent as grpc_gevent

    grpc_gevent.init_gevent()


@dataclass(frozen=True)
class Job:
    """What is sent to one model, and what its answers are held against."""

    bases: tuple[BaseFrame, ...]
    checker: Checker

    def pick(self, rng: random.Random) -> tuple[int, BaseFrame]:
        """Return one of the base frames and its index."""
        index = rng.randrange(len(self.bases))
        return index, self.bases[index]


class LoadRun:
    """Everything of one run; begun by Locust's ``test_start``, and again in the web page.

    Workers record. The master adds up what they send and looks at the server. A run in a single
    process does both.
    """

    def __init__(self, environment: Environment, options: LoadOptions) -> None:
        self._environment = environment
        self.options = options
        self.course: Course | None = None
        self.recorder = Recorder()
        self.collected = Collected()
        self.probe: Probe | None = None
        self.result: RunResult | None = None
        self.draining = False
        self.start_s = self.stop_s = 0.0
        self._levels: list[Level] = []
        self._jobs: dict[str, Job] = {}
        self._making = RLock()
        self._drained: set[str] = set()
        self._silent: set[str] = set()
        self._sampler: gevent.Greenlet | None = None

    @property
    def is_worker(self) -> bool:
        """Whether another process collects."""
        return isinstance(self._environment.runner, WorkerRunner)

    @property
    def is_master(self) -> bool:
        """Whether other processes send the requests."""
        return isinstance(self._environment.runner, MasterRunner)

    @property
    def measured_from_s(self) -> float:
        """Wall-clock time of the end of the warm-up."""
        return self.start_s + self.options.warm_up_s

    def begin(self, options: LoadOptions) -> None:
        """Start recording."""
        self.options = options
        self.recorder, self.collected, self._levels = Recorder(), Collected(), []
        self._drained, self._silent = set(), set()
        self.draining, self.result, self.stop_s = False, None, 0.0
        self._jobs.clear()
        self.start_s = time.time()
        if not self.is_worker:
            cooperative_grpc()
            self.probe = Probe(options)
            self.probe.look()
        self._sampler = gevent.spawn(self._sample_for_ever)

    def job(self, model: str, transport: Transport) -> Job:
        """Return what to send to ``model``; made at the first call.

        Raises:
            ServerError: the server does not say what the model is.

        """
        with self._making:
            if model in self._jobs:
                return self._jobs[model]
            served = transport.served_model(model, timeout_s=self.options.timeout_s)
            rng = random.Random()  # noqa: S311 - no secret
            checker = Checker(served.scale, served.halo_px, self.options.check_share, rng)
            job = self._jobs[model] = Job(self._bases(model), checker)
        return job

    def absorb(self, worker: str, slots: dict[int, dict[str, Any]]) -> None:
        """Add what a worker sent."""
        self.collected.absorb(worker, slots)

    def worker_drained(self, worker: str, slots: dict[int, dict[str, Any]]) -> None:
        """Add a worker's last slots."""
        self.absorb(worker, slots)
        self._drained.add(worker)

    def level_ended(self, level: Level) -> None:
        """Note a level of a profile."""
        self._levels.append(level)

    def drain(self) -> None:
        """Send nothing more, and wait for the answers under way, here or at the workers."""
        if self.draining or not self.start_s:
            return
        self.stop_s = time.time()
        self.draining = True
        if self.is_master:
            self._drain_workers()
            return
        deadline_s = time.monotonic() + self.options.timeout_s + GRACE_S
        while self.recorder.in_flight and time.monotonic() < deadline_s:
            gevent.sleep(NAP_S)

    def finish(self) -> RunResult | None:
        """Drain, look a last time, and return the result; None for a worker, or a second time."""
        self.drain()
        if self._sampler is None:
            return None
        self._sampler.kill()
        self._sampler = None
        if self.is_worker or self.probe is None:
            return None
        self._sample()
        self.result = self._result(self.probe)
        self.probe.close()
        return self.result

    def _drain_workers(self) -> None:
        runner: Any = self._environment.runner
        clients = runner.clients
        waited = {c.id for c in (*clients.running, *clients.spawning)} - self._drained
        runner.send_message(DRAIN)
        deadline_s = time.monotonic() + self.options.timeout_s + GRACE_S
        while not waited <= self._drained and time.monotonic() < deadline_s:
            waited -= {c.id for c in clients.missing}
            gevent.sleep(NAP_S)
        self._silent = waited - self._drained

    def _sample_for_ever(self) -> None:
        while True:
            gevent.sleep(1 - time.time() % 1)
            self._sample()

    def _sample(self) -> None:
        if not self.is_master:
            self.recorder.sample()
        if not self.is_worker:
            if not self.is_master:
                self.absorb("this process", self.recorder.take())
            if self.probe is not None:
                self.probe.look()

    def _bases(self, model: str) -> tuple[BaseFrame, ...]:
        options = self.options
        if options.frames is not None:
            bases = load_frames(options.frames, options.tile_px)
        else:
            width, height = options.frame_px or nominal_size_px(model)
            bases = made_up_frames(width, height, MADE_UP_FRAMES, seed=1)
        if options.tile_px is not None:
            rng = random.Random(1)  # noqa: S311 - no secret
            bases = [tile_of(base, options.tile_px, rng) for base in bases for _ in range(4)]
        return tuple(bases)

    def _result(self, probe: Probe) -> RunResult:
        options, collected = self.options, self.collected
        start_s, stop_s = self.measured_from_s, max(self.stop_s, self.measured_from_s)
        levels = list(self._levels)
        if self.course is not None and (current := self.course.current()) is not None:
            levels.append(current)
        steps = tuple(collected.step(level, self.start_s) for level in levels)
        result = RunResult(
            started_at=datetime.fromtimestamp(self.start_s).astimezone().isoformat("T", "seconds"),
            settings=self._settings(),
            machine=machine_facts(options, probe.on_this_host),
            measured_s=stop_s - start_s,
            totals=collected.totals(start_s, stop_s),
            latency=latency_of(collected.since(start_s).latencies_us),
            server=server_work(probe, start_s),
            generator=collected.generator(start_s, stop_s, is_open=options.is_open),
            intervals=collected.intervals(self.start_s, start_s, probe.seconds),
            steps=steps if len(steps) > 1 else (),
            knee=knee_of(steps, options.objectives.p99_ms) if len(steps) > 1 else None,
            outages=collected.outages(self.start_s),
        )
        result = replace(result, verdicts=judge(result, options.objectives))
        return replace(result, warnings=warnings_of(result, sorted(self._silent)))

    def _settings(self) -> Settings:
        options = self.options
        sizes = {
            model: (job.bases[0].pixels.shape[1], job.bases[0].pixels.shape[0])
            for model, job in self._jobs.items()
        }
        for model in options.shares:
            sizes.setdefault(model, self._size(model))
        return Settings(
            profile=options.profile or "none",
            load_model="open" if options.is_open else "closed",
            url=options.url,
            transport=options.transport,
            models=options.shares,
            input_size_px=sizes,
            users=options.users,
            rate_fps=options.rate_fps,
            arrivals=options.arrivals if options.is_open else None,
            duration_s=(self.stop_s or time.time()) - self.start_s,
            warmup_s=options.warm_up_s,
            workers=max(1, len(self.collected.worker_cpu_s)),
            frames=str(options.frames) if options.frames else "made up",
        )

    def _size(self, model: str) -> tuple[int, int]:
        if self.options.tile_px:
            return self.options.tile_px, self.options.tile_px
        return self.options.frame_px or nominal_size_px(model)
