"""An upscaled video that is written from its beginning to its end, to a pipe or a file."""

from __future__ import annotations

import logging
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Final

import av
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rt4ksr_client.errors import VideoError
from rt4ksr_client.frames import Yuv420
from rt4ksr_client.pictures import warn
from rt4ksr_client.video.colours import BT709, SD_HEIGHT_PX
from rt4ksr_client.video.containers import ContainerFormat, kept_metadata, write_errors
from rt4ksr_client.video.copies import CopiedStream, Cut, OutputStream, warn_of_repairs
from rt4ksr_client.video.input_stream import VideoInput
from rt4ksr_client.video.planes import planar_420, to_video_frame
from rt4ksr_client.video.segments import add_encoder, encoded, ordinary_priority
from rt4ksr_client.video.sound import ENCODERS, EncodedSound
from rt4ksr_client.video.source import VideoSource
from rt4ksr_client.video.y4m import frame_bytes, header_line

__all__ = ["ContainerOutput", "Y4mOutput"]

FRAGMENTED: Final = {"movflags": "frag_keyframe+delay_moov+default_base_moof"}
"""MP4 that is written without going back to its beginning."""

logger = logging.getLogger(__name__)


class Y4mOutput:
    """YUV4MPEG2 of the upscaled frames of ``video``, of ``size_px``; it has no other streams.

    ``name`` is that of the ``target`` in messages.

    Raises:
        VideoError: options of an encoder, which there is none of.

    """

    def __init__(
        self,
        video: VideoInput,
        source: VideoSource,
        size_px: tuple[int, int],
        target: IO[bytes],
        name: Path,
    ) -> None:
        options = video.options
        if (options.codec, options.crf, options.preset) != (None, None, None):
            raise VideoError(f"{name}: y4m is not encoded: leave out --codec, --crf and --preset")
        self._video = video
        self._colours = source.colours
        self._target = target
        self._name = name
        self._pixel_format = options.pixel_format or planar_420(source.colours.depth)
        width, height = (side + side % 2 for side in size_px)
        # What FFmpeg and players take y4m for, which has no tag for it.
        if source.colours.matrix not in ((BT709,) if height > SD_HEIGHT_PX else (5, 6)):
            warn(f"{name}: y4m has no tag for the colour matrix: tell its reader the source's")
        if any(stream.type in ("audio", "subtitle") for stream in video.container.streams):
            warn(f"{name}: y4m holds the picture only: sound and subtitles are left out")
        with write_errors(name):
            write_all(
                target,
                header_line(
                    (width, height), source.rate, source.aspect, self._pixel_format, self._colours
                ),
            )

    def write(self, pts: int, image: Yuv420) -> None:
        """Write a frame; y4m has no times."""
        for _ in self._video.other_packets(None):
            pass
        with write_errors(self._name):
            for part in frame_bytes(to_video_frame(image, self._pixel_format, self._colours)):
                write_all(self._target, part)

    def finish(self) -> None:
        """Write nothing more: a stream ends after any frame."""

    def close(self) -> None:
        """Hold nothing."""


class ContainerOutput:
    """A container of FFmpeg's with the upscaled frames of ``video``, and its other streams.

    ``target`` is a path, or a file object that need not be sought. What the format cannot hold is
    left out, with a warning.

    Raises:
        VideoError: the format or the encoder does not work, or the format cannot hold the sound.

    """

    def __init__(
        self,
        video: VideoInput,
        source: VideoSource,
        size_px: tuple[int, int],
        target: Path | IO[bytes],
        name: Path,
        form: ContainerFormat,
    ) -> None:
        self._video = video
        self._source = source
        self._options = options = video.options
        self._size_px = size_px
        self._name = name
        self._target = target
        self._format = form
        self._pixel_format = options.pixel_format_for(source.colours.depth)
        self._frames = self._coded = 0
        self._end_s: Fraction | None = None
        self._chunks: list[bytes] = []
        self._cut = Cut(None, source.begin_s)
        if options.end_s is not None:
            end_s = source.pts_at(options.end_s) * source.time_base
            self._cut = Cut((Fraction(-(10**9)), end_s), source.begin_s)
        with self._errors():
            tracks = self._choose_tracks()
            # A built-in method: no signal handler of Python's runs between FFmpeg's calls of it.
            pipe = SimpleNamespace(write=self._chunks.append)
            self._container = self._open(target if isinstance(target, Path) else pipe)
            try:
                self._picture, self._others = self._fill(self._container, tracks)
                with ordinary_priority():
                    self._container.start_encoding()
                self._flush()
            except BaseException:
                self.close()
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with write_errors(self._name):
            try:
                yield
            except av.FFmpegError as exc:
                if isinstance(self._target, Path):
                    raise
                # Bytes are written here: what FFmpeg rejects are the packets.
                raise VideoError(
                    f"{self._name}: the format {self._format.name} does not take these streams "
                    f"({exc.strerror}): try --format nut, or --audio aac"
                ) from exc

    def _open(self, target: Any) -> OutputContainer:
        """Open a path, or an object with a method ``write``."""
        metadata = self._video.container.metadata
        if isinstance(target, Path):
            return self._format.open(target, metadata=metadata)
        is_sought = hasattr(target, "seek") or self._format.name not in ("mp4", "mov")
        options = {} if is_sought else FRAGMENTED
        output = av.open(target, "w", format=self._format.name, options=options)
        output.metadata.update(kept_metadata(metadata))
        return output

    def _fill(
        self, output: OutputContainer, tracks: dict[int, str | None]
    ) -> tuple[VideoStream, dict[int, OutputStream]]:
        """Add the picture and the streams ``tracks``: the encoder of each, or None for a copy."""
        container, original = self._video.container, self._video.stream
        picture = add_encoder(output, self._size_px, self._source, self._options)
        picture.disposition = original.disposition
        picture.metadata.update(kept_metadata(original.metadata))
        self._format.tag(picture)
        others: dict[int, OutputStream] = {}
        first = self._video.first_packets()
        step = 0 if self._format.holds_equal_times else 1
        for index, encoder in tracks.items():
            stream = container.streams[index]
            if encoder is not None:
                strict = self._options.strict
                others[index] = EncodedSound(
                    output, stream, encoder, (), self._cut, is_strict=strict
                )
            elif added := self._format.add_copy(output, stream, first.get(index)):
                others[index] = CopiedStream(added, (), self._cut, least_step=step)
        output.set_chapters(self._cut.chapters(container.chapters()))
        return picture, others

    def _takes(self, tracks: dict[int, str | None]) -> bool:
        """Whether the format takes the picture with these streams: their header is written.

        So are the first packets of those that are copied.
        """
        first = self._video.first_packets()
        output = self._open(
            BytesIO() if isinstance(self._target, Path) else SimpleNamespace(write=len)
        )
        try:
            _, others = self._fill(output, tracks)
            with ordinary_priority():
                output.start_encoding()
            for index, other in others.items():
                if isinstance(other, CopiedStream) and index in first:
                    sample: Packet[Any] = Packet(bytes(first[index]))
                    sample.pts = sample.dts = 0
                    sample.time_base, sample.stream = first[index].time_base, other.output
                    sample.is_keyframe = True
                    output.mux(sample)
            output.close()
        except (av.FFmpegError, ValueError, KeyError) as exc:
            logger.info("%s: streams %s: %s", self._name, tracks, exc)
            with suppress(av.FFmpegError, ValueError):
                output.close()
            return False
        return True

    def _choose_tracks(self) -> dict[int, str | None]:
        if not self._takes({}):
            codec = self._options.codec_for(self._source.colours.depth)
            raise VideoError(
                f"{self._name}: the format {self._format.name} cannot be written here with {codec} "
                "and these settings: try --format matroska, or another --codec"
            )
        tracks: dict[int, str | None] = {}
        for stream in self._video.container.streams:
            if stream.index == self._video.stream.index or (
                stream.type == "data"
                and ("timecode" in stream.metadata or stream.discard == Discard.all)
            ):
                continue
            name = getattr(getattr(stream, "codec_context", None), "name", "") or "unknown codec"
            encoder = None
            if stream.type == "audio":
                if self._options.audio == "none":
                    continue
                if self._options.audio != name:
                    encoder = ENCODERS.get(self._options.audio)
            if self._takes({**tracks, stream.index: encoder}):
                tracks[stream.index] = encoder
                continue
            what = f"{stream.type} stream {stream.index} ({name})"
            if stream.type == "audio" and self._options.audio == "copy" and name != "unknown codec":
                raise VideoError(
                    f"{self._name}: {self._format.name} cannot hold {what}: --audio aac and "
                    "--audio opus encode it again, --audio none leaves it out"
                )
            warn(f"{self._name}: {self._format.name} cannot hold {what}: left out")
        return tracks

    def write(self, pts: int, image: Yuv420) -> None:
        """Encode a frame, and write the other streams up to its time."""
        source = self._source
        frame = to_video_frame(image, self._pixel_format, source.colours)
        frame.pts = pts - round(source.begin_s / source.time_base)
        frame.time_base = source.time_base
        self._frames += 1
        self._end_s = pts * source.time_base + 1 / source.rate
        with self._errors():
            self._mux_picture(frame)
            self._mux_others(self._end_s)
            self._flush()

    def finish(self) -> None:
        """Write what encoders hold back, and the end of the file.

        Raises:
            VideoError: the encoder has not given all frames.

        """
        with self._errors():
            self._mux_picture(None)
            is_whole = self._options.frames is None and self._options.end_s is None
            self._mux_others(None if is_whole else self._end_s)
            for index, other in self._others.items():
                for packet in other.rest():
                    self._mux(packet, index)
            self._container.close()
            self._flush()
        if self._coded != self._frames:
            raise VideoError(
                f"{self._picture.name}: the encoder gave {self._coded} of {self._frames} frames: "
                "try another --codec"
            )
        warn_of_repairs(self._source.path, self._others.values())

    def close(self) -> None:
        """Close the container; a file in it is not whole unless it is finished."""
        with suppress(av.FFmpegError, ValueError):
            self._container.close()

    def _mux_picture(self, frame: VideoFrame | None) -> None:
        for packet in encoded(self._picture, frame):
            self._container.mux(packet)
            self._coded += 1

    def _mux_others(self, until_s: Fraction | None) -> None:
        for packet in self._video.other_packets(until_s):
            index = packet.stream.index
            if index in self._others:
                for ready in self._others[index].take(packet):
                    self._mux(ready, index)

    def _mux(self, packet: Any, index: int) -> None:
        try:
            self._container.mux(packet)
        except (av.error.InvalidDataError, av.error.ArgumentError):
            if self._options.strict:
                raise
            self._others[index].rejected += 1
        else:
            self._others[index].written += 1

    def _flush(self) -> None:
        if not isinstance(self._target, Path):
            for chunk in self._chunks:
                write_all(self._target, chunk)
            self._chunks.clear()


def write_all(file: IO[bytes], data: bytes | memoryview) -> None:
    """Write ``data`` to ``file``, which may take a part of it at a time.

    Raises:
        OSError: it cannot be written; BrokenPipeError where nobody reads any more.

    """
    left = memoryview(data)
    while left:
        count = file.write(left)
        if count is None:  # who gave us the descriptor does not want it to block
            select.select([], [file], [])
        else:
            left = left[count:]
