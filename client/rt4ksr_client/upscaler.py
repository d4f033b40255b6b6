"""The SDK's door: a picture in, a larger picture out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rt4ksr_client import pictures
from rt4ksr_client.calls import Cancellation, Deadline
from rt4ksr_client.contract import DEFAULT_MODELS, DEFAULT_PICTURE_FORMAT, PictureFormat
from rt4ksr_client.errors import WrongScaleError
from rt4ksr_client.frames import Frame, check_frame, from_batch, to_batch
from rt4ksr_client.pipeline import check_in_flight, in_order
from rt4ksr_client.retry import Retries
from rt4ksr_client.status import ServerStatus, read_status
from rt4ksr_client.tiling import MAX_REQUEST_PX, upscale_in_tiles
from rt4ksr_client.transports import ServedModel, TransportName, WireName, open_transport

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Upscaler"]

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_SCALE = 2
DEFAULT_TIMEOUT_S = 60.0
DEFAULT_IN_FLIGHT = 4

Picture = TypeVar("Picture", NDArray[Any], Image.Image)


class Upscaler:
    """Upscales pictures on a Triton server.

    May be shared between threads. Close it, or use ``with``.

    What the server never worked on (unreachable, overloaded) is tried again within the deadline,
    with several servers at another one. Pictures of more than ``max_request_px`` pixels are sent
    in tiles, with the same result.

    Args:
        url: ``host:port`` of the server's gRPC port, ``http://host:port`` of its HTTP port,
            ``dns:///name:port`` for all servers behind a name, or several with commas between.
        scale: 2 or 3; chooses this project's model for that scale.
        model: a model's name instead; with ``scale`` too, the two are checked against each other.
        transport: ``auto`` (shared memory where the server can map it, else what the address
            says), ``grpc``, ``http``, ``shm`` or ``cuda_shm``.
        wire: ``raw``: frames travel as they are. ``encoded``: as pictures, both ways, over gRPC or
            HTTP. ``auto``: raw in shared memory; elsewhere the link is measured at the first call,
            and frames are encoded where that is faster than sending them raw.
        wire_format: of frames that travel encoded: ``jpeg`` (quality 95) or ``webp`` (90), both
            with a loss, or ``png``, exact and slow.
        timeout_s: deadline of every request with all its attempts, in seconds.
        max_request_px: largest picture sent in one piece, in pixels before upscaling.

    Raises:
        ValueError: a malformed address, a scale no model has, a number that is not positive, a
            transport or wire that is unknown or does not go with the rest.

    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        scale: int | None = None,
        model: str | None = None,
        transport: TransportName = "auto",
        wire: WireName = "raw",
        wire_format: PictureFormat = DEFAULT_PICTURE_FORMAT,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_request_px: int = MAX_REQUEST_PX,
    ) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, got {timeout_s}")
        if not max_request_px > 0:
            raise ValueError(f"max_request_px must be positive, got {max_request_px}")
        if model is None:
            model = _model_for(DEFAULT_SCALE if scale is None else scale)
        self._model_name = model
        self._expected_scale = scale
        self._timeout_s = timeout_s
        self._max_request_px = max_request_px
        self._retries = Retries()
        self._transport = open_transport(url, transport, wire, wire_format)
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
        """Release connections and shared memory. Calling it twice is harmless."""
        self._transport.close()

    @property
    def served_model(self) -> ServedModel:
        """What the server says about the model; asked once.

        Raises:
            WrongScaleError: the model upscales by another factor than ``scale``.
            ServerError: no answer, or not one of this project's models.

        """
        return self._served_model(None)

    @property
    def transport_name(self) -> str:
        """The transport in use: ``grpc``, ``http``, ``shm`` or ``cuda_shm``.

        With several servers, those in use: ``shm+grpc``. Asks the server if nothing did so yet.
        """
        self._transport.decide(timeout_s=self._timeout_s)
        return self._transport.name

    @property
    def transport_reason(self) -> str:
        """Why :attr:`transport_name` was chosen, for people."""
        self._transport.decide(timeout_s=self._timeout_s)
        return self._transport.reason

    @property
    def wire_name(self) -> str:
        """How frames travel: ``raw`` or ``encoded``; with several servers e.g. ``raw+encoded``.

        Measures the link if that is asked for and nothing did so yet.
        """
        self._transport.decide(timeout_s=self._timeout_s)
        return self._transport.wire

    @property
    def wire_reason(self) -> str:
        """Why :attr:`wire_name` was chosen, for people."""
        self._transport.decide(timeout_s=self._timeout_s)
        return self._transport.wire_reason

    def status(self) -> ServerStatus:
        """Return what the server says about itself, its models and their work so far.

        With several servers, it is one of them that answers.

        Raises:
            ServerError: no answer.

        """
        return read_status(self._transport, timeout_s=self._timeout_s)

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
        upscaled: Frame | Image.Image = self._upscale(image, None)
        return upscaled

    def map(
        self, images: Iterable[Picture], in_flight: int = DEFAULT_IN_FLIGHT
    ) -> Iterator[Picture]:
        """Yield each of ``images`` upscaled, in their order, with several under way at once.

        ``images`` is consumed as results are fetched: no more than ``in_flight`` pictures are held
        at a time. Closing the iterator early, an error or Ctrl-C ends what is under way.

        Args:
            images: what :meth:`upscale` takes.
            in_flight: how many are under way at once; from 3 on the server need not wait.

        Raises:
            ValueError: ``in_flight`` below 1.
            PictureError, ServerError: in the place of the result that could not be had.

        """
        check_in_flight(in_flight)
        return in_order(self._upscale, images, in_flight)

    def _upscale(self, image: Any, cancellation: Cancellation | None) -> Any:
        if isinstance(image, np.ndarray):
            return self._upscale_frame(check_frame(image), cancellation)
        frame, surroundings = pictures.split(image)
        return pictures.join(self._upscale_frame(frame, cancellation), surroundings)

    def _upscale_frame(self, frame: Frame, cancellation: Cancellation | None) -> Frame:
        served = self._served_model(cancellation)
        height, width, _ = frame.shape
        if height * width > self._max_request_px:
            return upscale_in_tiles(frame, served, self._max_request_px, self._infer, cancellation)
        batch = to_batch(frame, served.size_multiple)
        upscaled = self._infer(batch, cancellation)
        return from_batch(upscaled, height * served.scale, width * served.scale)

    def _infer(self, batch: Frame, cancellation: Cancellation | None) -> Frame:
        def attempt(timeout_s: float) -> Frame:
            return self._transport.infer(
                self._model_name, batch, timeout_s=timeout_s, cancellation=cancellation
            )

        return self._retries.run(attempt, Deadline(self._timeout_s), cancellation, self._model_name)

    def _served_model(self, cancellation: Cancellation | None) -> ServedModel:
        if self._served is None:
            served = self._retries.run(
                lambda timeout_s: self._transport.served_model(
                    self._model_name, timeout_s=timeout_s
                ),
                Deadline(self._timeout_s),
                cancellation,
                self._model_name,
            )
            if self._expected_scale not in (None, served.scale):
                raise WrongScaleError(
                    f"model {served.name!r} upscales x{served.scale}, not x{self._expected_scale}"
                )
            self._served = served
        return self._served


def _model_for(scale: int) -> str:
    try:
        return DEFAULT_MODELS[scale].name
    except KeyError:
        known = ", ".join(str(s) for s in sorted(DEFAULT_MODELS))
        raise ValueError(f"there is no model for scale {scale}: choose one of {known}") from None
