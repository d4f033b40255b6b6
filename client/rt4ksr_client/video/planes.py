"""Video frames as planes and back, without a conversion of colours."""

from __future__ import annotations

from typing import Any, Final

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from rt4ksr_client.frames import Frame, Yuv420
from rt4ksr_client.video.colours import BT709, ColourTags, depth_of, has_full_range

__all__ = [
    "ACCURATE_BICUBIC",
    "conformed",
    "from_rgb",
    "from_video_frame",
    "planar_420",
    "samples",
    "to_420",
    "to_rgb",
    "to_video_frame",
    "upscaled_like",
]

ACCURATE_BICUBIC: Final = Interpolation.BICUBIC.value | 0x40000
"""libswscale's flags by number, the second is SWS_ACCURATE_RND: PyAV names it from 18 on."""

FULL_CHROMA_OUTPUT: Final = 0x2000
FULL_CHROMA_INPUT: Final = 0x4000
"""SWS_FULL_CHR_H_INT and SWS_FULL_CHR_H_INP."""

SEMIPLANAR: Final = {"nv12": 8, "p010le": 10, "p016le": 16}
"""Formats with U and V in one plane, by the bits of a code: exactly what a model takes."""

ROWS_AT_ONCE: Final = 64
"""Of a plane of 16 bits, so that the passes over it find it in the cache."""


def from_video_frame(frame: VideoFrame, bits: int | None = None) -> Yuv420:
    """Return the planes of a frame of any format, upright as it is stored.

    4:2:0 is copied, or used where it is; anything else is converted with libswscale, RGB by
    BT.709. ``bits`` are 8, or 16 for any depth; by default what the frame needs.
    """
    bits = bits or (8 if depth_of(frame) == 8 else 16)
    depth = 8 if bits == 8 else max(9, depth_of(frame))
    frame = to_420(frame, depth)
    if frame.format.name in SEMIPLANAR:
        luma, pairs = samples(frame.planes[0], bits), samples(frame.planes[1], bits, channels=2)
        return Yuv420(luma, pairs.reshape(len(pairs), -1, 2))
    shift = bits - depth
    luma, *halves = (samples(plane, bits) for plane in frame.planes[:3])
    chroma = np.empty((*halves[0].shape, 2), luma.dtype)
    for index, half in enumerate(halves):
        np.left_shift(half, shift, out=chroma[..., index])
    return Yuv420(np.left_shift(luma, shift) if shift else luma, chroma)


def to_420(frame: VideoFrame, depth: int) -> VideoFrame:
    """Return ``frame`` as 4:2:0 of ``depth`` bits; itself where it is that already."""
    name, wanted = frame.format.name, planar_420(depth)
    if name == wanted or SEMIPLANAR.get(name) == depth or (name, depth) == ("yuvj420p", 8):
        return frame
    levels = ColorRange.JPEG if has_full_range(frame) else ColorRange.MPEG
    if frame.format.is_rgb:
        return reformatted(
            frame,
            wanted,
            src_color_range=ColorRange.JPEG,
            dst_color_range=levels,
            dst_colorspace=Colorspace.ITU709,
        )
    # libswscale converts no colours where matrix and range are the same at both sides
    return reformatted(frame, wanted, src_color_range=levels, dst_color_range=levels)


def to_rgb(frame: VideoFrame, tags: ColourTags) -> Frame:
    """Return a frame as uint8 ``(H, W, 3)``, RGB, upright as it is stored."""
    is_rgb = frame.format.is_rgb
    rgb = frame.reformat(
        format="rgb24",
        interpolation=ACCURATE_BICUBIC | FULL_CHROMA_OUTPUT,
        src_colorspace=None if is_rgb else swscale_matrix(tags),
        src_color_range=ColorRange.JPEG if is_rgb else tags.range,
        dst_color_range=ColorRange.JPEG,
    )
    return rgb.to_ndarray().view(np.uint8)


def from_rgb(pixels: Frame, tags: ColourTags) -> Yuv420:
    """Return uint8 RGB ``(H, W, 3)`` as 4:2:0 of 8 bits with the matrix and range of ``tags``."""
    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    planar = rgb.reformat(
        format="yuv420p",
        interpolation=ACCURATE_BICUBIC | FULL_CHROMA_INPUT,
        dst_colorspace=swscale_matrix(tags),
        src_color_range=ColorRange.JPEG,
        dst_color_range=tags.range,
    )
    return from_video_frame(planar)


def swscale_matrix(tags: ColourTags) -> int:
    """Return PyAV's number of a matrix, which knows those of 525 and 625 lines by one."""
    return 5 if tags.matrix == 6 else tags.matrix


def conformed(frame: VideoFrame, size_px: tuple[int, int], tags: ColourTags) -> VideoFrame:
    """Convert ``frame`` to another size, and its codes to the matrix and the range of ``tags``.

    Its transfer function and its primaries stay what they are.
    """
    if frame.format.is_rgb:
        own_matrix, levels = tags.matrix, ColorRange.JPEG
        pixel_format = planar_420(max(8, tags.depth))
    else:
        unspecified = int(frame.colorspace) in (0, 2)
        own_matrix = tags.matrix if unspecified else int(frame.colorspace)
        is_full = has_full_range(frame, default=tags.is_full_range)
        levels = ColorRange.JPEG if is_full else ColorRange.MPEG
        pixel_format = frame.format.name
    other = frame.reformat(
        *size_px,
        format=pixel_format,
        interpolation=ACCURATE_BICUBIC,
        src_colorspace=5 if own_matrix == 6 else own_matrix,
        dst_colorspace=swscale_matrix(tags),
        src_color_range=levels,
        dst_color_range=tags.range,
    )
    other.color_range = tags.range
    if frame.time_base is not None:
        other.pts, other.time_base = frame.pts, frame.time_base
    return other


def planar_420(depth: int) -> str:
    """Return FFmpeg's name of planar 4:2:0."""
    return "yuv420p" if depth == 8 else f"yuv420p{depth}le"


def reformatted(frame: VideoFrame, pixel_format: str, **colours: Any) -> VideoFrame:
    """Convert ``frame``, which keeps its time."""
    other = frame.reformat(format=pixel_format, interpolation=ACCURATE_BICUBIC, **colours)
    return timed_like(other, frame)


def to_video_frame(image: Yuv420, pixel_format: str, colours: ColourTags) -> VideoFrame:
    """Return ``image`` as a frame in ``pixel_format``, with the tags ``colours``.

    Its sides are even: a last row or column is repeated. A value of 16 bits is rounded half up to
    the bits of the format. What is not planar 4:2:0 is converted from that with libswscale.
    """
    depth = max(component.bits for component in av.VideoFormat(pixel_format, 2, 2).components)
    rows, columns = (side + side % 2 for side in image.luma.shape)
    frame = VideoFrame(columns, rows, planar_420(depth))
    bits = 8 * image.luma.dtype.itemsize
    luma, u, v = frame.planes
    fill(luma, image.luma, bits, depth)
    if (bits, depth) == (8, 8) and image.chroma.flags.c_contiguous:
        pairs = image.chroma.view(np.uint16)[..., 0]  # U in the low byte: half the time of strides
        np.bitwise_and(pairs, 255, out=samples(u, 8), casting="unsafe")
        np.right_shift(pairs, 8, out=samples(v, 8), casting="unsafe")
    else:
        fill(u, image.chroma[..., 0], bits, depth)
        fill(v, image.chroma[..., 1], bits, depth)
    if pixel_format != frame.format.name:
        levels = ColorRange(colours.range)
        frame = reformatted(frame, pixel_format, src_color_range=levels, dst_color_range=levels)
    colours.apply(frame)
    return frame


def upscaled_like(image: Yuv420, source: VideoFrame) -> VideoFrame:
    """Return ``image``, upscaled from ``source``, as 4:2:0 with its depth, times and tags."""
    tags = ColourTags(
        depth_of(source),
        BT709 if source.format.is_rgb else int(source.colorspace),
        int(source.color_primaries),
        int(source.color_trc),
        is_full_range=has_full_range(source),
    )
    return timed_like(to_video_frame(image, planar_420(tags.depth), tags), source)


def timed_like(frame: VideoFrame, source: VideoFrame) -> VideoFrame:
    """Give ``frame`` the time of ``source``, if that has one, and return it."""
    frame.pts = source.pts
    if source.time_base is not None:
        frame.time_base = source.time_base
    return frame


def fill(plane: VideoPlane, values: NDArray[Any], bits: int, depth: int) -> None:
    """Copy ``values`` of ``bits`` into ``plane``, codes of ``depth`` bits, and extend its edges."""
    target = samples(plane, depth)
    rows, columns = values.shape
    inner = target[:rows, :columns]
    if bits == depth:
        np.copyto(inner, values)
    elif bits < depth:
        np.left_shift(values, depth - bits, out=inner, dtype=inner.dtype)
    else:
        for start in range(0, rows, ROWS_AT_ONCE):
            narrow(values[start : start + ROWS_AT_ONCE], bits, depth, inner[start:])
    target[rows:, :columns] = target[rows - 1, :columns]
    target[:, columns:] = target[:, columns - 1 : columns]


def narrow(values: NDArray[Any], bits: int, depth: int, out: NDArray[Any]) -> None:
    """Round ``values`` of ``bits`` to ``depth``; the largest code cannot overflow."""
    half = 1 << (bits - depth - 1)
    rounded = np.minimum(values, values.dtype.type((1 << bits) - 1 - half))
    rounded += values.dtype.type(half)
    np.right_shift(rounded, bits - depth, out=out[: len(values)], casting="unsafe")


def samples(plane: VideoPlane, bits: int, channels: int = 1) -> NDArray[Any]:
    """Return the samples of ``plane``, ``(H, W * channels)``, where FFmpeg has them."""
    dtype = np.dtype(np.uint8 if bits == 8 else "<u2")
    content: Any = plane  # of the buffer protocol
    rows: NDArray[Any] = np.frombuffer(content, dtype)
    return rows.reshape(plane.height, plane.line_size // dtype.itemsize)[
        :, : plane.width * channels
    ]
