"""Small videos with known pictures and sound, and what a player would make of them."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

av = pytest.importorskip("av", reason="the video extra is not installed")

from rt4ksr_client.video import VideoOptions  # noqa: E402 - it needs PyAV
from rt4ksr_client.video.containers import ffmpeg_url  # noqa: E402 - likewise

UNIT = Fraction(1, 90000)
FAST = VideoOptions(preset="ultrafast", crf=4)
COLOUR = (200, 40, 30)


def steady(index: int) -> int:
    return index * 3600


def uneven(index: int) -> int:
    return index * 3600 + (index % 3) * 701


def plain(index: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return np.full((size[1], size[0], 3), COLOUR, np.uint8)


def counted(index: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The frame's number as its gray level."""
    return np.full((size[1], size[0], 3), 16 + index * 2 % 224, np.uint8)


def make_video(
    path: Path,
    *,
    frames: int = 30,
    size: tuple[int, int] = (64, 48),
    when: Callable[[int], int] = steady,
    draw: Callable[[int, tuple[int, int]], npt.NDArray[np.uint8]] = plain,
    pixel_format: str = "yuv420p",
    colour: tuple[int, int] = (1, 1),
    transfer: int = 1,
    primaries: int = 1,
    aspect: Fraction = Fraction(1),
    rotation: int = 0,
    sound: bool = False,
    codec: str = "libx264",
    encoder: dict[str, str] = {},  # noqa: B006 - only read
) -> Path:
    """``colour``: number of the matrix, 1 for limited or 2 for full range."""
    matrix, levels = colour
    # The same file each time: Matroska has random numbers otherwise.
    with av.open(ffmpeg_url(path), "w", container_options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream(codec, rate=25, options={"crf": "4"} | encoder)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        context.time_base, context.sample_aspect_ratio = UNIT, aspect
        context.colorspace, context.color_range = matrix, levels
        context.color_trc, context.color_primaries = transfer, primaries
        if rotation:
            stream.set_display_rotation(rotation)
        audio: Any = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(index, size), format="rgb24").reformat(
                format=pixel_format,
                dst_colorspace=1 if matrix == 1 else 5,
                dst_color_range=levels,
            )
            frame.pts, frame.time_base = when(index), UNIT
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            _add_tone(container, audio, frames / 25)
    return path


def _add_tone(container: Any, stream: Any, duration_s: float) -> None:
    for start in range(0, int(duration_s * 48000), 1024):
        wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def decoded(path: Path) -> list[Any]:
    with av.open(ffmpeg_url(path)) as container:
        return list(container.decode(video=0))


def seconds(path: Path) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in decoded(path)]


def centre(frame: Any) -> npt.NDArray[np.int64]:
    """The colour a player shows: by the tags the frame itself carries."""
    rgb = frame.reformat(
        format="rgb24", src_colorspace=1 if frame.colorspace == 1 else 5, dst_color_range=2
    ).to_ndarray()
    return np.asarray(rgb[rgb.shape[0] // 2, rgb.shape[1] // 2]).astype(np.int64)


def sound_of(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(ffmpeg_url(path)) as container:
        packets = container.demux(audio=0)
        return [(p.pts * p.time_base, bytes(p)) for p in packets if p.size]


def stored_without_times(source: Path, target: Path) -> Path:
    """Copy a video into a container that stores frames in the order of decoding, without times."""
    with av.open(ffmpeg_url(source)) as container, av.open(ffmpeg_url(target), "w") as output:
        original = container.streams.video[0]
        stream: Any = output.add_stream_from_template(original)
        for index, packet in enumerate(container.demux(original)):
            if packet.size:
                packet.stream = stream
                packet.pts, packet.dts, packet.time_base = index, index, Fraction(1, 25)
                output.mux(packet)
    return target


def joined(target: Path, *sources: Path) -> Path:
    """Put files one after the other, as ``cat`` does with recordings in MPEG-TS."""
    target.write_bytes(b"".join(source.read_bytes() for source in sources))
    return target


def muxed(
    target: Path,
    *sources: Path,
    kinds: tuple[str, ...] = (),
    edit: Callable[[Any], object] = lambda output: None,
    each: Callable[[Any], object] = lambda packet: None,
    options: dict[str, str] = {},  # noqa: B006 - only read
) -> Path:
    """Copy the streams of ``sources`` into one file; of each only those of its kind in ``kinds``.

    ``edit`` changes the output before its header is written, ``each`` every packet. ``options``
    are those of the muxer.
    """
    with ExitStack() as stack:
        output = stack.enter_context(av.open(ffmpeg_url(target), "w", container_options=options))
        copies = []
        for source, kind in itertools.zip_longest(sources, kinds):
            container = stack.enter_context(av.open(ffmpeg_url(source)))
            streams = [stream for stream in container.streams if kind in (None, stream.type)]
            added = {s: output.add_stream_from_template(s, opaque=True) for s in streams}
            for stream, copy in added.items():
                if stream.type == "video":
                    copy.codec_context.framerate = stream.average_rate
            copies.append((container, added))
        edit(output)
        for container, added in copies:
            for packet in container.demux(list(added)):
                if packet.size:
                    each(packet)
                    packet.stream = added[packet.stream]
                    output.mux(packet)
    return target


def with_display_matrix(path: Path, matrix: tuple[int, ...]) -> Path:
    """Write ``matrix``, three rows of three, into the header of an MP4's video."""
    content = bytearray(path.read_bytes())
    struct.pack_into(">9i", content, content.find(b"tkhd") + 44, *matrix)
    path.write_bytes(content)
    return path


def numbered(index: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The frame's number, up to 50, as a gray level that survives coding."""
    return np.full((size[1], size[0], 3), 20 + index * 4, np.uint8)


def numbers(images: Iterable[Any]) -> list[int]:
    """What ``numbered`` has drawn into them."""
    return [round((int(image[0, 0, 0]) - 20) / 4) for image in images]
