"""Which model of a server a picture goes to, by how it was compressed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from rt4ksr_client.call import Call
from rt4ksr_client.contract import MODELS, ModelSpec, image_endpoint
from rt4ksr_client.errors import DeadlineExceededError, ServerError, ServerUnreachableError
from rt4ksr_client.formats.compression import Compression
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports import Transport

__all__ = ["AUTO", "ModelChoice", "model_for", "offered_models"]

AUTO: Final = "auto"
"""In place of a model's name: the choice is by picture."""


Model = TypeVar("Model", ServedModel, ModelSpec)


@dataclass(frozen=True)
class ModelChoice:
    """The model for a picture; ``compression`` is None if the model was asked for by name."""

    model: ServedModel
    compression: Compression | None = None

    def __str__(self) -> str:
        """Return e.g. ``rt4ksr_x2_jpeg: JPEG 75, 4:2:0 (by its pixels)``."""
        if self.compression is None:
            return self.model.name
        return f"{self.model.name}: {self.compression}"


def model_for(compression: Compression, default: Model, offered: Iterable[Model]) -> Model:
    """Return the model for pictures of this compression: the one with the lowest limit that fits.

    Args:
        compression: of the picture.
        default: for pictures that are not compressed, or that no other model is for.
        offered: to choose from; those of another scale or other colours are skipped.

    """
    quality = compression.quality
    if quality is None:
        return default

    def limit(model: Model) -> float:
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


def offered_models(transport: Transport, call: Call, *, with_endpoint: bool) -> list[ServedModel]:
    """Return the models of a server, or of each of several, that are for compressed pictures.

    Args:
        transport: asks the server.
        call: its deadline and cancellation.
        with_endpoint: skip models that have no image endpoint.

    Raises:
        ServerError: no answer.

    """
    try:
        names = transport.model_names(call)
    except (ServerUnreachableError, DeadlineExceededError):
        raise
    except ServerError:  # a server may keep its statistics private
        known = [*MODELS, *map(image_endpoint, MODELS)]
        names = {name for name in known if transport.model_ready(name, call)}
    if with_endpoint:
        names = {name for name in names if image_endpoint(name) in names}
    offered = []
    for name in sorted(names):
        with suppress(ServerError):  # an endpoint, a codec, or not of this project
            served = transport.served_model(name, call)
            if served.max_jpeg_quality or served.max_jpeg_quality_444:
                offered.append(served)
    return offered
