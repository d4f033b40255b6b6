"""``rt4ksr upscale`` on a real tritonserver, as a program of its own where that matters."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from rt4ksr_client.cli import cli
from rt4ksr_client.cli.results import LIST_NAME
from rt4ksr_client.contract import MODELS
from rt4ksr_client.errors import PictureError, Rt4ksrError, WrongScaleError
from rt4ksr_server import TritonServer
from support.servers import RepositoryFactory, ServerFactory

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]

PROGRAM = (sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "upscale")


@pytest.fixture
def url(nearest_server: TritonServer, monkeypatch: pytest.MonkeyPatch) -> str:
    # The command sets the limit for its process, which here is the tests'.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    return nearest_server.grpc_url


def run(url: str, *arguments: object, stdin: bytes | None = None) -> Result:
    words = ["upscale", *map(str, arguments), "--url", url]
    return CliRunner().invoke(cli, words, input=stdin)


def picture(path: Path, size: tuple[int, int] = (20, 12), mode: str = "RGB") -> Path:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).convert(mode).save(path)
    return path


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        width_px, height_px = image.size
    return width_px, height_px


def passes(result: Result) -> str:
    """The line of ``-v`` about the picture, between those of the log."""
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("  "))
    return line.strip()


def files_below(folder: Path) -> set[str]:
    """All files but the lists of results."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != LIST_NAME)
    return {str(p.relative_to(folder)) for p in found}


def test_a_picture_goes_beside_its_source(url: str, tmp_path: Path) -> None:
    source = picture(tmp_path / "a holiday %s\u2028ü.png")

    result = run(url, source)

    assert result.exit_code == 0, result.output
    small, large = (np.asarray(Image.open(p)) for p in (source, tmp_path / f"{source.stem}_x2.png"))
    np.testing.assert_array_equal(large, small.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "in_x2.png"),
        (["--scale", "3"], "in_x3.png"),
        (["--model", "rt4ksr_x3"], "in_x3.png"),
        (["--to", "4K"], "in_4k.png"),
        (["--to", "80x60", "--scale", "2"], "in_80x60.png"),
        (["--format", "jpeg"], "in_x2.jpg"),
    ],
)
def test_a_result_is_named_by_what_it_is(
    url: str, tmp_path: Path, options: list[str], name: str
) -> None:
    source = picture(tmp_path / "in.png")

    result = run(url, source, *options)

    assert result.exit_code == 0, result.output
    assert files_below(tmp_path) == {"in.png", name}


def test_a_folder_is_named_by_what_is_in_it(url: str, tmp_path: Path) -> None:
    picture(tmp_path / "album" / "a.png")

    assert run(url, tmp_path / "album", "--model", "rt4ksr_x3").exit_code == 0
    assert run(url, tmp_path / "album", "--to", "1080p").exit_code == 0
    assert files_below(tmp_path) == {"album/a.png", "album_x3/a.png", "album_1080p/a.png"}


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif", ".tiff", ".bmp", ".png", ".gif"])
def test_the_targets_suffix_chooses_the_format(url: str, tmp_path: Path, suffix: str) -> None:
    source, target = picture(tmp_path / "in.png"), tmp_path / f"out{suffix}"

    assert run(url, source, target, "--scale", "3").exit_code == 0
    assert size_of(target) == (60, 36)


def test_to_fits_into_a_size_by_several_passes(url: str, tmp_path: Path) -> None:
    source, target = picture(tmp_path / "in.png", (20, 10)), tmp_path / "out.png"

    assert run(url, source, target, "--to", "150x150").exit_code == 0
    assert size_of(target) == (150, 75)


@pytest.mark.parametrize(
    ("size", "models"),
    [((64, 36), "rt4ksr_x3: "), ((96, 54), "rt4ksr_x2: "), ((32, 18), "rt4ksr_x2, rt4ksr_x3: ")],
)
def test_to_chooses_the_models_with_the_least_work(
    url: str, tmp_path: Path, size: tuple[int, int], models: str
) -> None:
    source, target = picture(tmp_path / "in.png", size), tmp_path / "out.png"

    result = run(url, source, target, "--to", "192x108", "-v")

    assert passes(result).startswith(models)
    small, large = (np.asarray(Image.open(path)) for path in (source, target))
    times = 192 // size[0]
    np.testing.assert_array_equal(large, small.repeat(times, axis=0).repeat(times, axis=1))


def test_to_uses_the_models_that_the_server_has(
    nearest_repository: RepositoryFactory, server_with: ServerFactory, tmp_path: Path, url: str
) -> None:
    source, target = picture(tmp_path / "in.png", (64, 36)), tmp_path / "out.png"

    with server_with(nearest_repository([MODELS["rt4ksr_x2"]])) as server:
        result = run(server.grpc_url, source, target, "--to", "192x108", "-v")

    assert result.exit_code == 0, result.output
    assert passes(result).startswith("rt4ksr_x2, rt4ksr_x2: ")
    assert size_of(target) == (192, 108)


def test_a_model_by_name_brings_its_scale(url: str, tmp_path: Path) -> None:
    source, target = picture(tmp_path / "in.png"), tmp_path / "out.png"

    assert run(url, source, target, "--model", "rt4ksr_x3").exit_code == 0
    assert size_of(target) == (60, 36)
    wrong = run(url, source, tmp_path / "x2.png", "--model", "rt4ksr_x3", "--scale", "2")
    assert isinstance(wrong.exception, WrongScaleError)


def test_a_picture_passes_through_a_pipe(url: str, tmp_path: Path) -> None:
    source = picture(tmp_path / "in.png")

    result = run(url, "-", "-o", "-", "--format", "webp", stdin=source.read_bytes())

    image = Image.open(io.BytesIO(result.stdout_bytes))
    assert (image.format, image.size) == ("WEBP", (40, 24))


def test_a_folder_is_finished_around_a_broken_file_and_fails(url: str, tmp_path: Path) -> None:
    album, large = tmp_path / "album", tmp_path / "large"
    for name in ("a.png", "b/c.jpg", "b/c.png", "ü.bmp"):
        picture(album / name)
    (album / "broken.jpg").write_bytes(b"\xff\xd8 no")

    result = run(url, album, "-o", large)

    assert result.exit_code == 1
    _, _, ending = result.stderr.partition("4 upscaled, 0 done before, 1 failed:")
    assert re.search(r"broken.jpg: (not a picture|cannot be read)", ending)
    assert files_below(large) == {"a.png", "b/c.jpg.png", "b/c.png.png", "ü.png"}


def test_a_folder_skips_what_is_done(url: str, tmp_path: Path) -> None:
    album = tmp_path / "album"
    picture(album / "a.png"), picture(album / "b.png")
    assert run(url, album).exit_code == 0
    picture(album / "c.png")
    os.utime(album / "a.png", (time.time() + 60, time.time() + 60))

    result = run(url, album, "--json")

    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {Path(row["source"]).name for row in rows[:-1]} == {"a.png", "c.png"}
    assert set(rows[0]["stages_ms"]) == {"decode", "choose", "upscale", "encode"}
    assert rows[-1] == {
        "upscaled": 2,
        "done_before": 1,
        "failed": 0,
        "skipped": 0,
        "skipped_by_reason": {},
        "failures": [],
    }


def test_the_json_ends_with_what_failed_and_why(url: str, tmp_path: Path) -> None:
    picture(tmp_path / "album" / "a.png")
    (tmp_path / "album" / "empty.png").touch()
    Image.new("F", (8, 8)).save(tmp_path / "album" / "float.tiff")

    result = run(url, tmp_path / "album", "--json")

    end = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 1
    assert (end["upscaled"], end["failed"]) == (1, 2)
    reasons = {Path(row["source"]).name: row["error"] for row in end["failures"]}
    assert "empty file" in reasons["empty.png"]
    assert "32 bits" in reasons["float.tiff"]
    assert f"  {tmp_path / 'album' / 'float.tiff'}: " in result.stderr


def test_a_folder_inside_the_source_is_not_read_again(url: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    for _ in range(2):
        assert run(url, tmp_path, "-o", tmp_path / "large").exit_code == 0

    assert files_below(tmp_path) == {"a.png", "large/a.png"}


def test_the_source_is_never_overwritten(url: str, tmp_path: Path) -> None:
    source = picture(tmp_path / "in.png")
    (tmp_path / "link.png").symlink_to(source)
    before = source.read_bytes()

    for target in (source, tmp_path / "link.png"):
        for options in ([], ["--overwrite"]):
            result = run(url, source, "-o", target, *options)
            assert isinstance(result.exception, Rt4ksrError)
            assert "source itself" in str(result.exception)
    assert isinstance(run(url, tmp_path, "-o", tmp_path).exception, PictureError)
    assert source.read_bytes() == before


def test_max_pixels_is_the_limit(url: str, tmp_path: Path) -> None:
    source = picture(tmp_path / "in.png", (100, 100))

    refused = run(url, source, "--max-pixels", "9999")

    assert "too large" in str(refused.exception)
    assert run(url, source, "--max-pixels", "10000").exit_code == 0


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_keeps_every_frame_and_its_time(url: str, tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / "out.png"
    shots = [Image.new("RGBA", (16, 16), (60 * i, 255 - 60 * i, 0, 255)) for i in range(4)]
    shots[0].save(
        source,
        save_all=True,
        append_images=shots[1:],
        duration=[100, 200, 50, 300],
        loop=0,
        lossless=True,
    )

    assert run(url, source, target).exit_code == 0
    with Image.open(target) as large:
        assert large.n_frames == 4
        for index, duration_ms in enumerate((100, 200, 50, 300)):
            large.seek(index)
            assert large.info["duration"] == duration_ms
            assert large.size == (32, 32)
            colour = np.asarray(large.convert("RGB"))[5, 5].astype(int)
            assert np.abs(colour - (60 * index, 255 - 60 * index, 0)).max() <= 2


def test_metadata_is_kept_unless_stripped(url: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jpg", tmp_path / "out.jpg"
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, "Somebody"
    Image.new("RGB", (40, 20)).save(source, exif=exif, dpi=(300, 300))

    assert run(url, source, target).exit_code == 0
    with Image.open(target) as image:
        assert image.size == (40, 80)
        assert dict(image.getexif())[0x013B] == "Somebody"
        assert image.info["dpi"] == (300, 300)
    assert run(url, source, "-o", target, "--strip-metadata", "--overwrite").exit_code == 0
    with Image.open(target) as image:
        assert not image.getexif()
        assert image.info.get("dpi") != (300, 300)


def test_a_full_disk_is_an_error_and_leaves_nothing(url: str, tmp_path: Path) -> None:
    source = picture(tmp_path / "in.png", (200, 200))

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [*PROGRAM, source, "--url", url, "--transport", "grpc"],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=small_files,
        check=False,
    )

    assert done.returncode == 1
    assert "rt4ksr: error:" in done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert files_below(tmp_path) == {"in.png"}


def test_a_missing_folder_is_an_error(url: str, tmp_path: Path) -> None:
    source = picture(tmp_path / "in.png")

    assert "no such folder" in str(run(url, source, tmp_path / "no" / "out.png").exception)
