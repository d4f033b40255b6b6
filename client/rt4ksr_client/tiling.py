"""Upscale large pictures tile by tile, with the same result as in one piece.

An output pixel depends on input pixels up to the model's halo away. A tile is therefore sent with
that margin around it, as far as the picture has one, and the margin is cropped off the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rt4ksr_client.call import Cancellation
from rt4ksr_client.concurrency import in_order
from rt4ksr_client.contract import FrameTensor
from rt4ksr_client.frames import Planes, to_batch
from rt4ksr_client.served_model import ServedModel

__all__ = ["Span", "Tile", "plan_tiles", "upscale_in_tiles"]

TILES_IN_FLIGHT = 3

Infer = Callable[[Planes, Cancellation | None], Planes]


@dataclass(frozen=True)
class Span:
    """A tile's extent along one axis, in input pixels: the part to keep, and the part to send."""

    start: int
    stop: int
    sent_start: int
    sent_stop: int

    @classmethod
    def within(cls, start: int, stop: int, size_px: int, halo_px: int) -> Span:
        """Return a span, cut off at the edges of a frame that is ``size_px`` long."""
        return cls(start, min(stop, size_px), max(0, start - halo_px), min(stop + halo_px, size_px))

    def sent(self, subsampling: int) -> slice:
        """Return where the part to send is in a plane."""
        return slice(self.sent_start // subsampling, -(-self.sent_stop // subsampling))

    def in_result(self, scale: int, subsampling: int) -> slice:
        """Return where the kept part is in a plane of the upscaled frame."""
        return slice(self.start * scale // subsampling, -(-self.stop * scale // subsampling))

    def in_answer(self, scale: int, subsampling: int) -> slice:
        """Return where the kept part is in a plane of the upscaled tile."""
        offset = self.start - self.sent_start
        end = (offset + self.stop - self.start) * scale
        return slice(offset * scale // subsampling, -(-end // subsampling))


@dataclass(frozen=True)
class Tile:
    """A rectangle of a picture, in input pixels."""

    rows: Span
    columns: Span

    def cut(self, planes: Planes, tensors: Sequence[FrameTensor]) -> Planes:
        """Return the part of a frame's ``planes`` to send; views."""
        return tuple(
            plane[self.rows.sent(tensor.subsampling), self.columns.sent(tensor.subsampling)]
            for plane, tensor in zip(planes, tensors, strict=True)
        )

    def paste(
        self, answer: Planes, result: Planes, tensors: Sequence[FrameTensor], scale: int
    ) -> None:
        """Copy the part to keep of the upscaled tile into the planes of the upscaled frame."""
        for plane, tile, tensor in zip(result, answer, tensors, strict=True):
            step, rows, columns = tensor.subsampling, self.rows, self.columns
            plane[rows.in_result(scale, step), columns.in_result(scale, step)] = tile[
                rows.in_answer(scale, step), columns.in_answer(scale, step)
            ]


def plan_tiles(
    height_px: int,
    width_px: int,
    *,
    max_px: int,
    halo_px: int,
    multiple_px: int,
    max_side_px: int | None = None,
) -> list[Tile]:
    """Cover a picture with tiles of about equal size, each of at most ``max_px`` without its halo.

    No side is longer than ``max_side_px``, with its halo. Tiles start at multiples of
    ``multiple_px``, with their halos too, so that the network sees the same phase as in the whole
    picture.
    """
    across, down = 1, 1
    if max_side_px is not None:
        # Halo and tile are rounded up to the multiple; a side that is not cut needs no halo.
        kept_px = (max_side_px - 2 * _round_up(halo_px, multiple_px)) // multiple_px * multiple_px
        down = 1 if height_px <= max_side_px else -(-height_px // kept_px)
        across = 1 if width_px <= max_side_px else -(-width_px // kept_px)
    while -(-height_px // down) * -(-width_px // across) > max_px:
        if height_px * across >= width_px * down:
            down += 1
        else:
            across += 1
    rows = _spans(height_px, down, halo_px, multiple_px)
    columns = _spans(width_px, across, halo_px, multiple_px)
    return [Tile(row, column) for row in rows for column in columns]


def _spans(size_px: int, count: int, halo_px: int, multiple_px: int) -> list[Span]:
    step = _round_up(-(-size_px // count), multiple_px)
    halo = _round_up(halo_px, multiple_px)
    return [Span.within(start, start + step, size_px, halo) for start in range(0, size_px, step)]


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def upscale_in_tiles(
    planes: Planes,
    served: ServedModel,
    max_px: int,
    infer: Infer,
    cancellation: Cancellation | None,
) -> Planes:
    """Return ``planes`` upscaled by ``infer``, tile by tile.

    Beyond the result, no more than :data:`TILES_IN_FLIGHT` tiles are in memory at a time.

    Args:
        planes: of one frame.
        served: the model; its halo is the margin.
        max_px: largest tile, in input pixels.
        infer: upscales a batch of one tile.
        cancellation: ends the call from another thread.

    """
    (height, width), scale = planes[0].shape[:2], served.scale
    steps = [tensor.subsampling for tensor in served.inputs]
    result = tuple(
        np.empty(
            (-(-height * scale // step), -(-width * scale // step), plane.shape[2]), plane.dtype
        )
        for plane, step in zip(planes, steps, strict=True)
    )

    def place(tile: Tile, cancellation: Cancellation) -> None:
        sent = tile.cut(planes, served.inputs)
        answer = infer(to_batch(sent, served.inputs, served.size_multiple), cancellation)
        tile.paste(tuple(plane[0] for plane in answer), result, served.outputs, scale)

    tiles = plan_tiles(
        height,
        width,
        max_px=max_px,
        halo_px=served.halo_px,
        multiple_px=served.size_multiple,
        max_side_px=served.max_side_px,
    )
    for _ in in_order(place, tiles, TILES_IN_FLIGHT, within=cancellation):
        pass
    return result
