"""What generates the load: frames, the check of answers, and load shapes."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest.load.answers import AnswerChecker, WrongPictureError
from rt4ksr_loadtest.load.frames import (
    base_frames,
    crop_tile,
    generate_frames,
    load_frames,
    read_stamp,
    request_size_px,
    stamp_frame,
)
from rt4ksr_loadtest.load.shapes import Level, LoadShape, plan_levels
from rt4ksr_loadtest.result import Step
from support.loadtest_options import parse_options


def upscaled(batch: np.ndarray[Any, Any], scale: int = 2) -> np.ndarray[Any, Any]:
    return batch.repeat(scale, axis=1).repeat(scale, axis=2)


def test_a_stamp_is_read_from_the_upscaled_frame_and_differs_between_requests() -> None:
    base = generate_frames(256, 128, 1, seed=3)[0].pixels

    for scale, number in itertools.product((2, 3), (0, 1, 0xDEADBEEF, 2**32 - 1)):
        assert read_stamp(upscaled(stamp_frame(base, number), scale), scale) == number
    assert (stamp_frame(base, 1) != stamp_frame(base, 2)).any()
    assert base.shape == (128, 256, 3)


def test_generated_frames_are_repeatable_and_have_detail() -> None:
    first, second = generate_frames(256, 128, 2, seed=3)

    np.testing.assert_array_equal(first.pixels, generate_frames(256, 128, 1, seed=3)[0].pixels)
    assert (first.pixels != second.pixels).mean() > 0.9
    assert first.pixels.std() > 20


def test_every_kind_of_wrong_answer_is_detected() -> None:
    base = generate_frames(256, 128, 1, seed=3)[0].pixels
    checker = AnswerChecker(scale=2, halo_px=16, share=1.0, rng=random.Random(1))
    sent = stamp_frame(base, 7)
    right = upscaled(sent)
    checker.check(0, sent, 7, right)
    off_by_one = right.copy()
    off_by_one[0, 200, 300] ^= 1
    checker.check(0, sent, 7, off_by_one)

    a_pixel = right.copy()
    a_pixel[0, -1, -1, 2] ^= 4
    wrong = {
        "expected uint8": right[:, :-2],
        "this request's number is 7": upscaled(stamp_frame(base, 8)),
        "levels from an earlier": a_pixel,
    }
    for message, answer in wrong.items():
        with pytest.raises(WrongPictureError, match=message):
            checker.check(0, sent, 7, answer)
    other = stamp_frame(np.invert(base), 7)
    with pytest.raises(WrongPictureError, match="from what was sent"):
        checker.check(1, sent, 7, upscaled(other))


def test_frames_come_from_a_folder_whose_other_files_are_skipped(tmp_path: Path) -> None:
    Image.new("RGB", (301, 201), "red").save(tmp_path / "odd.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    (tmp_path / "notes.txt").write_text("no picture")

    frames = load_frames(tmp_path, None)

    assert [(f.name, f.pixels.shape) for f in frames] == [("odd.png", (200, 300, 3))]
    assert crop_tile(frames[0], 128, random.Random(1)).pixels.shape == (128, 128, 3)
    with pytest.raises(LoadTestError, match="no picture of at least 512"):
        load_frames(tmp_path, 512)
    with pytest.raises(LoadTestError, match="no such file"):
        load_frames(tmp_path / "nothing", None)


@pytest.mark.parametrize(
    ("words", "size_px"),
    [
        pytest.param((), (1920, 1080), marks=pytest.mark.slow),
        (("--frame-size", "256x128"), (256, 128)),
        (("--tile-px", "128", "--frame-size", "256x128"), (128, 128)),
    ],
)
def test_generated_requests_have_the_size_that_options_and_model_call_for(
    words: tuple[str, ...], size_px: tuple[int, int]
) -> None:
    options = parse_options(*words)

    shapes = {frame.pixels.shape for frame in base_frames(options, "rt4ksr_x2")}
    assert shapes == {(size_px[1], size_px[0], 3)}
    assert request_size_px(options, "rt4ksr_x2") == size_px
    assert request_size_px(parse_options(), "rt4ksr_x3") == (1280, 720)


def test_profiles_have_the_levels_they_are_named_for() -> None:
    saturate = ("--load-profile", "saturate", "--step", "5")
    ramp = ("--load-profile", "ramp", "--duration", "20s")
    spike = ("--load-profile", "spike", "--duration", "30s")

    assert plan_levels(parse_options(*saturate, "-u", "7")) == [
        (users, 5) for users in (1, 2, 3, 4, 6, 7)
    ]
    assert plan_levels(parse_options(*ramp, "-u", "4")) == [(1, 5), (2, 5), (3, 5), (4, 5)]
    assert plan_levels(parse_options(*spike, "-u", "8")) == [(2, 10), (8, 10), (2, 10)]
    assert plan_levels(parse_options("--load-profile", "soak", "-u", "3")) == [(3, 600)]


class Clock:
    """Replaces the time of load shapes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        fake = SimpleNamespace(time=lambda: self.now_s)
        monkeypatch.setattr("rt4ksr_loadtest.load.shapes.time", fake)


def test_saturate_ends_when_throughput_stops_rising(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    fps = {1: 5.0, 2: 9.0, 3: 9.1, 4: 9.2, 6: 9.3}

    def measure(level: Level) -> Step:
        return Step(level.level, 0, 10, fps[int(level.level)], 100, 100, 1, 0)

    words = ("--load-profile", "saturate", "--step", "10", "-u", "32", "--warm-up", "2")
    shape = LoadShape(parse_options(*words), measure)
    while shape.tick() is not None:
        clock.now_s += 1
    assert shape.current() is None

    assert [level.level for level in shape.ended] == [1, 2, 3, 4]
    assert shape.ended[0].start_s == 1002
    assert shape.ended[0].settled_s == 1004


def test_saturate_ends_when_the_latency_objective_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    words = ("--load-profile", "saturate", "-u", "32", "--warm-up", "0", "--slo-p99-ms", "150")
    shape = LoadShape(
        parse_options(*words), lambda level: Step(level.level, 0, 10, 1, 0, 100 * level.level, 1, 0)
    )

    while shape.tick() is not None:
        clock.now_s += 1

    assert [level.level for level in shape.ended] == [1, 2]
    assert shape.tick() is None


def test_a_level_that_is_interrupted_early_has_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    words = ("--load-profile", "steady", "--duration", "100s", "--warm-up", "5", "--fps", "8")
    shape = LoadShape(parse_options(*words, "-u", "2"), lambda level: pytest.fail("not saturate"))

    assert shape.tick() == (2, 100)
    assert shape.current() is None  # warm-up
    clock.now_s += 15
    early = shape.current()
    clock.now_s += 15
    late = shape.current()

    assert early is not None
    assert late is not None
    assert (early.level, early.is_settled, late.is_settled) == (8, False, True)
    assert shape.levels() == [late]
