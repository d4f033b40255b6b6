"""Files that are written whole or not at all, sizes that fit, folders that are walked."""

from __future__ import annotations

import io
import itertools
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt4ksr_client import files
from rt4ksr_client.cli.compare import bicubic_beside, compare_page
from rt4ksr_client.cli.jobs import Job, default_target, is_done, jobs_in_folder
from rt4ksr_client.cli.output_size import Box, Enlargement, plan
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


def test_a_written_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
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


def test_a_transparent_picture_becomes_a_jpeg_on_white_with_a_word(tmp_path: Path) -> None:
    with pytest.warns(PictureWarning, match="transparency"):
        files.save_picture(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), tmp_path / "a.jpg")

    assert files.open_picture(tmp_path / "a.jpg").getpixel((4, 4)) == (255, 255, 255)


def test_a_16_bit_colour_png_is_read_with_a_word(tmp_path: Path) -> None:
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

    with pytest.warns(PictureWarning, match="more than 8 bits"):
        assert files.open_picture(path).size == (2, 2)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "an empty file"), (b"text", "not a picture"), (None, "no such")]
)
def test_what_is_no_picture_is_said(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(PictureError, match=words):
        files.open_picture(path)


def test_a_bomb_is_refused_at_the_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files.save_picture(Image.new("L", (101, 100)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)

    with pytest.raises(PictureError, match="too large"):
        files.open_picture(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((1920, 1080), None, Enlargement((2,), 3840, 2160)),
        ((1920, 1080), "4k", Enlargement((2,), 3840, 2160)),
        ((1080, 1920), "4k", Enlargement((2,), 2160, 3840)),
        ((1080, 1920), "3840x2160", Enlargement((2,), 1215, 2160)),
        ((640, 480), "4k", Enlargement((2, 2, 2), 2880, 2160)),
        ((3840, 2160), "4k", Enlargement((), 3840, 2160)),
        ((8000, 100), "4k", Enlargement((), 3840, 48)),
        ((960, 540), "4k", Enlargement((2, 2), 3840, 2160)),
    ],
)
def test_passes_and_size_for_a_box(
    size: tuple[int, int], box: str | None, expected: Enlargement
) -> None:
    assert plan(*size, (2,), None if box is None else Box.parse(box)) == expected


@pytest.mark.parametrize(
    ("times", "passes"),
    [
        (1, ()),
        (1.1, (2,)),
        (2.5, (3,)),
        (3, (3,)),
        (3.2, (2, 2)),
        (4.5, (2, 3)),
        (6.1, (3, 3)),
        (9, (3, 3)),
        (17, (2, 3, 3)),
    ],
)
def test_of_all_ways_to_a_size_the_one_with_the_fewest_pixels_is_taken(
    times: float, passes: tuple[int, ...]
) -> None:
    def pixels(way: tuple[int, ...]) -> int:
        return sum(math.prod(way[:index]) ** 2 for index in range(len(way)))

    box = Box(round(1000 * times), round(1000 * times))

    assert plan(1000, 1000, (2, 3), box).passes == passes
    ways = [way for n in range(6) for way in itertools.product((2, 3), repeat=n)]
    enough = [way for way in ways if math.prod(way) >= times]
    assert min((pixels(way), math.prod(way)) for way in enough) == (
        pixels(passes),
        math.prod(passes),
    )


def test_one_pixel_into_the_largest_size_is_planned_at_once() -> None:
    assert math.prod(plan(1, 1, (2, 3), Box(999_999, 999_999)).passes) >= 999_999


@pytest.mark.parametrize("text", ["", "4", "0x5", "-1x5", "5x", "axb", "3840*2160"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|expected"):
        Box.parse(text)


def test_names_beside_the_source(tmp_path: Path) -> None:
    assert default_target(tmp_path / "a.b.jpg", ".png") == tmp_path / "a.b_4k.png"
    assert default_target(tmp_path, ".png") == tmp_path.with_name(f"{tmp_path.name}_4k")


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / ".hidden.png").touch()

    with pytest.raises(PictureError, match="no pictures"):
        jobs_in_folder(tmp_path, tmp_path / "out", ".png")


def test_a_link_in_a_circle_does_not_end_the_walk_never(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "loop").symlink_to(tmp_path)

    assert len(jobs_in_folder(tmp_path, tmp_path / "out", ".png")) == 1


def test_a_target_older_than_its_source_is_not_done(tmp_path: Path) -> None:
    job = Job(tmp_path / "a", tmp_path / "b")
    job.source.touch()
    assert not is_done(job)
    job.target.touch()
    assert is_done(job)
    os.utime(job.source, (time.time() + 9, time.time() + 9))
    assert not is_done(job)


def test_the_page_needs_nothing_else_and_says_only_its_title() -> None:
    small = Image.new("RGBA", (8, 6), (255, 0, 0, 128))

    page = compare_page(small, small.resize((16, 12)), '<a "b">')

    assert "&lt;a &quot;b&quot;&gt;" in page
    assert page.count("data:image/webp;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert [image.size for image in bicubic_beside(small, small.resize((16, 12)))] == [(16, 12)] * 2


def test_a_stream_is_read_as_a_file_is() -> None:
    data = files.encode([Image.new("RGB", (3, 2))], "AVIF")

    assert files.decode(io.BytesIO(data), "-").size == (3, 2)
