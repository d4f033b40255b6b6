"""YUV4MPEG2, the format of uncompressed video in pipes between FFmpeg, VapourSynth and mpv.

A line of parameters, then for each frame a line that begins with ``FRAME``, and its planes: see
yuv4mpeg(5) of the MJPEG Tools, and FFmpeg's ``libavformat/yuv4mpegenc.c`` for more than 8 bits and
for ``XCOLORRANGE``. FFmpeg's demuxer reads it. It ends without an error where a frame is cut, and
trusts the sizes in the header: what is here looks at the bytes on their way to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import av
import numpy as np
from av.video.frame import VideoFrame

from rt4ksr_client.errors import VideoError
from rt4ksr_client.video.colours import ColourTags
from rt4ksr_client.video.planes import samples

__all__ = ["MAGIC", "MAX_LINE_BYTES", "FrameCount", "Header", "frame_bytes", "header_line"]

MAGIC: Final = b"YUV4MPEG2"
FRAME: Final = b"FRAME"
MAX_LINE_BYTES: Final = 1024

COLOURSPACES: Final = re.compile(r"(?:(420|422|444)(?:p(9|10|12|14|16))?|(mono)(9|10|12|16)?)")
SITED: Final = {
    "420jpeg": "center",
    "420mpeg2": "left",
    "420paldv": "topleft",
}
"""4:2:0 of 8 bits, by FFmpeg's names for where its chroma lies; deeper formats do not say it."""


@dataclass(frozen=True)
class Header:
    """What the first line of a stream says: the size, and FFmpeg's name of the pixel format."""

    width_px: int
    height_px: int
    pixel_format: str

    @classmethod
    def parse(cls, line: bytes, name: str) -> Header:
        """Parse a line without its end; ``name`` is that of the stream in errors.

        Raises:
            VideoError: no valid header, or one of a colourspace that is not read.

        """
        fields: dict[str, str] = {}
        for field in line.decode("latin-1").split(" ")[1:]:
            fields.setdefault(field[:1], field[1:])
        sides = [fields.get(key, "") for key in "WH"]
        if not all(re.fullmatch(r"0*[1-9]\d{0,8}", side) for side in sides):
            raise VideoError(f"{name}: a y4m header without a valid width and height")
        width, height = map(int, sides)
        if fields.get("I") == "m":
            raise VideoError(f"{name}: y4m of mixed interlacing: deinterlace it first")
        return cls(width, height, pixel_format_of(fields.get("C", "420jpeg"), name))

    @property
    def frame_bytes(self) -> int:
        """How many bytes the planes of a frame have."""
        form = av.VideoFormat(self.pixel_format, self.width_px, self.height_px)
        samples = sum(part.width * part.height for part in form.components)
        return samples * (1 if form.components[0].bits == 8 else 2)


def pixel_format_of(colourspace: str, name: str) -> str:
    """Return FFmpeg's name of the pixel format that y4m calls ``colourspace``.

    Raises:
        VideoError: none that is read here.

    """
    if colourspace in SITED:
        return "yuv420p"
    if colourspace == "411":
        return "yuv411p"
    found = COLOURSPACES.fullmatch(colourspace)
    if found is None:
        raise VideoError(
            f"{name}: y4m of the colourspace {colourspace[:40]!r}: 4:2:0, 4:2:2, 4:4:4, 4:1:1 and "
            "mono are read"
        )
    chroma, bits, mono, gray_bits = found.groups()
    if mono:
        return f"gray{gray_bits}le" if gray_bits else "gray"
    return f"yuv{chroma}p{bits}le" if bits else f"yuv{chroma}p"


class FrameCount:
    """Counts the frames of a stream in the bytes that pass, and knows where one ends."""

    def __init__(self, frame_bytes: int) -> None:
        self.frames = 0
        """Whole ones."""
        self.is_damaged = False
        self._frame_bytes = frame_bytes
        self._line = b""
        self._left = 0

    @property
    def is_cut(self) -> bool:
        """Whether the stream would end in the middle of a frame here."""
        return bool(self._line or self._left)

    def add(self, data: bytes) -> bytes:
        """Take the next bytes, and return those of frames.

        If something else than a frame begins, the stream is damaged, and the rest is left out.
        """
        place = 0
        while place < len(data):
            if self._left:
                taken = min(self._left, len(data) - place)
                self._left -= taken
                place += taken
                self.frames += not self._left
                continue
            end = data.find(b"\n", place, place + MAX_LINE_BYTES)
            until = min(len(data), place + MAX_LINE_BYTES) if end < 0 else end + 1
            self._line += data[place:until]
            if not FRAME.startswith(self._line[: len(FRAME)]) or len(self._line) > MAX_LINE_BYTES:
                self.is_damaged = True
                return data[:place]
            place = until
            if end >= 0:
                self._line, self._left = b"", self._frame_bytes
        return data


def header_line(
    size_px: tuple[int, int], rate: Fraction, aspect: Fraction, pixel_format: str, tags: ColourTags
) -> bytes:
    """Return the first line of a stream of progressive frames, with its end."""
    chroma, bits = pixel_format.removesuffix("le")[3:].split("p")
    colourspace = f"{chroma}p{bits}" if bits else chroma
    if colourspace == "420":
        # Where nothing says it, players take it for left, as in H.264 and H.265.
        places = {place: name for name, place in SITED.items()}
        colourspace = places.get(tags.chroma_location, "420mpeg2")
    levels = "FULL" if tags.is_full_range else "LIMITED"
    fields = [
        f"W{size_px[0]} H{size_px[1]} F{rate.numerator}:{rate.denominator} Ip",
        f"A{aspect.numerator}:{aspect.denominator} C{colourspace} XCOLORRANGE={levels}",
    ]
    return b" ".join([MAGIC, *(field.encode() for field in fields)]) + b"\n"


def frame_bytes(frame: VideoFrame) -> Iterator[bytes | memoryview]:
    """Yield a frame as it is in a stream; views of it are valid as long as it is."""
    yield FRAME + b"\n"
    for plane, part in zip(frame.planes, frame.format.components, strict=True):
        yield np.ascontiguousarray(samples(plane, part.bits)).data.cast("B")
