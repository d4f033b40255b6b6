"""Which blocks of a frame differ from those of another one, and boxes around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rt4ksr_client.contract import FrameTensor
from rt4ksr_client.frames import Planes

__all__ = ["BLOCK_MULTIPLE_PX", "Boxes", "changed_blocks", "cover", "dilated", "tight_boxes"]

BLOCK_MULTIPLE_PX: Final = 16
MOST_BOXES: Final = 64
"""Where it takes more, blocks twice as large are covered."""

Blocks = NDArray[np.bool_]
Boxes = NDArray[np.int64]
"""``(N, 4)``: top, bottom, left and right of rectangles of blocks; bottom and right are beyond."""
IS_START: Final = np.array([True, False, True, False])


def changed_blocks(
    before: Planes, now: Planes, tensors: Sequence[FrameTensor], block_px: int
) -> Blocks:
    """Return which blocks of a frame differ in any sample, ``(ceil(H/block), ceil(W/block))``.

    ``block_px`` is a multiple of :data:`BLOCK_MULTIPLE_PX`, so that the outcomes for a block can be
    put together eight at a time.
    """
    found = []
    for old, new, tensor in zip(before, now, tensors, strict=True):
        height, width, channels = new.shape
        side = block_px // tensor.subsampling
        rows, columns = -(-height // side), -(-width // side)
        differs = np.zeros((rows * side, columns * side, channels), np.bool_)
        np.not_equal(old, new, out=differs[:height, :width])
        eights = differs.reshape(rows * side, -1).view(np.uint64).reshape(rows, side, -1)
        found.append(np.bitwise_or.reduce(eights, axis=1).reshape(rows, columns, -1).any(axis=2))
    changed: Blocks = np.logical_or.reduce(found)
    return changed


def dilated(blocks: Blocks, reach: int) -> Blocks:
    """Return ``blocks`` with all that are up to ``reach`` away from one of them."""
    for _ in range(2):
        grown = blocks.copy()
        for shift in range(1, reach + 1):
            grown[shift:] |= blocks[:-shift]
            grown[:-shift] |= blocks[shift:]
        blocks = grown.T
    return blocks


def cover(blocks: Blocks, cost: Callable[[Boxes], NDArray[np.float64]]) -> Boxes:
    """Return boxes that cover ``blocks`` at a low total cost; they may overlap.

    They start tight and are merged two at a time, as long as that makes them cheaper.

    Args:
        blocks: what to cover.
        cost: that of each of several boxes.

    """
    boxes = tight_boxes(blocks)
    if len(boxes) > MOST_BOXES:
        rows, columns = (side + side % 2 for side in blocks.shape)
        even = np.zeros((rows, columns), np.bool_)
        even[: blocks.shape[0], : blocks.shape[1]] = blocks
        halved = even.reshape(rows // 2, 2, columns // 2, 2).any(axis=(1, 3))
        return 2 * cover(halved, lambda boxes: cost(2 * boxes))
    costs, is_left = cost(boxes).astype(np.float64), np.ones(len(boxes), np.bool_)
    saved = costs[:, np.newaxis] + costs - cost(around(boxes[:, np.newaxis], boxes))
    np.fill_diagonal(saved, -np.inf)
    while saved.max() > 0:
        one, other = np.unravel_index(saved.argmax(), saved.shape)
        boxes[one], is_left[other] = around(boxes[one], boxes[other]), False
        costs[one] = cost(boxes[one])
        again = np.where(is_left, costs[one] + costs - cost(around(boxes[one], boxes)), -np.inf)
        again[one] = -np.inf
        saved[one] = saved[:, one] = again
        saved[other] = saved[:, other] = -np.inf
    return boxes[is_left]


def around(boxes: Boxes, others: Boxes) -> Boxes:
    """Return the box around each pair."""
    return np.where(IS_START, np.minimum(boxes, others), np.maximum(boxes, others))


def tight_boxes(blocks: Blocks) -> Boxes:
    """Return boxes of all ``blocks`` and nothing else: runs in a row, put together downwards."""
    steps = np.diff(blocks.astype(np.int8), axis=1, prepend=0, append=0)
    boxes: list[list[int]] = []
    above: dict[tuple[int, int], list[int]] = {}
    for (row, left), (_, right) in zip(
        np.argwhere(steps == 1).tolist(), np.argwhere(steps == -1).tolist(), strict=True
    ):
        box = above.get((left, right))
        if box is None or box[1] != row:
            box = above[left, right] = [row, row, left, right]
            boxes.append(box)
        box[1] = row + 1
    return np.array(boxes, np.int64).reshape(-1, 4)
