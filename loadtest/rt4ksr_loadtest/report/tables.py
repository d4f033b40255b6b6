"""The tables of a report as rows of text: the same on the page and in Markdown."""

from __future__ import annotations

from rt4ksr_loadtest.objectives import figures_of
from rt4ksr_loadtest.report.wording import NONE, duration, memory, ms, number, percent
from rt4ksr_loadtest.result import RunResult

__all__ = [
    "failures",
    "generator",
    "headline",
    "machine",
    "outages",
    "server",
    "server_split",
    "settings",
    "steps",
    "window",
]

Rows = tuple[tuple[str, str], ...]


def headline(result: RunResult) -> tuple[tuple[str, str, str], ...]:
    """Return the headline figures: name, value and unit."""
    measured, totals = figures_of(result), result.totals
    output_mpx_per_s = totals.output_mpx_per_s
    if totals.goodput_fps:
        output_mpx_per_s *= measured.goodput_fps / totals.goodput_fps
    failed = percent(measured.error_share) if totals.requests else NONE
    return (
        ("goodput", number(measured.goodput_fps), "4K frames/s"),
        ("output", number(output_mpx_per_s), "megapixels/s"),
        *(
            (name, NONE, "no correct answer")
            if value_ms is None
            else (name, number(value_ms), "ms")
            for name, value_ms in (
                ("p50 latency", measured.p50_ms),
                ("p99 latency", measured.p99_ms),
            )
        ),
        ("failures", failed, "of the requests"),
    )


def failures(result: RunResult) -> Rows:
    """Return the failures by kind, the most frequent first."""
    kinds = sorted(result.totals.failures.items(), key=lambda item: (-item[1], item[0]))
    requests = max(1, result.totals.requests)
    return tuple(
        (kind, f"{count:,} ({percent(count / requests)})") for kind, count in kinds if count
    )


def outages(result: RunResult) -> Rows:
    """Return when no server answered, and for how long."""
    return tuple(
        (f"after {duration(outage.start_s)}", f"no server answered for {duration(outage.length_s)}")
        for outage in result.outages
    )


def steps(result: RunResult) -> tuple[tuple[str, ...], ...]:
    """Return a row of names and one per step; empty for a run without steps."""
    if not result.steps:
        return ()
    level = "users" if result.settings.load_model == "closed" else "offered, requests/s"
    rows = [
        (
            f"{step.level:.4g}" + (" (knee)" if index == result.knee else ""),
            number(step.goodput_fps),
            ms(step.p50_ms if step.goodput_fps else None),
            ms(step.p99_ms if step.goodput_fps else None),
            f"{step.failures:,}",
        )
        for index, step in enumerate(result.steps)
    ]
    return ((level, "frames/s", "p50", "p99", "failures"), *rows)


def server_split(result: RunResult) -> tuple[tuple[str, float, float], ...]:
    """Return the parts of a request's mean time: name, ms, share of the whole.

    Empty if the server reported nothing or answered nothing.
    """
    server = result.server
    if server is None or not server.success_count:
        return ()
    parts = [
        ("queue", server.queue_ms),
        ("input", server.input_ms),
        ("inference", server.infer_ms),
        ("output", server.output_ms),
    ]
    inside_ms = sum(part_ms for _, part_ms in parts)
    # The two have different clocks and not quite the same requests.
    parts.append(("outside the server", max(0.0, result.latency.mean_ms - inside_ms)))
    whole_ms = sum(part_ms for _, part_ms in parts) or 1.0
    return tuple((name, part_ms, part_ms / whole_ms) for name, part_ms in parts)


def window(result: RunResult) -> Rows:
    """Return rates and latencies of the measured window."""
    totals, latency = result.totals, result.latency
    names = ("p50", "p90", "p95", "p99", "max", "mean")
    return (
        ("requests", f"{totals.requests:,}, {totals.right:,} of them answered correctly"),
        ("offered", f"{number(totals.offered_fps)} frames/s"),
        ("achieved", f"{number(totals.achieved_fps)} frames/s"),
        ("goodput", f"{number(totals.goodput_fps)} frames/s"),
        ("output", f"{number(totals.output_mpx_per_s)} megapixels/s"),
        ("on the wire", f"{number(totals.wire_mb_per_s)} MB/s"),
        *(
            (f"{name} latency", ms(getattr(latency, f"{name}_ms") if totals.right else None))
            for name in names
        ),
    )


def server(result: RunResult) -> Rows:
    """Return what the server reported; empty if it reported nothing."""
    work = result.server
    if work is None:
        return ()
    return (
        ("successes", f"{work.success_count:,}"),
        ("failures", f"{work.failure_count:,}"),
        ("executions", f"{work.execution_count:,}, mean batch {number(work.mean_batch)}"),
        ("most queued", NONE if work.pending_max is None else f"{work.pending_max:,} requests"),
        ("CPU", NONE if work.cpu_cores is None else f"{number(work.cpu_cores)} cores"),
        ("GPU", NONE if work.gpu_share is None else percent(work.gpu_share)),
        ("GPU memory, at most", memory(work.gpu_memory_bytes)),
        ("GPU power", NONE if work.gpu_power_w is None else f"{number(work.gpu_power_w)} W"),
        ("memory", memory(work.memory_bytes)),
    )


def generator(result: RunResult) -> Rows:
    """Return what the load generator itself used."""
    made = result.generator
    late = (("sent late (p99)", ms(made.late_ms_p99)),)
    return (
        ("CPU", f"{number(made.cpu_cores)} cores"),
        ("busiest process", f"{percent(made.busiest_worker_share)} of a core"),
        ("memory", memory(made.memory_bytes)),
        *(late if result.settings.load_model == "open" else ()),
        ("is the limit", "yes" if made.is_limit else "no"),
    )


def settings(result: RunResult) -> Rows:
    """Return the settings of the run."""
    asked = result.settings
    models = [
        f"{name} {width}x{height} ({percent(asked.models.get(name, 0))})"
        for name, (width, height) in asked.input_size_px.items()
    ]
    rate: Rows = ()
    if asked.load_model == "open":
        rate_fps = "by step" if asked.rate_fps is None else f"{number(asked.rate_fps)} requests/s"
        rate = (("rate", rate_fps), ("arrivals", asked.arrivals or NONE))
    return (
        ("profile", asked.profile),
        ("load", f"{asked.load_model} loop"),
        ("server", asked.url),
        ("transport", asked.transport),
        ("models and input", ", ".join(models)),
        ("frames", asked.frames),
        ("users", f"{asked.users:,}"),
        *rate,
        ("ran for", duration(asked.duration_s)),
        ("warm-up, excluded", duration(asked.warmup_s)),
        ("measured", duration(result.measured_s)),
        ("generator processes", f"{asked.workers:,}"),
    )


def machine(result: RunResult) -> Rows:
    """Return the machines, and the versions of what ran on them."""
    used = result.machine
    place = "the generator's machine" if used.server_on_this_host else "another machine"
    gpus = "not known: the server's metrics could not be read"
    if used.gpus is not None:
        gpus = f"{len(used.gpus)}: {', '.join(used.gpus)}" if used.gpus else "none seen"
    weights = [f"{name} {digest[:12]}" for name, digest in used.model_weights_sha256.items()]
    formats = [f"{name} {format_}" for name, format_ in used.model_frame_formats.items()]
    return (
        ("generator", f"{used.generator_cpu}, {used.generator_cores} cores"),
        ("generator memory", memory(used.generator_memory_bytes)),
        ("generator system", used.generator_system),
        ("server runs on", place),
        ("Triton", used.server_version),
        ("GPUs", gpus),
        ("weights (SHA-256)", ", ".join(weights) or NONE),
        ("frame formats", ", ".join(formats) or NONE),
        ("Python", used.python),
        *used.versions.items(),
    )
