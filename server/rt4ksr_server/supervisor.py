"""Keeps one tritonserver: a small process between it and the program that asked for it.

Whatever happens to that program (an ordinary stop, ``kill -9``, a thread that ends), this process
outlives it just long enough to drain tritonserver and to remove what tritonserver cannot remove
itself: its Python stubs, their shared memory and the temporary backend folder. It ends when

- tritonserver ends,
- it receives SIGTERM or SIGINT, or
- the program that started it is gone (its parent process is no longer the one it was born with).

Should this process be killed itself, the kernel kills tritonserver (``PR_SET_PDEATHSIG``; the rule
that ties that signal to a *thread* is harmless here, for this process has only one).

It is run by path, as ``python -I supervisor.py SPEC``, with the standard library alone. ``SPEC``
is the JSON form of :class:`Spec`. The process id of tritonserver goes to stdout as one line; both
outputs of tritonserver go to stderr.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

POLL_INTERVAL_S = 0.2
SHUTDOWN_TIMEOUT_S = 1.5
"""How long tritonserver may take to end once its last model is unloaded."""

SHARED_MEMORY_DIRECTORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
_WAITED_SIGNALS = {*_STOP_SIGNALS, signal.SIGCHLD}


@dataclass(frozen=True)
class Spec:
    """What to run, and what to remove afterwards. The environment is this process's own.

    ``drain_timeout_s`` is how long tritonserver may take between SIGTERM and SIGKILL;
    ``region_prefix`` is what the names of its shared memory regions start with.
    """

    command: list[str]
    parent_pid: int
    drain_timeout_s: float
    region_prefix: str
    scratch_directory: str

    def to_json(self) -> str:
        """Return the form that the command line takes."""
        return json.dumps(asdict(self))


def supervise(spec: Spec) -> int:
    """Run tritonserver until one of the reasons above ends it; return its exit status."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Orphaned stubs become our children, so that we know when the last of them is gone.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, _WAITED_SIGNALS)

    def in_child() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    try:
        triton = subprocess.Popen(
            spec.command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,  # one process group: tritonserver and its stubs
            restore_signals=False,  # SIGPIPE stays ignored: a reader that died must not kill it
            preexec_fn=in_child,
        )
        with contextlib.suppress(BrokenPipeError):
            print(triton.pid, flush=True)  # noqa: T201 - its pipes are its interface
        _wait_for_a_reason_to_stop(triton, spec.parent_pid)
        return _drain(triton, spec.drain_timeout_s)
    except OSError as error:
        print(f"cannot run {spec.command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201 - its pipes are its interface
        return 127
    finally:
        _clean_up(spec)


def _wait_for_a_reason_to_stop(triton: subprocess.Popen[bytes], parent_pid: int) -> None:
    while triton.poll() is None and os.getppid() == parent_pid:
        received = signal.sigtimedwait(_WAITED_SIGNALS, POLL_INTERVAL_S)
        if received is not None and received.si_signo in _STOP_SIGNALS:
            return


def _drain(triton: subprocess.Popen[bytes], timeout_s: float) -> int:
    """Stop it and return its exit status; 0 when only its own shutdown was cut short."""
    unloaded = False
    if triton.poll() is None:
        had_models = _has_children(triton.pid)
        triton.terminate()
        deadline_s = time.monotonic() + timeout_s
        while triton.poll() is None and time.monotonic() < deadline_s:
            if had_models and not unloaded and not _has_children(triton.pid):
                # Every request is answered and every model unloaded. What is left is gRPC's
                # shutdown, which waits up to 10 s for a poller that large messages leave behind.
                unloaded = True
                deadline_s = min(deadline_s, time.monotonic() + SHUTDOWN_TIMEOUT_S)
            time.sleep(0.02)
    # Also after a clean exit: the group may still hold stubs, and keeps its id while it does.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(triton.pid, signal.SIGKILL)
    status = triton.wait()
    return 0 if unloaded and status == -signal.SIGKILL else status


def _has_children(pid: int) -> bool:
    """Whether a process has child processes: for tritonserver, the stubs of its Python models."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    with contextlib.suppress(OSError):
        return any(children.read_text().strip() for children in lists)
    return False


def _clean_up(spec: Spec) -> None:
    deadline_s = time.monotonic() + 5.0
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline_s:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
    for region in SHARED_MEMORY_DIRECTORY.glob(f"{spec.region_prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(spec.scratch_directory, ignore_errors=True)


if __name__ == "__main__":
    status = supervise(Spec(**json.loads(sys.argv[1])))
    sys.exit(status if status >= 0 else 128 - status)
