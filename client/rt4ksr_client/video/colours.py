"""Decoded frames as RGB and back: the one place that knows matrices, ranges and pixel formats.

Upscaled video is BT.709, limited range. Numbers of matrices, primaries and transfer functions are
those of ISO/IEC 23091-2, as streams carry them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from rt4ksr_client.errors import VideoError
from rt4ksr_client.frames import Frame
from rt4ksr_client.pictures import warn

__all__ = [
    "ACCURATE_BICUBIC",
    "BT709",
    "check_colours",
    "from_rgb",
    "pad_for",
    "tag_or",
    "to_rgb",
]

BT709: Final = 1
BT2020_PRIMARIES: Final = 9
HDR_TRANSFERS: Final = {16: "PQ (HDR10)", 18: "HLG"}
RGB, UNSPECIFIED = 0, 2
MATRICES: Final = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
}
"""Those that swscale knows."""
SD_HEIGHT_PX: Final = 576
"""Up to this height, players take untagged video for BT.601, above it for BT.709."""

# libswscale's flags by number: PyAV names them from 18 on, and Python 3.10 has no PyAV 18.
ACCURATE_BICUBIC: Final = Interpolation.BICUBIC.value | 0x40000  # SWS_ACCURATE_RND
FULL_CHROMA_OUTPUT: Final = 0x2000  # SWS_FULL_CHR_H_INT
FULL_CHROMA_INPUT: Final = 0x4000  # SWS_FULL_CHR_H_INP


def check_colours(frame: VideoFrame, path: Path) -> None:
    """Reject colours that would come out wrong; warn about what is lost.

    Raises:
        VideoError: HDR, or a wider gamut than BT.709's.

    """
    transfer = int(frame.color_trc or UNSPECIFIED)
    if transfer in HDR_TRANSFERS:
        raise VideoError(
            f"{path}: {HDR_TRANSFERS[transfer]} video needs tone mapping first, e.g. ffmpeg -vf "
            "zscale=t=linear,tonemap=hable,zscale=p=bt709:t=bt709:m=bt709,format=yuv420p"
        )
    is_wide = int(frame.color_primaries or UNSPECIFIED) == BT2020_PRIMARIES
    if is_wide or int(frame.colorspace) not in (*MATRICES, RGB, UNSPECIFIED):
        raise VideoError(f"{path}: BT.2020 or another wide gamut: convert it to BT.709 first")
    depth = max(component.bits for component in frame.format.components)
    if depth > 8:
        warn(f"{path}: {depth} bits per channel: upscaled with 8")
    if any(component.is_alpha for component in frame.format.components):
        warn(f"{path}: the alpha channel is not kept")


def tag_or(default: int, code: Any) -> int:
    """Return a frame's primaries or transfer function, ``default`` where it is not tagged."""
    value = int(code or UNSPECIFIED)
    return default if value in (0, UNSPECIFIED) else value


def to_rgb(frame: VideoFrame) -> Frame:
    """Return a decoded frame as uint8 ``(H, W, 3)``, RGB, as it is stored (not rotated)."""
    untagged = Colorspace.ITU601 if frame.height <= SD_HEIGHT_PX else Colorspace.ITU709
    levels = int(frame.color_range)
    if levels not in (ColorRange.MPEG, ColorRange.JPEG):
        is_full = frame.format.name.startswith("yuvj") or frame.format.is_rgb
        levels = ColorRange.JPEG if is_full else ColorRange.MPEG
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=MATRICES.get(int(frame.colorspace), untagged),
        src_color_range=ColorRange(levels),
        dst_color_range=ColorRange.JPEG,
        interpolation=ACCURATE_BICUBIC | FULL_CHROMA_OUTPUT,
    )
    return rgb.to_ndarray().view(np.uint8)


def pad_for(pixel_format: str, image: Frame) -> Frame:
    """Repeat the last row or column where ``pixel_format`` stores colours for pairs of them.

    Returns ``image`` itself where nothing is missing.
    """
    known = av.VideoFormat(pixel_format, 2, 2)
    across, down = 2 // known.chroma_width(2), 2 // known.chroma_height(2)
    height, width, _ = image.shape
    if height % down or width % across:
        return np.pad(image, ((0, -height % down), (0, -width % across), (0, 0)), mode="edge")
    return image


def from_rgb(image: Frame, pixel_format: str) -> VideoFrame:
    """Return uint8 ``(H, W, 3)``, RGB, as a frame to encode: BT.709, limited range."""
    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return rgb.reformat(
        format=pixel_format,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=ACCURATE_BICUBIC | FULL_CHROMA_INPUT,
    )
