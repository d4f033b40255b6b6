"""Turns what was measured into a result, with warnings where it cannot be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from rt4ksr_loadtest.load.shapes import Level
from rt4ksr_loadtest.measurement.latency import LatencyHistogram
from rt4ksr_loadtest.measurement.machines import STAGES
from rt4ksr_loadtest.measurement.timeline import ServerSecond, Span, Timeline
from rt4ksr_loadtest.objectives import judge
from rt4ksr_loadtest.options import LoadOptions
from rt4ksr_loadtest.result import (
    FRAME_PX,
    Generator,
    Interval,
    Latency,
    Machine,
    RunResult,
    ServerWork,
    Settings,
    Step,
    Totals,
)

__all__ = ["FinishedRun", "knee_of", "latency_of", "measure_level", "summarize", "warnings_of"]

BUSY_SHARE: Final = 0.9
"""Share of one core above which a process of the generator delays what it measures."""

LATE_SHARE: Final = 0.1
"""Share of the median latency above which the generator's lateness falsifies it."""

LATE_MS: Final = 10
KNEE_SHARE: Final = 0.95
"""Share of the best goodput that the knee reaches."""

FEW_ANSWERS: Final = 100
CROWDED_SHARE: Final = 0.9
SATURATED_SHARE: Final = 0.95


@dataclass(frozen=True)
class FinishedRun:
    """A run that is over: what was asked for, what was counted, and where.

    ``levels`` are those of the load shape; ``input_size_px`` is model name to width and height of
    its requests; ``silent_workers`` did not report their last seconds.
    """

    options: LoadOptions
    timeline: Timeline
    stop_s: float
    levels: Sequence[Level]
    input_size_px: Mapping[str, tuple[int, int]]
    machine: Machine
    silent_workers: Sequence[str] = ()

    @property
    def measured_s(self) -> float:
        """Seconds from the end of the warm-up until the load stopped."""
        return max(0.0, self.stop_s - self.timeline.measured_from_s)

    @property
    def steady_s(self) -> int:
        """Number of whole seconds in :attr:`measured_s`; 0 if it is shorter than two seconds."""
        return max(0, math.floor(self.stop_s) - math.ceil(self.timeline.measured_from_s))


def summarize(run: FinishedRun) -> RunResult:
    """Return the result of ``run``, judged by its objectives."""
    options, timeline = run.options, run.timeline
    measured = timeline.measured
    # Rates are those of whole seconds, where there are any.
    steady, steady_s = timeline.steady, float(run.steady_s)
    if not run.steady_s:
        steady, steady_s = measured, max(run.measured_s, 1e-3)
    steps = tuple(measure_level(timeline, level) for level in run.levels)
    steps = steps if len(steps) > 1 else ()
    started_at = datetime.fromtimestamp(timeline.start_s).astimezone()
    result = RunResult(
        started_at=started_at.isoformat("T", "seconds"),
        settings=_settings(run),
        machine=run.machine,
        measured_s=run.measured_s,
        totals=_totals(measured, steady, steady_s),
        latency=latency_of(LatencyHistogram(measured.latencies)),
        server=_server_work(measured.server),
        generator=_generator(steady, steady_s, timeline.memory_bytes_max),
        intervals=tuple(_intervals(timeline)),
        steps=steps,
        knee=knee_of(steps, options.objectives.p99_ms),
        outages=timeline.outages(),
    )
    result = replace(result, verdicts=judge(result, options.objectives))
    return replace(result, warnings=warnings_of(result, run.silent_workers))


def latency_of(histogram: LatencyHistogram) -> Latency:
    """Return the percentiles of all latencies together, and their histogram."""
    p50_ms, p90_ms, p95_ms, p99_ms = histogram.percentiles_ms(50, 90, 95, 99)
    return Latency(
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        max_ms=histogram.max_us / 1e3,
        mean_ms=histogram.mean_ms,
        histogram=histogram.pack().encoded,
    )


def measure_level(timeline: Timeline, level: Level) -> Step:
    """Return what a level of load brought, without its beginning."""
    total = timeline.total(timeline.window(level.settled_s, level.end_s))
    p50_ms, p99_ms = total.latencies.percentiles_ms(50, 99)
    length_s = max(1, math.floor(level.end_s) - math.ceil(level.settled_s))
    return Step(
        level=level.level,
        start_s=max(0.0, level.start_s - timeline.start_s),
        length_s=level.end_s - level.start_s,
        goodput_fps=total.frames / length_s,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        right=total.right,
        failures=total.failed,
    )


def knee_of(steps: Sequence[Step], p99_ms: float | None) -> int | None:
    """Return the first step with about the best goodput of those that meet the p99 objective."""
    meeting = [
        i
        for i, step in enumerate(steps)
        if step.goodput_fps > 0 and (p99_ms is None or step.p99_ms <= p99_ms)
    ]
    if not meeting:
        return None
    best_fps = max(steps[i].goodput_fps for i in meeting)
    return next(i for i in meeting if steps[i].goodput_fps >= KNEE_SHARE * best_fps)


def warnings_of(result: RunResult, silent_workers: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what a reader must know before trusting the result, the gravest first."""
    totals = result.totals
    warnings = generator_warnings(result)
    warnings += [
        f"Worker {name} did not report its end: its last seconds are missing."
        for name in silent_workers
    ]
    if result.server is None:
        warnings.append(
            "The server's statistics could not be read: its side of the figures is missing."
        )
    elif not _counts_agree(result):
        answers = totals.right + totals.failures.get("wrong picture", 0)
        warnings.append(
            f"The server counted {result.server.success_count} answers, this test {answers}: "
            "somebody else uses the server, requests were abandoned, or a batch or cache is "
            "counted differently."
        )
    is_open = result.settings.load_model == "open"
    if is_open and totals.achieved_fps < SATURATED_SHARE * totals.offered_fps:
        warnings.append(
            f"{totals.offered_fps:.2f} frames/s were offered, {totals.achieved_fps:.2f} answered: "
            "above saturation, latency grows for as long as the run lasts."
        )
    if not totals.right:
        warnings.append("No answer was correct.")
    elif totals.right < FEW_ANSWERS:
        warnings.append(
            f"Only {totals.right} correct answers: p99 is little more than the slowest of them."
        )
    return tuple(warnings)


def generator_warnings(result: RunResult) -> list[str]:
    """Return warnings that the load generator, not the server, limits the figures."""
    generator, machine = result.generator, result.machine
    warnings = []
    if generator.is_limit:
        warnings.append(
            "The load generator is the limit, not the server: its busiest process used "
            f"{generator.busiest_worker_share:.0%} of a core and was up to "
            f"{generator.late_ms_p99:.0f} ms late (p99). Use --processes or more machines."
        )
    server_cores = result.server.cpu_cores if result.server else None
    if machine.server_on_this_host and server_cores is not None:
        used = generator.cpu_cores + server_cores
        if used > CROWDED_SHARE * machine.generator_cores:
            warnings.append(
                f"Generator and server share {machine.generator_cores} cores and used {used:.1f} "
                f"of them, the generator {generator.cpu_cores:.1f}: on a machine of its own the "
                "server would do more."
            )
    return warnings


def _counts_agree(result: RunResult) -> bool:
    """Whether the server answered as often as answers, right or wrong, arrived."""
    if result.server is None or result.outages:
        return True
    answers = result.totals.right + result.totals.failures.get("wrong picture", 0)
    difference = abs(result.server.success_count - answers)
    if not result.settings.warmup_s:
        return difference == 0
    # Requests sent in the warm-up may be answered after it.
    in_flight = max((interval.in_flight for interval in result.intervals), default=0)
    return difference <= max(result.settings.users, in_flight)


def _settings(run: FinishedRun) -> Settings:
    options = run.options
    return Settings(
        profile=options.profile or "none",
        load_model="open" if options.is_open else "closed",
        url=options.url,
        transport=options.transport,
        models=dict(options.shares),
        input_size_px=dict(run.input_size_px),
        users=options.users,
        rate_fps=options.rate_fps,
        arrivals=options.arrivals if options.is_open else None,
        duration_s=run.stop_s - run.timeline.start_s,
        warmup_s=options.warm_up_s,
        workers=max(1, len(run.timeline.workers)),
        frames=str(options.frames) if options.frames else "generated",
    )


def _totals(measured: Span, steady: Span, steady_s: float) -> Totals:
    """Count all requests; rates are those of ``steady``, which leaves out the last answers."""
    request_frames = measured.frames / measured.right if measured.right else 0.0
    return Totals(
        requests=measured.right + measured.failed,
        right=measured.right,
        failures=measured.failures,
        offered_fps=steady.offered * request_frames / steady_s,
        achieved_fps=(steady.right + steady.failed) * request_frames / steady_s,
        goodput_fps=steady.frames / steady_s,
        output_mpx_per_s=steady.frames * FRAME_PX / 1e6 / steady_s,
        wire_mb_per_s=steady.wire_bytes / 1e6 / steady_s,
    )


def _generator(steady: Span, steady_s: float, memory_bytes: int) -> Generator:
    busiest_share = max(steady.cpu_s.values(), default=0.0) / steady_s
    (late_ms,) = steady.lateness.percentiles_ms(99)
    (median_ms,) = steady.latencies.percentiles_ms(50)
    is_late = late_ms > LATE_MS and late_ms > LATE_SHARE * median_ms
    return Generator(
        cpu_cores=steady.cpu_s_total / steady_s,
        busiest_worker_share=busiest_share,
        memory_bytes=memory_bytes,
        late_ms_p99=late_ms,
        is_limit=busiest_share > BUSY_SHARE or is_late,
    )


def _server_work(seen: ServerSecond) -> ServerWork | None:
    """Return what the server did; None if its statistics were not read twice."""
    counts = seen.counts
    if not counts:
        return None
    answered, executions = max(1, counts["success"]), counts["executions"]
    queue_ms, input_ms, infer_ms, output_ms = (counts[name] / 1e6 / answered for name in STAGES)
    return ServerWork(
        success_count=counts["success"],
        failure_count=counts["fail"],
        execution_count=executions,
        mean_batch=counts["batched"] / executions if executions else 0.0,
        queue_ms=queue_ms,
        input_ms=input_ms,
        infer_ms=infer_ms,
        output_ms=output_ms,
        cpu_cores=seen.cpu_cores,
        memory_bytes=seen.memory_bytes_max,
        gpu_share=seen.gpu_share,
        gpu_memory_bytes=seen.gpu_memory_bytes_max,
        gpu_power_w=seen.gpu_power_w,
        pending_max=seen.pending_max,
    )


def _intervals(timeline: Timeline) -> Iterator[Interval]:
    cut = timeline.intervals()
    for index, span in enumerate(cut.spans):
        second = cut.first + index * cut.length_s
        start_s = max(0.0, second - timeline.start_s)  # the run starts within a second
        length_s = second + cut.length_s - timeline.start_s - start_s
        p50_ms, p99_ms = span.latencies.percentiles_ms(50, 99)
        samples = max(1, span.seconds)
        request_frames = span.frames / span.right if span.right else 1.0
        yield Interval(
            start_s=start_s,
            length_s=length_s,
            warmup=second < math.floor(timeline.measured_from_s),
            users=round(span.users / samples),
            offered_fps=span.offered * request_frames / length_s,
            goodput_fps=span.frames / length_s,
            failures=span.failed,
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            in_flight=round(span.in_flight / samples),
            pending=span.server.pending_max,
            generator_cpu_cores=span.cpu_s_total / length_s,
            server_cpu_cores=span.server.cpu_cores,
            server_memory_bytes=span.server.memory_bytes_max,
            generator_memory_bytes=round(span.memory_bytes / samples),
        )
