"""``rt4ksr upscale`` of a folder whose server goes away in the middle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rt4ksr_client.cli.results import LIST_NAME
from rt4ksr_server import TritonServer
from support.processes import becomes_true

pytestmark = pytest.mark.server

PICTURES = 150


def test_a_folder_ends_once_when_the_server_is_gone_and_keeps_what_is_done(
    nearest_repository: Callable[[], Path], tmp_path: Path
) -> None:
    album, large = tmp_path / "album", tmp_path / "large"
    album.mkdir()
    for index in range(PICTURES):
        Image.new("RGB", (500, 400), (index, 0, 0)).save(album / f"{index}.png")

    with TritonServer(nearest_repository()) as server:
        words = ("upscale", album, "-o", large, "--url", server.grpc_url, "--timeout", "5")
        program = subprocess.Popen(
            [sys.executable, "-c", "from rt4ksr_client.cli import main; main()", *map(str, words)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert becomes_true(lambda: list(large.glob("[!.]*.png")) or program.poll() is not None, 60)
    _, stderr = program.communicate(timeout=30)

    assert program.returncode == 1
    assert stderr.count("rt4ksr: error:") == 1
    assert "finished pictures are kept" in stderr
    names = [path.name for path in large.iterdir() if path.name != LIST_NAME]
    assert 0 < len(names) < PICTURES
    assert not [name for name in names if name.startswith(".")]
    for name in names:
        with Image.open(large / name) as image:
            image.load()
            assert image.size == (1000, 800)
