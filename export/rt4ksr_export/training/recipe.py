"""Every setting that determines the result of a training, in one small TOML file."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rt4ksr_client.contract import Colours
from rt4ksr_client.errors import CheckpointError
from rt4ksr_export.degradations import PRESETS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Recipe", "load_recipe"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    ``degrade`` is a name of ``degradations.PRESETS``, which also says for which colours the network
    is: RGB or 4:2:0. There are ``iterations`` of ``batch_size``
    patches of ``patch_px`` x ``patch_px`` small pixels; from ``large_patch_from`` on (a share of
    the iterations) they have ``large_patch_px``. The loss is the mean absolute difference, from
    ``l2_from`` on the mean square, and from ``psnr_from`` on minus the mean PSNR of the patches, in
    which smooth patches count as much as detailed ones; above ``psnr_floor_db`` a patch counts by
    its square error, as there is little left to gain. A patch that comes out worse than bicubic
    interpolation counts ``harm_weight`` times more by what it is worse (RGB only). Of ``crops``
    random crops, the one with the most contrast is trained on. The learning rate warms up over
    ``warmup`` iterations, is constant until ``decay_from`` (a share of the iterations), and then
    falls as a cosine to a hundredth. The result is the exponential average of the weights, with
    ``ema_decay``. ``clip_norm`` bounds the gradient.
    """

    scale: int
    degrade: str = "jpeg"
    iterations: int = 15_000
    batch_size: int = 8
    patch_px: int = 48
    large_patch_px: int = 64
    large_patch_from: float = 0.85
    learning_rate: float = 3e-3
    warmup: int = 200
    decay_from: float = 0.0
    l2_from: float = 0.5
    psnr_from: float = 1.0
    psnr_floor_db: float = 40.0
    harm_weight: float = 0.0
    crops: int = 2
    ema_decay: float = 0.999
    clip_norm: float = 2.0
    seed: int = 1

    def __post_init__(self) -> None:
        """Reject values that cannot be trained with."""
        for name in (
            "scale",
            "iterations",
            "batch_size",
            "patch_px",
            "large_patch_px",
            "crops",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.patch_px % 2 or self.large_patch_px % 2:
            raise ValueError("patches must have even sides")
        if self.degrade not in PRESETS:
            raise ValueError(f"degrade must be one of {', '.join(PRESETS)}, got {self.degrade!r}")
        if not (self.learning_rate > 0 and 0 <= self.ema_decay < 1 and self.clip_norm > 0):
            raise ValueError("learning_rate and clip_norm must be positive, ema_decay in [0, 1)")

    def learning_rate_at(self, iteration: int) -> float:
        """Learning rate of an iteration, counted from 0."""
        warm = min(1.0, (iteration + 1) / max(1, self.warmup))
        decay_start = self.decay_from * self.iterations
        decayed = max(0.0, iteration - decay_start) / max(1.0, self.iterations - decay_start)
        cosine = 0.5 * (1 + math.cos(math.pi * decayed))
        return self.learning_rate * warm * (0.01 + 0.99 * cosine)

    @property
    def colours(self) -> Colours:
        """Of the network."""
        return PRESETS[self.degrade].colours

    @property
    def largest_patch_px(self) -> int:
        """Side of the largest small patch."""
        return self.large_patch_px if self.large_patch_from < 1 else self.patch_px

    def patch_px_at(self, iteration: int) -> int:
        """Side of a small patch."""
        late = iteration >= self.large_patch_from * self.iterations
        return self.large_patch_px if late else self.patch_px

    def loss_at(self, iteration: int) -> str:
        """The loss of an iteration: ``l1``, ``l2`` or ``psnr``."""
        if iteration >= self.psnr_from * self.iterations:
            return "psnr"
        return "l2" if iteration >= self.l2_from * self.iterations else "l1"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def load_recipe(path: Path | None, **overrides: Any) -> Recipe:
    """Read a recipe; ``overrides`` that are not None take precedence over the file.

    Raises:
        CheckpointError: the file is missing or malformed, or a value makes no sense.

    """
    try:
        values = {} if path is None else tomllib.loads(path.read_text(encoding="utf-8"))
        values |= {name: value for name, value in overrides.items() if value is not None}
        unknown = set(values) - {field.name for field in fields(Recipe)}
        if unknown:
            raise ValueError(f"unknown setting {', '.join(sorted(unknown))}")
        return Recipe(**values)
    except (OSError, ValueError, TypeError) as exc:
        raise CheckpointError(f"{path or 'recipe'}: {exc}") from exc
