"""Ctrl-C and SIGTERM at ``rt4ksr upscale``, a program of its own: prompt, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rt4ksr_client.cli.results import LIST_NAME
from rt4ksr_server import TritonServer
from support.processes import (
    becomes_true,
    group_is_gone,
    region_prefix,
    regions,
    settled,
    tritonserver_of,
)

pytestmark = pytest.mark.server

PICTURES = 80
SIGNALS = (signal.SIGINT, signal.SIGTERM)
by_signal = pytest.mark.parametrize("signal_number", SIGNALS, ids=lambda number: number.name)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for index in range(PICTURES):
        Image.new("RGB", (500, 400), (index, 0, 0)).save(folder / f"{index}.bmp")
    return folder


def started(album: Path, *options: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "upscale"),
            *(str(album), "-o", str(album.with_name("large")), *options),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


def wait_for_a_picture(album: Path, program: subprocess.Popen[str]) -> None:
    large = album.with_name("large")
    assert becomes_true(lambda: program.poll() is not None or list(large.glob("[!.]*.png")), 60)
    assert program.poll() is None


def assert_it_ended_cleanly(
    album: Path, program: subprocess.Popen[str], signal_number: signal.Signals
) -> None:
    _, stderr = program.communicate(timeout=30)
    assert program.returncode == 128 + signal_number
    assert "Traceback" not in stderr
    assert "upscaled, 0 done before" in stderr
    assert not list(Path("/dev/shm").glob(f"*_{program.pid}_*"))
    written = [path for path in album.with_name("large").iterdir() if path.name != LIST_NAME]
    assert 0 < len(written) < PICTURES
    for path in written:
        with Image.open(path) as image:
            image.load()
            assert image.size == (1000, 800)


@by_signal
def test_a_folder_is_left_with_whole_files_only(
    nearest_server: TritonServer, album: Path, signal_number: signal.Signals
) -> None:
    program = started(album, "--url", nearest_server.grpc_url)
    wait_for_a_picture(album, program)

    program.send_signal(signal_number)

    assert_it_ended_cleanly(album, program, signal_number)


def test_a_folder_ends_promptly_though_the_server_answers_no_more(
    nearest_server: TritonServer, album: Path
) -> None:
    program = started(album, "--url", nearest_server.grpc_url, "--transport", "grpc")
    wait_for_a_picture(album, program)
    os.kill(nearest_server.pid, signal.SIGSTOP)
    try:
        settled(
            lambda: len(list(album.with_name("large").iterdir()))
        )  # all wait for the server now
        begin_s = time.monotonic()
        program.send_signal(signal.SIGINT)
        assert_it_ended_cleanly(album, program, signal.SIGINT)
        assert time.monotonic() - begin_s < 5
    finally:
        os.kill(nearest_server.pid, signal.SIGCONT)


@by_signal
def test_the_server_of_the_call_ends_with_it(
    nearest_repository: Callable[[], Path], album: Path, signal_number: signal.Signals
) -> None:
    repository = nearest_repository()
    repository.rename(album.with_name("model_repository"))
    program = started(album, "--local", cwd=album.parent)
    wait_for_a_picture(album, program)
    server = tritonserver_of(program.pid)
    assert server is not None
    prefix = region_prefix(server)
    assert regions(prefix)

    program.send_signal(signal_number)

    assert_it_ended_cleanly(album, program, signal_number)
    assert group_is_gone(server)
    assert not regions(prefix)
