"""What the codes of a video mean: its tags, which go from the source to the output as they are.

Nothing here converts colours. Numbers of matrices, primaries and transfer functions are those of
ISO/IEC 23091-2 (ITU-T H.273), as streams carry them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from rt4ksr_client.pictures import warn

__all__ = ["BT709", "ColourTags", "depth_of", "has_full_chroma", "has_full_range"]

RGB, UNSPECIFIED = 0, 2
BT709: Final = 1
SD_HEIGHT_PX: Final = 576
"""Up to this height, players take untagged video for BT.601, above it for BT.709. The upscaled one
is always above, so it has to be tagged."""
BT601: Final = {False: (6, 6, 6), True: (5, 5, 6)}
"""Matrix, primaries and transfer of 525 lines, and of 625 (ITU-R BT.601-7)."""

DYNAMIC_METADATA: Final = {
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "DOVI_METADATA": "Dolby Vision metadata",
}
"""Made for the pictures of the source, scene by scene."""


@dataclass(frozen=True)
class ColourTags:
    """How the codes of a video are to be shown.

    ``depth`` is their number of bits; ``has_full_chroma`` says whether the source has chroma for
    every pixel (4:4:4, RGB); ``chroma_location`` FFmpeg's name for where chroma lies, or
    empty where nothing says it. ``mastering_display`` and ``light_level`` are HDR10's static
    metadata in x265's notation, or empty.
    """

    depth: int
    matrix: int = BT709
    primaries: int = BT709
    transfer: int = BT709
    is_full_range: bool = False
    chroma_location: str = ""
    mastering_display: str = ""
    light_level: str = ""
    has_full_chroma: bool = False

    @classmethod
    def of(cls, frame: VideoFrame, stream: VideoStream, path: Path) -> ColourTags:
        """Read the tags of a decoded frame; say what will not be kept."""
        is_sd = frame.height <= SD_HEIGHT_PX
        untagged = BT601[frame.height > 486] if is_sd else (BT709, BT709, BT709)
        found = (frame.colorspace, frame.color_primaries, frame.color_trc)
        codes = [int(code or UNSPECIFIED) for code in found]
        if frame.format.is_rgb:  # becomes 4:2:0 of BT.709
            codes[0] = BT709
        matrix, primaries, transfer = (
            default if code in (RGB, UNSPECIFIED) else code
            for code, default in zip(codes, untagged, strict=True)
        )
        if any(component.is_alpha for component in frame.format.components):
            warn(f"{path}: the alpha channel is not kept")
        data: Any = frame.side_data
        kinds = {one.type.name for one in data}
        for what in sorted({DYNAMIC_METADATA[kind] for kind in kinds & DYNAMIC_METADATA.keys()}):
            warn(f"{path}: {what} is not kept")
        return cls(
            depth=depth_of(frame),
            matrix=matrix,
            primaries=primaries,
            transfer=transfer,
            is_full_range=has_full_range(frame),
            has_full_chroma=has_full_chroma(frame.format),
            chroma_location=chroma_location(frame, stream),
            mastering_display=mastering_display(
                bytes(data[SideDataType.MASTERING_DISPLAY_METADATA])
                if SideDataType.MASTERING_DISPLAY_METADATA in data
                else b""
            ),
            light_level=light_level(
                bytes(data[SideDataType.CONTENT_LIGHT_LEVEL])
                if SideDataType.CONTENT_LIGHT_LEVEL in data
                else b""
            ),
        )

    def apply(self, frame: VideoFrame) -> None:
        """Tag ``frame``."""
        frame.colorspace, frame.color_range = self.matrix, self.range
        frame.color_primaries, frame.color_trc = self.primaries, self.transfer

    def are_those_of(self, frame: VideoFrame) -> bool:
        """Whether ``frame`` has these tags, as far as it has any."""
        pairs = (
            (frame.colorspace, self.matrix),
            (frame.color_primaries, self.primaries),
            (frame.color_trc, self.transfer),
        )
        return (
            all(int(code or UNSPECIFIED) in (RGB, UNSPECIFIED, own) for code, own in pairs)
            and has_full_range(frame, default=self.is_full_range) == self.is_full_range
        )

    @property
    def range(self) -> int:
        """FFmpeg's number for the range of the codes."""
        return int(ColorRange.JPEG if self.is_full_range else ColorRange.MPEG)

    def encoder_options(self, codec: str, options: dict[str, str]) -> dict[str, str]:
        """Return the encoder's ``options``, and those that carry what has no field in PyAV."""
        options = dict(options)
        if self.chroma_location:
            options["chroma_sample_location"] = self.chroma_location
        if not self.mastering_display and not self.light_level:
            return options
        if codec == "libx265":
            values = {"master-display": self.mastering_display, "max-cll": self.light_level}
            added = [f"{name}={value}" for name, value in values.items() if value]
            options["x265-params"] = ":".join([options["x265-params"], *added, "hdr10=1"])
        elif codec == "libsvtav1":
            values = {
                "mastering-display": svt_notation(self.mastering_display),
                "content-light": self.light_level,
            }
            options["svtav1-params"] = ":".join(f"{k}={v}" for k, v in values.items() if v)
        else:
            warn(f"{codec} does not keep the HDR10 metadata: libx265 and libsvtav1 do")
        return options


def depth_of(frame: VideoFrame) -> int:
    """Return the bits of a code of ``frame``."""
    return max(component.bits for component in frame.format.components)


def has_full_chroma(known: av.VideoFormat) -> bool:
    """Return whether a format has colour for every pixel: RGB and 4:4:4."""
    return len(known.components) >= 3 and known.chroma_width(4) == known.chroma_height(4) == 4


def has_full_range(frame: VideoFrame, *, default: bool = False) -> bool:
    """Return whether the codes of ``frame``, as 4:2:0, use all of their range.

    ``default`` is for frames that do not say it.
    """
    if frame.format.is_rgb:
        return False  # becomes limited range
    if int(frame.color_range) in (ColorRange.MPEG, ColorRange.JPEG):
        return int(frame.color_range) == ColorRange.JPEG
    return default or frame.format.name.startswith("yuvj")


def chroma_location(frame: VideoFrame, stream: VideoStream) -> str:
    """Return FFmpeg's name for where chroma lies; empty where it is not known.

    PyAV has no field for it; FFmpeg's filter ``showinfo`` prints it.
    """
    with logged_info() as lines:
        graph = av.filter.Graph()
        nodes = graph.add_buffer(template=stream), graph.add("showinfo"), graph.add("buffersink")
        nodes[0].link_to(nodes[1])
        nodes[1].link_to(nodes[2])
        graph.configure()
        graph.push(frame)
        graph.pull()
    found = re.search(r"\bcl:(\w+)", " ".join(text for _, _, text in lines))
    return "" if found is None or found[1] == "unspecified" else found[1]


@contextmanager
def logged_info() -> Iterator[list[tuple[int, str, str]]]:
    """Collect what FFmpeg logs in this thread."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture() as lines:
            yield lines
    finally:
        av.logging.set_level(level)


def mastering_display(data: bytes) -> str:
    """Return FFmpeg's ``AVMasteringDisplayMetadata`` in x265's notation; empty where it is not."""
    if len(data) < 88:
        return ""
    *values, has_primaries, has_luminance = struct.unpack("=20i2i", data[:88])
    if not (has_primaries and has_luminance):
        return ""
    pairs = zip(values[::2], values[1::2], strict=True)
    numbers = [Fraction(a, b or 1) for a, b in pairs]
    red, green, blue, white = (
        f"({round(x * 50000)},{round(y * 50000)})"
        for x, y in zip(numbers[:8:2], numbers[1:8:2], strict=True)
    )
    darkest, brightest = (round(value * 10000) for value in numbers[8:])
    return f"G{green}B{blue}R{red}WP{white}L({brightest},{darkest})"


def light_level(data: bytes) -> str:
    """Return FFmpeg's ``AVContentLightMetadata`` as ``MaxCLL,MaxFALL``; empty where it is not."""
    return ",".join(map(str, struct.unpack("=2I", data[:8]))) if len(data) >= 8 else ""


def svt_notation(mastering: str) -> str:
    """Return x265's notation of a mastering display in SVT-AV1's, which has real numbers."""

    def real(match: re.Match[str]) -> str:
        name, unit = match[1], 10000 if match[1] == "L" else 50000
        numbers = (f"{int(value) / unit:g}" for value in match[2].split(","))
        return f"{name}({','.join(numbers)})"

    return re.sub(r"([A-Z]+)\((\d+,\d+)\)", real, mastering)
