"""The result of a load test, as ``result.json`` keeps it and reports read it. Data only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

import msgspec

from rt4ksr_client.errors import LoadTestError

__all__ = [
    "FRAME_PX",
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
    "check_vacant",
    "read_result",
    "write_result",
]

FRAME_PX: Final = 3840 * 2160
"""Output pixels of a 4K frame, the unit of throughput."""

LoadModel = Literal["closed", "open"]
"""``closed``: each user waits for its answer before it sends the next frame; ``open``: requests are
due at fixed times, whether or not the server keeps up."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of a run.

    ``frames`` says where the pictures came from. ``arrivals`` (``constant`` or ``poisson``) and
    ``rate_fps`` (requests per second of all users) belong to the open loop; None in the closed one.
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
    """The machine that generated the load, and the server."""

    generator_cpu: str
    generator_cores: int
    generator_memory_bytes: int
    generator_system: str
    python: str
    versions: dict[str, str]
    """Package name to version."""
    server_version: str
    server_on_this_host: bool
    model_weights_sha256: dict[str, str]
    gpus: tuple[str, ...] | None
    """The server's, by memory and UUID; None if its metrics could not be read."""
    model_frame_formats: dict[str, str] = {}
    """Model name to colours and bits of its frames; empty in results before it was recorded."""


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Time from a request being sent (closed loop) or due (open loop) to its answer.

    Percentiles are by nearest rank over the correct answers of all workers together, exact to 3
    significant digits: at most 0.1 % above the true value. Maximum and mean are exact. All are 0
    without a correct answer. ``histogram`` is of the same answers, in microseconds, in
    HdrHistogram's V2 base64 form; empty without a correct answer.
    """

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    mean_ms: float
    histogram: str


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole measured window, without the warm-up.

    ``right`` counts correct answers, which are the goodput; ``failures`` counts the others by kind
    (``wrong picture``, ``overloaded``, ``timeout``, ...). ``offered_fps`` is the rate at which
    requests were due; in the closed loop it equals the achieved rate. A frame is 3840x2160 output
    pixels; smaller and larger requests count in proportion.
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
    """What the server reported of the same window; times are means per request.

    ``cpu_cores`` is the mean number of busy cores; ``gpu_share`` the mean utilisation of the GPUs,
    0 to 1, ``gpu_memory_bytes`` the most memory used of all together, ``gpu_power_w`` their mean
    power together, in watts. None where the server does not report it.
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
    gpu_memory_bytes: int | None = None
    gpu_power_w: float | None = None


class Generator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The load generator itself, all workers together.

    ``late_ms_p99``: by how much the generator sent requests of the open loop after they were due.
    ``is_limit``: the generator, not the server, limits the figures.
    """

    cpu_cores: float
    busiest_worker_share: float
    memory_bytes: int
    late_ms_p99: float
    is_limit: bool


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the run (a second, longer in long runs), warm-up included.

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
    """One objective and whether it was met; ``unit`` is ``ms``, ``frames/s`` or ``%``."""

    objective: str
    limit: float
    measured: float
    unit: str
    passed: bool


class RunResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of a run."""

    started_at: str
    """ISO 8601, with the offset from UTC."""
    settings: Settings
    machine: Machine
    measured_s: float
    totals: Totals
    latency: Latency
    server: ServerWork | None
    """None if the server's statistics could not be read at both ends of the window."""
    generator: Generator
    intervals: tuple[Interval, ...]
    steps: tuple[Step, ...] = ()
    knee: int | None = None
    """Index of the first step with about the best goodput that met the latency objective."""
    outages: tuple[Outage, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    warnings: tuple[str, ...] = ()
    schema: int = 1

    @property
    def passed(self) -> bool:
        """Whether every objective was met."""
        return all(verdict.passed for verdict in self.verdicts)


def check_vacant(folder: Path) -> None:
    """Check that a run may write its result into ``folder``.

    Raises:
        LoadTestError: there is the result of another run.

    """
    if (folder / "result.json").exists():
        raise LoadTestError(f"--out {folder}: there is a result: give another folder")


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
    """Read what :func:`write_result` wrote; ``path`` is the file or its folder.

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
