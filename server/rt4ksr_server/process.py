"""A tritonserver process under its supervisor, as the program that started it sees it."""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Final

from rt4ksr_client.errors import ServerStartError
from rt4ksr_server import supervisor
from rt4ksr_server.installation import Installation

__all__ = ["LOG_LINES", "ServerLog", "SupervisedProcess"]

LOG_LINES: Final = 1000
"""How many lines of tritonserver's log are kept."""

GRACE_S: Final = 3.0
"""How much longer than ``--exit-timeout-secs`` tritonserver may take to end its models."""

COUNTED_AS_FAILED: Final = "Non-decoupled model cannot send more than one response."
"""Logged when a model of ``backends/onnxruntime`` counts rejected requests: tells nothing new."""

logger = logging.getLogger(__name__)


class ServerLog:
    """The last lines that tritonserver printed, at most :data:`LOG_LINES`.

    ``forward`` gets every line as well; a line for which it raises an exception is kept here.
    """

    def __init__(self, forward: Callable[[str], object] | None = None) -> None:
        self._forward = forward
        self._lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)

    def append(self, line: str) -> None:
        """Keep and forward ``line``."""
        self._lines.append(line)
        # Reading must go on whatever becomes of the receiver (a closed pipe, mostly): were our
        # pipe full, tritonserver would halt.
        with contextlib.suppress(Exception):
            if self._forward is not None:
                self._forward(line)

    def tail(self, lines: int = LOG_LINES) -> list[str]:
        """Return the last ``lines`` lines."""
        return list(self._lines)[-lines:]

    def explanation(self, lines: int = 30) -> str:
        """Return at most ``lines`` of the lines that may say why tritonserver failed.

        That is rarely among the tables, the notices and the help text that follow it.
        """
        before_help = itertools.takewhile(
            lambda line: not line.startswith("Usage: tritonserver"), self.tail()
        )
        tail = list(before_help)
        routine = re.compile(r"I\d{4} |[|+]|Error: Failed to initialize NVML")
        telling = [line for line in tail if line and not routine.match(line)]
        return "\n".join((telling or tail)[-lines:])


class SupervisedProcess:
    """One run of tritonserver: see :meth:`start`.

    ``process`` is the one that runs :mod:`rt4ksr_server.supervisor`, its outputs piped.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        stop_timeout_s: float,
        log: Callable[[str], object] | None,
    ) -> None:
        self._supervisor = process
        self._stop_timeout_s = stop_timeout_s
        self.log = ServerLog(log)
        stdout, stderr = process.stdout, process.stderr
        assert stdout is not None and stderr is not None  # noqa: S101 - they are piped
        self._reader = threading.Thread(target=self._read_log, args=(stderr,), daemon=True)
        self._reader.start()
        try:
            with stdout:
                pid = stdout.readline()
            if not pid:
                self.wait()
                raise ServerStartError(self.log.explanation() or "tritonserver cannot be run")
        except BaseException:
            self.stop()
            raise
        self.pid = int(pid)
        """Process id of tritonserver itself."""

    @classmethod
    def start(
        cls,
        installation: Installation,
        arguments: list[str],
        *,
        ports: Mapping[str, int],
        environment: Mapping[str, str],
        region_prefix: str,
        exit_timeout_s: float,
        log: Callable[[str], object] | None,
    ) -> SupervisedProcess:
        """Run tritonserver.

        Args:
            installation: the tritonserver to run.
            arguments: its command line after the program's name.
            ports: of its services, by name.
            environment: variables beside those that the installation needs.
            region_prefix: what the names of its shared memory regions start with.
            exit_timeout_s: how long requests in flight may take to finish when it is stopped.
            log: gets every line that tritonserver prints, from another thread.

        Raises:
            ServerStartError: it cannot be run at all.

        """
        scratch = tempfile.mkdtemp(prefix="rt4ksr-")
        try:
            flags = installation.prepare(Path(scratch))
            spec = supervisor.Spec(
                command=[str(installation.binary), *flags, *arguments],
                parent_pid=os.getpid(),
                drain_timeout_s=exit_timeout_s + GRACE_S,
                ports=ports,
                region_prefix=region_prefix,
                scratch_directory=scratch,
                may_skip_unloading=installation.wheel is not None
                and not any(argument.startswith("--trace") for argument in arguments),
            )
            # Keys to restricted endpoints are among the flags, and do not belong in a log.
            shown = [re.sub(r"(restricted[\w-]*=).*", r"\1...", word) for word in spec.command]
            logger.info("Starting %s", shlex.join(shown))
            process = subprocess.Popen(
                # -I: neither the PYTHON* variables meant for the stub nor the current folder apply.
                [sys.executable, "-I", supervisor.__file__, spec.to_json()],
                env={**installation.environment(Path(scratch)), **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C in a terminal is for this program, which drains it
            )
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        # From here on the supervisor removes the folder.
        return cls(process, spec.drain_timeout_s + GRACE_S, log)

    def poll(self) -> int | None:
        """Return the exit status, 128 + N for one that signal N ended, or None while it runs."""
        return self._supervisor.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until it and everything it left is gone; return its exit status.

        Raises:
            subprocess.TimeoutExpired: it runs for longer than ``timeout_s``.

        """
        status = self._supervisor.wait(timeout_s)
        self._reader.join(1.0)  # the last lines are worth waiting for
        return status

    def stop(self) -> int:
        """Drain it, end it, and return its exit status. Does nothing to one that has ended."""
        self._supervisor.terminate()
        try:
            return self.wait(self._stop_timeout_s)
        except subprocess.TimeoutExpired:
            logger.warning("Killing tritonserver: it did not stop in %g s", self._stop_timeout_s)
            self._supervisor.kill()  # the kernel then kills tritonserver
            return self.wait()

    def _read_log(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip()
                if COUNTED_AS_FAILED in line:
                    continue
                self.log.append(line)
                if supervisor.NO_REQUEST_IN_FLIGHT in line:
                    self._supervisor.send_signal(signal.SIGUSR1)
