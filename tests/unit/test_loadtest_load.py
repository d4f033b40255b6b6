"""What generates the load: frames, the check of answers, and load shapes."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from rt4ksr_client.errors import LoadTestError
from rt4ksr_client.frames import Planes
from rt4ksr_client.served_model import ServedModel
from rt4ksr_loadtest.load.answers import AnswerChecker, WrongPictureError
from rt4ksr_loadtest.load.frames import (
    BaseFrame,
    base_frame,
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

RGB = ServedModel("rt4ksr_x2", 2, 2, 16, 0, "", "")
VIDEO = ServedModel("rt4ksr_x2_video", 2, 2, 16, 0, "", "", colours="yuv420")
VIDEO16 = dataclasses.replace(VIDEO, name="rt4ksr_x2_video16", bits=16)
each_model = pytest.mark.parametrize("model", [RGB, VIDEO, VIDEO16], ids=lambda model: model.name)


def upscaled(batch: Planes, scale: int = 2) -> Planes:
    return tuple(plane.repeat(scale, axis=1).repeat(scale, axis=2) for plane in batch)


def generated(model: ServedModel, count: int = 1) -> list[BaseFrame]:
    found = generate_frames(256, 128, count, seed=3)
    return [base_frame(name, picture, model) for name, picture in found]


@each_model
def test_a_stamp_is_read_from_the_upscaled_frame_and_differs_between_requests(
    model: ServedModel,
) -> None:
    base = generated(model)[0].planes

    for scale, number in itertools.product((2, 3), (0, 1, 0xDEADBEEF, 2**32 - 1)):
        stamped = stamp_frame(base, model.inputs, number)
        assert read_stamp(upscaled(stamped, scale)[0], scale) == number
    one, two = (stamp_frame(base, model.inputs, number) for number in (1, 2))
    assert (one[0] != two[0]).any()
    for before, after, tensor in zip(base, one, model.inputs, strict=True):
        assert after.shape == tensor.shape(1, 128, 256) == (1, *before.shape)
        assert after.dtype == before.dtype == f"u{model.bits // 8}"


def test_generated_frames_are_repeatable_and_have_detail() -> None:
    first, second = (frame.planes[0] for frame in generated(RGB, 2))

    np.testing.assert_array_equal(first, generated(RGB)[0].planes[0])
    assert (first != second).mean() > 0.9
    assert first.std() > 20


@each_model
def test_every_kind_of_wrong_answer_is_detected(model: ServedModel) -> None:
    base = generated(model)[0].planes
    checker = AnswerChecker(model, share=1.0, rng=random.Random(1))
    sent = stamp_frame(base, model.inputs, 7)
    right = upscaled(sent)
    level = 1 << model.bits - 8
    checker.check(0, sent, 7, right)

    def changed(index: int, code: int) -> Planes:
        planes = [plane.copy() for plane in right]
        planes[index][0, -1, -1, -1] ^= code
        return tuple(planes)

    for index in range(len(right)):
        checker.check(0, sent, 7, changed(index, level))
        with pytest.raises(WrongPictureError, match="levels from an earlier answer's"):
            checker.check(0, sent, 7, changed(index, 4 * level))
    for index, plane in enumerate(right):
        others = (plane[:, :-2], plane.astype(np.uint32), plane[..., :0])
        for other in others:
            answer = (*right[:index], other, *right[index + 1 :])
            with pytest.raises(WrongPictureError, match="expected uint"):
                checker.check(0, sent, 7, answer)
    with pytest.raises(WrongPictureError, match="expected uint"):
        checker.check(0, sent, 7, right[:-1])
    with pytest.raises(WrongPictureError, match="this request's number is 7"):
        checker.check(0, sent, 7, upscaled(stamp_frame(base, model.inputs, 8)))


@each_model
def test_a_first_answer_has_to_look_like_the_frame(model: ServedModel) -> None:
    base = generated(model)[0].planes
    checker = AnswerChecker(model, share=1.0, rng=random.Random(1))
    sent = stamp_frame(base, model.inputs, 7)

    for index in range(len(base)):
        other = (*base[:index], np.invert(base[index]), *base[index + 1 :])
        answer = upscaled(stamp_frame(other, model.inputs, 7))
        with pytest.raises(WrongPictureError, match="from what was sent"):
            checker.check(1, sent, 7, answer)


@each_model
def test_frames_come_from_a_folder_whose_other_files_are_skipped(
    tmp_path: Path, model: ServedModel
) -> None:
    Image.new("RGB", (301, 201), "red").save(tmp_path / "odd.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    (tmp_path / "notes.txt").write_text("no picture")

    (frame,) = load_frames(tmp_path, None, model)

    assert frame.name == "odd.png"
    assert frame.size_px == (300, 200)
    tile = crop_tile(frame, model.inputs, 128, random.Random(1))
    for planes, size_px in ((frame.planes, (200, 300)), (tile.planes, (128, 128))):
        shapes = [tensor.shape(1, *size_px)[1:] for tensor in model.inputs]
        assert [plane.shape for plane in planes] == shapes
        assert {plane.dtype for plane in planes} == {np.dtype(f"u{model.bits // 8}")}
    with pytest.raises(LoadTestError, match="no picture of at least 512"):
        load_frames(tmp_path, 512, model)
    with pytest.raises(LoadTestError, match="no such file"):
        load_frames(tmp_path / "nothing", None, model)


def test_a_pictures_colours_become_those_of_jpeg() -> None:
    red = Image.new("RGB", (130, 128), (255, 0, 0))

    luma, chroma = base_frame("red", red, VIDEO16).planes

    assert np.unique(luma).tolist() == [76 << 8]  # 0.299 * 255
    ((u, v),) = np.unique(chroma.reshape(-1, 2), axis=0) >> 8
    assert (u, v) == (pytest.approx(85, abs=1), 255)


@pytest.mark.parametrize(
    ("pixel_format", "name", "codec"),
    [
        ("yuv420p", "lossless.mkv", "ffv1"),
        ("yuv420p10le", "lossless.mkv", "ffv1"),
        ("yuv420p", "raw.y4m", "wrapped_avframe"),
    ],
)
def test_a_videos_planes_are_sent_as_they_are(
    tmp_path: Path, pixel_format: str, name: str, codec: str
) -> None:
    depth = 8 if pixel_format == "yuv420p" else 10
    path = tmp_path / name
    rng = np.random.default_rng(0)
    luma = rng.integers(0, 1 << depth, (136, 130)).astype(f"u{1 if depth == 8 else 2}")
    chroma = rng.integers(0, 1 << depth, (68, 65, 2)).astype(luma.dtype)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 130, 136, pixel_format
        values = (luma, chroma[..., 0], chroma[..., 1])
        frame = av.VideoFrame(130, 136, pixel_format)
        for plane, samples in zip(frame.planes, values, strict=True):
            rows: Any = np.zeros((plane.height, plane.line_size // luma.itemsize), luma.dtype)
            rows[:, : plane.width] = samples
            plane.update(rows.tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    (found,) = load_frames(path, None, VIDEO if depth == 8 else VIDEO16)

    np.testing.assert_array_equal(found.planes[0][..., 0], luma << (0 if depth == 8 else 6))
    np.testing.assert_array_equal(found.planes[1], chroma << (0 if depth == 8 else 6))
    assert found.planes[0].flags.c_contiguous
    (other,) = load_frames(path, None, VIDEO16 if depth == 8 else VIDEO)
    assert other.planes[1].dtype == (np.uint16 if depth == 8 else np.uint8)
    (rgb,) = load_frames(path, None, RGB)
    assert [plane.shape for plane in rgb.planes] == [(136, 130, 3)]


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

    assert {frame.size_px for frame in base_frames(options, RGB)} == {size_px}
    assert {frame.size_px for frame in base_frames(options, VIDEO)} == {size_px}
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
