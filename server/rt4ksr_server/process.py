"""A tritonserver process under its supervisor, as the program that started it sees it."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from rt4ksr_client.errors import ServerStartError
from rt4ksr_server import supervisor
from rt4ksr_server.installation import Installation

__all__ = ["TAIL_LINES", "SupervisedProcess"]

TAIL_LINES: Final = 1000
_GRACE_S: Final = 3.0
"""How much longer than ``--exit-timeout-secs`` tritonserver may take to end its models."""


class SupervisedProcess:
    """One run of tritonserver. Raises :class:`ServerStartError` if it cannot even be started.

    ``log`` gets every line that tritonserver prints, from a thread of its own; a line it raises
    an exception for is lost to it, not to :meth:`tail`. ``exit_timeout_s`` bounds the draining.
    """

    def __init__(
        self,
        installation: Installation,
        arguments: list[str],
        *,
        ports: Mapping[str, int],
        region_prefix: str,
        exit_timeout_s: float,
        log: Callable[[str], None] | None,
    ) -> None:
        scratch = tempfile.mkdtemp(prefix="rt4ksr-")
        try:
            further, environment = installation.prepare(Path(scratch))
            spec = supervisor.Spec(
                command=[str(installation.binary), *further, *arguments],
                parent_pid=os.getpid(),
                drain_timeout_s=exit_timeout_s + _GRACE_S,
                ports=ports,
                region_prefix=region_prefix,
                scratch_directory=scratch,
                may_skip_unloading=installation.wheel is not None
                and not any(argument.startswith("--trace") for argument in arguments),
            )
            self._supervisor = _start_supervisor(spec, environment)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        # From here on the supervisor removes the folder.
        self._stop_timeout_s = spec.drain_timeout_s + _GRACE_S
        self._tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._reader = threading.Thread(target=self._read_log, args=(log,), daemon=True)
        self._reader.start()
        try:
            self.pid = self._read_pid()
        except BaseException:
            self.stop()
            raise

    def tail(self) -> list[str]:
        """Return the last lines tritonserver printed, at most :data:`TAIL_LINES`."""
        return list(self._tail)

    def poll(self) -> int | None:
        """Return the exit status, 128 + N for one that signal N ended, or None while it runs."""
        return self._supervisor.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until it and everything it left is gone; return its exit status.

        Raises :class:`subprocess.TimeoutExpired`.
        """
        status = self._supervisor.wait(timeout_s)
        self._reader.join(1.0)  # the last lines are worth waiting for
        for stream in (self._supervisor.stdout, self._supervisor.stderr):
            if stream is not None and not self._reader.is_alive():
                stream.close()
        return status

    def stop(self) -> int:
        """Drain it, end it, and return its exit status. Does nothing to one that has ended."""
        self._supervisor.terminate()
        try:
            return self.wait(self._stop_timeout_s)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()  # the kernel then kills tritonserver
            return self.wait()

    def _read_pid(self) -> int:
        assert self._supervisor.stdout is not None  # noqa: S101 - it was asked for as a pipe
        with self._supervisor.stdout as stdout:
            line = stdout.readline()
        if not line:
            self.wait()
            raise ServerStartError("\n".join(self.tail()) or "tritonserver cannot be run")
        return int(line)

    def _read_log(self, log: Callable[[str], None] | None) -> None:
        stream = self._supervisor.stderr
        assert stream is not None  # noqa: S101 - it was asked for as a pipe
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip()
                self._tail.append(line)
                if supervisor.NO_REQUEST_IN_FLIGHT in line:
                    self._supervisor.send_signal(signal.SIGUSR1)
                # Reading must go on whatever becomes of the sink (a closed pipe, mostly): were
                # our pipe full, tritonserver would halt.
                with contextlib.suppress(Exception):
                    if log is not None:
                        log(line)


def _start_supervisor(
    spec: supervisor.Spec, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -I: neither the PYTHON* variables meant for the stub nor the current folder apply.
        [sys.executable, "-I", supervisor.__file__, spec.to_json()],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in a terminal is for the program, which then drains
    )
