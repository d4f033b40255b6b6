"""Which model of a server a picture goes to, by how it was compressed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rt4ksr_client.formats.compression import Compression
from rt4ksr_client.served_model import ServedModel

__all__ = ["AUTO", "ModelChoice", "model_for"]

AUTO: Final = "auto"
"""In place of a model's name: the choice is by picture."""


@dataclass(frozen=True)
class ModelChoice:
    """The model for a picture; ``compression`` is None if the model was asked for by name."""

    model: ServedModel
    compression: Compression | None = None

    def __str__(self) -> str:
        """Return e.g. ``rt4ksr_x2_jpeg for JPEG 75, 4:2:0 (by its pixels)``."""
        if self.compression is None:
            return self.model.name
        return f"{self.model.name} for {self.compression}"


def model_for(
    compression: Compression, default: ServedModel, offered: Iterable[ServedModel]
) -> ServedModel:
    """Return the model for pictures of this compression: the one with the lowest limit that fits.

    Args:
        compression: of the picture.
        default: for pictures that are not compressed, or that no other model is for.
        offered: models of the server; those of another scale or other colours are skipped.

    """
    quality = compression.quality
    if quality is None:
        return default

    def limit(model: ServedModel) -> float:
        if compression.full_chroma:
            return model.max_jpeg_quality_444
        return model.max_jpeg_quality

    kind = (default.scale, default.colours, default.bits)
    fitting = [
        model
        for model in offered
        if (model.scale, model.colours, model.bits) == kind and quality <= limit(model) + 0.5
    ]
    return min(fitting, key=lambda model: (limit(model), model.name), default=default)
