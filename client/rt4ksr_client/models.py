"""The models that one command may use, by scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from PIL import Image

from rt4ksr_client.calls import Cancellation
from rt4ksr_client.errors import ModelNotReadyError
from rt4ksr_client.upscaler import Upscaler

__all__ = ["Models"]


class Models:
    """Upscalers of different models, of which a picture takes those that suit it.

    Of several, those that the server does not have are done without. May be shared between
    threads.
    """

    def __init__(self, upscalers: Sequence[Upscaler]) -> None:
        self._upscalers = upscalers

    @cached_property
    def by_scale(self) -> Mapping[int, Upscaler]:
        """What the server has; asked once.

        Raises:
            ModelNotReadyError: none of them.
            ServerError: no answer.

        """
        found: dict[int, Upscaler] = {}
        for index, upscaler in enumerate(self._upscalers, start=1):
            try:
                found[upscaler.served_model.scale] = upscaler
            except ModelNotReadyError:
                if index == len(self._upscalers) and not found:
                    raise
        return found

    def name(self, scale: int) -> str:
        """Return what the server calls the model of ``scale``."""
        return self.by_scale[scale].served_model.name

    def upscale(
        self, image: Image.Image, scale: int, cancellation: Cancellation | None
    ) -> Image.Image:
        """Return ``image`` ``scale`` times as large; see :meth:`Upscaler.upscale`.

        Raises:
            CancelledError: ``cancellation`` ended it.

        """
        upscaled: Image.Image = self.by_scale[scale]._upscale(image, cancellation)
        return upscaled
