"""``rt4ksr upscale`` with several sources, special files and files that exist."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from rt4ksr_client.cli import cli
from rt4ksr_client.cli.results import LIST_NAME
from rt4ksr_client.errors import PictureError, Rt4ksrError
from rt4ksr_server import TritonServer
from support.processes import becomes_true

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]

PROGRAM = (sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "upscale")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
Run = Callable[..., Result]


@pytest.fixture
def run(
    nearest_server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Run the command in ``tmp_path``."""
    # The command sets the limit for its process, which here is the tests'.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.chdir(tmp_path)

    def upscale(*arguments: object) -> Result:
        words = ["upscale", "--url", nearest_server.grpc_url, *map(str, arguments)]
        return CliRunner().invoke(cli, words)

    return upscale


def picture(path: Path, colour: str = "teal") -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 12), colour).save(path)
    return path.read_bytes()


def files_below(folder: Path) -> set[str]:
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != LIST_NAME)
    return {str(p.relative_to(folder)) for p in found}


def test_two_files_are_two_sources(run: Run, tmp_path: Path) -> None:
    sources = {name: picture(tmp_path / name) for name in ("a.jpg", "b.jpg")}

    for _ in range(2):
        result = run("a.jpg", "b.jpg")

        assert {name: (tmp_path / name).read_bytes() for name in sources} == sources
        assert files_below(tmp_path) == {"a.jpg", "b.jpg", "a_x2.png", "b_x2.png"}
    assert result.exit_code == 1
    assert "0 upscaled, 0 done before, 2 failed" in result.stderr
    assert "a_x2.png: the file exists: --overwrite replaces it" in result.stderr


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_no_source_is_overwritten_by_the_result_of_another(
    run: Run, tmp_path: Path, options: list[str]
) -> None:
    picture(tmp_path / "a.jpg")
    content = picture(tmp_path / "a_x2.png", "red")

    result = run("a.jpg", "a_x2.png", *options)

    assert result.exit_code == 1
    assert (tmp_path / "a_x2.png").read_bytes() == content
    assert files_below(tmp_path) == {"a.jpg", "a_x2.png", "a_x2_x2.png"}


@pytest.mark.parametrize("output", ["out", "out/", "new/out"])
def test_several_files_go_into_the_output_folder(run: Run, tmp_path: Path, output: str) -> None:
    for name in ("x/a.jpg", "y/a.jpg", "b.jpg"):
        picture(tmp_path / name)

    for done in (0, 3):
        result = run("x/a.jpg", "y/a.jpg", "b.jpg", "-o", output)

        assert result.exit_code == 0, result.output
        assert f"{3 - done} upscaled, {done} done before, 0 failed" in result.stderr
    assert files_below(tmp_path / output) == {"a.jpg.png", "a-2.jpg.png", "b.png"}


def test_one_file_goes_into_a_folder_that_exists_or_is_spelled_as_one(
    run: Run, tmp_path: Path
) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "there").mkdir()

    assert run("a.jpg", "-o", "there").exit_code == 0
    assert run("a.jpg", "-o", "new/").exit_code == 0
    assert files_below(tmp_path) == {"a.jpg", "there/a.png", "new/a.png"}


def test_several_files_do_not_go_into_one(run: Run, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / name)

    for output in ("c.jpg", "new.png", "-"):
        result = run("a.jpg", "b.jpg", "-o", output)
        assert isinstance(result.exception, PictureError)
        assert "give" in str(result.exception)
    assert run("-", "a.jpg").exit_code == 2
    assert files_below(tmp_path) == {"a.jpg", "b.jpg", "c.jpg"}


def test_of_two_names_the_second_is_the_output_if_nothing_is_there(
    run: Run, tmp_path: Path
) -> None:
    picture(tmp_path / "a.jpg")

    result = run("a.jpg", "b.png")

    assert result.exit_code == 0
    assert "b.png does not exist: it is the output" in result.stderr
    assert files_below(tmp_path) == {"a.jpg", "b.png"}
    wrong = run("a.jpg", "c.png", "-o", "d.png")
    assert wrong.exit_code == 2
    assert "c.png: there is no such file; give the output once, with -o" in wrong.stderr


def test_of_two_folders_the_second_is_the_output_if_results_are_there(
    run: Run, tmp_path: Path
) -> None:
    picture(tmp_path / "album" / "a.jpg")
    for _ in range(2):
        assert run("album", "large").exit_code == 0

    assert files_below(tmp_path) == {"album/a.jpg", "large/a.png"}


def test_an_existing_file_is_only_replaced_on_demand(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "link.png").symlink_to("mine.png")
    for name in ("mine.png", "a_x2.png", "a_x3.webp"):
        (tmp_path / name).write_text("mine")

    for options in (
        ["-o", "mine.png"],
        ["-o", "link.png"],
        [],
        ["--format", "webp", "--scale", "3"],
    ):
        result = run("a.jpg", *options)
        assert isinstance(result.exception, Rt4ksrError)
        assert "the file exists: --overwrite replaces it" in str(result.exception)
    assert {path.read_text() for path in tmp_path.glob("*[!g]") if path.name != "a.jpg"} == {"mine"}

    assert run("a.jpg", "-o", "link.png", "--overwrite").exit_code == 0
    assert (tmp_path / "link.png").is_symlink()
    with Image.open(tmp_path / "mine.png") as image:
        assert image.size == (40, 24)


def test_a_file_of_another_program_in_the_output_folder_is_kept(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "album" / "a.jpg")
    picture(tmp_path / "album" / "b.jpg")
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "a.png").write_text("mine")

    result = run("album", "-o", "large", "--json")

    end = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 1
    assert (end["upscaled"], end["failed"]) == (1, 1)
    assert "no known result of this picture: --overwrite replaces it" in end["failures"][0]["error"]
    assert (tmp_path / "large" / "a.png").read_text() == "mine"


def test_a_file_that_appears_during_the_work_is_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.jpg")
    from rt4ksr_client.cli import picture_file

    def write_meanwhile(*arguments: object, **options: object) -> None:
        (tmp_path / "a_x2.png").write_text("mine")

    monkeypatch.setattr(picture_file, "write_sequence", write_meanwhile)

    result = run("a.jpg")

    assert "a_x2.png: cannot be written: the file exists" in str(result.exception)
    assert (tmp_path / "a_x2.png").read_text() == "mine"
    assert files_below(tmp_path) == {"a.jpg", "a_x2.png"}


def test_what_is_skipped_is_in_the_last_line(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "album" / "a.jpg")
    for name in ("b.txt", "c.txt", ".DS_Store", "d.nef"):
        (tmp_path / "album" / name).touch()

    result = run("album", "--json")

    end = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 0
    assert end["skipped"] == 4
    assert end["skipped_by_reason"] == {".txt": 2, "hidden": 1, ".nef": 1}
    assert "0 failed, 4 skipped (2 .txt, 1 " in result.stderr
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").touch()
    nothing = run("empty")
    assert isinstance(nothing.exception, PictureError)
    assert "no pictures in this folder; 1 skipped (1 .txt)" in str(nothing.exception)


def test_a_fifo_in_a_folder_is_skipped_and_said(
    nearest_server: TritonServer, tmp_path: Path
) -> None:
    picture(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "p.png")

    done = subprocess.run(
        [*PROGRAM, str(tmp_path), "-o", str(tmp_path / "out"), "--url", nearest_server.grpc_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "1 upscaled, 0 done before, 1 failed:" in done.stderr
    assert "p.png: a FIFO: skipped" in done.stderr
    assert files_below(tmp_path) == {"a.jpg", "out/a.png"}


def test_a_fifo_alone_is_read(run: Run, tmp_path: Path) -> None:
    content = picture(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")

    with ThreadPoolExecutor(1) as pool:
        pool.submit((tmp_path / "fifo.jpg").write_bytes, content)
        assert run("fifo.jpg", "-o", "large.png").exit_code == 0

    assert files_below(tmp_path) == {"a.jpg", "large.png"}
    assert "give the output with -o" in str(run("fifo.jpg").exception)


@pytest.mark.parametrize("signal_number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("writer", [False, True])
def test_a_fifo_that_gives_nothing_does_not_hold_the_command(
    tmp_path: Path, signal_number: signal.Signals, writer: bool
) -> None:
    fifo = tmp_path / "fifo.png"
    os.mkfifo(fifo)
    with ExitStack() as stack:
        if writer:
            stack.callback(os.close, os.open(fifo, os.O_RDWR))
        program = stack.enter_context(started(str(fifo), "-o", str(tmp_path / "large.png")))
        assert becomes_true(lambda: waits(program), 60)
        program.send_signal(signal_number)
        _, stderr = program.communicate(timeout=10)

    assert program.returncode == 128 + signal_number
    assert "Traceback" not in stderr


@pytest.mark.parametrize("signal_number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("what", ["a picture", "lines"])
def test_a_reader_of_standard_output_that_stops_does_not_hold_the_command(
    nearest_server: TritonServer, tmp_path: Path, signal_number: signal.Signals, what: str
) -> None:
    Image.effect_noise((400, 400), 90).save(tmp_path / "a.png")
    arguments = [str(tmp_path / "a.png"), "-o", "-"]
    if what == "lines":
        for index in range(500):
            (tmp_path / f"{index}.png").touch()
        arguments = [str(tmp_path), "-o", str(tmp_path / "out"), "--json"]
    reading, writing = os.pipe()

    with ExitStack() as stack:
        stack.callback(os.close, reading)
        program = stack.enter_context(
            started(*arguments, "--url", nearest_server.grpc_url, stdout=writing)
        )
        os.close(writing)
        assert becomes_true(lambda: available_bytes(reading) > 50_000 and waits(program), 60)
        program.send_signal(signal_number)
        _, stderr = program.communicate(timeout=20)

    assert program.returncode == 128 + signal_number
    assert "Traceback" not in stderr


@pytest.mark.parametrize("target", ["-", "/dev/stdout", "link.png"])
def test_standard_output_by_any_name_gets_the_picture_and_nothing_else(
    nearest_server: TritonServer, tmp_path: Path, target: str
) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "link.png").symlink_to("/proc/self/fd/1")
    command = [*PROGRAM, "a.jpg", target, "--format", "png", "--url", nearest_server.grpc_url]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=True)

    assert done.stdout.endswith(b"IEND\xaeB`\x82")
    assert done.stdout.startswith(b"\x89PNG")
    assert (tmp_path / "link.png").is_symlink()


@contextmanager
def started(*arguments: str, stdout: int | None = None) -> Iterator[subprocess.Popen[str]]:
    program = subprocess.Popen(
        [*PROGRAM, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True
    )
    with program:
        try:
            yield program
        finally:
            program.kill()


def waits(program: subprocess.Popen[str]) -> bool:
    """Whether the program sleeps and does nothing for half a second, once it has begun."""

    def state() -> tuple[str, int]:
        fields = Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[11]) + int(fields[12])

    before = state()
    time.sleep(0.5)
    return before == state() and before[0] == "S" and before[1] > 10


def available_bytes(descriptor: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize(
    "name", ["-o.jpg", "-", "a\nb.jpg", "%s%d.jpg", "%(a)s {b}.jpg", "n" * 251 + ".jpg", "a:b.jpg"]
)
def test_any_name_is_a_name(run: Run, tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    Image.new("RGB", (20, 12), "teal").save(source, format="JPEG")

    single = run("-o", "out.png", "--", f"./{name}")
    several = run("-o", "out", "--", f"./{name}", "out.png")

    assert single.exit_code == 0, single.output
    assert several.exit_code == 0, several.output
    assert len(files_below(tmp_path / "out")) == 2
    if name != "-":  # has no suffix, by which pictures in folders are found
        folder = run(".", "-o", "large")
        assert folder.exit_code == 0, folder.output
    beside = run("--", f"./{name}")
    assert beside.exit_code == 0, beside.output
    assert len(beside.stdout.splitlines()) == 1


def test_an_empty_name_is_not_the_current_folder(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")

    assert run("").exit_code == 2
    assert run("a.jpg", "-o", "").exit_code == 2
    assert files_below(tmp_path) == {"a.jpg"}
