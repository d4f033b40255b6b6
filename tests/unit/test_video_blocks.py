"""Which blocks of a frame have changed, and which boxes cover them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="the video extra is not installed")

from rt4ksr_client.contract import INPUTS
from rt4ksr_client.video.blocks import (
    MOST_BOXES,
    Boxes,
    changed_blocks,
    cover,
    dilated,
    tight_boxes,
)


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), min_size=1, max_size=40),
    st.sampled_from([0.0, 1.0, 30.0, 1000.0]),
)
def test_boxes_cover_what_changed_and_merging_them_never_costs_more(
    height: int, width: int, places: list[tuple[int, int]], fixed: float
) -> None:
    blocks = np.zeros((height, width), np.bool_)
    for row, column in places:
        blocks[row % height, column % width] = True

    def cost(boxes: Boxes) -> npt.NDArray[np.float64]:
        top, bottom, left, right = np.moveaxis(boxes, -1, 0)
        areas: npt.NDArray[np.float64] = (bottom - top + 2.0) * (right - left + 2.0)
        return fixed + areas

    boxes = cover(blocks, cost)

    covered = np.zeros_like(blocks)
    for top, bottom, left, right in boxes:
        covered[top:bottom, left:right] = True
    assert (covered >= blocks).all()
    assert len(boxes) <= MOST_BOXES
    if len(tight_boxes(blocks)) <= MOST_BOXES:
        assert cost(boxes).sum() <= cost(tight_boxes(blocks)).sum()
    if fixed > height * width:
        assert len(boxes) == 1


def test_the_outline_of_a_window_is_covered_by_its_sides() -> None:
    blocks = np.zeros((60, 80), np.bool_)
    blocks[5:55, 5:75] = True
    blocks[7:53, 7:73] = False

    boxes = cover(blocks, lambda boxes: 10.0 + np.prod(boxes[..., 1::2] - boxes[..., ::2], axis=-1))

    assert sorted(boxes.tolist()) == [
        [5, 7, 5, 75],
        [7, 53, 5, 7],
        [7, 53, 73, 75],
        [53, 55, 5, 75],
    ]


def test_a_frame_speckled_with_changes_is_covered_by_few_boxes() -> None:
    blocks = np.random.default_rng(0).random((135, 240)) < 0.3

    boxes = cover(blocks, lambda boxes: 1.0 + np.prod(boxes[..., 1::2] - boxes[..., ::2], axis=-1))

    assert len(boxes) <= MOST_BOXES


@given(st.integers(1, 70), st.integers(1, 90), st.data())
def test_every_changed_sample_is_found_and_nothing_else(
    height: int, width: int, data: st.DataObject
) -> None:
    halves = -(-height // 2), -(-width // 2), 2
    before = np.zeros((height, width, 1), np.uint8), np.zeros(halves, np.uint8)
    now = tuple(plane.copy() for plane in before)
    plane = data.draw(st.integers(0, 1))
    row, column, channel = (data.draw(st.integers(0, size - 1)) for size in now[plane].shape)
    now[plane][row, column, channel] = 1

    changed = changed_blocks(before, now, INPUTS["yuv420"], 16)

    assert changed.shape == (-(-height // 16), -(-width // 16))
    side = (16, 8)[plane]
    assert np.argwhere(changed).tolist() == [[row // side, column // side]]


@pytest.mark.parametrize("reach", [0, 1, 2, 9])
def test_dilation_reaches_in_all_directions_and_not_beyond_the_frame(reach: int) -> None:
    blocks = np.zeros((7, 8), np.bool_)
    blocks[3, 2] = True

    grown = dilated(blocks, reach)

    expected = np.zeros_like(blocks)
    expected[max(0, 3 - reach) : 4 + reach, max(0, 2 - reach) : 3 + reach] = True
    np.testing.assert_array_equal(grown, expected)
