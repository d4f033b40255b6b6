"""The users of the load: one that waits for its answers, and one whose frames come regardless.

Locust runs them as greenlets, so what they call must be cooperative: sockets and locks of the
standard library are made so by Locust, gRPC by :func:`cooperative_grpc`.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final

import gevent
from gevent.pool import Pool
from locust import User, constant, task

from rt4ksr_client.connection import Connection
from rt4ksr_client.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
)
from rt4ksr_client.transports import open_transport
from rt4ksr_loadtest.checking import WrongPictureError
from rt4ksr_loadtest.collect import FRAME_PX
from rt4ksr_loadtest.frames import stamped
from rt4ksr_loadtest.recorder import GONE
from rt4ksr_loadtest.run import LoadRun, cooperative_grpc, run_of

__all__ = ["KINDS", "FrameUser"]

KINDS: Final[Mapping[type[Exception], str]] = MappingProxyType(
    {
        WrongPictureError: "wrong picture",
        OverloadedError: "overloaded",
        DeadlineExceededError: "timeout",
        ServerUnreachableError: "unreachable",
        ModelNotReadyError: "not ready",
        InvalidRequestError: "refused",
        ServerError: "server error",
    }
)
"""What a failure is called; the first that fits."""

MOST_IN_FLIGHT: Final = 256
"""Of one user of the open loop; beyond it, requests wait here, which their latency includes."""

GONE_PAUSE_S: Final = 0.2
NAP_S: Final = 0.2


class FrameUser(User):
    """Sends frames over one transport of its own, which is the client's.

    In the closed loop it sends the next frame when the last answer has come. In the open loop it
    is a stream: frames are due at times fixed ahead, and latency counts from when one was due.
    """

    wait_time = constant(0)
    _numbers: ClassVar = itertools.count(random.SystemRandom().randrange(1 << 31))

    def on_start(self) -> None:
        """Open the transport: here and not before, for Locust may fork after the import."""
        cooperative_grpc()
        self._run: LoadRun = run_of(self.environment)
        self._options = self._run.options
        self._rng = random.Random()  # noqa: S311 - no secret
        self._transport = open_transport(Connection(self._options.url, self._options.transport))
        self._pool = Pool(MOST_IN_FLIGHT)
        with contextlib.suppress(ServerError):  # a server that is not there yet is asked again
            for model in self._options.shares:
                self._run.job(model, self._transport)
        self._due_s = time.perf_counter()
        if self._options.is_open:  # streams that start together need not stay so
            self._due_s += self._rng.random() / self._options.rate_fps_per_user
        self._run.recorder.users += 1

    def on_stop(self) -> None:
        """Wait for what is under way, then close the transport."""
        self._pool.join(timeout=self._options.timeout_s)
        self._pool.kill()
        self._transport.close()
        self._run.recorder.users -= 1

    @task
    def frame(self) -> None:
        """Send one frame."""
        if self._run.draining:
            gevent.sleep(NAP_S)
        elif self._options.is_open:
            self._send_when_due()
        else:
            self._run.recorder.offered(time.time())
            if self._send() in GONE:
                gevent.sleep(GONE_PAUSE_S)

    def _send_when_due(self) -> None:
        wait_s = self._due_s - time.perf_counter()
        if wait_s > 0:
            gevent.sleep(min(wait_s, NAP_S))
        if time.perf_counter() < self._due_s:
            return  # so that the end of the run is noticed
        due_s = self._due_s
        self._due_s += self._pause_s()
        self._run.recorder.offered(time.time() - (time.perf_counter() - due_s))
        self._pool.spawn(self._send, due_s)

    def _pause_s(self) -> float:
        rate_fps = self._options.rate_fps_per_user
        poisson = self._options.arrivals == "poisson"
        return self._rng.expovariate(rate_fps) if poisson else 1 / rate_fps

    def _send(self, due_s: float | None = None) -> str | None:
        """Send a frame, which was due at ``due_s`` or is now; return the kind of failure."""
        recorder = self._run.recorder
        recorder.begun()
        failure: Exception | None = None
        model, size_bytes, latency_s = self._model(), 0, 0.0
        try:
            job = self._run.job(model, self._transport)
            index, base = job.pick(self._rng)
            number = next(self._numbers)
            sent = stamped(base.pixels, number)
            now_s = time.perf_counter()
            start_s = now_s if due_s is None else due_s
            recorder.late(now_s - start_s)
            try:
                upscaled = self._transport.infer(model, sent, timeout_s=self._options.timeout_s)
            finally:
                latency_s = time.perf_counter() - start_s
            size_bytes = upscaled.nbytes
            job.checker.check(index, sent, number, upscaled)
            frames = upscaled.shape[1] * upscaled.shape[2] / FRAME_PX
            recorder.right(latency_s, frames, sent.nbytes + size_bytes)
        except (ServerError, WrongPictureError) as exc:
            failure = exc
            recorder.failed(kind_of(exc))
        except BaseException:  # the run was ended without waiting for it
            recorder.failed("cut off")
            raise
        self._tell_locust(model, latency_s, size_bytes, failure)
        return None if failure is None else kind_of(failure)

    def _model(self) -> str:
        shares = self._options.shares
        return self._rng.choices(list(shares), list(shares.values()))[0]

    def _tell_locust(
        self, model: str, latency_s: float, size_bytes: int, failure: Exception | None
    ) -> None:
        facts: dict[str, Any] = {"request_type": self._transport.name, "name": model}
        self.environment.events.request.fire(
            **facts,
            response_time=latency_s * 1e3,
            response_length=size_bytes,
            exception=failure,
            context={},
        )


def kind_of(failure: Exception) -> str:
    """Return what a failure is called in a result."""
    return next(kind for error, kind in KINDS.items() if isinstance(failure, error))
