"""Reads the values of a load test's options from the text that a user gives.

Each function raises ValueError with what is expected; the options name it in their table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from rt4ksr_client.contract import DEFAULT_MODELS

__all__ = [
    "frame_side",
    "frame_size",
    "model_shares",
    "number",
    "positive",
    "positive_seconds",
    "scale_shares",
    "seconds",
    "share",
]

SMALLEST_SIDE_PX: Final = 128


def number(text: str) -> float:
    """Read a finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def positive(text: str) -> float:
    """Read a number above 0."""
    if (value := number(text)) <= 0:
        raise ValueError("must be a positive number")
    return value


def share(text: str) -> float:
    """Read a share from 0 to 1."""
    if not 0 <= (value := number(text)) <= 1:
        raise ValueError("must be within 0..1")
    return value


def seconds(text: str) -> float:
    """Read a duration such as ``90``, ``90s``, ``10m`` or ``1h``."""
    text = text.strip()
    factor = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    try:
        value = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError("expected seconds, e.g. 90, 120s, 10m or 1h")
    return value


def positive_seconds(text: str) -> float:
    """Read a duration above 0."""
    if not (value := seconds(text)):
        raise ValueError("must be positive")
    return value


def frame_side(text: str) -> int:
    """Read the side of a frame in pixels: even and not too small."""
    side_px = int(text)
    if side_px < SMALLEST_SIDE_PX or side_px % 2:
        raise ValueError(f"must be even and at least {SMALLEST_SIDE_PX}")
    return side_px


def frame_size(text: str) -> tuple[int, int]:
    """Read a width and a height in pixels, e.g. ``1920x1080``."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError("expected WIDTHxHEIGHT, e.g. 1920x1080")
    return frame_side(width), frame_side(height)


def scale_shares(text: str) -> dict[str, float]:
    """Read ``2`` or a mix such as ``2:3,3:1``: model name to its share of the requests."""
    known = ", ".join(map(str, sorted(DEFAULT_MODELS)))
    names = {str(scale): spec.name for scale, spec in DEFAULT_MODELS.items()}
    return shares_of(text, names.__getitem__, f"{known}, or a mix like 2:3,3:1")


def model_shares(text: str) -> dict[str, float]:
    """Read a model's name or a mix such as ``rt4ksr_x2:3,rt4ksr_x2_video:1``; likewise."""
    return shares_of(text, str, "a name, or a mix like rt4ksr_x2:3,rt4ksr_x2_video:1")


def shares_of(text: str, name_of: Callable[[str], str], expected: str) -> dict[str, float]:
    """Read weights such as ``a:3,b:1``: the name of each to its share; the shares sum to 1."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        key, _, weight = part.strip().partition(":")
        try:
            weights[name_of(key.strip())] = float(weight or 1)
        except (KeyError, ValueError):
            raise ValueError(f"give {expected}") from None
    if "" in weights:
        raise ValueError(f"give {expected}")
    total = sum(weights.values())
    if min(weights.values()) < 0 or not 0 < total < math.inf:
        raise ValueError("weights must be positive")
    return {name: weight / total for name, weight in weights.items() if weight}
