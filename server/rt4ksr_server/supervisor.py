"""Runs one tritonserver: a small process between it and the program that asked for it.

Whatever happens to that program (an ordinary stop, ``kill -9``, a thread that ends), this process
outlives it just long enough to drain tritonserver and to remove what tritonserver cannot remove
itself: its Python stubs, their shared memory and its temporary files. It ends when

- tritonserver ends,
- it receives SIGTERM or SIGINT, or
- the program that started it is gone (its parent process is no longer the one it was born with).

If this process is killed itself, the kernel kills tritonserver (``PR_SET_PDEATHSIG``; the rule
that ties that signal to a *thread* is harmless here, because this process has only one).

Left to itself, a tritonserver 24.10 with nothing to do takes 3 s to stop: its Python backend waits
1 s for a sign of life from each stub, the server looks once a second whether its models are
unloaded, and after a large gRPC message gRPC takes up to 10 s to shut down. An idle keep-alive
connection to its HTTP port costs the whole exit timeout. Therefore idle HTTP connections are closed
here, and a tritonserver that has no request left to answer and no model to finalize is killed.

It is run by path, as ``python -I supervisor.py SPEC``, with the standard library alone. ``SPEC``
is the JSON form of :class:`Spec`. The process id of tritonserver goes to stdout as one line; both
outputs of tritonserver go to stderr. SIGUSR1 says that tritonserver has reported
:data:`NO_REQUEST_IN_FLIGHT`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

NO_REQUEST_IN_FLIGHT = "0 in-flight non-inference requests"
"""tritonserver logs this while it stops, after its last inference is done."""
DISPOSABLE_STUB = "rt4ksr_model"
"""Name (``/proc/PID/comm``) that this project's Python models give their stub: nothing to finalize,
so it may be killed between two requests."""

POLL_INTERVAL_S = 0.2
DRAIN_INTERVAL_S = 0.02
SHUTDOWN_TIMEOUT_S = 1.5
"""How long tritonserver may take to end once its last model is unloaded."""
QUIET_S = 0.3
"""How long no connection may hold data before the last answer counts as received."""
IDLE_S = 0.2
"""How long ago the last answer of an HTTP connection must have been sent to call it idle."""

SHARED_MEMORY_DIRECTORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
TEMPORARY_DIRECTORY = Path("/tmp")  # noqa: S108 - where the Python backend puts its folder

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
SYS_PIDFD_OPEN = 434  # the same numbers on every architecture; not every Python has os.pidfd_open
SYS_PIDFD_GETFD = 438
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
WAITED_SIGNALS = {*STOP_SIGNALS, signal.SIGCHLD, signal.SIGUSR1}

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Spec:
    """What to run, and what to remove afterwards. The environment is this process's own.

    ``drain_timeout_s`` is how long tritonserver may take between SIGTERM and SIGKILL; ``ports``
    are those of its services by name; ``region_prefix`` starts the names of its shared memory
    regions; ``may_skip_unloading`` says that its stubs are all there is to unload, and that it
    writes nothing when it ends.
    """

    command: list[str]
    parent_pid: int
    drain_timeout_s: float
    ports: Mapping[str, int]
    region_prefix: str
    scratch_directory: str
    may_skip_unloading: bool

    def to_json(self) -> str:
        """Return the form that the command line takes."""
        return json.dumps(asdict(self))


def supervise(spec: Spec) -> int:
    """Run tritonserver until one of the reasons above ends it; return its exit status."""
    # Orphaned stubs become our children, so that we know when the last of them is gone.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, WAITED_SIGNALS)

    def in_child() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    others = environment_folders()
    own: set[Path] | None = None
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
        while triton.poll() is None and os.getppid() == spec.parent_pid:
            if own is None and child_pids(triton.pid):
                own = environment_folders() - others
            received = signal.sigtimedwait(WAITED_SIGNALS, POLL_INTERVAL_S)
            if received is not None and received.si_signo in STOP_SIGNALS:
                break
        return drain(triton, spec)
    except OSError as error:
        print(f"cannot run {spec.command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201 - its pipes are its interface
        return 127
    finally:
        remove_leftovers(spec, own or set())


def drain(triton: subprocess.Popen[bytes], spec: Spec) -> int:
    """Stop it and return its exit status; 0 when it was killed with nothing left to do."""
    finished = False
    if triton.poll() is None:
        had_stubs = bool(child_pids(triton.pid))
        answered, without_models, quiet = False, Lasting(), Lasting()
        deadline_s = time.monotonic() + spec.drain_timeout_s
        # Before SIGTERM, because after it tritonserver counts its connections once a second.
        last_try_s = time.monotonic() + IDLE_S + DRAIN_INTERVAL_S
        while not close_idle_http_connections(triton.pid, spec.ports):
            if time.monotonic() > last_try_s:
                break
            time.sleep(DRAIN_INTERVAL_S)
        triton.terminate()
        while not finished and triton.poll() is None and time.monotonic() < deadline_s:
            received = signal.sigtimedwait({signal.SIGUSR1, signal.SIGCHLD}, DRAIN_INTERVAL_S)
            unloaded = had_stubs and not child_pids(triton.pid)
            answered |= unloaded or (received is not None and received.si_signo == signal.SIGUSR1)
            if not answered:
                close_idle_http_connections(triton.pid, spec.ports)
                continue
            holding_data = connections_holding_data(spec.ports)
            quiet_s = quiet.duration_s(not any(holding_data) and not is_computing(triton.pid))
            if spec.may_skip_unloading:
                finished = has_disposable_stubs_only(triton.pid)
            else:
                finished = without_models.duration_s(unloaded) >= SHUTDOWN_TIMEOUT_S
            finished &= not holding_data or quiet_s >= QUIET_S
    # Also after a clean exit: the group may still hold stubs, and keeps its id while it does.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(triton.pid, signal.SIGKILL)
    status = triton.wait()
    return 0 if finished and status == -signal.SIGKILL else status


class Lasting:
    """How long a condition has held without a break."""

    def __init__(self) -> None:
        self._since_s = 0.0
        self._holds = False

    def duration_s(self, holds: bool) -> float:
        """Return for how many seconds it has held; -1 if it does not hold now."""
        if holds and not self._holds:
            self._since_s = time.monotonic()
        self._holds = holds
        return time.monotonic() - self._since_s if holds else -1.0


def child_pids(pid: int) -> list[str]:
    """Return the child processes of ``pid``: for tritonserver, the stubs of its Python models."""
    children: list[str] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            children += file.read_text().split()
    return children


def has_disposable_stubs_only(pid: int) -> bool:
    """Whether no model of tritonserver ``pid`` has anything to finalize."""
    try:
        names = [Path(f"/proc/{child}/comm").read_text().strip() for child in child_pids(pid)]
    except OSError:  # one that has just ended: tritonserver unloads already
        return False
    return all(name == DISPOSABLE_STUB for name in names)


def is_computing(pid: int) -> bool:
    """Whether a thread of ``pid`` runs, or would if it had a processor."""
    for file in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            if file.read_text().rpartition(")")[2].split()[0] == "R":
                return True
    return False


def connections_holding_data(ports: Mapping[str, int]) -> list[bool]:
    """Return for each TCP connection to ``ports`` whether it holds data that nobody has read.

    Both ends are listed of a connection from this host.
    """
    wanted = {f"{port:04X}" for port in ports.values()}
    established, half_closed = "01", "08"  # linux/tcp_states.h
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:  # no IPv6
            continue
        except OSError:  # not to be known here
            return [True]
        for row in rows:
            local, remote, state, queues = row.split()[1:5]
            servers_end = local.rpartition(":")[2] in wanted
            clients_end = remote.rpartition(":")[2] in wanted
            if (servers_end and state in (established, half_closed)) or (
                clients_end and state == established
            ):
                found.append(queues.strip("0:") != "")
    return found


def close_idle_http_connections(pid: int, ports: Mapping[str, int]) -> bool:
    """Close the HTTP connections of tritonserver ``pid`` that carry no request.

    Returns whether none is left that may be idle soon: has sent its answer just now, or waits for
    the rest of a request. Does nothing where the kernel does not permit it.
    """
    if "http" not in ports:
        return True
    process = libc.syscall(SYS_PIDFD_OPEN, pid, 0)
    if process < 0:
        return True
    none_left = True
    try:
        for number in sockets_waiting_for_data(pid):
            copy = libc.syscall(SYS_PIDFD_GETFD, process, number, 0)
            if copy < 0:
                continue
            with socket.socket(fileno=copy) as connection, contextlib.suppress(OSError):
                info = tcp_info(connection)
                if info is None or connection.getsockname()[1] != ports["http"]:
                    continue
                if is_idle(connection, info):
                    connection.shutdown(socket.SHUT_RDWR)
                else:
                    none_left = False
    finally:
        os.close(process)
    return none_left


def sockets_waiting_for_data(pid: int) -> list[int]:
    """Return the descriptors that ``pid`` waits to read from, and not to write to.

    A connection whose request tritonserver works on is not among them.
    """
    epoll_in, epoll_out = 1, 4
    found = []
    with contextlib.suppress(OSError):  # tritonserver, or one of its descriptors, has just gone
        links = Path(f"/proc/{pid}/fd").iterdir()
        targets = {link.name: str(link.readlink()) for link in links}
        for number, target in targets.items():
            if target != "anon_inode:[eventpoll]":
                continue
            for line in Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines():
                if line.startswith("tfd:"):
                    _, watched, _, events = line.split()[:4]
                    reading = int(events, 16) & (epoll_in | epoll_out) == epoll_in
                    if reading and targets.get(watched, "").startswith("socket:"):
                        found.append(int(watched))
    return found


def tcp_info(connection: socket.socket) -> bytes | None:
    """Return the kernel's ``struct tcp_info``; None if this is not an open TCP connection."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    established = 1  # linux/tcp_states.h
    is_complete = len(info) == 136
    return info if is_complete and info[0] == established else None


def is_idle(connection: socket.socket, info: bytes) -> bool:
    """Whether the server has sent last, a while ago, and the client has read it all.

    Also before the first request. ``info`` is the connection's ``struct tcp_info``.
    """
    sent_ago_ms, _, received_ago_ms = struct.unpack_from("3I", info, 44)
    (received_bytes,) = struct.unpack_from("Q", info, 128)
    queues = (
        fcntl.ioctl(connection, request, bytes(4))
        for request in (termios.TIOCOUTQ, termios.FIONREAD)
    )
    # The kernel counts in steps of some milliseconds. In a tie, a request may have come last.
    sent_last = sent_ago_ms < received_ago_ms or not received_bytes
    return sent_last and sent_ago_ms >= IDLE_S * 1000 and not any(map(any, queues))


def environment_folders() -> set[Path]:
    """Return the folders that Python backends on this host have made for their environments.

    Their place is fixed and their names are random. The backend removes its own only when
    tritonserver ends by itself.
    """
    return set(TEMPORARY_DIRECTORY.glob("python_env_*"))


def remove_leftovers(spec: Spec, environment: set[Path]) -> None:
    """Wait for the stubs to be gone; remove the shared memory and the temporary files."""
    deadline_s = time.monotonic() + 5.0
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline_s:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
    for region in SHARED_MEMORY_DIRECTORY.glob(f"{spec.region_prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(spec.scratch_directory, ignore_errors=True)
    if len(environment) == 1:  # of several, which one is ours cannot be told
        with contextlib.suppress(OSError):
            environment.pop().rmdir()


if __name__ == "__main__":
    status = supervise(Spec(**json.loads(sys.argv[1])))
    sys.exit(status if status >= 0 else 128 - status)
