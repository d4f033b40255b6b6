"""How large a picture becomes: passes through the network, then resampled down to fit."""

from __future__ import annotations

import heapq
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

__all__ = ["Box", "Enlargement", "plan"]

NAMED: Final = {
    "1080p": (1920, 1080),
    "1440p": (2560, 1440),
    "4k": (3840, 2160),
    "8k": (7680, 4320),
}


_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Box:
    """The largest size wanted, in pixels. A ``turnable`` one turns with an upright picture."""

    width_px: int
    height_px: int
    turnable: bool = False

    def __post_init__(self) -> None:
        """Refuse what no picture fits into."""
        if self.width_px < 1 or self.height_px < 1:
            raise ValueError(f"a size must be positive, got {self.width_px}x{self.height_px}")

    @classmethod
    def parse(cls, text: str) -> Box:
        """Read ``4k`` (or another of :data:`NAMED`), or ``WIDTHxHEIGHT``.

        Raises:
            ValueError: neither.

        """
        if text.lower() in NAMED:
            return cls(*NAMED[text.lower()], turnable=True)
        match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
        if match is None:
            raise ValueError(f"{text!r}: expected {', '.join(NAMED)} or a size like 3840x2160")
        return cls(int(match[1]), int(match[2]))

    def fit(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Return the largest size of the same shape that fits."""
        across, down = self.width_px, self.height_px
        if self.turnable and height_px > width_px:
            across, down = down, across
        factor = min(across / width_px, down / height_px)
        return max(1, round(width_px * factor)), max(1, round(height_px * factor))


@dataclass(frozen=True)
class Enlargement:
    """Passes through networks of the scales ``passes``, in this order, then resampled."""

    passes: tuple[int, ...]
    width_px: int
    height_px: int


def plan(width_px: int, height_px: int, scales: Collection[int], box: Box | None) -> Enlargement:
    """Return how a picture reaches the largest size in ``box``; without a box, one smallest pass.

    Networks of ``scales`` enlarge until the picture is at least as large as wanted, in the way
    that sends the fewest pixels through them. A picture that is too large already makes no pass.
    """
    if box is None:
        scale = min(scales)
        return Enlargement((scale,), width_px * scale, height_px * scale)
    wide, high = box.fit(width_px, height_px)
    return Enlargement(_passes(max(wide / width_px, high / height_px), scales), wide, high)


def _passes(factor: float, scales: Collection[int]) -> tuple[int, ...]:
    """Return the cheapest scales whose product is at least ``factor``, as Dijkstra finds them.

    A pass costs the pixels that go into it, in pictures of the first size; among ways that cost
    the same, the one that overshoots least wins.
    """
    ways: list[tuple[int, int, tuple[int, ...]]] = [(0, 1, ())]
    while True:
        cost, total, passes = heapq.heappop(ways)
        if total >= factor - _ROUNDING:
            return passes
        for scale in scales:
            heapq.heappush(ways, (cost + total**2, total * scale, (*passes, scale)))
