"""Videos from pipes: what is read of them, and what is rejected; no server."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="the video extra is not installed")

from rt4ksr_client.errors import VideoError
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_client.video import VideoInput, VideoOptions
from rt4ksr_client.video.decoding import Faults
from rt4ksr_client.video.planes import conformed
from rt4ksr_client.video.y4m import FrameCount, Header, frame_bytes, header_line
from support.videos import av, make_video

ANY = VideoOptions()
HEADER = b"YUV4MPEG2 W16 H8 F25:1 Ip A1:1 C420mpeg2\n"
FRAME = b"FRAME\n" + bytes(range(128)) + bytes([90] * 32) + bytes([160] * 32)


def opened(data: bytes, options: VideoOptions = ANY) -> VideoInput:
    return VideoInput(io.BytesIO(data), options)


@pytest.mark.parametrize(
    ("colourspace", "depth", "place"),
    [
        ("420jpeg", 8, "center"),
        ("420mpeg2", 8, "left"),
        ("420paldv", 8, "topleft"),
        ("420p9", 9, ""),
        ("420p10", 10, ""),
        ("422p12", 12, ""),
        ("444p14", 14, ""),
        ("420p16", 16, ""),
        ("411", 8, ""),
        ("mono", 8, ""),
    ],
)
@pytest.mark.parametrize("levels", ["FULL", "LIMITED"])
def test_y4m_is_read_with_its_tags(colourspace: str, depth: int, place: str, levels: str) -> None:
    line = f"YUV4MPEG2 W18 H10 F30000:1001 Ip A4:3 C{colourspace} XCOLORRANGE={levels}".encode()
    size = Header.parse(line, "x").frame_bytes

    with opened(line + b"\n" + 3 * (b"FRAME\n" + bytes(size))) as video:
        source = video.source
        assert len(list(video.frames())) == 3
        assert video.failure is None

    assert (source.width_px, source.height_px) == (18, 10)
    assert (source.rate, source.aspect) == (Fraction(30000, 1001), Fraction(4, 3))
    assert source.colours.depth == depth
    video_model = "rt4ksr_x2_video" if depth == 8 else "rt4ksr_x2_video16"
    has_default = colourspace.startswith("444") and depth == 8
    assert video.models(2) == ["rt4ksr_x2"] * has_default + [video_model]
    assert source.colours.is_full_range == (levels == "FULL")
    if colourspace.startswith("420"):
        assert source.colours.chroma_location == place


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le", "yuv422p", "yuv444p12le"])
def test_what_is_written_is_read_again(pixel_format: str) -> None:
    frame = av.VideoFrame(18, 10, pixel_format)
    for index, plane in enumerate(frame.planes):
        plane.update(bytes(np.arange(plane.buffer_size, dtype=np.uint8) % 3 + index))
    with opened(HEADER + FRAME + FRAME) as video:
        tags = video.source.colours
    written = header_line((18, 10), Fraction(25), Fraction(1), pixel_format, tags)
    written += b"".join(frame_bytes(frame))

    with opened(written) as video:
        (again,) = video.frames()

    assert again.image.format.name == pixel_format
    assert b"".join(frame_bytes(again.image)) == b"".join(frame_bytes(frame))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (HEADER, "no frames"),
        (HEADER[:20], "header does not end"),
        (b"YUV4MPEG2 " + bytes(5000), "header does not end"),
        (b"YUV4MPEG2 W16 F25:1\n", "width and height"),
        (b"YUV4MPEG2 W16 H-8 F25:1\n", "width and height"),
        (b"YUV4MPEG2 W100000 H100000 F25:1\n", "100000x100000"),
        (b"YUV4MPEG2 W16 H8 F25:1 C444alpha\n", "444alpha"),
        (b"YUV4MPEG2 W16 H8 F25:1 C420p11\n", "420p11"),
        (b"YUV4MPEG2 W16 H8 F25:1 Im\n", "mixed"),
        (b"YUV4MPEG2 W16 H8 F25:1 It\n" + FRAME, "interlaced"),
        (HEADER + bytes(500), "no frame after frame 0"),
        (HEADER + FRAME[:50], "middle of frame 1"),
        (bytes(range(256)) * 40, "cannot be read as a video"),
    ],
)
def test_a_bad_stream_is_an_error(data: bytes, reason: str) -> None:
    with pytest.raises(VideoError, match=reason):
        opened(data)


def test_interlaced_y4m_is_deinterlaced_on_request() -> None:
    data = HEADER.replace(b"Ip", b"It") + 4 * FRAME

    with opened(data, VideoOptions(deinterlace=True)) as video:
        assert len(list(video.frames())) == 4


@pytest.mark.parametrize("rest", [b"F", b"FRAME\n", FRAME[:-1], b"hello"])
def test_whole_frames_precede_the_failure(rest: bytes) -> None:
    with opened(HEADER + 3 * FRAME + rest) as video:
        assert len(list(video.frames())) == 3
        assert video.failure is not None


def test_frames_are_counted_however_the_bytes_come() -> None:
    data = 3 * FRAME + b"FRAME Ixyz\n" + FRAME[6:]
    for step in (1, 7, 64, 1000):
        count = FrameCount(len(FRAME) - 6)
        for place in range(0, len(data), step):
            count.add(data[place : place + step])
        assert (count.frames, count.is_cut) == (4, False)


@pytest.mark.parametrize("options", [VideoOptions(frames=2), VideoOptions(end_s=0.08)])
def test_a_part_from_the_beginning_is_read(options: VideoOptions) -> None:
    with opened(HEADER + 5 * FRAME, options) as video:
        assert len(list(video.frames())) == 2


def test_a_later_start_is_an_error() -> None:
    with pytest.raises(VideoError, match="start"):
        opened(HEADER + FRAME, VideoOptions(start_s=1))


def test_waiting_for_a_silent_pipe_can_be_ended() -> None:
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb", buffering=0) as file,
        os.fdopen(writer, "wb", buffering=0) as other,
    ):
        other.write(HEADER + 200 * FRAME)
        video = VideoInput(file, ANY)
        frames = video.frames()
        next(frames)

        video.close()

    assert not [t for t in threading.enumerate() if t.name == "rt4ksr-prefetch"]


def test_packets_of_other_streams_come_beside_the_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.mkv", sound=True)
    with path.open("rb", buffering=0) as file, VideoInput(file, ANY) as video:
        assert len(list(video.frames())) == 30
        packets = list(video.other_packets(None))

    with av.open(str(path)) as container:
        sound = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    assert [bytes(packet) for packet in packets] == sound


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("-",), "give the output with -o"),
        (("-", "-o", "x.mkv", "--resume"), "--resume and --start need"),
        (("-", "-o", "x.mkv", "--start", "1"), "--resume and --start need"),
        (("-", "-o", "x.mkv"), "standard input is a terminal"),
    ],
)
def test_what_a_pipe_cannot_do_is_an_error_of_one_line(
    words: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    ours, terminal = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "video", *words],
            stdin=terminal,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=120,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(terminal)

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert reason in done.stderr
    assert not list(tmp_path.iterdir())


def coded(matrix: int, levels: int, pixel_format: str = "yuv420p") -> Any:
    rgb = av.VideoFrame.from_ndarray(np.full((48, 64, 3), (200, 40, 30), np.uint8), format="rgb24")
    frame = rgb.reformat(format=pixel_format, dst_colorspace=matrix, dst_color_range=levels)
    frame.colorspace, frame.color_range = matrix, levels
    return frame


def test_frames_of_other_colours_are_converted_to_those_of_the_first() -> None:
    with opened(HEADER.replace(b"W16 H8", b"W64 H48") + b"FRAME\n" + bytes(4608)) as video:
        source = video.source
    assert source.colours.matrix == 6
    faults = Faults()
    frames = [coded(6, 1), coded(1, 1), coded(6, 2), coded(6, 1, "yuv444p"), coded(2, 0)]

    found = list(source.uniform(iter(frames), ANY, faults))

    assert faults.converted_frames == 3
    first = [int(np.frombuffer(bytes(plane), np.uint8)[0]) for plane in found[0].planes]
    for frame in found[:4]:
        codes = [int(np.frombuffer(bytes(plane), np.uint8)[0]) for plane in frame.planes]
        assert codes == pytest.approx(first, abs=2)
    with pytest.raises(VideoError, match="change"):
        list(source.uniform(iter(frames), VideoOptions(strict=True), Faults()))


def test_a_conformed_frame_has_the_size_and_the_time() -> None:
    with opened(HEADER + FRAME) as video:
        tags = video.source.colours
    frame = coded(1, 2)
    frame.pts, frame.time_base = 7, Fraction(1, 25)

    other = conformed(frame, (32, 16), tags)

    assert (other.width, other.height, other.pts) == (32, 16, 7)


def test_y4m_without_a_matrix_tag_is_no_warning_here(recwarn: Any) -> None:
    with opened(HEADER + FRAME):
        pass
    assert not [w for w in recwarn if issubclass(w.category, PictureWarning)]
