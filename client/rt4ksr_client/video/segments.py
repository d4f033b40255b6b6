"""Finished pieces of a long run, kept beside the target so that it can go on after anything.

A segment is a Matroska file with encoded frames and a sidecar with their exact times, written
last: a segment without it does not count. Each is encoded on its own and starts with a key frame,
whether a run was interrupted or not, so that both give the same file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from rt4ksr_client.errors import VideoError
from rt4ksr_client.files import atomic_write, write_errors
from rt4ksr_client.frames import Frame
from rt4ksr_client.video.options import VideoOptions
from rt4ksr_client.video.source import ACCURATE_BICUBIC, FULL_CHROMA_INPUT, VideoFacts

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Segment", "SegmentFolder", "SegmentWriter"]

_BT709 = 1


@dataclass(frozen=True)
class Segment:
    """``pts``: of each packet, in the order of the file, in units of the source stream."""

    path: Path
    pts: tuple[int, ...]


class SegmentFolder:
    """The folder ``.NAME.parts`` beside the target."""

    def __init__(self, target: Path, identity: dict[str, Any], *, resume: bool) -> None:
        self.path = target.with_name(f".{target.name}.parts")
        self._state = self.path / "run.json"
        if not resume:
            self.remove()
        self._begin(identity)

    def finished(self) -> list[Segment]:
        """Return the segments from the first on, up to the first one that is missing."""
        return list(self._finished())

    def name(self, index: int) -> Path:
        """Return where segment ``index`` goes."""
        return self.path / f"{index:06}.mkv"

    def remove(self) -> None:
        """Remove the folder and what is in it."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def _begin(self, identity: dict[str, Any]) -> None:
        with write_errors(str(self.path)):
            self.path.mkdir(exist_ok=True)
            if not self._state.exists():
                _write_json(self._state, identity)
            elif json.loads(self._state.read_text()) != identity:
                raise VideoError(
                    f"{self.path}: begun with another source, model or other options: "
                    "leave out --resume to start over"
                )

    def _finished(self) -> Iterator[Segment]:
        index = 0
        while (sidecar := self.name(index).with_suffix(".json")).exists():
            yield Segment(self.name(index), tuple(json.loads(sidecar.read_text())))
            index += 1


class SegmentWriter:
    """Encodes frames into one segment; leaving the block without an error finishes it."""

    def __init__(
        self, path: Path, size_px: tuple[int, int], facts: VideoFacts, options: VideoOptions
    ) -> None:
        self._path = path
        self._time_base = facts.time_base
        self._pixel_format = options.pixel_format
        self._pts: list[int] = []
        self._container = av.open(str(path), "w", format="matroska")
        self._rate = facts.rate
        stream = self._container.add_stream(
            options.codec, rate=facts.rate, options=options.encoder_options
        )
        assert isinstance(stream, VideoStream)  # noqa: S101 - CODECS has video encoders only
        self._stream = stream
        self._stream.width, self._stream.height = size_px
        self._stream.pix_fmt = options.pixel_format
        context = self._stream.codec_context
        context.time_base = facts.time_base
        context.sample_aspect_ratio = facts.aspect
        context.colorspace, context.color_range = _BT709, ColorRange.MPEG
        context.color_primaries, context.color_trc = facts.primaries, facts.transfer

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def write(self, pts: int, frame: Frame) -> None:
        """Encode uint8 ``(H, W, 3)``, RGB, shown from ``pts`` on."""
        rgb = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        shown = rgb.reformat(
            format=self._pixel_format,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=ACCURATE_BICUBIC | FULL_CHROMA_INPUT,
        )
        shown.pts, shown.time_base = pts, self._time_base
        self._mux(shown)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the segment, or remove it."""
        if exc_type is None:
            self._mux(None)
            self._container.close()
            _write_json(self._path.with_suffix(".json"), self._pts)
            return
        with suppress(av.FFmpegError, OSError):
            self._container.close()
        self._path.unlink(missing_ok=True)

    def _mux(self, frame: VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            if packet.pts is None or packet.time_base is None:
                raise VideoError(f"{self._stream.name}: the encoder gave a packet without a time")
            self._pts.append(round(packet.pts * packet.time_base / self._time_base))
            # Matroska rounds times to milliseconds; the exact ones are in the sidecar.
            packet.pts = packet.dts = len(self._pts) - 1
            packet.time_base = 1 / Fraction(self._rate)
            self._container.mux(packet)


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value))
