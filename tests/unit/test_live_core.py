"""The parts of a live stream that have no clock of their own: admission, times, statistics."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from fractions import Fraction

import pytest

pytest.importorskip("av", reason="the video extra is not installed")

from rt4ksr_client.errors import VideoError
from rt4ksr_client.live.admission import Admission
from rt4ksr_client.live.options import LIVE_CODECS, LiveOptions
from rt4ksr_client.live.sink import format_of
from rt4ksr_client.live.statistics import Latencies, LiveStatistics
from rt4ksr_client.live.timeline import Timeline

STEP_S = Fraction(1, 25)
BUDGET_S = 0.3
MOST = 8


def simulate(
    duration_s: float, answered_s: Callable[[float, float], float], *, budget_s: float = BUDGET_S
) -> tuple[list[str], int]:
    """Return what became of frames at 25 a second, and the most requests under way.

    ``answered_s`` returns when a server answers what is sent at a time, given when it is free.
    """
    admission = Admission(budget_s, MOST)
    outcomes: list[str] = []
    events: list[tuple[float, float, int]] = []
    free_s, most = 0.0, 0
    for index in range(round(duration_s * 25)):
        now_s = index / 25
        while events and events[0][0] <= now_s:
            at_s, sent_s, number = heapq.heappop(events)
            in_time = at_s < sent_s + budget_s
            outcomes[number] = "network" if in_time else "late"
            (admission.answer if in_time else admission.fail)(sent_s, at_s)
        outcomes.append("interpolated")
        if admission.admits(now_s):
            admission.send()
            most = max(most, admission.in_flight)
            free_s = answered_s(now_s, free_s)
            # One that is late is given up when it is due.
            heapq.heappush(events, (min(free_s, now_s + budget_s), now_s, index))
    return outcomes, most


def parallel(delay_s: float) -> Callable[[float, float], float]:
    return lambda sent_s, free_s: sent_s + delay_s


def one_at_a_time(service_s: float) -> Callable[[float, float], float]:
    return lambda sent_s, free_s: max(sent_s, free_s) + service_s


def test_a_server_within_the_budget_gets_every_frame() -> None:
    outcomes, _ = simulate(60, parallel(0.1))

    assert set(outcomes[:-8]) == {"network"}


def test_a_server_beyond_the_budget_gets_hardly_any_and_never_more_than_the_bound() -> None:
    outcomes, most = simulate(60, parallel(0.5))

    assert "network" not in outcomes
    assert most <= MOST
    assert outcomes.count("late") < 0.15 * len(outcomes)


@pytest.mark.parametrize("share", [0.5, 0.33, 0.8])
def test_a_server_of_a_part_of_the_rate_gets_frames_evenly_and_hardly_one_in_vain(
    share: float,
) -> None:
    outcomes, _ = simulate(60, one_at_a_time(0.04 / share), budget_s=0.3)
    steady = outcomes[100:-10]

    found = steady.count("network") / len(steady)
    assert share - 0.1 < found <= share + 0.02
    assert steady.count("late") < 0.02 * len(steady)
    network = [index for index, outcome in enumerate(steady) if outcome == "network"]
    gaps = [after - before for before, after in itertools.pairwise(network)]
    assert max(gaps) <= 1 / share + 1.5


def test_a_server_that_was_gone_for_a_while_has_its_share_back_within_two_seconds() -> None:
    def answered_s(sent_s: float, free_s: float) -> float:
        return sent_s + (100.0 if 10 <= sent_s < 15 else 0.1)

    outcomes, _ = simulate(30, answered_s)

    assert "network" not in outcomes[10 * 25 : 15 * 25]
    assert set(outcomes[17 * 25 : -8]) == {"network"}


def test_times_are_those_of_the_source_from_zero() -> None:
    timeline = Timeline(STEP_S)
    times = [timeline.place(100 + index * STEP_S, index * 0.04) for index in range(50)]

    assert times == [index * STEP_S for index in range(50)]
    assert timeline.shift_s == -100


def test_frames_that_come_unevenly_keep_the_times_of_the_source() -> None:
    timeline = Timeline(STEP_S)
    arrivals = [0.0, 0.3, 0.31, 0.32, 0.9, 0.91]

    assert [timeline.place(i * STEP_S, a) for i, a in enumerate(arrivals)] == [
        i * STEP_S for i in range(6)
    ]
    assert timeline.jumps == 0


@pytest.mark.parametrize("jump_s", [-3600, -2, 5, 90_000])
def test_a_clock_that_jumps_goes_on_by_the_one_on_the_wall(jump_s: int) -> None:
    timeline = Timeline(STEP_S)
    times = [
        timeline.place(50 + index * STEP_S + (jump_s if index >= 10 else 0), index * 0.04)
        for index in range(20)
    ]

    assert times == [index * STEP_S for index in range(20)]
    assert timeline.jumps == 1


def test_a_source_that_comes_back_is_placed_after_the_pause() -> None:
    timeline = Timeline(STEP_S)
    for index in range(10):
        timeline.place(index * STEP_S, index * 0.04)
    timeline.restart()

    assert timeline.place(Fraction(7777), 9 * 0.04 + 5) == (9 + 125) * STEP_S
    assert timeline.place(7777 + STEP_S, 9 * 0.04 + 5.04) == (9 + 126) * STEP_S


def test_frames_without_times_and_times_that_stand_still_are_a_step_apart() -> None:
    timeline = Timeline(STEP_S)
    sources = [None, None, None, Fraction(3, 25), Fraction(3, 25), Fraction(3, 25)]

    times = [timeline.place(source, index * 0.04) for index, source in enumerate(sources)]

    assert times == [index * STEP_S for index in range(6)]


def test_repeated_frames_are_followed_by_what_comes_then() -> None:
    timeline = Timeline(STEP_S)
    timeline.place(Fraction(0), 0.0)
    assert [timeline.repeat(0.12 + n * 0.04) for n in range(5)] == [n * STEP_S for n in range(1, 6)]
    timeline.restart()

    assert timeline.place(Fraction(5), 0.32) > 5 * STEP_S


def test_percentiles_are_those_of_whole_milliseconds() -> None:
    latencies = Latencies()
    assert latencies.percentile_ms(50) is None
    for ms in range(1, 101):
        latencies.add(ms / 1000)
    latencies.add(1e9)

    assert latencies.percentile_ms(50) == 51
    assert latencies.percentile_ms(99) == 100
    assert latencies.percentile_ms(100) == 10_000


def test_recent_statistics_are_those_since_the_last_time() -> None:
    statistics = LiveStatistics()
    statistics.count("frames_in", 3)
    statistics.count("by_network", 2)
    statistics.encoded(0.2)
    first = statistics.recent()
    statistics.count("frames_in")
    second, total = statistics.recent(), statistics.total()

    assert (first.frames_in, second.frames_in, total.frames_in) == (3, 1, 4)
    assert (first.latency_p50_ms, second.latency_p50_ms) == (200, None)
    assert first.network_share == 1
    assert second.network_share is None
    assert "latency 200 / 200 ms" in str(first)


@pytest.mark.parametrize(
    ("target", "form", "expected"),
    [
        ("rtmp://host/app", None, "flv"),
        ("srt://host:9", None, "mpegts"),
        ("udp://127.0.0.1:9", None, "mpegts"),
        ("out/stream.m3u8", None, "hls"),
        ("-", None, "matroska"),
        ("-", "nut", "nut"),
        ("film.MKV", None, "matroska"),
    ],
)
def test_the_format_is_that_of_the_target(target: str, form: str | None, expected: str) -> None:
    assert format_of(target, form) == expected


@pytest.mark.parametrize(("target", "form"), [("what", None), ("a.doc", None), ("-", "nosuch")])
def test_a_format_that_is_not_known_is_rejected(target: str, form: str | None) -> None:
    with pytest.raises(VideoError, match=f"{target}: "):
        format_of(target, form)


@pytest.mark.parametrize(
    "values",
    [{"latency_s": 0.01}, {"codec": "ffv1"}, {"bitrate_bps": 0}, {"gop_s": 0.0}, {"audio": "x"}],
)
def test_options_that_cannot_work_are_rejected(values: dict[str, object]) -> None:
    with pytest.raises(VideoError):
        LiveOptions(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", LIVE_CODECS)
def test_an_encoder_for_live_has_a_bitrate_instead_of_a_quality(codec: str) -> None:
    options = LiveOptions(codec=codec)
    found = options.encoder_options(options.decoding.encoder_options(codec), codec)

    assert not found.keys() & {"crf", "cq", "b"}
    assert options.bitrate_for(3840, 2160, Fraction(25)) == 20_736_000
    assert LIVE_CODECS[codec].items() <= found.items() or "svtav1-params" in found
