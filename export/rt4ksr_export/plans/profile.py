"""The sizes a plan is made for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from rt4ksr_client.contract import CHANNELS, INPUT_NAME, MAX_INPUT_PX, SIZE_MULTIPLE_PX, ModelSpec

__all__ = ["MAX_BATCH_SIZE", "MAX_SIDE_PX", "Profile"]

Shape = tuple[int, int, int, int]

MAX_BATCH_SIZE: Final = 2
"""Of every configuration. One 4K frame fills a GPU; a second one hides the time between launches.
Triton's TensorRT backend reserves memory for this many frames of the largest size."""

MAX_SIDE_PX: Final = math.isqrt(MAX_INPUT_PX)
"""Of a frame in a plan, either way up: a 4K picture goes in in one piece. Two of them enlarged
three times are 8e8 values, within the 2^31 that TensorRT allows a tensor."""


@dataclass(frozen=True)
class Profile:
    """Least, best and largest ``(N, H, W, 3)``; in between everything even is served."""

    least: Shape
    best: Shape
    largest: Shape

    def __post_init__(self) -> None:
        """Refuse what TensorRT would refuse later and less clearly."""
        for low, middle, high in zip(self.least, self.best, self.largest, strict=True):
            if not 0 < low <= middle <= high:
                raise ValueError(f"{self}: each size must rise from least over best to largest")

    @classmethod
    def of(cls, spec: ModelSpec) -> Profile:
        """Return the profile of a served model: best at the frame it is meant for."""
        return cls(
            (1, SIZE_MULTIPLE_PX, SIZE_MULTIPLE_PX, CHANNELS),
            (1, spec.input_height_px, spec.input_width_px, CHANNELS),
            (MAX_BATCH_SIZE, MAX_SIDE_PX, MAX_SIDE_PX, CHANNELS),
        )

    def texts(self) -> dict[str, str]:
        """Return min, opt and max as trtexec and ONNX Runtime read them: ``image:1x2x2x3``."""
        shapes = {"min": self.least, "opt": self.best, "max": self.largest}
        return {key: f"{INPUT_NAME}:{'x'.join(map(str, shape))}" for key, shape in shapes.items()}
