"""What the program does to its own process: closed or full standard streams, and memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rt4ksr_client import cli
from rt4ksr_client.cli import process

MAIN = "from rt4ksr_client.cli import main; main()"


def run_in_shell(
    redirection: str, *arguments: str, code: str = MAIN, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the program as a shell does with e.g. ``>&-`` behind it."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    "arguments",
    [
        *[(name, "--help") for name in cli.COMMANDS],
        ("--help",),
        ("--version",),
        ("status", "--json"),
        ("upscale", "a.jpg", "--json"),
        ("upscale", "a.jpg", "-o", "-"),
    ],
    ids=" ".join,
)
def test_closed_standard_output_is_one_line(arguments: tuple[str, ...]) -> None:
    done = run_in_shell(">&-", *arguments)

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "rt4ksr: error: standard output is closed: write to a file, or to /dev/null"
    ]


def test_closed_standard_input_is_one_line() -> None:
    done = run_in_shell("<&-", "upscale", "-", "-o", "x.png", "--url", "127.0.0.1:9")

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "rt4ksr: error: standard input: it is closed: give the name of a file"
    ]


def test_standard_input_that_cannot_be_read_is_one_line() -> None:
    done = run_in_shell("0> /dev/null", "upscale", "-", "-o", "x.png", "--url", "127.0.0.1:9")

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("rt4ksr: error: standard input: ")


@pytest.mark.parametrize("redirection", ["2>&-", "<&- 2>&-", "<&-"])
def test_other_closed_streams_do_no_harm(redirection: str) -> None:
    done = run_in_shell(redirection, "upscale", "--help")

    assert done.returncode == 0
    assert "rt4ksr upscale" in done.stdout
    assert not done.stderr


def test_a_file_is_never_opened_as_a_standard_stream(tmp_path: Path) -> None:
    code = (
        "import os, sys; from rt4ksr_client.cli import process; process.open_closed_streams();"
        "sys.exit(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT))"
    )
    for redirection in (">&-", "<&- >&- 2>&-", "2>&-"):
        assert run_in_shell(redirection, str(tmp_path / "a"), code=code).returncode > 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("redirection", ["> /dev/full", "1< /dev/null"])
def test_standard_output_that_cannot_be_written_is_one_line(redirection: str) -> None:
    done = run_in_shell(redirection, "--version")

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line in (
        "rt4ksr: error: No space left on device",
        "rt4ksr: error: Bad file descriptor",
    )


def test_a_name_that_the_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    name = tmp_path / "\N{SNOWMAN}.png"
    Image.new("RGB", (2, 2)).save(name)

    done = run_in_shell("", "upscale", str(name), "-o", str(name), PYTHONIOENCODING="latin-1")

    assert done.returncode == 1
    assert r"\u2603.png: this is the source itself" in done.stderr


def test_a_name_like_an_option_gets_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "-x.jpg").touch()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SystemExit) as caught:
        cli.main(["upscale", "-x.jpg"])

    assert caught.value.code == 2
    assert "A file of this name is given as ./-x.jpg" in capsys.readouterr().err


def test_an_error_of_the_system_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> None:
        raise PermissionError(13, "Permission denied", "a\n.txt")

    monkeypatch.setattr(cli, "load_command", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main(["status"])

    assert caught.value.code == 1
    assert capsys.readouterr().err == "rt4ksr: error: a\\n.txt: Permission denied\n"


# Allocates and frees blocks of a 4K frame; prints how many bytes glibc has mapped, and keeps.
MEASURE = """
import ctypes
libc = ctypes.CDLL(None)
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 3840 * 2160 * 3
block = libc.malloc(size)
mapped = libc.mallinfo2().hblkhd
libc.free(block)
print(mapped >= size, libc.mallinfo2().fordblks >= size)
"""
KEEP = "from rt4ksr_client.cli import process; process.keep_large_blocks();"

has_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or later"
)


@has_glibc
@pytest.mark.parametrize(
    ("code", "environment", "expected"),
    [
        (KEEP, {}, "False True"),
        ("import rt4ksr_client.upscaler;", {}, "True False"),
        (KEEP, {"MALLOC_MMAP_THRESHOLD_": "1000000"}, "True False"),
        (KEEP, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000"}, "True False"),
        ("", process.MALLOC_ENVIRONMENT, "False True"),
    ],
    ids=["the command", "the SDK", "set by the user", "tuned by the user", "by environment"],
)
def test_the_command_keeps_the_memory_of_frames_and_the_sdk_leaves_it_alone(
    code: str, environment: dict[str, str], expected: str
) -> None:
    done = run_in_shell("", code=code + MEASURE, **environment)

    assert done.stdout.strip() == expected, done.stderr


@has_glibc
def test_main_keeps_the_memory_of_frames() -> None:
    code = f"import atexit; atexit.register(lambda: exec({MEASURE!r}, {{}})); {MAIN}"

    assert run_in_shell("", "--version", code=code).stdout.splitlines()[-1] == "False True"
