"""``rt4ksr upscale`` and what picture files hold beside a picture: pages, frames, HDR, limits."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, PngImagePlugin

from rt4ksr_client.cli import cli
from rt4ksr_server import TritonServer

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]


@pytest.fixture
def url(nearest_server: TritonServer, monkeypatch: pytest.MonkeyPatch) -> str:
    # The command sets the limit for its process, which here is the tests'.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    return nearest_server.grpc_url


def run(url: str, *arguments: object) -> Result:
    return CliRunner().invoke(cli, ["upscale", *map(str, arguments), "--url", url])


def pages() -> list[Image.Image]:
    return [Image.new("RGB", (16 + 4 * index, 12), (50 * index, 90, 200)) for index in range(3)]


def several(path: Path) -> Path:
    first, *others = pages()
    first.save(path, save_all=True, append_images=others)
    return path


def test_every_page_of_a_tiff_is_upscaled(url: str, tmp_path: Path) -> None:
    source, target = several(tmp_path / "in.tif"), tmp_path / "out.tiff"

    result = run(url, source, target)

    assert result.exit_code == 0, result.output
    with Image.open(target) as large:
        assert getattr(large, "n_frames", 1) == 3
        for index, page in enumerate(pages()):
            large.seek(index)
            assert large.size == (2 * page.width, 2 * page.height)
            assert large.getpixel((5, 5)) == page.getpixel((5, 5))
    assert "warning" not in result.stderr


def test_pages_that_the_target_cannot_hold_are_named(url: str, tmp_path: Path) -> None:
    result = run(url, several(tmp_path / "in.tif"), tmp_path / "out.png")

    assert result.exit_code == 0
    assert result.stderr.count("warning") == 1
    assert "PNG has one page: only the first of 3 is kept (TIFF has several)" in result.stderr


@pytest.mark.parametrize("format_name", ["gif", "png", "webp", "avif", "tiff"])
def test_an_animation_goes_to_standard_output(url: str, tmp_path: Path, format_name: str) -> None:
    first = [page.resize((16, 12)) for page in pages()]
    suffix = ".tif" if format_name == "tiff" else ".gif"
    first[0].save(tmp_path / f"in{suffix}", save_all=True, append_images=first[1:], duration=100)

    result = run(url, tmp_path / f"in{suffix}", "-", "--format", format_name)

    assert result.exit_code == 0, result.stderr
    with Image.open(io.BytesIO(result.stdout_bytes)) as large:
        assert (getattr(large, "n_frames", 1), large.size) == (3, (32, 24))


def test_a_size_that_the_format_cannot_hold_is_refused_before_the_work(
    url: str, tmp_path: Path
) -> None:
    Image.new("RGB", (9000, 4)).save(tmp_path / "wide.png")

    result = run(url, tmp_path / "wide.png", tmp_path / "wide.webp", "-v")

    assert result.exit_code == 1
    assert "18000x8 exceeds WEBP's limit of 16383 pixels per side: choose another" in str(
        result.exception
    )
    assert not (tmp_path / "wide.webp").exists()


def test_an_hdr_picture_is_refused_with_what_to_do(url: str, tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"cICP", bytes([9, 16, 0, 1]))
    Image.new("RGB", (16, 12)).save(tmp_path / "hdr.png", pnginfo=info)

    result = run(url, tmp_path / "hdr.png")

    assert result.exit_code == 1
    assert "PQ (HDR10) picture needs tone mapping first" in str(result.exception)
    assert list(tmp_path.iterdir()) == [tmp_path / "hdr.png"]


def test_all_that_is_left_out_of_a_picture_is_one_line_with_its_name(
    url: str, tmp_path: Path
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "A title")
    info.add_text("Comment", "A comment")
    Image.new("RGB", (16, 12)).save(tmp_path / "a.png", pnginfo=info)

    result = run(url, tmp_path / "a.png", tmp_path / "b.webp")

    (line,) = [line for line in result.stderr.splitlines() if "warning" in line]
    assert line.endswith("b.webp: left out: text (Title), comment (WEBP cannot store that)")
    assert run(url, tmp_path / "a.png", tmp_path / "b.png").exit_code == 0
    with Image.open(tmp_path / "b.png") as large:
        assert (large.info["Title"], large.info["Comment"]) == ("A title", "A comment")


def test_a_heic_file_in_a_folder_is_named_where_the_extra_is_missing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Image.init()
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    folder = tmp_path / "album"
    folder.mkdir()
    Image.new("RGB", (16, 12)).save(folder / "a.png")
    (folder / "b.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))

    result = run(url, folder, "-o", tmp_path / "out")

    assert result.exit_code == 1
    assert "b.heic: to read HEIC and HEIF, pip install 'rt4ksr-triton[heif]'" in result.stderr
    assert (tmp_path / "out" / "a.png").exists()


def test_a_heic_file_is_upscaled(url: str, tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the heif extra")
    flat = np.full((64, 64, 3), (200, 90, 40), np.uint8)
    pillow_heif.from_pillow(Image.fromarray(flat)).save(tmp_path / "a.heic", quality=95)

    result = run(url, tmp_path / "a.heic", tmp_path / "b.png")

    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "b.png") as large:
        assert large.size == (128, 128)
        assert np.abs(np.asarray(large).mean((0, 1)) - (200, 90, 40)).max() < 4
