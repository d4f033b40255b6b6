"""The size a picture is upscaled to, and the passes through the network that reach it."""

from __future__ import annotations

import heapq
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

__all__ = ["NAMED_SIZES", "Box", "SizePlan", "cheapest_passes", "plan_size"]

NAMED_SIZES: Final = {
    "1080p": (1920, 1080),
    "1440p": (2560, 1440),
    "4k": (3840, 2160),
    "8k": (7680, 4320),
}

_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Box:
    """The size an upscaled picture must fit into, in pixels.

    ``name`` is how the user wrote it, in lower case. If ``rotates``, width and height are swapped
    for a picture in portrait format.
    """

    width_px: int
    height_px: int
    name: str = ""
    rotates: bool = False

    def __post_init__(self) -> None:
        """Reject a size that no picture fits into."""
        if self.width_px < 1 or self.height_px < 1:
            raise ValueError(f"a size must be positive, got {self.width_px}x{self.height_px}")

    @classmethod
    def parse(cls, text: str) -> Box:
        """Read ``4k`` (or another of :data:`NAMED_SIZES`), or ``WIDTHxHEIGHT``.

        Raises:
            ValueError: neither.

        """
        name = text.lower()
        if name in NAMED_SIZES:
            return cls(*NAMED_SIZES[name], name=name, rotates=True)
        match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", name)
        if match is None:
            known = ", ".join(NAMED_SIZES)
            raise ValueError(f"{text!r}: expected {known} or a size like 3840x2160")
        return cls(int(match[1]), int(match[2]), name=name)

    def fit(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Return the largest size that fits, with the aspect ratio of the given one."""
        width, height = self.width_px, self.height_px
        if self.rotates and height_px > width_px:
            width, height = height, width
        factor = min(width / width_px, height / height_px)
        return max(1, round(width_px * factor)), max(1, round(height_px * factor))


@dataclass(frozen=True)
class SizePlan:
    """Pass through networks of the scales ``passes`` in this order, then resample to this size."""

    passes: tuple[int, ...]
    width_px: int
    height_px: int


def plan_size(width_px: int, height_px: int, scales: Collection[int], box: Box | None) -> SizePlan:
    """Plan how a picture reaches the largest size in ``box``; without a box, one smallest pass.

    Networks of ``scales`` upscale until the picture is at least as large as asked for, by the
    passes that send the fewest pixels through them. A picture that is already too large makes no
    pass.
    """
    if box is None:
        scale = min(scales)
        return SizePlan((scale,), width_px * scale, height_px * scale)
    width, height = box.fit(width_px, height_px)
    return SizePlan(
        cheapest_passes(max(width / width_px, height / height_px), scales), width, height
    )


def cheapest_passes(factor: float, scales: Collection[int]) -> tuple[int, ...]:
    """Return the cheapest scales whose product is at least ``factor``, found as Dijkstra does.

    A pass costs the pixels that go into it, as multiples of the source's. Of passes that cost the
    same, the ones that overshoot least win.
    """
    candidates: list[tuple[int, int, tuple[int, ...]]] = [(0, 1, ())]
    while True:
        cost, total, passes = heapq.heappop(candidates)
        if total >= factor - _ROUNDING:
            return passes
        for scale in scales:
            heapq.heappush(candidates, (cost + total**2, total * scale, (*passes, scale)))
