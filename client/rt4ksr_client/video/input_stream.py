"""A video that is read once, from its beginning to its end: a pipe, or a file like one."""

from __future__ import annotations

import itertools
import logging
import os
import select
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rt4ksr_client.contract import MAX_INPUT_PX
from rt4ksr_client.errors import VideoError
from rt4ksr_client.files import is_stream
from rt4ksr_client.pictures import warn
from rt4ksr_client.video.containers import ffmpeg_url, read_errors, video_stream
from rt4ksr_client.video.decoding import Faults, decode, deinterlaced
from rt4ksr_client.video.models import models_of
from rt4ksr_client.video.options import VideoOptions
from rt4ksr_client.video.prefetch import prefetch
from rt4ksr_client.video.source import TimedFrame, VideoSource
from rt4ksr_client.video.timing import Timing, clock_of
from rt4ksr_client.video.y4m import MAGIC, MAX_LINE_BYTES, FrameCount, Header

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["VideoInput"]

READ_BYTES: Final = 1 << 20
DECODED_AHEAD: Final = 2

logger = logging.getLogger(__name__)


class VideoInput:
    """A video that is read once, such as one from a pipe. Use it in a ``with`` block.

    It is decoded from the beginning, in a thread of its own; opening it waits for the first frame.

    Args:
        source: a file object of bytes, or a path, which may be a FIFO. Of a file object without a
            buffer (``open(0, "rb", buffering=0)``), waiting for more bytes can be interrupted.
        options: the encoder, its settings, and when to stop.

    Raises:
        VideoError: nothing is in it, no video is, or one that would come out wrong.

    """

    def __init__(self, source: Path | IO[bytes], options: VideoOptions) -> None:
        if options.start_s:
            raise VideoError("start needs a source and a target that are files")
        self.faults = Faults()
        self.options = options
        self._packets: deque[Packet[Any]] = deque()
        self._resources = ExitStack()
        self._bytes = self._open_bytes(source)
        self.path = source if isinstance(source, Path) else Path(self._bytes.name)  # type: ignore[union-attr] # there for an object
        """Its path, or its name in messages."""
        self._decoded = prefetch(self._decode(), DECODED_AHEAD, self.stop)
        try:
            self._first = next(self._decoded, None)
            if self._first is None:
                raise self.failure or VideoError(f"{self.path}: no frames before the end")
        except BaseException:
            self.close()
            raise

    def _open_bytes(self, source: Path | IO[bytes]) -> ByteStream | None:
        """Return how the bytes of ``source`` are watched; None for a file that FFmpeg opens."""
        if not isinstance(source, Path):
            return self._resources.enter_context(ByteStream(source, name_of(source)))
        with read_errors(source):
            file: Any = source.open("rb", buffering=0)
        self._resources.enter_context(file)
        if not is_stream(source):
            if file.read(len(MAGIC)) != MAGIC:
                return None
            file.seek(0)
        return self._resources.enter_context(ByteStream(file, str(source)))

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End the thread and close what was opened here; a file object stays open."""
        self.stop()
        self._decoded.close()
        self._resources.close()

    def stop(self) -> None:
        """End the frames early, even where they are being waited for."""
        if self._bytes is not None:
            self._bytes.stop()

    def models(self, scale: int) -> list[str]:
        """Return the models for it, best first."""
        colours = self.source.colours
        full = colours.has_full_chroma
        return models_of(colours.depth, has_full_chroma=full, scale=scale)

    @property
    def is_y4m(self) -> bool:
        """Whether it is YUV4MPEG2."""
        return self._bytes is not None and self._bytes.count is not None

    @property
    def failure(self) -> VideoError | None:
        """Why there are no more frames, if that is not the end of the video."""
        return None if self._bytes is None else self._bytes.failure

    def frames(self) -> Iterator[TimedFrame]:
        """Yield the frames; they are there once."""
        first, self._first = self._first, None
        return itertools.chain([first] if first else [], self._decoded)

    def other_packets(self, until_s: Fraction | None) -> Iterator[Packet[Any]]:
        """Yield the packets of other streams read so far, up to a time in seconds of the source."""
        while self._packets:
            packet = self._packets[0]
            decoded_s = None if packet.dts is None else packet.dts * Fraction(packet.time_base or 1)
            if until_s is not None and decoded_s is not None and decoded_s > until_s:
                return
            yield self._packets.popleft()

    def first_packets(self) -> dict[int, Packet[Any]]:
        """Return the first packet of each other stream that has one yet, by the stream's index."""
        return {packet.stream.index: packet for packet in reversed(list(self._packets))}

    def _decode(self) -> Iterator[TimedFrame]:
        with read_errors(self.path):
            if self._bytes is None:
                container = av.open(ffmpeg_url(self.path), metadata_errors="replace")
            else:
                self._bytes.begin()
                source: Any = self._bytes
                container = av.open(
                    source,
                    format="yuv4mpegpipe" if self.is_y4m else None,
                    metadata_errors="replace",
                    buffer_size=READ_BYTES,
                )
        self.container: InputContainer = self._resources.enter_context(container)
        self.stream: VideoStream = video_stream(self.container, self.path)
        width, height = self.stream.width, self.stream.height
        if width * height > MAX_INPUT_PX:
            raise too_large(self.path, width, height)
        with read_errors(self.path):
            yield from itertools.islice(self._timed(), self.options.frames)

    def _timed(self) -> Iterator[TimedFrame]:
        options, clock = self.options, clock_of(self.container, self.stream)
        keep = self._packets.append
        images: Iterator[VideoFrame] = decode(
            self.container,
            self.stream,
            self.faults,
            clock,
            strict=options.strict,
            on_other=lambda packet: keep(packet) if packet.size else None,
        )
        first = next(images, None)
        if first is None:
            raise self.failure or VideoError(f"{self.path}: the video has no frames")
        self.source = source = VideoSource.described(
            self.container,
            self.stream,
            self.path,
            first,
            first.pts or 0,
            Timing(None, seekable=False, sorted=False, counted=first.pts is None, first_pts=0),
            options,
        )
        images = source.uniform(itertools.chain([first], images), options, self.faults)
        if options.deinterlace:
            images = deinterlaced(images, self.stream)
        end = None if options.end_s is None else source.pts_at(options.end_s)
        for image, pts in source.timed(images, self.faults):
            if end is not None and pts >= end:
                return
            yield TimedFrame(pts, image)
        if clock.seams and len(self.container.streams) > 1:
            warn(
                f"{self.path}: its clock is set anew in the middle: other streams may be out of "
                "step from there; give the name of a file instead"
            )


class ByteStream:
    """What FFmpeg reads: the bytes of a file object that is not sought, until it is stopped.

    Of y4m, the frames are counted. What is wrong is in ``failure``, for FFmpeg takes it for the
    end.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self.failure: VideoError | None = None
        self.count: FrameCount | None = None
        self._file = file
        self._ahead = b""
        self._is_stopped = False
        # Behind a buffer, bytes may be there although none are to come from the descriptor.
        self._descriptor = file.fileno() if isinstance(file, RawIOBase) else None
        self._stopped, self._stop = os.pipe()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give back what :meth:`stop` needs; the file stays open."""
        os.close(self._stop)
        os.close(self._stopped)

    def begin(self) -> None:
        """Read the first bytes, which say whether this is y4m.

        Raises:
            VideoError: there are none, or it is y4m that cannot be upscaled.

        """
        while len(self._ahead) < len(MAGIC) and (data := self._next(READ_BYTES)):
            self._ahead += data
        if not self._ahead:
            raise VideoError(f"{self.name}: it is empty")
        if not self._ahead.startswith(MAGIC):
            return
        while (end := self._ahead.find(b"\n")) < 0:
            data = self._next(READ_BYTES)
            if not data or len(self._ahead) > MAX_LINE_BYTES:
                raise VideoError(f"{self.name}: the y4m header does not end")
            self._ahead += data
        header = Header.parse(self._ahead[:end], self.name)
        if header.width_px * header.height_px > MAX_INPUT_PX:
            raise too_large(self.name, header.width_px, header.height_px)
        self.count = FrameCount(header.frame_bytes)
        self._ahead = self._ahead[: end + 1] + self._counted(self.count, self._ahead[end + 1 :])

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        if data or self.failure:
            return data
        try:
            data = self._next(size)
        except OSError as exc:
            self.failure = VideoError(f"{self.name}: cannot be read: {exc.strerror}")
            return b""
        return data if self.count is None else self._counted(self.count, data)

    def _counted(self, count: FrameCount, data: bytes) -> bytes:
        good = count.add(data)
        if count.is_damaged:
            after = f"no frame after frame {count.frames}"
            self.failure = VideoError(f"{self.name}: damaged y4m: {after}")
        elif not data and not self._is_stopped and count.is_cut:
            middle = f"the middle of frame {count.frames + 1}"
            self.failure = VideoError(f"{self.name}: ends in {middle}")
        return good

    def _next(self, size: int) -> bytes:
        while not self._is_stopped:
            if self._descriptor is not None:
                select.select([self._descriptor, self._stopped], [], [])
                if self._is_stopped:
                    break
            read = getattr(self._file, "read1", self._file.read)
            data: bytes | None = read(size)
            if data is not None:  # nothing yet in a file that does not block
                return data
        return b""

    def stop(self) -> None:
        """End a thread that waits for more: nothing comes any more."""
        self._is_stopped = True
        os.write(self._stop, b".")


def too_large(name: object, width_px: int, height_px: int) -> VideoError:
    """Return the error about frames that no server accepts."""
    return VideoError(
        f"{name}: frames of {width_px}x{height_px} pixels: at most {MAX_INPUT_PX:,} pixels are "
        "upscaled from a stream"
    )


def name_of(file: IO[bytes]) -> str:
    """Return what messages call a file object."""
    name = getattr(file, "name", None)
    return "standard input" if name in (0, "<stdin>") else str(name or "the stream")
