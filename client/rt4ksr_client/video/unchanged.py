"""Compute only what has changed in a video since the frame before.

In screen recordings, slides and drawn animation, most of a frame is bit for bit the frame before.
Its upscaled pixels then are those of the frame before, as far as the model's halo from any change.
The rest is sent as tiles, or as the whole frame where that takes less time. Frames are compared as
they come in, never as they come out, so nothing drifts: a result is that of the whole frame, or of
tiles of it. No input or output and no server: frames to parts of frames, and back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rt4ksr_client.frames import Planes, Yuv420, planes_of
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.tiling import Span, Tile
from rt4ksr_client.video.blocks import BLOCK_MULTIPLE_PX, Boxes, changed_blocks, cover, dilated

__all__ = ["Plan", "RequestCost", "Savings", "UnchangedParts"]

PATIENCE: Final = 30
"""After so many frames in a row that had to be computed whole, most are not compared any more."""
RETRY_EVERY: Final = 15
"""Every so many frames, one is compared again."""

PROBES: Final = 5
LARGEST_PROBE_PX: Final = 1024
CLEARLY_LONGER: Final = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestCost:
    """Seconds that a request takes: ``fixed_s``, and ``px_s`` for each input pixel."""

    fixed_s: float
    px_s: float

    def of(self, px: Any) -> Any:
        """Return the seconds for a request of ``px`` pixels; arrays likewise."""
        return self.fixed_s + self.px_s * px

    @classmethod
    def measured(cls, upscale: Callable[[Yuv420], object], served: ServedModel) -> RequestCost:
        """Measure small requests, larger ones up to where that takes clearly longer.

        Nothing else should be sent meanwhile: 0.1 s for a network on a CPU, less on a GPU. A
        request is taken to cost at least as much as 64 x 64 pixels more, so that a busy machine is
        not mistaken for one where requests are free.

        Args:
            upscale: sends a frame.
            served: the model.

        Raises:
            ServerError: from ``upscale``.

        """

        def typical_s(side_px: int) -> float:
            dtype = f"uint{served.bits}"
            frame = Yuv420(
                np.zeros((side_px, side_px), dtype),
                np.zeros((side_px // 2, side_px // 2, 2), dtype),
            )
            upscale(frame)  # the first one of a size may take longer
            begin_s = perf_counter()
            for _ in range(PROBES):
                upscale(frame)
            return (perf_counter() - begin_s) / PROBES

        side_px = small_px = 64
        small_s = large_s = typical_s(small_px)
        while side_px < LARGEST_PROBE_PX and large_s < CLEARLY_LONGER * small_s:
            side_px *= 2
            large_s = typical_s(side_px)
        px_s = max(0.0, large_s - small_s) / (side_px**2 - small_px**2)
        least_s = px_s * small_px**2
        cost = cls(max(least_s, small_s - least_s), px_s)
        logger.debug("%s: a request takes %.2g s, and %.2g s a pixel", served.name, *astuple(cost))
        return cost


@dataclass
class Savings:
    """What did not have to be computed. Counts frames, and input pixels."""

    unchanged_frames: int = 0
    """For which nothing was sent."""
    partly_computed_frames: int = 0
    whole_frames: int = 0
    total_px: int = 0
    computed_px: int = 0
    """Sent to the server, with halos."""

    @property
    def computed_share(self) -> float:
        """Of all pixels, 0 to 1."""
        return self.computed_px / self.total_px if self.total_px else 1.0

    def counts(self) -> dict[str, float]:
        """Return the frames of each kind and the computed share, by name."""
        return {
            "unchanged_frames": self.unchanged_frames,
            "partly_computed_frames": self.partly_computed_frames,
            "whole_frames": self.whole_frames,
            "computed_share": self.computed_share,
        }

    def __str__(self) -> str:
        """Say it in a line."""
        return (
            f"computed {self.computed_share:.1%} of the pixels: {self.whole_frames} whole frames, "
            f"{self.partly_computed_frames} in part, {self.unchanged_frames} unchanged"
        )


@dataclass(frozen=True)
class Plan:
    """What to send for one frame: its ``parts``, each to be upscaled as a frame of its own.

    ``tiles`` are the places of the parts; None if there is one part, the whole frame. There are no
    parts for a frame that is the one before.
    """

    number: int
    tiles: tuple[Tile, ...] | None
    parts: tuple[Yuv420, ...]
    frame_px: int


class UnchangedParts:
    """Plans what to send of each frame of a video, and composes the upscaled frames.

    One thread may plan frames while another one composes earlier ones. The frames of a live stream
    may be left out before :meth:`plan`; after a failure behind it, call :meth:`forget`.

    Args:
        served: the model.
        cost: decides between tiles and whole frames.
        savings: counted while frames are composed.

    """

    def __init__(
        self, served: ServedModel, cost: RequestCost, savings: Savings | None = None
    ) -> None:
        self.savings = Savings() if savings is None else savings
        self._served = served
        self._cost = cost
        self._block_px = math.lcm(BLOCK_MULTIPLE_PX, served.size_multiple)
        self._halo_px = -(-served.halo_px // served.size_multiple) * served.size_multiple
        # Of the thread that plans
        self._before: Planes | None = None
        self._planned = 0
        self._in_vain = 0
        # Of the thread that composes
        self._composed = 0
        self._result: Planes | None = None
        self._copy_s = 0.0

    def plan(self, image: Yuv420) -> Plan:
        """Return what to send for the next frame, which must not be written to any more."""
        before, self._before = self._before, planes_of(image)
        tiles = None
        if before is not None and self._is_worth_comparing():
            tiles = self._tiles_of_changes(before, self._before)
        self._in_vain = self._in_vain + 1 if tiles is None else 0
        self._planned += 1
        parts: tuple[Yuv420, ...] = (image,)
        if tiles is not None:
            cuts = (tile.cut(self._before, self._served.inputs) for tile in tiles)
            parts = tuple(Yuv420(luma[..., 0], chroma) for luma, chroma in cuts)
        return Plan(self._planned, tiles, parts, image.luma.size)

    def compose(self, plan: Plan, answers: Sequence[Yuv420]) -> Yuv420:
        """Return the upscaled frame of ``plan``, read-only; equal ones share their memory.

        It is never written to again, so keep it as long as you like.

        Args:
            plan: plans are composed in their order, without a gap.
            answers: what the parts of ``plan`` have become.

        Raises:
            ValueError: another plan is next.

        """
        if plan.tiles is not None and plan.number != self._composed + 1:
            raise ValueError(f"plan {plan.number} cannot follow plan {self._composed}")
        if plan.tiles is None:
            self._result = planes_of(answers[0])
        elif plan.tiles:
            self._result = self._pasted(plan.tiles, answers)
        self._composed = plan.number
        savings = self.savings
        savings.whole_frames += plan.tiles is None
        savings.unchanged_frames += plan.tiles == ()
        savings.partly_computed_frames += bool(plan.tiles)
        savings.total_px += plan.frame_px
        savings.computed_px += sum(part.luma.size for part in plan.parts)
        assert self._result is not None  # noqa: S101 - the first plan is whole
        luma, chroma = self._result
        result = Yuv420(luma[..., 0], chroma[:])
        result.luma.flags.writeable = result.chroma.flags.writeable = False
        return result

    def forget(self) -> None:
        """Plan the next frame whole: a plan will not be composed, nor those that followed it."""
        self._before = None

    def _is_worth_comparing(self) -> bool:
        return self._in_vain < PATIENCE or self._in_vain % RETRY_EVERY == 0

    def _tiles_of_changes(self, before: Planes, now: Planes) -> tuple[Tile, ...] | None:
        """Return the tiles to compute; None if the whole frame takes less time."""
        shapes = [(plane.shape, plane.dtype) for plane in before]
        if shapes != [(plane.shape, plane.dtype) for plane in now]:
            return None
        changed = changed_blocks(before, now, self._served.inputs, self._block_px)
        if not changed.any():
            return ()
        changed = dilated(changed, -(-self._halo_px // self._block_px))
        height, width, _ = now[0].shape
        whole_s = self._cost.of(height * width)
        if self._cost.of(changed.sum() * self._block_px**2) >= whole_s:
            return None

        def cost_s(boxes: Boxes) -> NDArray[np.float64]:
            """Of the tiles with halos."""
            top, bottom, left, right = np.moveaxis(boxes * self._block_px, -1, 0)
            rows = np.minimum(bottom + self._halo_px, height) - np.maximum(top - self._halo_px, 0)
            columns = np.minimum(right + self._halo_px, width) - np.maximum(left - self._halo_px, 0)
            seconds: NDArray[np.float64] = self._cost.of(rows * columns)
            return seconds

        boxes = cover(changed, cost_s)
        if cost_s(boxes).sum() + self._copy_s >= whole_s:
            return None
        return tuple(
            Tile(
                Span.within(top, bottom, height, self._halo_px),
                Span.within(left, right, width, self._halo_px),
            )
            for top, bottom, left, right in (boxes * self._block_px).tolist()
        )

    def _pasted(self, tiles: Sequence[Tile], answers: Sequence[Yuv420]) -> Planes:
        """Return a copy of the result before, with the tiles in it: others may use that one."""
        assert self._result is not None  # noqa: S101 - the first plan is whole
        begin_s = perf_counter()
        result = tuple(plane.copy() for plane in self._result)
        copy_s = perf_counter() - begin_s
        self._copy_s = min(copy_s, self._copy_s or copy_s)
        for tile, answer in zip(tiles, answers, strict=True):
            tile.paste(planes_of(answer), result, self._served.outputs, self._served.scale)
        return result
