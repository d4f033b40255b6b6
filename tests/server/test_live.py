"""Live streams through a real server, between processes that send and receive on loopback.

What the machine does decides how many frames are by the network, so a test only asks for that where
the server leaves a lot of time. That every frame comes out, in order and at its time, holds always.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("av", reason="the video extra is not installed")

from rt4ksr_client import Upscaler
from rt4ksr_client.live import LiveOptions, upscale_live
from rt4ksr_client.live.sink import LiveSink
from rt4ksr_server import TritonServer
from support.live_streams import free_port, level_index, received, receiving, sending
from support.slow_models import MARK, SPEC, write_slow_model
from support.videos import decoded, make_video

pytestmark = pytest.mark.server


class LiveCommand:
    """``rt4ksr live`` as a process; its lines of JSON are in :attr:`lines`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = self._log.read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def count(self, name: str) -> int:
        return sum(line[name] for line in self.lines if "total" not in line)

    def wait_for(self, name: str, least: int, timeout_s: float = 30) -> None:
        wait_until(lambda: self.count(name) >= least, timeout_s)

    def finish(self) -> dict[str, Any]:
        """End it as Ctrl-C does, and return the total."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 0, self._log.read_text()
        return self.lines[-1]


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it does not happen"
        time.sleep(0.1)


@contextmanager
def live(tmp_path: Path, *words: object) -> Iterator[LiveCommand]:
    log = tmp_path / "live.log"
    command = [sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "live"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *map(str, words), "--json"], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield LiveCommand(process, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def quick_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = write_slow_model(tmp_path_factory.mktemp("quick"), 0.02, 4)
    with TritonServer(repository) as server:
        yield server


def check_frames(frames: list[dict[str, float]], count: int) -> None:
    """Check that all frames are there from the first one received, in order, 40 ms apart."""
    indices = [level_index(frame["level"]) for frame in frames]
    assert len(frames) >= count
    steps = {(after - before) % 50 for before, after in itertools.pairwise(indices)}
    assert steps == {1}
    times = [frame["time_s"] for frame in frames]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert all(gap == pytest.approx(0.04, abs=0.001) for gap in gaps)


@pytest.mark.parametrize("protocol", ["tcp", pytest.param("udp", marks=pytest.mark.slow)])
def test_every_frame_comes_out_in_order_and_at_its_time_with_its_sound(
    protocol: str, quick_server: TritonServer, tmp_path: Path
) -> None:
    given, taken = free_port(), free_port()
    listen = "?listen=1" if protocol == "tcp" else "?fifo_size=1000000"
    source, target = (f"{protocol}://127.0.0.1:{port}" for port in (given, taken))
    words = (source + listen, "-o", target, "--latency", "2s", "--url", quick_server.grpc_url)
    with (
        receiving(target + listen, tmp_path / "rows"),
        live(tmp_path, *words) as command,
    ):
        time.sleep(3)  # nothing says that a socket listens without connecting to it
        with sending(source, 100):
            command.wait_for("frames_in", 95)
            wait_until(lambda: len(received(tmp_path / "rows")[0]) >= 80)
        total = command.finish()

    frames, sound = received(tmp_path / "rows")
    check_frames(frames, 80)
    marked = [abs(frame["u"] - 128 - MARK) < 3 for frame in frames]
    assert sum(marked) > 0.5 * len(frames)
    assert total["by_network"] + total["interpolated"] == total["frames_in"]
    # The sound goes with the picture, though the picture is later by two seconds.
    assert min(sound) == pytest.approx(min(f["time_s"] for f in frames), abs=0.2)
    steps = [after - before for before, after in itertools.pairwise(sound)]
    assert max(steps) < 0.1


@pytest.mark.parametrize("form", ["matroska", pytest.param("mpegts", marks=pytest.mark.slow)])
def test_a_file_is_read_at_its_rate_and_the_network_gives_what_it_gives_a_file(
    form: str, quick_server: TritonServer, tmp_path: Path
) -> None:
    with sending(f"file:{tmp_path / 'in.ts'}", 40) as sender:
        assert sender.wait(30) == 0
    target = tmp_path / "out.mkv"
    words = (tmp_path / "in.ts", "--pace", "-o", target, "--format", form, "--latency", "3s")
    begin_s = time.monotonic()
    with live(tmp_path, *words, "--url", quick_server.grpc_url) as command:
        assert command.process.wait(60) == 0
    total = command.lines[-1]

    assert time.monotonic() - begin_s > 1.5
    assert total["frames_in"] == 40
    with receiving(str(target), tmp_path / "rows") as receiver:
        receiver.wait(30)
    frames, sound = received(tmp_path / "rows")
    assert [level_index(frame["level"]) for frame in frames] == list(range(40))
    assert sum(abs(f["u"] - 128 - MARK) < 3 for f in frames) == total["by_network"] > 0
    assert sound


def test_network_frames_are_those_of_the_same_video_bit_for_bit(
    quick_server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_video(tmp_path / "in.mkv", frames=12, size=(160, 96), draw=moving_square)
    written: dict[int, Any] = {}
    monkeypatch.setattr(
        LiveSink,
        "write",
        lambda sink, frame, time_s: written.update({round(time_s * 25): frame.to_ndarray()}),
    )
    options = LiveOptions(latency_s=10, is_paced=True)
    with Upscaler(quick_server.grpc_url, model=SPEC.name) as upscaler:
        total = upscale_live(str(source), str(tmp_path / "out.mkv"), upscaler, options)
        expected = [upscaler.upscale(frame).to_ndarray() for frame in decoded(source)]

    assert total.by_network > 0
    by_network = [n for n, planes in written.items() if planes[-1, -1] > 128 + MARK / 2]
    assert len(by_network) == total.by_network
    for number in by_network:
        np.testing.assert_array_equal(written[number], expected[number])


def moving_square(index: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    width, height = size
    frame = np.random.default_rng(7).integers(60, 180, (height, width, 3), np.uint8)
    frame[20:44, 8 * index : 8 * index + 24] = (200, 40, 30)
    return frame


@pytest.fixture
def slow_server(tmp_path: Path) -> Iterator[TritonServer]:
    with TritonServer(write_slow_model(tmp_path / "slow", 3.0, 4)) as server:
        yield server


def test_a_server_that_is_too_slow_costs_no_frame_and_gets_few_requests(
    slow_server: TritonServer, tmp_path: Path
) -> None:
    port = free_port()
    source = f"udp://127.0.0.1:{port}"
    words = (f"{source}?fifo_size=1000000", "-o", tmp_path / "out.ts", "--latency", "300ms")
    with live(tmp_path, *words, "--url", slow_server.grpc_url) as command, sending(source, 300):
        command.wait_for("interpolated", 100)
        total = command.finish()

    assert total["by_network"] == 0
    assert total["interpolated"] == total["frames_in"]
    assert all(line["in_flight"] <= 8 for line in command.lines)  # 0.3 s at 25 frames a second
    assert total["late"] + total["failed"] < total["frames_in"] / 2


def test_the_network_comes_back_with_its_server(tmp_path: Path) -> None:
    repository = write_slow_model(tmp_path / "models", 0.02, 4)
    ports: dict[str, Any] = {
        "grpc_port": free_port(),
        "http_port": free_port(),
        "metrics_port": free_port(),
    }
    port = free_port()
    source = f"udp://127.0.0.1:{port}"
    words = (f"{source}?fifo_size=1000000", "-o", tmp_path / "out.ts", "--latency", "1s")
    with ExitStack() as stack:
        server = stack.enter_context(TritonServer(repository, **ports))
        command = stack.enter_context(live(tmp_path, *words, "--url", server.grpc_url))
        stack.enter_context(sending(source, 1500))
        command.wait_for("by_network", 10)
        os.kill(server.pid, signal.SIGKILL)
        before = command.count("interpolated")
        command.wait_for("interpolated", before + 25)
        server.stop()
        stack.enter_context(TritonServer(repository, **ports))
        known = command.count("by_network")
        command.wait_for("by_network", known + 25)
        total = command.finish()

    assert total["by_network"] + total["interpolated"] == total["frames_in"]
    with receiving(str(tmp_path / "out.ts"), tmp_path / "rows") as receiver:
        receiver.wait(60)
    frames, _ = received(tmp_path / "rows")
    check_frames(frames, total["frames_in"] - 2)


@pytest.mark.parametrize("held", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_source_may_go_away_and_come_back(
    held: bool, quick_server: TritonServer, tmp_path: Path
) -> None:
    port = free_port()
    source = f"tcp://127.0.0.1:{port}"
    words: list[object] = [source + "?listen=1", "-o", tmp_path / "out.ts", "--latency", "300ms"]
    words += ["--hold"] if held else []
    with live(tmp_path, *words, "--url", quick_server.grpc_url) as command:
        for first in (0, 30):
            wait_until(partial(has_sent, source, first))
            command.wait_for("frames_in", first + 28)
        total = command.finish()

    assert total["reconnects"] >= 1
    assert (total["held"] > 0) == held
    with receiving(str(tmp_path / "out.ts"), tmp_path / "rows") as receiver:
        receiver.wait(60)
    frames, _ = received(tmp_path / "rows")
    times = [frame["time_s"] for frame in frames]
    assert times == sorted(times)
    assert len(frames) >= 56


def has_sent(url: str, first: int) -> bool:
    """Send 30 frames; False if nobody listens."""
    with sending(url, 30, first) as sender:
        return sender.wait(30) == 0


def has_received(rows: Path, frames: int) -> bool:
    return len(received(rows)[0]) > frames


def test_a_target_may_go_away_and_come_back(quick_server: TritonServer, tmp_path: Path) -> None:
    given, taken = free_port(), free_port()
    source, target = (f"{p}://127.0.0.1:{n}" for p, n in (("udp", given), ("tcp", taken)))
    words = (f"{source}?fifo_size=1000000", "-o", target, "--latency", "300ms")
    rows = [tmp_path / "first", tmp_path / "second"]
    with (
        live(tmp_path, *words, "--url", quick_server.grpc_url) as command,
        sending(source, 1500),
    ):
        for path in rows:
            with receiving(target + "?listen=1", path):
                wait_until(partial(has_received, path, 20))
        total = command.finish()

    assert total["reconnects"] >= 2  # it was not there at first
    assert total["dropped"] > 0


@pytest.mark.slow
def test_live_requests_go_before_those_of_a_folder(tmp_path: Path) -> None:
    """The folder's requests fill the queue of one instance; the stream's go to its head."""
    repository = write_slow_model(tmp_path / "models", 0.04, 1)
    port = free_port()
    source = f"udp://127.0.0.1:{port}"
    words = (f"{source}?fifo_size=1000000", "-o", tmp_path / "out.ts", "--latency", "2s")
    with TritonServer(repository) as server:
        load = (
            "import numpy as np, sys\n"
            "from rt4ksr_client import Upscaler\n"
            "from rt4ksr_client.frames import Yuv420\n"
            "frame = Yuv420(np.zeros((64, 64), 'u1'), np.zeros((32, 32, 2), 'u1'))\n"
            f"with Upscaler(sys.argv[1], model={SPEC.name!r}) as up:\n"
            "    for _ in up.map((frame for _ in range(10**6)), in_flight=60): pass\n"
        )
        with subprocess.Popen([sys.executable, "-c", load, server.grpc_url]) as folder:
            try:
                with (
                    live(tmp_path, *words, "--url", server.grpc_url) as command,
                    sending(source, 500),
                ):
                    command.wait_for("frames_in", 150, timeout_s=60)
                    total = command.finish()
            finally:
                folder.kill()

    # Behind the folder, each request would wait 60 times 40 ms, longer than the latency.
    assert total["by_network"] > 0.2 * total["frames_in"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["talk.mp4", "-o", "udp://127.0.0.1:9"], "there is no such file"),
        (["udp://127.0.0.1:9", "-o", "out.xyz"], "unknown target"),
        (["udp://127.0.0.1:9", "-o", "-", "--latency", "soon"], "no time"),
        (["nosuch://x", "-o", "udp://127.0.0.1:9"], "no protocol nosuch"),
        (["lavfi:testsrc=size=64x64", "-o", "srt://127.0.0.1:9"], "no protocol srt"),
    ],
)
def test_bad_words_are_rejected_before_anything_happens(
    words: list[str], message: str, quick_server: TritonServer, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "live"]
    found = subprocess.run(
        [*command, *words, "--url", quick_server.grpc_url],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )

    assert found.returncode != 0
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_metrics_are_served_on_loopback_only(quick_server: TritonServer, tmp_path: Path) -> None:
    port, metrics = free_port(), free_port()
    source = f"udp://127.0.0.1:{port}"
    words = (f"{source}?fifo_size=1000000", "-o", tmp_path / "out.ts", "--metrics-port", metrics)
    with (
        live(tmp_path, *words, "--url", quick_server.grpc_url) as command,
        sending(source, 300),
    ):
        command.wait_for("by_network", 10)
        with socket.create_connection(("127.0.0.1", metrics), timeout=5) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            page = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        command.finish()

    assert 'rt4ksr_live_frames_total{outcome="in"}' in page
    assert 'rt4ksr_live_latency_seconds{quantile="0.99"}' in page
