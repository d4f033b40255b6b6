"""What is computed of a video whose frames resemble one another, with a local network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="the video extra is not installed")

from rt4ksr_client.frames import Yuv420
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.video.unchanged import (
    PATIENCE,
    RETRY_EVERY,
    Plan,
    RequestCost,
    UnchangedParts,
)

CHEAP = RequestCost(fixed_s=0.0, px_s=1.0)
HALO_PX = 6
INFLUENCE = [(3, 1), (2, 3), (1, 7), (-3, 1), (-2, 3), (-1, 7), (0, 31)]
"""Half-resolution pixels away, and the weight there."""


def served_model(scale: int = 2, bits: int = 8, multiple: int = 2) -> ServedModel:
    return ServedModel("test", scale, multiple, HALO_PX, 0, "", "", colours="yuv420", bits=bits)


class LocalNetwork:
    """Zero padding, a dependence on 6 pixels around and on all planes: like the real one.

    It starts with a pixel-unshuffle by 2 as that does, and is exact in integers, so that whatever a
    tile gets wrong is seen.
    """

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self.sent_px: list[int] = []

    def __call__(self, image: Yuv420) -> Yuv420:
        (height, width), scale = image.luma.shape, self._served.scale
        self.sent_px.append(height * width)
        bottom, right = (-side % self._served.size_multiple for side in (height, width))
        luma = np.pad(image.luma, ((0, bottom), (0, right)), mode="edge").astype(np.int64)
        rows, columns = (-(-side // 2) for side in luma.shape)
        missing = rows - image.chroma.shape[0], columns - image.chroma.shape[1]
        chroma = np.pad(image.chroma, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        channels = [luma[y::2, x::2] for y in (0, 1) for x in (0, 1)]
        channels += [chroma[..., 0].astype(np.int64), chroma[..., 1].astype(np.int64)]
        mixed = np.ones_like(channels[0])
        for index, channel in enumerate(channels):
            mixed += (index + 1) * channel
        for _ in range(2):  # axes
            padded = np.pad(mixed, ((3, 3), (0, 0)))
            shifted = [w * padded[3 + away : 3 + away + rows] for away, w in INFLUENCE]
            mixed, rows = np.add.reduce(shifted).T, columns
        # The phase within 2x2 pixels matters, and within a pixel of the input.
        answer: Any = mixed.repeat(2 * scale, axis=0).repeat(2 * scale, axis=1)
        answer[::2, 1::2] += 91
        half = mixed.repeat(scale, axis=0).repeat(scale, axis=1)
        both: Any = np.stack([half, 3 * half + 5], axis=2)
        dtype = image.luma.dtype
        high, wide = height * scale, width * scale
        return Yuv420(
            answer[:high, :wide].astype(dtype),
            both[: -(-high // 2), : -(-wide // 2)].astype(dtype),
        )


def noise(height: int, width: int, seed: int = 0, bits: int = 8) -> Yuv420:
    dice: Any = np.random.default_rng(seed)
    dtype = np.uint8 if bits == 8 else np.uint16
    halves = -(-height // 2), -(-width // 2), 2
    return Yuv420(
        *(dice.integers(0, 1 << bits, shape).astype(dtype) for shape in ((height, width), halves))
    )


def edited(image: Yuv420, *, luma: Iterable[Any] = (), chroma: Iterable[Any] = ()) -> Yuv420:
    """A copy whose samples at these places are others."""
    planes = image.luma.copy(), image.chroma.copy()
    for plane, places in zip(planes, (luma, chroma), strict=True):
        for place in places:
            plane[place] += 1
    return Yuv420(*planes)


def composed(
    images: Iterable[Yuv420],
    served: ServedModel,
    cost: RequestCost = CHEAP,
    ahead: int = 1,
) -> Iterator[tuple[Plan, Yuv420]]:
    """Plans and results; ``ahead`` frames are planned and computed before one is composed."""
    unchanged, network = UnchangedParts(served, cost), LocalNetwork(served)
    waiting: list[tuple[Plan, list[Yuv420]]] = []
    for image in images:
        plan = unchanged.plan(image)
        waiting.append((plan, [network(part) for part in plan.parts]))
        if len(waiting) == ahead:
            plan, answers = waiting.pop(0)
            yield plan, unchanged.compose(plan, answers)
    for plan, answers in waiting:
        yield plan, unchanged.compose(plan, answers)


def assert_equal(image: Yuv420, expected: Yuv420) -> None:
    np.testing.assert_array_equal(image.luma, expected.luma)
    np.testing.assert_array_equal(image.chroma, expected.chroma)


def move_a_box(image: Yuv420, dice: np.random.Generator) -> Yuv420:
    height, width = image.luma.shape
    top, left = dice.integers(0, height), dice.integers(0, width)
    rows, columns = slice(top, top + 20), slice(left, left + 30)
    halves = slice(top // 2, top // 2 + 10), slice(left // 2, left // 2 + 15)
    return edited(image, luma=[(rows, columns)], chroma=[halves])


def cut_the_scene(image: Yuv420, dice: np.random.Generator) -> Yuv420:
    (height, width), bits = image.luma.shape, 8 * image.luma.dtype.itemsize
    return noise(height, width, int(dice.integers(1 << 30)), bits)


def change_a_pixel(image: Yuv420, dice: np.random.Generator) -> Yuv420:
    return edited(image, luma=[tuple(dice.integers(0, image.luma.shape))])


def change_only_chroma(image: Yuv420, dice: np.random.Generator) -> Yuv420:
    return edited(image, chroma=[tuple(dice.integers(0, image.chroma.shape))])


def change_the_border(image: Yuv420, dice: np.random.Generator) -> Yuv420:
    places: list[Any] = [0, -1, (slice(None), 0), (slice(None), -1), (-1, -1)]
    return edited(image, luma=[places[dice.integers(len(places))]])


def change_nothing(image: Yuv420, dice: np.random.Generator) -> Yuv420:
    return edited(image)


EDITS: list[Callable[[Yuv420, np.random.Generator], Yuv420]] = [
    move_a_box,
    cut_the_scene,
    change_a_pixel,
    change_only_chroma,
    change_the_border,
    change_nothing,
]


@given(
    size=st.tuples(st.integers(1, 150), st.integers(1, 200)),
    edits=st.lists(st.lists(st.sampled_from(EDITS), max_size=3), max_size=6),
    scale=st.sampled_from([2, 3]),
    bits=st.sampled_from([8, 16]),
    multiple=st.sampled_from([2, 4, 6]),
    fixed_px=st.sampled_from([0.0, 300.0, 5000.0]),
    ahead=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_after_any_edits_every_frame_is_what_it_would_be_by_itself(
    size: tuple[int, int],
    edits: list[list[Callable[[Yuv420, np.random.Generator], Yuv420]]],
    scale: int,
    bits: int,
    multiple: int,
    fixed_px: float,
    ahead: int,
    seed: int,
) -> None:
    served = served_model(scale, bits, multiple)
    dice = np.random.default_rng(seed)
    images = [noise(*size, seed=seed, bits=bits)]
    for several in edits:
        image = images[-1]
        for edit in several:
            image = edit(image, dice)
        images.append(image)

    results = composed(images, served, RequestCost(fixed_px, 1.0), ahead)

    network = LocalNetwork(served)
    for image, (_, result) in zip(images, results, strict=True):
        assert_equal(result, network(image))


def test_a_halo_that_is_too_small_changes_the_result() -> None:
    served = served_model()
    narrow = ServedModel("test", 2, 2, HALO_PX - 2, 0, "", "", colours="yuv420")
    before = noise(100, 100)
    after = edited(before, luma=[(48, 48)])

    *_, (_, result) = composed([before, after], narrow)

    assert (result.luma != LocalNetwork(served)(after).luma).any()


def test_a_frame_like_the_one_before_costs_no_request_and_no_copy() -> None:
    image = noise(70, 90)

    (_, first), (plan, second) = composed([image, edited(image)], served_model())

    assert plan.parts == ()
    assert np.shares_memory(first.luma, second.luma)


def test_what_is_sent_of_a_changed_pixel_is_a_small_tile() -> None:
    image = noise(480, 640)

    _, (plan, _) = composed([image, edited(image, luma=[(200, 300)])], served_model())

    assert plan.tiles is not None
    (part,) = plan.parts
    # The block, one around it for its influence, and the halo for theirs.
    assert part.luma.shape == (3 * 16 + 2 * HALO_PX, 3 * 16 + 2 * HALO_PX)


def test_changes_far_apart_are_sent_as_tiles_and_close_ones_as_one() -> None:
    image = noise(480, 640)
    far = edited(image, luma=[(10, 10), (470, 630)])
    close = edited(far, luma=[(100, 100), (100, 130)])

    _, (apart, _), (together, _) = composed(
        [image, far, close], served_model(), RequestCost(5000, 1)
    )

    assert len(apart.parts) == 2
    assert len(together.parts) == 1


def test_the_whole_frame_is_sent_where_tiles_take_longer() -> None:
    image = noise(200, 300)
    other = noise(200, 300, seed=1)
    pixel = edited(other, luma=[(16, 16), (180, 280)])

    plans = [plan for plan, _ in composed([image, other, pixel], served_model(), CHEAP)]
    assert [plan.tiles is None for plan in plans] == [True, True, False]

    plans = [
        plan for plan, _ in composed([image, other, pixel], served_model(), RequestCost(60_000, 1))
    ]
    assert [plan.tiles is None for plan in plans] == [True, True, True]


def test_a_result_never_changes_after_it_was_given_out() -> None:
    image = noise(100, 120)
    images = [image]
    for place in range(5):
        images.append(edited(images[-1], luma=[(20 * place, 20 * place)]))

    results = [result for _, result in composed(images, served_model())]

    for image, result in zip(images, results, strict=True):
        assert_equal(result, LocalNetwork(served_model())(image))
        assert not result.luma.flags.writeable
        assert not result.chroma.flags.writeable


def test_a_frame_of_another_size_or_depth_is_sent_whole() -> None:
    unchanged = UnchangedParts(served_model(), CHEAP)

    for image in (noise(60, 80), noise(60, 82), noise(60, 82, bits=16)):
        assert unchanged.plan(image).tiles is None


def test_where_nothing_was_saved_for_long_most_frames_are_not_compared() -> None:
    unchanged = UnchangedParts(served_model(), CHEAP)
    images = [noise(40, 40, seed=seed) for seed in range(2)]
    for number in range(PATIENCE + 1):
        assert unchanged.plan(images[number % 2]).tiles is None

    still = [unchanged.plan(images[0]).tiles is None for _ in range(2 * RETRY_EVERY)]

    assert 0 < still.index(False) <= RETRY_EVERY
    assert not any(still[still.index(False) :])


def test_plans_are_composed_in_order_and_after_a_failure_the_next_frame_is_whole() -> None:
    served = served_model()
    network, unchanged = LocalNetwork(served), UnchangedParts(served, CHEAP)
    image = noise(100, 100)
    first, failed, follows = (
        unchanged.plan(edited(image, luma=[(0, 20 * number)])) for number in range(3)
    )
    unchanged.compose(first, [network(part) for part in first.parts])
    with pytest.raises(ValueError, match="plan 3 cannot follow plan 1"):
        unchanged.compose(follows, [network(part) for part in follows.parts])

    unchanged.forget()

    plan = unchanged.plan(image)
    assert plan.tiles is None
    assert_equal(unchanged.compose(plan, [network(image)]), network(image))
    plan = unchanged.plan(edited(image))
    assert_equal(unchanged.compose(plan, []), network(image))
    assert failed.tiles


def test_savings_are_counted() -> None:
    image = noise(480, 640)
    pixel = edited(image, luma=[(200, 300)])
    served = served_model()
    unchanged, network = UnchangedParts(served, CHEAP), LocalNetwork(served)

    for each in (image, pixel, pixel, pixel):
        plan = unchanged.plan(each)
        unchanged.compose(plan, [network(part) for part in plan.parts])

    savings = unchanged.savings
    assert savings.counts() == {
        "unchanged_frames": 2,
        "partly_computed_frames": 1,
        "whole_frames": 1,
        "computed_share": sum(network.sent_px) / (4 * 480 * 640),
    }
    assert str(savings) == "computed 25.3% of the pixels: 1 whole frames, 1 in part, 2 unchanged"


def test_the_cost_of_requests_is_measured_up_to_where_pixels_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, sides = 0.0, []

    def upscale(image: Yuv420) -> None:
        nonlocal now_s
        sides.append(image.luma.shape[0])
        now_s += 0.002 + 2e-7 * image.luma.size

    monkeypatch.setattr("rt4ksr_client.video.unchanged.perf_counter", lambda: now_s)

    cost = RequestCost.measured(upscale, served_model())

    assert cost.fixed_s == pytest.approx(0.002)
    assert cost.px_s == pytest.approx(2e-7)
    assert sorted(set(sides)) == [64, 128, 256]


def test_a_busy_machine_is_not_mistaken_for_one_where_requests_are_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0

    def upscale(image: Yuv420) -> None:
        nonlocal now_s
        now_s += 0.002 if image.luma.shape[0] == 64 else 0.5

    monkeypatch.setattr("rt4ksr_client.video.unchanged.perf_counter", lambda: now_s)

    cost = RequestCost.measured(upscale, served_model())

    assert cost.fixed_s >= 64 * 64 * cost.px_s > 0
