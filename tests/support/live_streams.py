"""A sender and a receiver of streams on loopback, as processes of their own.

    python -m support.live_streams send URL FRAMES [FIRST]
    python -m support.live_streams receive URL

The sender sends 640x360 at 25 frames a second in MPEG-TS, with sound; frame ``index`` has the gray
level ``gray(index)``. The receiver prints a line of JSON a frame: its time in seconds, the level it
shows, the mean of U, and when it came. It also prints the times of the packets of sound.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

SIZE, RATE, LEVELS = (640, 360), 25, 50
TESTS = Path(__file__).parents[1]


def gray(index: int) -> int:
    """The luma of a frame, 4 apart so that an encoder keeps them apart."""
    return 20 + 4 * (index % LEVELS)


def level_index(level: float) -> int:
    """The index of a frame, modulo :data:`LEVELS`, by the luma it shows."""
    return round((level - 20) / 4) % LEVELS


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def send(url: str, frames: int, first: int = 0) -> None:
    with av.open(url, "w", format="mpegts") as container:
        stream: Any = container.add_stream(
            "libx264",
            rate=RATE,
            options={"preset": "ultrafast", "tune": "zerolatency", "crf": "10"},
        )
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = RATE // 2
        stream.codec_context.time_base = Fraction(1, 90_000)
        sound: Any = container.add_stream("aac", rate=48000, layout="mono")
        begin_s, samples = time.monotonic(), 0
        for index in range(first, first + frames):
            due_s = begin_s + (index - first) / RATE
            time.sleep(max(0.0, due_s - time.monotonic()))
            planes = np.full((SIZE[1] * 3 // 2, SIZE[0]), 128, np.uint8)
            planes[: SIZE[1]] = gray(index)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = (index - first) * 90_000 // RATE, Fraction(1, 90_000)
            container.mux(stream.encode(frame))
            while samples / 48000 < (index - first + 1) / RATE:
                wave = np.sin(np.arange(samples, samples + 1024) / 20).astype(np.float32)
                beep = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
                beep.sample_rate, beep.pts = 48000, samples
                beep.time_base = Fraction(1, 48000)
                container.mux(sound.encode(beep))
                samples += 1024


def write(row: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def receive(url: str) -> None:
    with av.open(url, options={"probesize": "200000"}) as container:
        for packet in container.demux():
            if packet.stream.type == "audio":
                if packet.pts is not None:
                    row = {"sound_s": float(packet.pts * packet.time_base)}
                    write(row)
                continue
            for frame in packet.decode():
                luma, u = (
                    np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width]
                    for plane in frame.planes[:2]
                )
                row = {
                    "time_s": float(frame.pts * frame.time_base),
                    "level": float(luma.mean()),
                    "u": float(u.mean()),
                    "came_s": time.monotonic(),
                }
                write(row)


@contextmanager
def sending(url: str, frames: int, first: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """Run the sender during the block."""
    words = ["-m", "support.live_streams", "send", url, str(frames), str(first)]
    process = subprocess.Popen([sys.executable, *words], cwd=TESTS, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def receiving(url: str, rows: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the receiver during the block; it writes to the file ``rows``."""
    words = ["-m", "support.live_streams", "receive", url]
    with rows.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=TESTS, stdout=output, stderr=subprocess.DEVNULL
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def received(rows: Path) -> tuple[list[dict[str, float]], list[float]]:
    """Return the frames that a receiver has written, and the times of its sound in seconds."""
    lines = [json.loads(line) for line in rows.read_text().splitlines() if line.endswith("}")]
    return [r for r in lines if "level" in r], [r["sound_s"] for r in lines if "sound_s" in r]


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        receive(sys.argv[2])
