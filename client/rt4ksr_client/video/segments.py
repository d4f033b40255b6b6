"""Finished pieces of a long run, kept beside the target so that the run can be resumed.

A segment is a Matroska file with encoded frames and a JSON file with their exact times, written
last: a segment without it does not count. Each is encoded on its own and starts with a key frame,
whether a run was interrupted or not, so that both give the same file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rt4ksr_client.errors import VideoError
from rt4ksr_client.files import atomic_write
from rt4ksr_client.frames import Yuv420
from rt4ksr_client.video.containers import ffmpeg_url, write_errors
from rt4ksr_client.video.options import VideoOptions
from rt4ksr_client.video.planes import to_video_frame
from rt4ksr_client.video.source import VideoSource

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Segment",
    "SegmentEncoder",
    "SegmentFolder",
    "add_encoder",
    "encoded",
    "ordinary_priority",
]

IDENTITY_NAME: Final = "run.json"
MAX_NAME_BYTES: Final = 255
OWN_NAMES: Final = re.compile(rf"\d{{6}}\.(mkv|json)|{re.escape(IDENTITY_NAME)}|\.rt4ksr-.*")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segment:
    """An encoded file; ``pts`` of each packet, in the file's order and the source's time base."""

    path: Path
    pts: tuple[int, ...]


class SegmentFolder:
    """The folder ``.NAME.parts`` beside the target, for one run at a time.

    ``identity`` is what must be the same for a run to continue where another one ended. With
    ``resume`` and without such a folder, that of the same run for another target is taken, which
    may be of another format. Without ``resume``, the segments of an earlier run are removed.

    Raises:
        VideoError: the folder cannot be written, belongs to another run, is used by one at this
            moment, or has files in it that this program has not written.

    """

    def __init__(self, target: Path, identity: dict[str, Any], *, resume: bool) -> None:
        self.path = target.with_name(folder_name(target.name))
        with write_errors(self.path), ExitStack() as stack:
            found = self.path
            if resume and not found.exists():
                others = sorted(target.absolute().parent.glob(".*.parts"))
                found = next((each for each in others if is_of(each, identity)), found)
            found.mkdir(exist_ok=True)
            self._descriptor = os.open(found, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(self.close)
            self._lock(found)
            if found != self.path:
                found.rename(self.path)
                logger.info("%s: taken over from %s", self.path, found)
            if not resume:
                self._clear()
            identity_file = self.path / IDENTITY_NAME
            if identity_file.exists() and not is_of(self.path, identity):
                raise VideoError(
                    f"{self.path}: begun with another source, model or other options: "
                    "leave out --resume to start over"
                )
            write_json(identity_file, identity)
            stack.pop_all()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave the folder to other runs."""
        self.close()

    def close(self) -> None:
        """Leave the folder to other runs."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _lock(self, path: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise VideoError(
                f"{path}: another run is at work here: let it end, or give another name with -o"
            ) from None

    def finished(self) -> list[Segment]:
        """Return the segments from the first one up to the first that is missing."""
        segments: list[Segment] = []
        while (times := self.segment_path(len(segments)).with_suffix(".json")).exists():
            pts = tuple(json.loads(times.read_text()))
            segments.append(Segment(self.segment_path(len(segments)), pts))
        return segments

    def segment_path(self, index: int) -> Path:
        """Return where segment ``index`` is written."""
        return self.path / f"{index:06}.mkv"

    def remove(self) -> None:
        """Remove the folder with the segments in it.

        Raises:
            VideoError: there is something else in it as well, so nothing was removed.

        """
        with write_errors(self.path), suppress(FileNotFoundError):
            self._clear()
            self.path.rmdir()

    def _clear(self) -> None:
        content = list(self.path.iterdir())
        foreign = [path.name for path in content if not OWN_NAMES.fullmatch(path.name)]
        if foreign:
            raise VideoError(
                f"{self.path}: this folder is for unfinished work, but {foreign[0]} in it is "
                "something else: move it away, or give another name with -o"
            )
        for path in content:
            path.unlink()


def is_of(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether the segments in ``folder`` are those of the run ``identity``, up to where it got.

    It may have ended at a frame that it did not accept, and continue with an option to do so.
    """
    with suppress(OSError, ValueError):
        stored = json.loads((folder / IDENTITY_NAME).read_text())
        options, now = stored.get("options", {}), identity.get("options", {})
        for name, before, after in (("deinterlace", False, True), ("strict", True, False)):
            if options.get(name) is before and now.get(name) is after:
                options[name] = after
        return bool(stored == identity)
    return False


class SegmentEncoder:
    """Encodes frames into one segment; leaving the block without an error finishes it.

    ``size_px`` is width and height of the frames; odd ones are extended by one.

    Raises:
        VideoError: the encoder cannot do it, or the file cannot be written.

    """

    def __init__(
        self, path: Path, size_px: tuple[int, int], source: VideoSource, options: VideoOptions
    ) -> None:
        self._path = path
        self._source = source
        self._pixel_format = options.pixel_format_for(source.colours.depth)
        self._pts: list[int] = []
        self._written = 0
        with write_errors(self._path.parent):
            self._container = av.open(ffmpeg_url(path), "w", format="matroska")
            self._stream = add_encoder(self._container, size_px, source, options)

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def write(self, pts: int, image: Yuv420) -> None:
        """Encode an upscaled frame, to be shown at ``pts`` in the source's time base."""
        with write_errors(self._path.parent):
            frame = to_video_frame(image, self._pixel_format, self._source.colours)
            frame.pts, frame.time_base = pts, self._source.time_base
            self._mux(frame)
        self._written += 1

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the segment, or remove it."""
        if exc_type is None:
            with write_errors(self._path.parent):
                self._mux(None)
                self._container.close()
                if len(self._pts) != self._written:
                    raise VideoError(
                        f"{self._stream.name}: the encoder gave {len(self._pts)} of "
                        f"{self._written} frames: try another --codec"
                    )
                write_json(self._path.with_suffix(".json"), self._pts)
            logger.info("%s: %d frames", self._path, len(self._pts))
            return
        with suppress(av.FFmpegError, OSError):
            self._container.close()
        self._path.unlink(missing_ok=True)

    def _mux(self, frame: VideoFrame | None) -> None:
        for packet in encoded(self._stream, frame):
            assert packet.pts is not None  # noqa: S101 - encoded() has seen to it
            assert packet.time_base is not None  # noqa: S101 - likewise
            self._pts.append(round(packet.pts * packet.time_base / self._source.time_base))
            # Matroska rounds times to milliseconds; the exact ones are in the JSON file.
            packet.pts = packet.dts = len(self._pts) - 1
            packet.time_base = 1 / Fraction(self._source.rate)
            self._container.mux(packet)


def add_encoder(
    container: OutputContainer, size_px: tuple[int, int], source: VideoSource, options: VideoOptions
) -> VideoStream:
    """Add the upscaled video to ``container``: width and height ``size_px``, odd ones and one more.

    Times, aspect and colours are those of ``source``.
    """
    colours = source.colours
    codec = options.codec_for(colours.depth)
    encoder_options = colours.encoder_options(codec, options.encoder_options(codec))
    stream = container.add_stream(codec, rate=source.rate, options=encoder_options)
    assert isinstance(stream, VideoStream)  # noqa: S101 - CODECS has video encoders only
    stream.width, stream.height = (side + side % 2 for side in size_px)
    stream.pix_fmt = options.pixel_format_for(colours.depth)
    context = stream.codec_context
    context.time_base = source.time_base
    context.sample_aspect_ratio = source.aspect
    context.colorspace, context.color_range = colours.matrix, colours.range
    context.color_primaries, context.color_trc = colours.primaries, colours.transfer
    return stream


def encoded(stream: VideoStream, frame: VideoFrame | None) -> list[Packet[Any]]:
    """Return the packets that an encoder gives after ``frame``, each with a time; None ends it.

    Raises:
        VideoError: the encoder does not work.

    """
    try:
        with nullcontext() if stream.codec_context.is_open else ordinary_priority():
            packets = stream.encode(frame)
    except av.FFmpegError as exc:
        raise VideoError(
            f"{stream.name}: this encoder does not work here, or not with these settings "
            f"({exc.strerror}): try another --codec, --preset or --pix-fmt"
        ) from exc
    if any(packet.pts is None or packet.time_base is None for packet in packets):
        raise VideoError(f"{stream.name}: the encoder gave a packet without a time")
    return packets


def folder_name(target_name: str) -> str:
    """Return the name of the folder for a file's segments; a long one is cut, and stays unique."""
    name = os.fsencode(target_name)
    if len(name) > MAX_NAME_BYTES - len("..parts"):
        digest = hashlib.sha256(name).hexdigest()[:16]
        target_name = f"{name[:200].decode(errors='ignore')}-{digest}"
    return f".{target_name}.parts"


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Leave the threads of this process at the priority they have, whatever an encoder does.

    Where it may, as root, SVT-AV1 gives them the priority of real time: other programs, a server on
    the same host among them, would stand still.
    """
    was_ordinary = sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER
    yield
    if was_ordinary:
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                os.sched_setscheduler(int(task.name), os.SCHED_OTHER, os.sched_param(0))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value))
