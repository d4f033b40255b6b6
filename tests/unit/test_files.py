"""Picture files: read, written whole or not at all, encoded."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt4ksr_client import files
from rt4ksr_client.errors import PictureError
from rt4ksr_client.pictures import PictureWarning


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    with pytest.raises(KeyboardInterrupt), files.atomic_write(target) as temporary:
        temporary.write_text("new")
        raise KeyboardInterrupt

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    files.save_picture(Image.new("RGB", (2, 2)), tmp_path / "a.png")

    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.pdf"])
def test_an_unknown_suffix_names_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(PictureError, match=r"\.png"):
        files.save_picture(Image.new("RGB", (2, 2)), tmp_path / name)


def test_quality_changes_the_size_of_the_file(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for quality in (10, 95):
        files.save_picture(Image.fromarray(values), tmp_path / f"{quality}.jpg", quality=quality)

    assert (tmp_path / "10.jpg").stat().st_size * 3 < (tmp_path / "95.jpg").stat().st_size


def test_a_transparent_picture_becomes_a_jpeg_on_white_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(PictureWarning, match="transparency"):
        files.save_picture(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), tmp_path / "a.jpg")

    assert files.open_picture(tmp_path / "a.jpg").getpixel((4, 4)) == (255, 255, 255)


def test_a_16_bit_colour_png_is_read_with_a_warning(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80\x00" * 6) * 2)
    path = tmp_path / "deep.png"
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))

    with pytest.warns(PictureWarning, match="16 bits per channel"):
        assert files.open_picture(path).size == (2, 2)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "an empty file"), (b"text", "not a picture"), (None, "no such")]
)
def test_a_file_that_is_not_a_picture_is_an_error(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(PictureError, match=words):
        files.open_picture(path)


def test_a_decompression_bomb_is_rejected_at_the_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files.save_picture(Image.new("L", (101, 100)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)

    with pytest.raises(PictureError, match="too large"):
        files.open_picture(tmp_path / "a.png")


def test_a_stream_is_read_as_a_file_is() -> None:
    data = files.encode(Image.new("RGB", (3, 2)), "AVIF")

    assert files.decode(io.BytesIO(data), "-").size == (3, 2)


def test_a_picture_is_read_from_a_fifo_which_can_be_read_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.avif"
    os.mkfifo(fifo)
    picture = files.encode(Image.new("RGB", (20, 12), "teal"), "AVIF")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(fifo.write_bytes, picture)
        assert files.open_picture(fifo).size == (20, 12)


@pytest.mark.parametrize(("name", "longest"), sorted(files.LONGEST_SIDE_PX.items()))
def test_a_picture_too_large_for_its_format_is_refused_before_it_is_made(
    name: str, longest: int
) -> None:
    files.check_size(name, longest, 1)
    files.check_size("PNG", longest + 1, 1)

    with pytest.raises(PictureError, match=f"exceeds {name}'s limit of {longest} pixels"):
        files.check_size(name, 1, longest + 1)


@pytest.mark.parametrize(("name", "longest"), sorted(files.LONGEST_SIDE_PX.items()))
def test_the_largest_picture_of_a_format_can_be_written_and_read(name: str, longest: int) -> None:
    data = files.encode(Image.new("RGB", (longest, 8)), name)

    assert files.decode(io.BytesIO(data), "large").size == (longest, 8)


def test_a_pipe_without_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LARGEST_STREAM_BYTES", 5_000_000)

    with Path("/dev/zero").open("rb") as endless, pytest.raises(PictureError, match="more than"):
        files.read_stream(endless, "standard input")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_a_device_is_not_read(device: str) -> None:
    with pytest.raises(PictureError, match="a device, not a picture"):
        files.open_picture(device)
