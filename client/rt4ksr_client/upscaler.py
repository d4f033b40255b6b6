"""The SDK's door: a picture in, a larger picture out."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rt4ksr_client import pictures
from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_client.errors import WrongScaleError
from rt4ksr_client.frames import Frame, check_frame, from_batch, to_batch
from rt4ksr_client.transports import ServedModel, open_transport

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Upscaler"]

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_SCALE = 2
DEFAULT_TIMEOUT_S = 60.0


class Upscaler:
    """Upscales pictures on a Triton server.

    May be shared between threads. Close it, or use ``with``.

    Args:
        url: ``host:port`` of the server's gRPC port.
        scale: 2 or 3; chooses this project's model for that scale.
        model: a model's name instead; with ``scale`` too, the two are checked against each other.
        timeout_s: deadline of every call, in seconds.

    Raises:
        ValueError: a malformed address, a scale no model has, a deadline that is not positive.

    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        scale: int | None = None,
        model: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, got {timeout_s}")
        if model is None:
            model = _model_for(DEFAULT_SCALE if scale is None else scale)
        self._model_name = model
        self._expected_scale = scale
        self._timeout_s = timeout_s
        self._transport = open_transport(url)
        self._served: ServedModel | None = None

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Release the connection. Calling it twice is harmless."""
        self._transport.close()

    @property
    def served_model(self) -> ServedModel:
        """What the server says about the model; asked once.

        Raises:
            WrongScaleError: the model upscales by another factor than ``scale``.
            ServerError: no answer, or not one of this project's models.

        """
        if self._served is None:
            served = self._transport.served_model(self._model_name, timeout_s=self._timeout_s)
            if self._expected_scale not in (None, served.scale):
                raise WrongScaleError(
                    f"model {served.name!r} upscales x{served.scale}, not x{self._expected_scale}"
                )
            self._served = served
        return self._served

    @overload
    def upscale(self, image: NDArray[Any]) -> Frame: ...
    @overload
    def upscale(self, image: Image.Image) -> Image.Image: ...
    def upscale(self, image: NDArray[Any] | Image.Image) -> Frame | Image.Image:
        """Return ``image`` s times as large.

        Args:
            image: uint8 ``(H, W, 3)``, RGB; or a Pillow picture of any 8-bit mode, whose alpha
                and gray are kept.

        Returns:
            uint8 ``(s*H, s*W, 3)``, which may be read-only; or a Pillow picture.

        Raises:
            PictureError: not a picture of that kind.
            ServerError: one of its subclasses, by what went wrong.

        """
        if isinstance(image, np.ndarray):
            return self._upscale_frame(check_frame(image))
        parts = pictures.split(image)
        return pictures.join(parts, self._upscale_frame(parts.frame))

    def _upscale_frame(self, frame: Frame) -> Frame:
        served = self.served_model
        batch = to_batch(frame, served.size_multiple)
        upscaled = self._transport.infer(self._model_name, batch, timeout_s=self._timeout_s)
        height, width, _ = frame.shape
        return from_batch(upscaled, height * served.scale, width * served.scale)


def _model_for(scale: int) -> str:
    try:
        return DEFAULT_MODELS[scale].name
    except KeyError:
        known = ", ".join(str(s) for s in sorted(DEFAULT_MODELS))
        raise ValueError(f"there is no model for scale {scale}: choose one of {known}") from None
