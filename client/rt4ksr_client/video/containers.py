"""Container files: how they are opened, what they can hold, and what FFmpeg says about them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from rt4ksr_client import files
from rt4ksr_client.errors import PictureError, VideoError

__all__ = [
    "ContainerFormat",
    "ffmpeg_url",
    "is_cover",
    "kept_metadata",
    "open_input",
    "read_errors",
    "video_stream",
    "write_errors",
]

FORMATS: Final = {
    ".mkv": "matroska",
    ".webm": "webm",
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
}
"""FFmpeg's names of the formats that are written, by suffix."""
TS_NONSTRICT: Final = 0x20000
"""FFmpeg's flag of formats in which two packets may have the same time."""

MATROSKA: Final = ("matroska", "webm")

PICTURE_TYPES: Final = {"mjpeg": "image/jpeg", "png": "image/png", "gif": "image/gif"}
"""MIME types of pictures that can be attached to a Matroska file, by codec."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ContainerFormat:
    """A format that is written, by FFmpeg's name of it."""

    name: str

    @classmethod
    def of(cls, target: Path) -> ContainerFormat:
        """Return the format that the suffix of ``target`` stands for.

        Raises:
            VideoError: none that is written here.

        """
        name = FORMATS.get(target.suffix.lower())
        if name is None:
            known = " ".join(FORMATS)
            raise VideoError(f"{target}: unknown video format: try one of {known}")
        return cls(name)

    @property
    def muxer_options(self) -> dict[str, str]:
        """FFmpeg's options of the muxer: players can start before they have read an MP4's end."""
        return {"movflags": "+faststart"} if self.name in ("mp4", "mov") else {}

    @property
    def declares_rate(self) -> bool:
        """Whether files say how long every frame is shown, unless that varies."""
        return self.name in ("matroska", "webm")

    @property
    def holds_equal_times(self) -> bool:
        """Whether two packets of a stream may have the same time."""
        return bool(av.ContainerFormat(self.name, "w").flags & TS_NONSTRICT)

    def tag(self, stream: Any) -> None:
        """Mark H.265 as Apple's players expect it."""
        context = stream.codec_context
        if self.name in ("mp4", "mov") and context and context.codec.canonical_name == "hevc":
            context.codec_tag = "hvc1"

    def open(
        self, path: Path, *, metadata: Mapping[str, str], through_tee: bool = False
    ) -> OutputContainer:
        """Open ``path`` for writing; the file will have the tags ``metadata``.

        PyAV adds no stream of a codec that Matroska holds in the manner of AVI, such as WMA and
        ADPCM. It does ``through_tee``, FFmpeg's muxer that passes streams on to another one, though
        without chapters.
        """
        url, options = ffmpeg_url(path), dict(self.muxer_options)
        if "movflags" in options and any(key.startswith("com.") for key in metadata):
            # Apple's and Android's tags; the others are written like them then.
            options["movflags"] += "+use_metadata_tags"
        if through_tee:
            escaped = re.sub(r"[\\'|\s]", r"\\\g<0>", url)
            output = av.open(f"[f={self.name}]{escaped}", "w", format="tee")
        else:
            output = av.open(url, "w", format=self.name, options=options)
        output.metadata.update(kept_metadata(metadata))
        return output

    def add_copy(
        self, output: OutputContainer, stream: Stream, first: Packet[Any] | None
    ) -> Stream | None:
        """Add a stream for the packets of ``stream`` to ``output``, with its flags and tags.

        None for what needs no packets: attachments, and cover pictures, which are attachments in
        Matroska. ``first`` is the first packet of ``stream``, if it has any.

        Raises:
            ValueError: PyAV does not add such a stream to a file of this format.

        """
        if is_cover(stream) and self.name in MATROSKA:
            kind = PICTURE_TYPES.get(stream.codec_context.name)
            if kind is None or first is None:
                raise ValueError("this kind of picture cannot be attached")
            name = stream.metadata.get("filename", f"cover.{kind.removeprefix('image/')}")
            output.add_attachment(name, kind, bytes(first))
            return None
        # Opaque: without it, PyAV looks for an encoder of the codec.
        copy: Any = output.add_stream_from_template(stream, opaque=True)
        copy.metadata.update(kept_metadata(stream.metadata))
        copy.disposition = stream.disposition
        if stream.type == "audio" and copy.layout.name == f"{copy.channels} channels":
            copy.layout = f"{copy.channels}c"  # MP4 must know which they are: the usual ones
        self.tag(copy)
        return None if stream.type == "attachment" else copy


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the video that a player shows: the first of the default ones, and no cover picture.

    Raises:
        VideoError: there is none.

    """
    videos = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    for stream in videos:
        if stream.disposition & Disposition.default:
            return stream
    if videos:
        return videos[0]
    raise VideoError(f"{path}: there is no video in this file")


def ffmpeg_url(path: Path) -> str:
    """Return the name by which FFmpeg opens ``path``, whatever characters are in it."""
    return f"file:{path.absolute()}"


def is_cover(stream: Stream) -> bool:
    """Whether ``stream`` is a picture of the whole file, such as the cover of an album."""
    return bool(stream.disposition & Disposition.attached_pic)


def kept_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Leave out what the muxer writes itself, and what was true of the source's coding only.

    FFmpeg reads the title of a stream in MP4 as its name, and writes it as its title.
    """
    technical = {"encoder", "major_brand", "minor_version", "compatible_brands", "handler_name"}
    technical |= {"duration", "rotate", "bps", "vendor_id", "software"}
    if "name" in metadata and "title" not in metadata:
        metadata = {**metadata, "title": metadata["name"]}
        technical.add("name")
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in technical
        and not key.startswith(("_STATISTICS", "NUMBER_OF_", "BPS-", "DURATION-"))
    }


@contextmanager
def open_input(path: Path) -> Iterator[InputContainer]:
    """Open a container to read; metadata that is not text is kept readable.

    Raises:
        VideoError: not a container that FFmpeg can read.

    """
    with read_errors(path):
        container = av.open(ffmpeg_url(path), metadata_errors="replace")
    with container:
        yield container


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Raise :class:`VideoError` about ``path`` for any error of a demuxer or decoder."""
    try:
        yield
    except FileNotFoundError:
        raise VideoError(f"{path}: there is no such file") from None
    except (av.FFmpegError, OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise VideoError(f"{path}: cannot be read as a video: {reason}") from exc


@contextmanager
def write_errors(path: Path, what: str = "cannot be written") -> Iterator[None]:
    """Raise :class:`VideoError` about ``path`` for any error of an encoder, a muxer or a disk.

    ``what`` says what is wrong when the error is FFmpeg's.
    """
    try:
        with files.write_errors(str(path)):
            try:
                yield
            except (av.FFmpegError, ValueError) as exc:
                if isinstance(exc, OSError) and exc.errno:
                    raise
                raise VideoError(f"{path}: {what}: {exc}") from exc
    except PictureError as exc:
        raise VideoError(str(exc)) from exc
