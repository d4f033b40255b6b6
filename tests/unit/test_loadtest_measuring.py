from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest.checking import Checker, WrongPictureError
from rt4ksr_loadtest.collect import Collected, Level, knee_of, latency_of, percentile_ms
from rt4ksr_loadtest.frames import load_frames, made_up_frames, read_stamp, stamped, tile_of
from rt4ksr_loadtest.options import LoadOptions, add_options, read_options
from rt4ksr_loadtest.profiles import Course, plan
from rt4ksr_loadtest.recorder import Recorder, Slot
from rt4ksr_loadtest.result import Outage, Step


class Parser(argparse.ArgumentParser):
    """What of Locust's parser matters here; Locust itself would patch this whole process."""

    def add_argument(self, *names: Any, include_in_web_ui: bool = True, **rest: Any) -> Any:
        return super().add_argument(*names, **rest)


def options(*words: str) -> LoadOptions:
    parser = Parser()
    parser.add_argument("-u", dest="num_users", type=int)
    add_options(parser)
    return read_options(parser.parse_args([*words]), "127.0.0.1:8001")


def upscaled(batch: np.ndarray[Any, Any], scale: int = 2) -> np.ndarray[Any, Any]:
    return batch.repeat(scale, axis=1).repeat(scale, axis=2)


def test_a_stamp_is_read_from_the_upscaled_frame_and_differs_from_request_to_request() -> None:
    base = made_up_frames(256, 128, 1, seed=3)[0].pixels

    for scale, number in itertools.product((2, 3), (0, 1, 0xDEADBEEF, 2**32 - 1)):
        assert read_stamp(upscaled(stamped(base, number), scale), scale) == number
    assert (stamped(base, 1) != stamped(base, 2)).any()
    assert base.shape == (128, 256, 3)


def test_made_up_frames_are_repeatable_and_have_detail() -> None:
    first, second = made_up_frames(256, 128, 2, seed=3)

    np.testing.assert_array_equal(first.pixels, made_up_frames(256, 128, 1, seed=3)[0].pixels)
    assert (first.pixels != second.pixels).mean() > 0.9
    assert first.pixels.std() > 20


def test_every_way_in_which_an_answer_can_be_wrong_is_found() -> None:
    base = made_up_frames(256, 128, 1, seed=3)[0].pixels
    checker = Checker(scale=2, halo_px=16, share=1.0, rng=random.Random(1))
    sent = stamped(base, 7)
    right = upscaled(sent)
    checker.check(0, sent, 7, right)
    off_by_one = right.copy()
    off_by_one[0, 200, 300] ^= 1
    checker.check(0, sent, 7, off_by_one)

    a_pixel = right.copy()
    a_pixel[0, -1, -1, 2] ^= 4
    wrong = {
        "expected uint8": right[:, :-2],
        "this request's number is 7": upscaled(stamped(base, 8)),
        "levels from an earlier": a_pixel,
    }
    for said, answer in wrong.items():
        with pytest.raises(WrongPictureError, match=said):
            checker.check(0, sent, 7, answer)
    other = stamped(np.uint8(255) - base, 7)
    with pytest.raises(WrongPictureError, match="from what was sent"):
        checker.check(1, sent, 7, upscaled(other))


def test_frames_come_from_folders_and_what_is_no_picture_is_passed_over(tmp_path: Path) -> None:
    Image.new("RGB", (301, 201), "red").save(tmp_path / "odd.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    (tmp_path / "notes.txt").write_text("no picture")

    frames = load_frames(tmp_path, None)

    assert [(f.name, f.pixels.shape) for f in frames] == [("odd.png", (200, 300, 3))]
    assert tile_of(frames[0], 128, random.Random(1)).pixels.shape == (128, 128, 3)
    with pytest.raises(LoadTestError, match="no picture of at least 512"):
        load_frames(tmp_path, 512)
    with pytest.raises(LoadTestError, match="no such file"):
        load_frames(tmp_path / "nothing", None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--scale", "5"), "give 2, 3"),
        (("--scale", "2:0"), "weights must be positive"),
        (("--check-share", "2"), "within 0..1"),
        (("--tile-px", "33"), "even and at least 128"),
        (("--frame-size", "big"), "WIDTHxHEIGHT"),
        (("--frame-size", "100x100"), "at least 128"),
        (("--fps", "-3"), "positive"),
        (("--slo", "/nothing.toml"), "cannot be read"),
    ],
)
def test_options_that_make_no_sense_are_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(LoadTestError, match=said):
        options(*words)


def test_options_say_which_loop_and_which_mix() -> None:
    closed = options("--scale", "2:3,3:1", "--duration", "2m", "-u", "4")
    opened = options("--fps", "24", "-u", "4", "--slo-p99-ms", "200")

    assert closed.shares == {"rt4ksr_x2": 0.75, "rt4ksr_x3": 0.25}
    assert closed.duration_s == 120
    assert not closed.is_open
    assert opened.is_open
    assert opened.rate_fps_per_user == 6
    assert opened.objectives.p99_ms == 200
    with pytest.raises(SystemExit):
        options("--duration", "soon")


def test_what_several_processes_recorded_adds_up_and_percentiles_are_of_all() -> None:
    one, two, collected = Recorder(), Recorder(), Collected()
    for recorder, latencies_s in ((one, [0.1] * 99), (two, [0.9])):
        for latency_s in latencies_s:
            recorder.offered(time.time())
            recorder.begun()
            recorder.late(0.0)
            recorder.right(latency_s, 0.5, 1000)
    two.begun()
    two.failed("timeout")

    collected.absorb("a", one.take())
    collected.absorb("b", msgspec.json.decode(msgspec.json.encode(two.take())))
    collected.absorb("a", one.take())

    everything = collected.since(0)
    assert (everything.right, everything.failures, everything.offered) == (100, {"timeout": 1}, 100)
    assert everything.frames == pytest.approx(50)
    assert everything.in_flight == 0
    latency = latency_of(everything.latencies_us)
    assert (latency.p50_ms, latency.p99_ms, latency.max_ms) == (100, 100, 900)


def test_percentiles_are_by_nearest_rank() -> None:
    values_us = [value * 1000 for value in range(1, 101)]

    assert [percentile_ms(values_us, p) for p in (50, 99, 100)] == [50, 99, 100]
    assert percentile_ms([7000], 50) == 7
    assert percentile_ms([], 99) == 0


def test_an_outage_lasts_from_the_first_failure_to_the_next_right_answer() -> None:
    collected = Collected()
    right = {"right": 1, "right_from_s": 10.1, "right_to_s": 10.2}
    gone = {"failures": {"unreachable": 1}, "gone_from_s": 10.5, "gone_to_s": 10.9}
    collected.slots[10] = msgspec.convert({**right, **gone}, Slot)
    collected.slots[12] = msgspec.convert(
        {"failures": {"unreachable": 3}, "gone_from_s": 12.0, "gone_to_s": 12.5}, Slot
    )
    collected.slots[13] = msgspec.convert(
        {"right": 2, "right_from_s": 13.5, "right_to_s": 13.9}, Slot
    )

    assert collected.outages(10.0) == (Outage(start_s=0.5, length_s=3.0),)


def test_the_knee_is_the_first_step_with_about_the_best_throughput_within_the_objective() -> None:
    steps = [
        Step(level, 0, 10, goodput_fps=fps, p50_ms=0, p99_ms=p99, right=1, failures=0)
        for level, fps, p99 in ((1, 5, 100), (2, 9.7, 110), (3, 10, 150), (4, 10.1, 900))
    ]

    assert knee_of(steps, None) == 1
    assert knee_of(steps[:1], None) == 0
    assert knee_of(steps, 50) is None


def test_profiles_have_the_levels_they_are_named_for() -> None:
    saturate = ("--load-profile", "saturate", "--step", "5")
    ramp = ("--load-profile", "ramp", "--duration", "20s")
    spike = ("--load-profile", "spike", "--duration", "30s")

    assert plan(options(*saturate, "-u", "7")) == [(u, 5) for u in (1, 2, 3, 4, 6, 7)]
    assert plan(options(*ramp, "-u", "4")) == [(1, 5), (2, 5), (3, 5), (4, 5)]
    assert plan(options(*spike, "-u", "8")) == [(2, 10), (8, 10), (2, 10)]
    assert plan(options("--load-profile", "soak", "-u", "3")) == [(3, 600)]


def test_saturating_ends_when_throughput_no_longer_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("rt4ksr_loadtest.profiles.time", SimpleNamespace(time=lambda: now_s))
    fps = {1: 5.0, 2: 9.0, 3: 9.1, 4: 9.2, 6: 9.3}
    ended: list[Level] = []

    def measured(level: Level) -> Step:
        return Step(level.level, 0, 10, fps[int(level.level)], 100, 100, 1, 0)

    words = ("--load-profile", "saturate", "--step", "10", "-u", "32", "--warm-up", "2")
    course = Course(options(*words), measured, ended.append)
    while course.tick() is not None:
        now_s += 1
    assert course.current() is None

    assert [level.level for level in ended] == [1, 2, 3, 4]
    assert ended[0].start_s == 1002


def test_seconds_are_written_as_people_write_them() -> None:
    durations_s = [options("--duration", text).duration_s for text in ("90", "90s", "10m", "1h")]

    assert durations_s == [90, 90, 600, 3600]


def test_what_is_tested_here_does_without_locust() -> None:
    assert "locust" not in sys.modules  # it would make every later test's sockets and locks its own
