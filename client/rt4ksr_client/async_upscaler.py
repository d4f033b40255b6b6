"""Upscale pictures on a Triton server, with asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from numpy.typing import NDArray
from PIL import Image

from rt4ksr_client.call import Cancellation
from rt4ksr_client.concurrency import check_in_flight
from rt4ksr_client.connection import (
    DEFAULT_MAX_REQUEST_PX,
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    Connection,
    TransportName,
    WireName,
)
from rt4ksr_client.contract import DEFAULT_PICTURE_FORMAT, PictureFormat, Priority
from rt4ksr_client.frames import Frame, SupportsArray, Yuv420
from rt4ksr_client.model_choice import ModelChoice
from rt4ksr_client.security import DEFAULT_SECURITY, Security
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.status import ServerStatus
from rt4ksr_client.transports import Route
from rt4ksr_client.transports.base import closed
from rt4ksr_client.upscaler import DEFAULT_IN_FLIGHT, Upscaler

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from typing_extensions import Self

__all__ = ["AsyncUpscaler"]

MAX_THREADS = 16
_END = object()

Picture = TypeVar("Picture", NDArray[Any], Image.Image, Yuv420, "VideoFrame")
Answer = TypeVar("Answer")


class AsyncUpscaler:
    """:class:`~rt4ksr_client.Upscaler` for asyncio; the same arguments, results and errors.

    Every call runs in a thread of a small pool, on purpose: preparing, copying and receiving 31 MB
    a frame would block the event loop for tens of milliseconds. Calls beyond 16 are queued; their
    deadline begins when they are sent. Cancelling a task ends its call to the server, which is why
    no method takes a ``cancellation``. :meth:`close` lets the calls that were sent finish; those
    that are queued raise ServerError.
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
        connection = Connection(
            url, transport, wire, wire_format, timeout_s, max_request_px, security, priority
        )
        self._upscaler = Upscaler.from_connection(connection, scale=scale, model=model)
        self._settings: Any = {"scale": scale, "model": model}
        self._connection = connection
        self._closed = False
        self._open_threads()

    @classmethod
    def from_connection(
        cls, connection: Connection, *, scale: int | None = None, model: str | None = None
    ) -> Self:
        """See :meth:`Upscaler.from_connection`."""
        return cls(**vars(connection), scale=scale, model=model)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings: the copy opens its own connections."""
        return partial(type(self).from_connection, self._connection, **self._settings), ()

    async def __aenter__(self) -> Self:
        """Return self."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """See :meth:`Upscaler.close`."""
        self._closed = True
        await asyncio.to_thread(self._close)

    @property
    def served_model(self) -> Awaitable[ServedModel]:
        """See :attr:`Upscaler.served_model`; to be awaited."""
        return self.fetch_served_model()

    async def fetch_served_model(self) -> ServedModel:
        """See :meth:`Upscaler.fetch_served_model`."""
        return await self._run(lambda c: self._upscaler.fetch_served_model(cancellation=c))

    async def choose_model(self, image: Image.Image) -> ModelChoice:
        """See :meth:`Upscaler.choose_model`."""
        return await self._run(lambda c: self._upscaler.choose_model(image, cancellation=c))

    async def fetch_choices(self) -> Sequence[ServedModel]:
        """See :meth:`Upscaler.fetch_choices`."""
        return await self._run(lambda c: self._upscaler.fetch_choices(cancellation=c))

    @property
    def transport_name(self) -> Awaitable[str]:
        """See :attr:`Upscaler.transport_name`; to be awaited."""
        return self._run(lambda c: self._upscaler.negotiate(cancellation=c).transport)

    @property
    def transport_reason(self) -> Awaitable[str]:
        """See :attr:`Upscaler.transport_reason`; to be awaited."""
        return self._run(lambda c: self._upscaler.negotiate(cancellation=c).transport_reason)

    @property
    def wire_name(self) -> Awaitable[str]:
        """See :attr:`Upscaler.wire_name`; to be awaited."""
        return self._run(lambda c: self._upscaler.negotiate(cancellation=c).wire)

    @property
    def wire_reason(self) -> Awaitable[str]:
        """See :attr:`Upscaler.wire_reason`; to be awaited."""
        return self._run(lambda c: self._upscaler.negotiate(cancellation=c).wire_reason)

    async def negotiate(self) -> Route:
        """See :meth:`Upscaler.negotiate`."""
        return await self._run(lambda c: self._upscaler.negotiate(cancellation=c))

    async def status(self) -> ServerStatus:
        """See :meth:`Upscaler.status`."""
        return await self._run(lambda c: self._upscaler.status(cancellation=c))

    @overload
    async def upscale(self, image: SupportsArray, *, model: str | None = None) -> Frame: ...
    @overload
    async def upscale(self, image: Image.Image, *, model: str | None = None) -> Image.Image: ...
    @overload
    async def upscale(self, image: Yuv420, *, model: str | None = None) -> Yuv420: ...
    @overload
    async def upscale(self, image: VideoFrame, *, model: str | None = None) -> VideoFrame: ...
    async def upscale(
        self,
        image: SupportsArray | Image.Image | Yuv420 | VideoFrame,
        *,
        model: str | None = None,
    ) -> Frame | Image.Image | Yuv420 | VideoFrame:
        """See :meth:`Upscaler.upscale`."""
        upscaled: Frame | Image.Image | Yuv420 | VideoFrame = await self._run(
            lambda c: self._upscaler.upscale(image, model=model, cancellation=c)
        )
        return upscaled

    async def map(
        self,
        images: Iterable[Picture] | AsyncIterable[Picture],
        in_flight: int = DEFAULT_IN_FLIGHT,
    ) -> AsyncGenerator[Picture, None]:
        """See :meth:`Upscaler.map`; ``images`` may be an asynchronous iterable too.

        Any other iterable runs in a thread of its own, so it may block, as a camera does.
        """
        check_in_flight(in_flight)
        pending: deque[asyncio.Task[Any]] = deque()
        try:
            async with aclosing(_each(images)) as each:
                async for image in each:
                    pending.append(asyncio.ensure_future(self.upscale(image)))
                    del image  # a frame lives no longer than its work
                    if len(pending) == in_flight:
                        yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _run(self, work: Callable[[Cancellation], Answer]) -> Answer:
        if self._closed:
            raise closed()
        if self._pid != os.getpid():
            self._open_threads()
        cancellation = Cancellation()

        def work_unless_closed() -> Answer:
            if self._closed:
                raise closed()
            return work(cancellation)

        try:
            loop = asyncio.get_running_loop()
            context = contextvars.copy_context()  # of a trace, mostly
            return await loop.run_in_executor(self._threads, context.run, work_unless_closed)
        finally:
            cancellation.cancel()

    def _open_threads(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_THREADS, "rt4ksr-async")
        self._pid = os.getpid()

    def _close(self) -> None:
        if self._pid == os.getpid():  # a fork does not copy the threads
            self._threads.shutdown()
        self._upscaler.close()


async def _each(
    images: Iterable[Picture] | AsyncIterable[Picture],
) -> AsyncGenerator[Picture, None]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
        return
    # One thread, for the sake of what may not change it, and a daemon: the program's end does not
    # wait for an iterable that blocks.
    loop = asyncio.get_running_loop()
    iterator = iter(images)
    wanted: SimpleQueue[asyncio.Future[Any] | None] = SimpleQueue()

    def fetch() -> None:
        while (future := wanted.get()) is not None:
            try:
                settle = partial(_settle, future, next(iterator, _END), None)
            except BaseException as exc:
                settle = partial(_settle, future, None, exc)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(settle)
            del future, settle

    threading.Thread(target=fetch, name="rt4ksr-images", daemon=True).start()
    try:
        while True:
            future = loop.create_future()
            wanted.put(future)
            fetched = [await future]
            del future
            if fetched[0] is _END:
                return
            yield fetched.pop()  # no name keeps the frame
    finally:
        wanted.put(None)


def _settle(future: asyncio.Future[Any], image: object, exc: BaseException | None) -> None:
    if future.cancelled():
        return
    if exc is None:
        future.set_result(image)
    else:
        future.set_exception(exc)
