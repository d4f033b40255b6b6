"""The measurement: latencies, seconds of several processes, and the result made of them."""

from __future__ import annotations

import dataclasses
import math
import pickle
import time
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest

from rt4ksr_loadtest.measurement import timeline as timeline_module
from rt4ksr_loadtest.measurement.latency import (
    LatencyHistogram,
    PackedHistogram,
    read_distribution,
)
from rt4ksr_loadtest.measurement.machines import ServerMonitor
from rt4ksr_loadtest.measurement.recorder import Recorder
from rt4ksr_loadtest.measurement.summary import FinishedRun, knee_of, latency_of, summarize
from rt4ksr_loadtest.measurement.timeline import (
    MOST_INTERVALS,
    RECENT_S,
    Second,
    ServerSecond,
    Timeline,
)
from rt4ksr_loadtest.result import Outage, Step
from support import loadtest_samples as samples
from support.http_servers import Peer, ScriptedServer
from support.loadtest_options import parse_options

TWO_GPUS = """\
# HELP nv_inference_pending_request_count Requests awaiting execution.
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="rt4ksr_x2",version="1"} 3
nv_inference_pending_request_count{model="rt4ksr_x3",version="1"} 1
# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-340a0c24-fd2c-5e0a-d6c7-d2a5e6b3b0f4"} 0.900000
nv_gpu_utilization{gpu_uuid="GPU-dc3b1d5e-16de-1ee3-0a4a-8a0a6c9d1f2b"} 0.500000
# HELP nv_gpu_memory_total_bytes GPU total memory, in bytes
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{gpu_uuid="GPU-340a0c24-fd2c-5e0a-d6c7-d2a5e6b3b0f4"} 85520809984.000000
nv_gpu_memory_total_bytes{gpu_uuid="GPU-dc3b1d5e-16de-1ee3-0a4a-8a0a6c9d1f2b"} 8.5520809984e+10
# HELP nv_gpu_memory_used_bytes GPU used memory, in bytes
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{gpu_uuid="GPU-340a0c24-fd2c-5e0a-d6c7-d2a5e6b3b0f4"} 3221225472.000000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-dc3b1d5e-16de-1ee3-0a4a-8a0a6c9d1f2b"} 1073741824.000000
# HELP nv_gpu_power_usage GPU power usage in watts
# TYPE nv_gpu_power_usage gauge
nv_gpu_power_usage{gpu_uuid="GPU-340a0c24-fd2c-5e0a-d6c7-d2a5e6b3b0f4"} 250.500000
nv_gpu_power_usage{gpu_uuid="GPU-dc3b1d5e-16de-1ee3-0a4a-8a0a6c9d1f2b"} 99.500000
# HELP nv_cpu_utilization CPU utilization rate [0.0 - 1.0]
# TYPE nv_cpu_utilization gauge
nv_cpu_utilization 0.25
"""
"""What Triton's metrics have on a machine with two GPUs, shortened."""

EXACTNESS = 0.001
"""Three significant digits."""


def histogram_of(latencies_ms: Any) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for latency_ms in latencies_ms:
        histogram.record(latency_ms / 1e3)
    return histogram


def second_of(latencies_ms: Any = (), **counts: Any) -> dict[str, Any]:
    """A second as a recorder returns it."""
    histogram = histogram_of(latencies_ms)
    second = Second(right=len(latencies_ms), latencies=histogram.pack(), **counts)
    built: dict[str, Any] = msgspec.to_builtins(second)
    return built


def nearest_rank(values: Any, percent: float) -> float:
    return float(sorted(values)[max(1, math.ceil(percent / 100 * len(values))) - 1])


def test_percentiles_are_by_nearest_rank_to_three_digits() -> None:
    latencies_ms = range(1, 101)

    found = histogram_of(latencies_ms).percentiles_ms(50, 99, 100)

    assert found == pytest.approx((50, 99, 100), rel=EXACTNESS)
    assert all(value >= exact for value, exact in zip(found, (50, 99, 100), strict=True))
    assert found[2] == 100  # the maximum is exact
    assert histogram_of([7]).percentiles_ms(50) == (7,)
    assert LatencyHistogram().percentiles_ms(99) == (0,)


def test_percentiles_are_exact_to_three_digits_from_microseconds_to_an_hour() -> None:
    random = np.random.default_rng(5)
    latencies_ms = 10 ** random.uniform(-3, math.log10(3_600_000), 2000)
    histogram = histogram_of(latencies_ms)
    percents = (1, 10, 50, 90, 95, 99, 99.9)

    for percent, found_ms in zip(percents, histogram.percentiles_ms(*percents), strict=True):
        exact_ms = nearest_rank(latencies_ms, percent)
        # Latencies are counted in microseconds, to the nearest one.
        assert exact_ms - 0.0005 <= found_ms <= exact_ms * (1 + EXACTNESS) + 0.0005
    assert histogram.mean_ms == pytest.approx(latencies_ms.mean(), rel=1e-6)
    assert histogram.max_us == round(latencies_ms.max() * 1000)


def test_a_histogram_of_a_million_latencies_is_as_large_as_one_of_a_thousand() -> None:
    random = np.random.default_rng(5)
    latencies_s = random.lognormal(math.log(0.2), 0.3, 1000).tolist()
    histogram = LatencyHistogram()

    def record(times: int) -> None:
        for _ in range(times):
            for latency_s in latencies_s:
                histogram.record(latency_s)

    record(1)
    packed, in_memory = histogram.pack(), allocated_by(lambda: record(1))
    record(998)

    assert histogram.count == 1_000_000
    assert allocated_by(lambda: record(1)) < 1000
    assert in_memory < 1000
    assert len(histogram.pack().encoded) < 2 * len(packed.encoded) + 2000
    p50_ms, p99_ms = histogram.percentiles_ms(50, 99)
    assert p50_ms == pytest.approx(1e3 * nearest_rank(latencies_s, 50), rel=EXACTNESS)
    assert p99_ms == pytest.approx(1e3 * nearest_rank(latencies_s, 99), rel=EXACTNESS)


def allocated_by(action: Any) -> int:
    tracemalloc.start()
    action()
    now_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return now_bytes


def test_packed_histograms_merge_as_if_recorded_together() -> None:
    one_ms, two_ms = [1.0, 2.5, 300.0], [2.5, 9_000.0]

    merged = histogram_of(one_ms).pack() + PackedHistogram() + histogram_of(two_ms).pack()

    assert merged == histogram_of([*one_ms, *two_ms]).pack()
    assert PackedHistogram() + PackedHistogram() == PackedHistogram()
    assert merged.percentiles_ms(100) == (9000,)


def test_the_distribution_of_a_result_is_in_milliseconds() -> None:
    distribution = read_distribution(histogram_of([1.0, 2.0, 2.0, 400.0]).pack().encoded)

    assert distribution.latencies_ms == pytest.approx((1.0, 2.0, 400.0), rel=EXACTNESS)
    assert distribution.counts == (1, 2, 1)
    assert distribution.slower_than() == (0.75, 0.25, 0.0)
    assert read_distribution("").counts == ()


def test_seconds_of_several_processes_add_up_and_percentiles_are_of_all_answers() -> None:
    one, two, timeline = Recorder(), Recorder(), Timeline(0, 0)
    for recorder, latencies_s in ((one, [0.1] * 99), (two, [0.9])):
        for latency_s in latencies_s:
            recorder.offered(time.time())
            recorder.begun()
            recorder.late(0.0)
            recorder.right(latency_s, 0.5, 1000)
    two.begun()
    two.failed("timeout")

    timeline.absorb("a", one.take())
    timeline.absorb("b", msgspec.json.decode(msgspec.json.encode(two.take())))
    timeline.absorb("a", one.take())

    measured = timeline.measured
    assert (measured.right, measured.failures, measured.offered) == (100, {"timeout": 1}, 100)
    assert measured.frames == pytest.approx(50)
    assert measured.wire_bytes == 100_000
    assert measured.in_flight == 0
    assert timeline.workers == {"a", "b"}
    latency = latency_of(LatencyHistogram(measured.latencies))
    assert (latency.p50_ms, latency.p99_ms) == pytest.approx((100, 100), rel=EXACTNESS)
    assert latency.max_ms == 900
    assert latency.mean_ms == pytest.approx(108)


@pytest.fixture
def scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timelines that keep a tenth of the seconds and intervals."""
    monkeypatch.setattr(timeline_module, "RECENT_S", RECENT_S // 10)
    monkeypatch.setattr(timeline_module, "MOST_INTERVALS", MOST_INTERVALS // 10)


@pytest.mark.usefixtures("scaled_down")
def test_seconds_that_are_no_longer_kept_one_by_one_are_summed_up_exactly() -> None:
    start_s, seconds = 1000.3, 500
    timeline = Timeline(start_s, start_s + 10)
    level = timeline.window(1200, 1300.7)
    packed = msgspec.to_builtins(histogram_of([100, 200]).pack())
    for number in range(1000, 1000 + seconds):
        values = {"right": 2, "offered": 2, "frames": 0.5, "latencies": packed, "users": 3}
        timeline.absorb("one", {number: {**values, "cpu_s": {"": 0.25}, "memory_bytes": 7}})
        timeline.absorb("two", {number: {"users": 1, "memory_bytes": number, "cpu_s": {"": 0.5}}})
        seen = ServerSecond({"success": 2}, memory_bytes_max=number)
        timeline.absorb_server(number + 1.01, seen)
    timeline.stop(1000 + seconds - 10.5)

    assert timeline.memory_bytes_max == 1000 + seconds - 1 + 7
    assert timeline.measured.right == 2 * (seconds - 10)
    assert timeline.steady.offered == 2 * (seconds - 11 - 11)
    assert timeline.steady.cpu_s == {
        "one": pytest.approx((seconds - 22) * 0.25),
        "two": pytest.approx((seconds - 22) * 0.5),
    }
    assert timeline.measured.server.counts == {"success": 2 * (seconds - 10)}
    assert timeline.total(level).right == 2 * 100
    assert timeline.total(level).latencies.percentiles_ms(50, 100) == pytest.approx(
        (100, 200), rel=EXACTNESS
    )

    cut = timeline.intervals()
    assert MOST_INTERVALS // 20 < len(cut.spans) <= MOST_INTERVALS // 10
    assert {span.seconds for span in cut.spans[:-1]} == {cut.length_s}
    assert sum(span.right for span in cut.spans) == 2 * seconds
    assert {span.users / span.seconds for span in cut.spans} == {4}
    assert [second.right for second in timeline.recent(1000 + seconds - 2, 1000 + seconds)] == [
        2
    ] * 2


def test_a_reading_of_the_server_is_of_the_second_before_it() -> None:
    timeline = Timeline(10.2, 12.0)

    timeline.absorb_server(10.3, ServerSecond({"success": 0}))
    timeline.absorb_server(12.003, ServerSecond({"success": 5}))  # of the warm-up
    timeline.absorb_server(13.2, ServerSecond({"success": 7}))
    timeline.absorb_server(13.9, ServerSecond({"success": 1}))  # the last, as the run ends

    assert timeline.measured.server.counts == {"success": 8}
    assert timeline.recent(10, 11)[0].server.counts == {"success": 0}


@pytest.mark.usefixtures("scaled_down")
def test_memory_of_a_timeline_does_not_grow_with_the_run() -> None:
    timeline = Timeline(0, 10)
    timeline.window(50)
    latencies_ms = 200 * np.random.default_rng(5).lognormal(0, 0.3, 50)
    second = second_of(latencies_ms)

    def run(first: int, end: int) -> int:
        for number in range(first, end):
            timeline.absorb("one", {number: second})
        return len(pickle.dumps(timeline))

    after_150_s = run(0, 150)
    after_720_s = run(150, 720)

    assert after_720_s < 1.2 * after_150_s
    assert timeline.measured.right == 50 * 710
    (p99_ms,) = timeline.measured.latencies.percentiles_ms(99)
    assert p99_ms == pytest.approx(nearest_rank(latencies_ms, 99), rel=EXACTNESS)


def test_an_outage_lasts_from_the_first_failure_to_the_next_correct_answer() -> None:
    timeline = Timeline(10.0, 10.0)
    gone = {"failures": {"unreachable": 1}, "gone_from_s": 10.5, "gone_to_s": 10.9}
    right = {"right": 1, "right_from_s": 10.1, "right_to_s": 10.2}
    timeline.absorb("one", {10: {**right, **gone}})
    timeline.absorb(
        "one", {12: {"failures": {"unreachable": 3}, "gone_from_s": 12.0, "gone_to_s": 12.5}}
    )
    assert timeline.outages() == (Outage(start_s=0.5, length_s=2.5),)  # it lasts
    timeline.absorb("one", {13: {"right": 2, "right_from_s": 13.5, "right_to_s": 13.9}})

    assert timeline.outages() == (Outage(start_s=0.5, length_s=3.0),)
    timeline.absorb("one", {10 + 2 * RECENT_S: {}})
    assert timeline.outages() == (Outage(start_s=0.5, length_s=3.0),)


def finished(*words: str, seconds: int, stop_s: float, **counts: Any) -> FinishedRun:
    """A run of ``seconds`` from 1000.2 on: 4 answers a second, each of a quarter of a frame."""
    options = parse_options(*words)
    timeline = Timeline(1000.2, 1000.2 + options.warm_up_s)
    for number in range(1000, 1000 + seconds):
        values = {"offered": 4, "frames": 1.0, "cpu_s": {"": 0.5}, "users": 2, **counts}
        timeline.absorb("one", {number: second_of([250] * 4, **values)})
        timeline.absorb_server(
            number + 1.01, ServerSecond(server_counts(4), cpu_cores_sum=1, cpu_readings=1)
        )
    timeline.stop(stop_s)
    sizes = {"rt4ksr_x2": (960, 540)}
    return FinishedRun(options, timeline, stop_s, [], sizes, samples.MACHINE)


def server_counts(success: int) -> dict[str, int]:
    stages = dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output"), 10**7)
    return {"success": success, "fail": 0, "executions": 2, "batched": success, **stages}


def test_rates_are_of_whole_seconds_and_counts_of_all_answers() -> None:
    result = summarize(finished("--warm-up", "2", seconds=12, stop_s=1010.9))

    assert result.totals.requests == result.totals.right == 4 * 10  # from second 1002 to 1011
    assert result.totals.goodput_fps == result.totals.offered_fps == 1  # from second 1003 to 1009
    assert result.totals.output_mpx_per_s == pytest.approx(3840 * 2160 / 1e6)
    assert result.measured_s == pytest.approx(8.7)
    assert result.settings.duration_s == pytest.approx(10.7)
    assert result.generator.cpu_cores == result.generator.busiest_worker_share == 0.5
    assert result.server is not None
    assert (result.server.success_count, result.server.mean_batch) == (40, 2)
    assert result.server.infer_ms == pytest.approx(2.5)
    assert [i.warmup for i in result.intervals] == [True] * 2 + [False] * 10
    assert {i.goodput_fps for i in result.intervals[1:]} == {1}
    assert len(result.warnings) == 1  # of so few answers
    assert "Only 40 correct answers" in result.warnings[0]


def test_a_run_without_a_whole_second_has_rates_too() -> None:
    result = summarize(finished("--warm-up", "0", seconds=2, stop_s=1001.2))

    assert result.totals.right == 8
    assert result.totals.goodput_fps == pytest.approx(2)


def test_what_makes_figures_doubtful_is_a_warning() -> None:
    busy = finished("--warm-up", "0", seconds=30, stop_s=1029, cpu_s={"": 0.95}, users=2)
    silent = summarize(dataclasses.replace(busy, silent_workers=["worker_7"])).warnings
    late = finished("--warm-up", "0", "--fps", "8", seconds=30, stop_s=1029, offered=8)
    lost = finished("--warm-up", "0", seconds=30, stop_s=1029, failures={"wrong picture": 1})

    assert "The load generator is the limit" in silent[0]
    assert "Worker worker_7 did not report its end" in silent[1]
    assert "above saturation" in " ".join(summarize(late).warnings)
    assert "The server counted 120 answers, this test 150" in summarize(lost).warnings[0]


def test_the_knee_is_the_first_step_with_about_the_best_throughput_within_the_objective() -> None:
    steps = [
        Step(level, 0, 10, goodput_fps=fps, p50_ms=0, p99_ms=p99, right=1, failures=0)
        for level, fps, p99 in ((1, 5, 100), (2, 9.7, 110), (3, 10, 150), (4, 10.1, 900))
    ]

    assert knee_of(steps, None) == 1
    assert knee_of(steps[:1], None) == 0
    assert knee_of(steps, 50) is None


def metrics_of(text: str) -> tuple[ServerMonitor, ServerSecond]:
    """Read a server's metrics, which are ``text``, twice."""
    content = text.encode()
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(content)

    def answer(number: int, peer: Peer) -> None:
        peer.read_request()
        peer.send(head + content)
        peer.close()

    with ScriptedServer(answer) as server:
        url = f"http://{server.address}"
        monitor = ServerMonitor(parse_options("--metrics-url", f"{url}/metrics"))
        seen = ServerSecond()
        for _ in range(2):
            monitor.read_metrics(second := ServerSecond())
            seen.add(second)
        monitor.close()
    return monitor, seen


def test_gpus_come_from_the_metrics_of_the_server() -> None:
    monitor, seen = metrics_of(TWO_GPUS)

    assert monitor.gpus == (
        "79.6 GiB (GPU-340a0c24-fd2c-5e0a-d6c7-d2a5e6b3b0f4)",
        "79.6 GiB (GPU-dc3b1d5e-16de-1ee3-0a4a-8a0a6c9d1f2b)",
    )
    assert seen.gpu_share == pytest.approx(0.7)
    assert seen.gpu_power_w == pytest.approx(350)
    assert seen.gpu_memory_bytes_max == 4 * 2**30
    assert seen.pending_max == 4


@pytest.mark.parametrize("text", ["nv_cpu_utilization 0.25\n", "<html>a b E</html>\n", ""])
def test_a_server_without_gpus_has_none(text: str) -> None:
    monitor, seen = metrics_of(text)

    assert monitor.gpus == ()
    assert (seen.gpu_share, seen.gpu_power_w, seen.gpu_memory_bytes_max) == (None, None, None)


def test_without_metrics_it_is_not_known_whether_there_are_gpus() -> None:
    monitor = ServerMonitor(parse_options("--metrics-url", "http://127.0.0.1:9/metrics"))
    monitor.read_metrics(ServerSecond())

    assert monitor.gpus is None
