"""What a load test found: the one form in which the measuring hands over to the reporting.

A result is data only. Measuring fills it in, reports and gates read it, ``result.json`` keeps it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from rt4ksr_client.errors import LoadTestError

__all__ = [
    "Generator",
    "Interval",
    "Latency",
    "LoadModel",
    "Machine",
    "Outage",
    "RunResult",
    "ServerWork",
    "Settings",
    "Step",
    "Totals",
    "Verdict",
    "read_result",
    "write_result",
]

LoadModel = Literal["closed", "open"]
"""``closed``: each user waits for its answer before it asks again; ``open``: requests are due at
times fixed ahead, whether or not the server keeps up."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was asked for.

    ``frames``: where the pictures came from, for people. ``arrivals``: of the open loop,
    ``constant`` or ``poisson``. ``rate_fps``, requests per second of all users, is None in the
    closed loop.
    """

    profile: str
    load_model: LoadModel
    url: str
    transport: str
    models: dict[str, float]
    """Model name to its share of the requests; the shares sum to 1."""
    input_size_px: dict[str, tuple[int, int]]
    """Model name to width and height of its requests."""
    users: int
    rate_fps: float | None
    arrivals: str | None
    duration_s: float
    warmup_s: float
    workers: int
    frames: str


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the load came from, and what served it."""

    generator_cpu: str
    generator_cores: int
    generator_memory_bytes: int
    generator_system: str
    python: str
    versions: dict[str, str]
    """Package name to version, of those that matter."""
    server_version: str
    server_on_this_host: bool
    model_weights_sha256: dict[str, str]
    gpus: tuple[str, ...]


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Time from a request being sent (closed loop) or due (open loop) to its answer.

    Percentiles are those of all right answers of all workers together (nearest rank);
    ``histogram`` is of the same, in HdrHistogram's V2 base64 form, in microseconds. All are 0 where
    there was no right answer.
    """

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    mean_ms: float
    histogram: str


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole measured window, warm-up left out.

    ``right`` answers are the goodput; ``failures`` counts the others by kind (``wrong picture``,
    ``overloaded``, ``timeout``, ...). ``offered_fps`` is the rate that was asked for: in the closed
    loop it equals the achieved one. A frame is one of 3840x2160 or, where requests differ, as many
    output pixels as that.
    """

    requests: int
    right: int
    failures: dict[str, int]
    offered_fps: float
    achieved_fps: float
    goodput_fps: float
    output_mpx_per_s: float
    wire_mb_per_s: float


class ServerWork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server says of the same window; times are means per request.

    Shares of CPU are of one core (2.0: two cores busy); None where the server does not tell.
    """

    success_count: int
    failure_count: int
    execution_count: int
    mean_batch: float
    queue_ms: float
    input_ms: float
    infer_ms: float
    output_ms: float
    cpu_cores: float | None
    memory_bytes: int | None
    gpu_share: float | None
    pending_max: int | None


class Generator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The load generator itself, all workers together.

    ``late_ms_p99``: by how much requests of the open loop left after they were due because of the
    generator, not of the server. ``is_limit``: the figures are rather the generator's than the
    server's.
    """

    cpu_cores: float
    busiest_worker_share: float
    memory_bytes: int
    late_ms_p99: float
    is_limit: bool


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A short piece of the run (a second, longer in long runs), warm-up included.

    ``start_s`` counts from the start of the run.
    """

    start_s: float
    length_s: float
    warmup: bool
    users: int
    offered_fps: float
    goodput_fps: float
    failures: int
    p50_ms: float
    p99_ms: float
    in_flight: int
    pending: int | None
    generator_cpu_cores: float
    server_cpu_cores: float | None
    server_memory_bytes: int | None
    generator_memory_bytes: int


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One level of load of a profile that has several.

    ``level`` is users in the closed loop and requests per second in the open one.
    """

    level: float
    start_s: float
    length_s: float
    goodput_fps: float
    p50_ms: float
    p99_ms: float
    right: int
    failures: int


class Outage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A time in which every request failed because no server answered."""

    start_s: float
    length_s: float


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One objective and how it was met. ``unit`` is for people: ``ms``, ``frames/s``, ``%``."""

    objective: str
    limit: float
    measured: float
    unit: str
    passed: bool


class RunResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a run found."""

    started_at: str
    """ISO 8601, with the offset from UTC."""
    settings: Settings
    machine: Machine
    measured_s: float
    totals: Totals
    latency: Latency
    server: ServerWork | None
    """None: the server's statistics could not be read at both ends of the window."""
    generator: Generator
    intervals: tuple[Interval, ...]
    steps: tuple[Step, ...] = ()
    knee: int | None = None
    """Index of the first step with about the best goodput, the objective on latency kept."""
    outages: tuple[Outage, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    warnings: tuple[str, ...] = ()
    schema: int = 1

    @property
    def passed(self) -> bool:
        """Whether every objective was met."""
        return all(verdict.passed for verdict in self.verdicts)


def write_result(result: RunResult, path: Path) -> None:
    """Write ``result`` as JSON, whole or not at all.

    Raises:
        LoadTestError: it could not be written.

    """
    text = msgspec.json.format(msgspec.json.encode(result))
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(text)
        beside.replace(path)
    except OSError as exc:
        raise LoadTestError(f"{path}: cannot be written: {exc.strerror}") from exc
    finally:
        beside.unlink(missing_ok=True)


def read_result(path: Path) -> RunResult:
    """Read what :func:`write_result` wrote; ``path`` may be the folder it lies in.

    Raises:
        LoadTestError: no such file, or not a result of this version.

    """
    file = path / "result.json" if path.is_dir() else path
    try:
        return msgspec.json.decode(file.read_bytes(), type=RunResult)
    except OSError as exc:
        raise LoadTestError(f"{file}: cannot be read: {exc.strerror}") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise LoadTestError(f"{file}: not a load test result of this version: {exc}") from exc
