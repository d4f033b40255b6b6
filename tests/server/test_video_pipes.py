"""``rt4ksr video`` with pipes at both ends, through a real tritonserver."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt4ksr_client import Upscaler
from rt4ksr_client.errors import VideoError
from rt4ksr_client.video import VideoInput, VideoOptions, upscale_stream
from rt4ksr_client.video.y4m import Header
from rt4ksr_server import TritonServer
from support.videos import av, decoded, make_video, muxed, sound_of, uneven

pytestmark = pytest.mark.server

MAIN = (sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "video")


def y4m(colourspace: str, frames: int = 3, size: tuple[int, int] = (32, 24)) -> bytes:
    line = f"YUV4MPEG2 W{size[0]} H{size[1]} F30000:1001 Ip A4:3 C{colourspace} XCOLORRANGE=FULL"
    header = Header.parse(line.encode(), "x")
    dtype, top = ("<u2", 1024) if colourspace == "420p10" else ("u1", 256)
    random = np.random.default_rng(1)
    count = header.frame_bytes // np.dtype(dtype).itemsize
    planes = [random.integers(0, top, count).astype(dtype).tobytes() for _ in range(frames)]
    return line.encode() + b"\n" + b"".join(b"FRAME\n" + each for each in planes)


def run(server: TritonServer, data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*MAIN, *words, "--url", server.grpc_url],
        input=data,
        capture_output=True,
        timeout=180,
        check=False,
    )


def images(data: bytes) -> list[Any]:
    with av.open(io.BytesIO(data)) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize("colourspace", ["420paldv", "420p10"])
def test_y4m_in_and_out(video_server: TritonServer, colourspace: str) -> None:
    data = y4m(colourspace)

    done = run(video_server, data, "-", "-o", "-")

    assert done.returncode == 0, done.stderr
    assert done.stdout.partition(b"\n")[0] == (
        f"YUV4MPEG2 W64 H48 F30000:1001 Ip A4:3 C{colourspace} XCOLORRANGE=FULL".encode()
    )
    assert b"3 frames" in done.stderr
    for before, after in zip(images(data), images(done.stdout), strict=True):
        for small, large in zip(before.planes, after.planes, strict=True):
            width = 2 if "10" in colourspace else 1
            rows = np.frombuffer(small, np.uint8).reshape(small.height, -1, width)
            expected = rows[:, : small.width].repeat(2, axis=0).repeat(2, axis=1)
            found = np.frombuffer(large, np.uint8).reshape(large.height, -1, width)
            assert np.array_equal(found[:, : large.width], expected)


def test_a_cut_stream_is_written_up_to_the_cut(video_server: TritonServer, tmp_path: Path) -> None:
    data, target = y4m("420jpeg"), tmp_path / "out.y4m"

    done = run(video_server, data[:-10], "-", "-o", str(target))

    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == (
        "rt4ksr: error: standard input: ends in the middle of frame 3: "
        "the 2 whole frames before are written"
    )
    assert len(images(target.read_bytes())) == 2


def test_a_closed_pipe_ends_the_run_quietly(video_server: TritonServer) -> None:
    program = subprocess.Popen(
        [*MAIN, "-", "-o", "-", "--url", video_server.grpc_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stderr is not None
    frames = y4m("420jpeg", frames=12, size=(128, 96))
    program.stdin.write(frames)
    program.stdin.flush()
    program.stdout.read(100)

    program.stdout.close()

    assert program.wait(60) == 1  # though more frames may come
    assert program.stderr.read() == b""
    program.stdin.close()
    program.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_ends_a_run_that_waits_for_frames(
    video_server: TritonServer, number: signal.Signals
) -> None:
    program = subprocess.Popen(
        [*MAIN, "-", "-o", "-", "--url", video_server.grpc_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(y4m("420jpeg", frames=12))
    program.stdin.flush()
    program.stdout.read(100)

    program.send_signal(number)

    assert program.wait(60) == 128 + number
    _, stderr = program.communicate()
    assert b"Traceback" not in stderr
    assert not list(Path("/dev/shm").glob(f"*_{program.pid}_*"))


@pytest.mark.parametrize("form", ["matroska", "nut", "mpegts", "mp4"])
def test_a_container_to_a_pipe_keeps_times_and_sound(
    video_upscaler: Upscaler, tmp_path: Path, form: str
) -> None:
    source, target = make_video(tmp_path / "in.mkv", when=uneven, sound=True), io.BytesIO()
    options = VideoOptions(preset="ultrafast")

    with source.open("rb", buffering=0) as file, VideoInput(file, options) as video:
        done = upscale_stream(video, target, video_upscaler, form=form)

    (tmp_path / "out").write_bytes(target.getvalue())
    frames = decoded(tmp_path / "out")
    assert (done.done, len(frames)) == (30, 30)
    starts = [frame.pts * frame.time_base for frame in decoded(source)]
    times = [frame.pts * frame.time_base for frame in frames]
    for before, after in zip(starts, times, strict=True):
        assert abs((before - starts[0]) - (after - times[0])) <= Fraction(1, 900)
    before_s, after_s = sound_of(source), sound_of(tmp_path / "out")
    assert [len(data) for _, data in before_s] == [
        len(data) - (7 if form == "mpegts" else 0) for _, data in after_s
    ]
    in_step = (after_s[0][0] - times[0]) - (before_s[0][0] - starts[0])
    assert abs(in_step) <= Fraction(1, 500)


def test_sound_that_a_stream_cannot_hold_is_named(video_upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", sound=True)
    recording = muxed(tmp_path / "in.ts", source)

    with (
        VideoInput(recording, VideoOptions()) as video,
        pytest.raises(VideoError, match="--audio aac"),
    ):
        upscale_stream(video, io.BytesIO(), video_upscaler, form="matroska")
    options = VideoOptions(audio="opus")
    with recording.open("rb", buffering=0) as file, VideoInput(file, options) as video:
        upscale_stream(video, tmp_path / "out.mkv", video_upscaler)
    with recording.open("rb", buffering=0) as file, VideoInput(file, VideoOptions()) as video:
        upscale_stream(video, tmp_path / "copied.mkv", video_upscaler)

    assert len(decoded(tmp_path / "out.mkv")) == len(decoded(tmp_path / "copied.mkv")) == 30
    assert len(sound_of(tmp_path / "copied.mkv")) == len(sound_of(source))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "copied.mkv",
        "in.mkv",
        "in.ts",
        "out.mkv",
    ]
