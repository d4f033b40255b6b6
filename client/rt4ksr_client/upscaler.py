"""Upscale pictures on a Triton server."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from numpy.typing import NDArray
from PIL import Image

from rt4ksr_client import pictures
from rt4ksr_client.call import Call, Cancellation
from rt4ksr_client.concurrency import check_in_flight, in_order
from rt4ksr_client.connection import (
    DEFAULT_MAX_REQUEST_PX,
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    Connection,
    TransportName,
    WireName,
)
from rt4ksr_client.contract import (
    DEFAULT_MODELS,
    DEFAULT_PICTURE_FORMAT,
    Colours,
    PictureFormat,
    Priority,
)
from rt4ksr_client.errors import (
    InvalidRequestError,
    ModelNotReadyError,
    PictureError,
    ServerError,
    ServerUnreachableError,
    WrongScaleError,
)
from rt4ksr_client.formats.compression import compression_of
from rt4ksr_client.frames import (
    Frame,
    Planes,
    SupportsArray,
    Yuv420,
    as_frame,
    frame_of,
    from_batch,
    planes_of,
    to_batch,
)
from rt4ksr_client.model_choice import AUTO, ModelChoice, model_for, offered_models
from rt4ksr_client.retry import Retries
from rt4ksr_client.security import DEFAULT_SECURITY, Security, UnencryptedWarning
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.status import ServerStatus, read_status
from rt4ksr_client.tiling import upscale_in_tiles
from rt4ksr_client.transports import Route, open_transport

if TYPE_CHECKING:
    from typing import TypeGuard

    from av.video.frame import VideoFrame
    from typing_extensions import Self

__all__ = ["DEFAULT_IN_FLIGHT", "DEFAULT_SCALE", "Upscaler"]

DEFAULT_SCALE = 2
DEFAULT_IN_FLIGHT = 4
MAX_MODEL_CHANGES = 2
"""How often a picture is sent again because the model has changed."""

Picture = TypeVar("Picture", NDArray[Any], Image.Image, Yuv420, "VideoFrame")


logger = logging.getLogger(__name__)


class Upscaler:
    """Upscales pictures on a Triton server.

    May be shared between threads. Close it, or use ``with``. A process that is forked with it opens
    connections and shared memory of its own; pickled, it carries its settings only.

    Of Pillow pictures, each goes to the model for how it was compressed, unless one is asked for by
    name; see :meth:`choose_model`. Arrays, whose files are not known, go to the default model.

    Requests that no server worked on (unreachable, overloaded) are retried within the deadline, on
    another server if there are several. Pictures of more than ``max_request_px`` pixels are sent
    in tiles, with the same result. A ``cancellation`` ends a call from another thread; the call
    then raises :class:`concurrent.futures.CancelledError`. One with a ``timeout_s`` shortens the
    deadline of the call; the server rejects what still waits in its queue then.

    Args:
        url: ``host:port`` of the server's gRPC port, ``http://host:port`` of its HTTP port,
            ``grpcs://host`` and ``https://host/prefix`` with TLS, ``dns:///name:port`` for all
            servers behind a name, or several separated by commas.
        scale: 2 or 3; selects this project's models for that scale.
        model: a model's name, for all pictures; given both, the model must have that scale.
            ``auto``, as None: by picture.
        transport: see :class:`~rt4ksr_client.Connection`, as for all that follow.
        wire: ``raw``, ``encoded`` or ``auto``.
        wire_format: ``jpeg``, ``webp`` or ``png``.
        timeout_s: deadline per request in seconds, including retries.
        max_request_px: largest picture sent in one piece, in pixels before upscaling.
        security: CA, client certificate and request headers. Pickled, an upscaler carries it:
            ``headers`` with their values, files by their names.
        priority: ``high`` or ``normal``. In the server's queue, everything ``high`` goes first.

    Warns:
        UnencryptedWarning: headers go to another host without encryption.

    Raises:
        ValueError: a malformed address, a scale no model has, a number that is not positive, or a
            transport or wire that is unknown or does not fit the address.

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
        max_request_px: int = DEFAULT_MAX_REQUEST_PX,
        security: Security = DEFAULT_SECURITY,
        priority: Priority = "normal",
    ) -> None:
        self._connection = Connection(
            url, transport, wire, wire_format, timeout_s, max_request_px, security, priority
        )
        for text in self._connection.unencrypted():
            warnings.warn(text, UnencryptedWarning, stacklevel=2)
        self._is_auto = model in (None, AUTO)
        self._model_name = _model_for(DEFAULT_SCALE if scale is None else scale, model)
        self._expected_scale = scale
        self._retries = Retries()
        self._transport = open_transport(self._connection)
        self._served: dict[str, ServedModel] = {}
        self._choices: list[ServedModel] | None = None
        self._said_raw = False

    @classmethod
    def from_connection(
        cls, connection: Connection, *, scale: int | None = None, model: str | None = None
    ) -> Self:
        """Return an upscaler on the server or servers of ``connection``.

        Raises:
            ValueError: a scale no model has.

        """
        return cls(**vars(connection), scale=scale, model=model)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings: the copy opens its own connections."""
        model = AUTO if self._is_auto else self._model_name
        settings: Any = {"scale": self._expected_scale, "model": model}
        return partial(type(self).from_connection, self._connection, **settings), ()

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
        """Release connections and shared memory; a call that follows raises ServerError.

        Calling it twice is harmless.
        """
        self._transport.close()

    @property
    def served_model(self) -> ServedModel:
        """The model as the server describes it. See :meth:`fetch_served_model`."""
        return self.fetch_served_model()

    def fetch_served_model(self, *, cancellation: Cancellation | None = None) -> ServedModel:
        """Return the model as the server describes it; the default one if the choice is by picture.

        Asked at the first call, and again after the server was away or an answer did not fit.

        Raises:
            WrongScaleError: the model upscales by another factor than ``scale``.
            ServerError: no answer, or not one of this project's models.

        """
        return self._fetch(self._model_name, cancellation)

    def _fetch(self, name: str, cancellation: Cancellation | None) -> ServedModel:
        served = self._served.get(name)
        if served is None:
            call = Call(self._connection.timeout_s, cancellation)
            served = self._retries.run(lambda: self._transport.served_model(name, call), call, name)
            if self._expected_scale not in (None, served.scale):
                raise WrongScaleError(
                    f"model {served.name!r} upscales x{served.scale}, not x{self._expected_scale}"
                )
            is_raw = served.colours != "rgb" and self._connection.wire == "encoded"
            if is_raw and not self._said_raw:
                self._said_raw = True
                pictures.warn(
                    f"model {served.name!r} takes 4:2:0 planes, which travel raw: the wire "
                    "'encoded' is for RGB pictures"
                )
            self._served[name] = served
        return served

    def _forget(self, name: str) -> None:
        """Ask again about a model, and about which ones there are."""
        self._served.pop(name, None)
        self._choices = None

    def choose_model(
        self, image: Image.Image, *, cancellation: Cancellation | None = None
    ) -> ModelChoice:
        """Return the model that :meth:`upscale` takes for a picture, and why.

        It is chosen by the quantization tables that ``image`` has if it was opened from a JPEG, and
        by the traces that compression leaves in pixels, of those models of the server that say
        which qualities they are for. Takes 10 to 20 ms.

        Raises:
            ServerError: no answer.

        """
        default = self.fetch_served_model(cancellation=cancellation)
        if not self._is_auto:
            return ModelChoice(default)
        compression = compression_of(image)
        if compression.quality is None:
            return ModelChoice(default, compression)
        models = self.fetch_choices(cancellation=cancellation)
        choice = ModelChoice(model_for(compression, default, models), compression)
        logger.info("chose %s", choice)
        return choice

    def fetch_choices(self, *, cancellation: Cancellation | None = None) -> Sequence[ServedModel]:
        """Return the models that :meth:`choose_model` chooses from, the default one first.

        Asked once, as :meth:`fetch_served_model`. Those that the server lacks are skipped.

        Raises:
            ServerError: no answer.

        """
        default = self.fetch_served_model(cancellation=cancellation)
        if not self._is_auto:
            return [default]
        if self._choices is None:
            kind = (default.scale, default.colours, default.bits)
            call = Call(self._connection.timeout_s, cancellation)
            is_encoded = self._connection.wire == "encoded"
            offered = offered_models(self._transport, call, with_endpoint=is_encoded)
            fitting = [m for m in offered if (m.scale, m.colours, m.bits) == kind]
            self._choices = [default, *(m for m in fitting if m.name != default.name)]
        return self._choices

    @property
    def transport_name(self) -> str:
        """The transport in use: ``grpc``, ``http``, ``shm`` or ``cuda_shm``.

        With several servers, all in use: ``shm+grpc``. See :meth:`negotiate`.
        """
        return self.negotiate().transport

    @property
    def transport_reason(self) -> str:
        """Why :attr:`transport_name` was chosen, as a sentence."""
        return self.negotiate().transport_reason

    @property
    def wire_name(self) -> str:
        """How frames travel: ``raw`` or ``encoded``; with several servers e.g. ``raw+encoded``."""
        return self.negotiate().wire

    @property
    def wire_reason(self) -> str:
        """Why :attr:`wire_name` was chosen, as a sentence."""
        return self.negotiate().wire_reason

    def negotiate(self, *, cancellation: Cancellation | None = None) -> Route:
        """Return the transport and wire in use, with the reasons.

        Asks the server, and measures the link for ``wire="auto"``, if no call did so before.

        Raises:
            ServerError: no answer.

        """
        return self._transport.negotiate(Call(self._connection.timeout_s, cancellation))

    def status(self, *, cancellation: Cancellation | None = None) -> ServerStatus:
        """Return the server's description of itself, its models and their work so far.

        With several servers, one of them answers.

        Raises:
            ServerError: no answer.

        """
        return read_status(self._transport, Call(self._connection.timeout_s, cancellation))

    @overload
    def upscale(
        self,
        image: SupportsArray,
        *,
        model: str | None = None,
        cancellation: Cancellation | None = None,
    ) -> Frame: ...
    @overload
    def upscale(
        self,
        image: Image.Image,
        *,
        model: str | None = None,
        cancellation: Cancellation | None = None,
    ) -> Image.Image: ...
    @overload
    def upscale(
        self, image: Yuv420, *, model: str | None = None, cancellation: Cancellation | None = None
    ) -> Yuv420: ...
    @overload
    def upscale(
        self,
        image: VideoFrame,
        *,
        model: str | None = None,
        cancellation: Cancellation | None = None,
    ) -> VideoFrame: ...
    def upscale(
        self,
        image: SupportsArray | Image.Image | Yuv420 | VideoFrame,
        *,
        model: str | None = None,
        cancellation: Cancellation | None = None,
    ) -> Frame | Image.Image | Yuv420 | VideoFrame:
        """Return ``image`` s times as large.

        Args:
            image: for a model of RGB, uint8 ``(H, W, 3)``: a NumPy array, or what becomes one, such
                as a ``torch.Tensor`` on the CPU; or a Pillow picture of any 8-bit mode, whose alpha
                and gray are kept. For a model of 4:2:0 video, :class:`Yuv420`, of 8 bits or 16 as
                the model; or an ``av.VideoFrame`` of any format, which becomes 4:2:0 of its depth.
            model: name of the model for this picture, e.g. the choice for another one.
            cancellation: ends the call from another thread.

        Returns:
            The same kind: uint8 ``(s*H, s*W, 3)``, which may be read-only; a Pillow picture;
            planes; or a video frame with the times and colour tags of ``image``.

        Raises:
            PictureError: not a picture for this model; the message says what to pass.
            ServerError: one of its subclasses, by what went wrong.
            concurrent.futures.CancelledError: ``cancellation`` ended the call.

        """
        if isinstance(image, Image.Image):
            pixels, side_data = pictures.split(image)
            if model is None:
                model = self.choose_model(image, cancellation=cancellation).model.name
            return pictures.join(self._upscale_frame(pixels, model, cancellation), side_data)
        model = self._model_name if model is None else model
        if is_video_frame(image):
            from rt4ksr_client.video import planes

            upscaled = self._upscale_frame(planes.from_video_frame(image), model, cancellation)
            return planes.upscaled_like(upscaled, image)
        frame = image if isinstance(image, Yuv420) else as_frame(image)
        upscaled_frame: Frame | Yuv420 = self._upscale_frame(frame, model, cancellation)
        return upscaled_frame

    def map(
        self,
        images: Iterable[Picture],
        in_flight: int = DEFAULT_IN_FLIGHT,
        *,
        cancellation: Cancellation | None = None,
    ) -> Generator[Picture, None, None]:
        """Yield each of ``images`` upscaled, in order, with several in flight at once.

        ``images`` is consumed as results are fetched: at most ``in_flight`` pictures are held at a
        time. Closing the iterator early, an error or Ctrl-C ends the calls in flight.

        Args:
            images: what :meth:`upscale` takes.
            in_flight: calls in flight at once; from 3 on the server need not wait.
            cancellation: ends the calls in flight from another thread.

        Raises:
            ValueError: ``in_flight`` below 1.
            PictureError, ServerError: in place of the result that failed.

        """
        check_in_flight(in_flight)

        def work(image: Picture, cancellation: Cancellation) -> Any:
            return self.upscale(image, cancellation=cancellation)

        return in_order(work, images, in_flight, within=cancellation)

    def _upscale_frame(
        self, frame: Frame | Yuv420, model: str, cancellation: Cancellation | None
    ) -> Any:
        """Upscale ``frame``, once more if the server has got another model by the same name."""
        served = self._fetch(model, cancellation)
        for _ in range(MAX_MODEL_CHANGES):
            misfit: ServerError | PictureError | None = None
            try:
                upscaled = self._upscale_with(served, frame, cancellation)
            except (ServerError, PictureError) as exc:
                if type(exc) not in (ServerError, InvalidRequestError, PictureError):
                    raise
                misfit = exc
                self._forget(model)
            if model in self._served:
                return upscaled
            asked_again = self._fetch(model, cancellation)
            if asked_again == served:
                if misfit is not None:
                    raise misfit
                return upscaled
            logger.warning("%s: another model than before: %s", served.name, asked_again)
            served = asked_again
        return self._upscale_with(served, frame, cancellation)

    def _upscale_with(
        self, served: ServedModel, frame: Frame | Yuv420, cancellation: Cancellation | None
    ) -> Frame | Yuv420:
        planes = planes_of(frame)
        colours: Colours = "yuv420" if isinstance(frame, Yuv420) else "rgb"
        served.check_takes(colours, 8 * planes[0].dtype.itemsize)

        def upscale_batch(batch: Planes, cancellation: Cancellation | None) -> Planes:
            call = Call(self._connection.timeout_s, cancellation, self._connection.priority)

            def attempt() -> Planes:
                try:
                    return self._transport.upscale(served, batch, call)
                except (ServerUnreachableError, ModelNotReadyError):
                    self._forget(served.name)
                    raise

            return self._retries.run(attempt, call, served.name)

        height, width, _ = planes[0].shape
        max_px = self._connection.max_request_px
        max_side_px = served.max_side_px or max(height, width)
        if height * width > max_px or max(height, width) > max_side_px:
            upscaled = upscale_in_tiles(planes, served, max_px, upscale_batch, cancellation)
        else:
            batch = to_batch(planes, served.inputs, served.size_multiple)
            answer = upscale_batch(batch, cancellation)
            sides = height * served.scale, width * served.scale
            upscaled = from_batch(answer, served.outputs, *sides)
        return frame_of(upscaled)


def is_video_frame(image: object) -> TypeGuard[VideoFrame]:
    """Return whether ``image`` is PyAV's, which is not imported for it."""
    return type(image).__module__.startswith("av.video")


def _model_for(scale: int, model: str | None) -> str:
    if model is not None and model != AUTO:
        return model
    if scale not in DEFAULT_MODELS:
        known = ", ".join(str(s) for s in sorted(DEFAULT_MODELS))
        raise ValueError(f"there is no model for scale {scale}: choose one of {known}")
    return DEFAULT_MODELS[scale].name
