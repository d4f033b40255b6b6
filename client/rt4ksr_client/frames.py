"""Frames in and out of the wire's shape. No input or output, no server: arrays to arrays.

A *frame* is what a user has: uint8, ``(H, W, 3)``, RGB, any size from 1x1. A *batch* is what the
wire takes: uint8, ``(N, H, W, 3)``, H and W multiples of the model's ``size_multiple``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt4ksr_client.contract import CHANNELS
from rt4ksr_client.errors import PictureError

__all__ = ["Frame", "check_frame", "from_batch", "to_batch"]

Frame = NDArray[np.uint8]


def check_frame(array: NDArray[Any]) -> Frame:
    """Return ``array`` if it is a frame.

    Raises:
        PictureError: not uint8, not ``(H, W, 3)``, or without a pixel.

    """
    if array.dtype != np.uint8:
        raise PictureError(
            f"expected uint8 values in 0..255, got {array.dtype}: convert the array first"
        )
    if array.ndim != 3 or array.shape[2] != CHANNELS:
        raise PictureError(f"expected an array of shape (H, W, 3), RGB, got {array.shape}")
    if 0 in array.shape:
        raise PictureError(f"the picture has no pixels: its shape is {array.shape}")
    return array


def to_batch(frame: Frame, size_multiple: int) -> Frame:
    """Return ``(1, H', W', 3)``: the frame, its last row and column repeated up to the multiple.

    A frame that already fits is not copied.
    """
    height, width, _ = frame.shape
    bottom, right = -height % size_multiple, -width % size_multiple
    if bottom or right:
        frame = np.pad(frame, ((0, bottom), (0, right), (0, 0)), mode="edge")
    return frame[np.newaxis]


def from_batch(batch: Frame, height_px: int, width_px: int) -> Frame:
    """Return the first picture of a response, cropped to ``height_px`` x ``width_px``; a view."""
    return batch[0, :height_px, :width_px]
