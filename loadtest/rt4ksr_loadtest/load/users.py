"""The users: in the closed loop one waits for its answers, in the open loop its frames are due at
fixed times.

Locust runs them as greenlets, so all that they call has to be cooperative: sockets and locks of the
standard library are made so by Locust, gRPC by :func:`make_grpc_cooperative`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

import gevent
from gevent.pool import Pool
from locust import User, constant, task

from rt4ksr_client.call import Call
from rt4ksr_client.errors import (
    AccessDeniedError,
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
    TlsError,
)
from rt4ksr_client.transports import open_transport
from rt4ksr_loadtest.load.answers import WrongPictureError
from rt4ksr_loadtest.load.frames import stamp_frame
from rt4ksr_loadtest.measurement.recorder import NO_SERVER
from rt4ksr_loadtest.result import FRAME_PX
from rt4ksr_loadtest.run import LoadRun, make_grpc_cooperative, run_of

__all__ = ["FAILURE_KINDS", "FrameUser"]

FAILURE_KINDS: Final[Mapping[type[Exception], str]] = MappingProxyType(
    {
        WrongPictureError: "wrong picture",
        OverloadedError: "overloaded",
        DeadlineExceededError: "timeout",
        TlsError: "TLS",
        ServerUnreachableError: "unreachable",
        AccessDeniedError: "access denied",
        ModelNotReadyError: "not ready",
        InvalidRequestError: "refused",
        ServerError: "server error",
    }
)
"""What a failure is called in a result; the first class that fits."""

MOST_IN_FLIGHT: Final = 256
"""Per user of the open loop. More requests wait here, which counts as latency."""

NO_SERVER_PAUSE_S: Final = 0.2
POLL_S: Final = 0.2

logger = logging.getLogger(__name__)


class FrameUser(User):
    """Sends frames over a transport of its own, the client's.

    In the closed loop it sends the next frame when the last answer has arrived. In the open loop it
    is a stream: frames are due at fixed times, and latency counts from when one was due.
    """

    wait_time = constant(0)
    _numbers: ClassVar = itertools.count(random.SystemRandom().randrange(1 << 31))

    def on_start(self) -> None:
        """Open the transport, not before: Locust may fork after the import."""
        make_grpc_cooperative()
        self._run: LoadRun = run_of(self.environment)
        self._options = self._run.options
        self._rng = random.Random()  # noqa: S311 - no secret
        self._transport = open_transport(self._options.connection)
        self._pool = Pool(MOST_IN_FLIGHT)
        with contextlib.suppress(ServerError):  # the first request asks again
            for model in self._options.shares:
                self._run.workload(model, self._transport)
        self._due_s = time.perf_counter()
        if self._options.is_open:  # so that streams that start together do not send together
            self._due_s += self._rng.random() / self._options.rate_fps_per_user
        self._run.recorder.users += 1

    def on_stop(self) -> None:
        """Wait for the answers in flight, then close the transport."""
        self._pool.join(timeout=self._options.timeout_s)
        self._pool.kill()
        self._transport.close()
        self._run.recorder.users -= 1

    @task
    def send_next_frame(self) -> None:
        """Send one frame, or in the open loop wait for the time when it is due."""
        if self._run.draining:
            gevent.sleep(POLL_S)
        elif self._options.is_open:
            self._send_when_due()
        else:
            self._run.recorder.offered(time.time())
            if self._send() in NO_SERVER:
                gevent.sleep(NO_SERVER_PAUSE_S)

    def _send_when_due(self) -> None:
        wait_s = self._due_s - time.perf_counter()
        if wait_s > 0:
            gevent.sleep(min(wait_s, POLL_S))
        if time.perf_counter() < self._due_s:
            return  # Locust looks whether the run is over, then calls again
        due_s, rate_fps = self._due_s, self._options.rate_fps_per_user
        is_poisson = self._options.arrivals == "poisson"
        self._due_s += self._rng.expovariate(rate_fps) if is_poisson else 1 / rate_fps
        self._run.recorder.offered(time.time() - (time.perf_counter() - due_s))
        self._pool.spawn(self._send, due_s)

    def _send(self, due_s: float | None = None) -> str | None:
        """Send a frame, which was due at ``due_s`` or is now; return the kind of failure."""
        recorder = self._run.recorder
        recorder.begun()
        shares = self._options.shares
        (model,) = self._rng.choices(list(shares), list(shares.values()))
        failure: Exception | None = None
        size_bytes, latency_s = 0, 0.0
        try:
            workload = self._run.workload(model, self._transport)
            index = self._rng.randrange(len(workload.frames))
            number = next(self._numbers)
            sent = stamp_frame(workload.frames[index].planes, workload.model.inputs, number)
            start_s = time.perf_counter()
            if due_s is not None:
                recorder.late(start_s - due_s)
                start_s = due_s
            try:
                upscaled = self._transport.upscale(
                    workload.model, sent, Call(self._options.timeout_s)
                )
            finally:
                latency_s = time.perf_counter() - start_s
            size_bytes = sum(plane.nbytes for plane in upscaled)
            workload.checker.check(index, sent, number, upscaled)
            _, height_px, width_px, _ = upscaled[0].shape
            sent_bytes = sum(plane.nbytes for plane in sent)
            recorder.right(latency_s, height_px * width_px / FRAME_PX, sent_bytes + size_bytes)
        except (ServerError, WrongPictureError) as exc:
            failure = exc
            self._record_failure(exc)
        except BaseException:  # the run ended without waiting for it
            recorder.failed("cut off")
            raise
        self.environment.events.request.fire(
            request_type=self._transport.route.transport,
            name=model,
            response_time=latency_s * 1e3,
            response_length=size_bytes,
            exception=failure,
            context={},
        )
        return None if failure is None else kind_of(failure)

    def _record_failure(self, failure: Exception) -> None:
        """Count a failure; log the first of each kind for -v, and all of them for -vv."""
        kind, seen = kind_of(failure), self._run.failures_seen
        self._run.recorder.failed(kind)
        level = logging.DEBUG if kind in seen else logging.INFO
        seen.add(kind)
        logger.log(level, "request failed (%s): %s", kind, failure)


def kind_of(failure: Exception) -> str:
    """Return what a failure is called in a result."""
    return next(kind for error, kind in FAILURE_KINDS.items() if isinstance(failure, error))
