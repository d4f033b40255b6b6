"""What a target is when it is written: replaced whole if it is a file, written to if it is not."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rt4ksr_client import atomic_write as writing
from rt4ksr_client import files
from rt4ksr_client.errors import PictureError
from support.processes import becomes_true

CONTENT = bytes(range(256)) * 1000


def write(target: Path, content: bytes = CONTENT) -> None:
    with files.write_errors(str(target)), files.atomic_write(target) as temporary:
        temporary.write_bytes(content)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def reader(read: Callable[[], bytes]) -> Iterator[Callable[[], bytes]]:
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(read)
        yield lambda: result.result(timeout=10)


def test_files_of_other_threads_get_the_umask_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_umask = os.umask

    def set_umask_slowly(mask: int) -> int:
        old = set_umask(mask)
        time.sleep(0.002)  # as if the thread were interrupted here
        return old

    monkeypatch.setattr(os, "umask", set_umask_slowly)
    watched: list[int] = []

    def watch() -> None:
        path = tmp_path / "watched"
        while not done.is_set():
            path.touch()
            watched.append(permissions(path))
            path.unlink()

    done = threading.Event()
    before = set_umask(0o027)
    try:
        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, [tmp_path / f"{index}.bin" for index in range(100)]))
        done.set()
        watcher.join()
    finally:
        done.set()
        set_umask(before)

    assert set(watched) == {0o640}
    assert {permissions(path) for path in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666, 0o440], ids=oct)
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "a.bin"
    target.touch()
    target.chmod(mode)
    seen = []

    with files.atomic_write(target) as temporary:
        seen.append(permissions(temporary))
        temporary.write_bytes(CONTENT)

    assert permissions(target) == mode
    assert not seen[0] & ~(mode | stat.S_IWUSR)  # never readable by more than the old one


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "elsewhere" / "real.bin", tmp_path / "link.bin"
    real.parent.mkdir()
    real.write_bytes(b"old")
    link.symlink_to(Path("elsewhere", "real.bin"))
    inode = real.stat().st_ino

    write(link)

    assert link.is_symlink() and link.readlink() == Path("elsewhere", "real.bin")
    assert real.read_bytes() == CONTENT
    assert real.stat().st_ino != inode  # replaced in one step, not written over
    assert list(real.parent.iterdir()) == [real]


def test_a_link_to_nothing_creates_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("new.bin")

    write(tmp_path / "link")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new.bin").read_bytes() == CONTENT


def test_links_in_a_circle_are_an_error_and_stay(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(PictureError, match="circle"):
        write(tmp_path / "a")

    assert (tmp_path / "a").is_symlink() and (tmp_path / "b").is_symlink()


@pytest.mark.parametrize("through_link", [False, True])
def test_a_fifo_is_written_to(tmp_path: Path, through_link: bool) -> None:
    fifo = target = tmp_path / "fifo.png"
    os.mkfifo(fifo)
    if through_link:
        target = tmp_path / "link.png"
        target.symlink_to(fifo)
    assert files.is_stream(target)

    with reader(fifo.read_bytes) as content:
        write(target)
        assert content() == CONTENT

    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert target.is_symlink() == through_link
    assert set(tmp_path.iterdir()) == {fifo, target}


def test_nothing_of_a_failed_write_gets_into_a_fifo(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(KeyboardInterrupt), files.atomic_write(fifo) as temporary:
            temporary.write_bytes(CONTENT)
            raise KeyboardInterrupt
        assert os.read(descriptor, 1) == b""
    finally:
        os.close(descriptor)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_device_is_written_to(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_bytes(b"")
    except PermissionError:  # not root: the real one is then out of a fault's reach
        device = Path(os.devnull)

    write(device)

    assert files.is_stream(device)
    assert stat.S_ISCHR(device.stat().st_mode)


WRITER = f"""
from pathlib import Path
from rt4ksr_client import files
with files.atomic_write(Path({{target!r}})) as temporary:
    temporary.write_bytes({b"picture"!r})
"""


# Not /dev/stdout itself: a fault here would replace it for the whole machine.
@pytest.mark.parametrize("target", ["/proc/self/fd/1", "/dev/fd/1", "link.png", "stdout.png"])
def test_standard_output_by_another_name_is_written_to(tmp_path: Path, target: str) -> None:
    (tmp_path / "stdout.png").symlink_to("/proc/self/fd/1")
    (tmp_path / "link.png").symlink_to("stdout.png")
    program = [sys.executable, "-c", WRITER.format(target=target)]

    piped = subprocess.run(program, cwd=tmp_path, capture_output=True, check=True)
    with (tmp_path / "out.png").open("ab") as redirected:
        redirected.write(b"before ")
        redirected.flush()
        subprocess.run(program, cwd=tmp_path, stdout=redirected, check=True)

    assert piped.stdout == b"picture"
    assert (tmp_path / "out.png").read_bytes() == b"before picture"
    assert {path.name for path in tmp_path.iterdir() if path.is_symlink()} == {
        "link.png",
        "stdout.png",
    }
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", ["n" * 251 + ".png", "ä" * 127, "a." + "s" * 253])
def test_a_name_of_255_bytes_is_written_and_replaced(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, b"old")
    write(tmp_path / name)

    assert (tmp_path / name).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_temporary_file_keeps_the_suffix_that_encoders_go_by(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    for target in (tmp_path / "a.png", tmp_path / "fifo.png"):
        with suppress(KeyboardInterrupt), files.atomic_write(target) as temporary:
            assert temporary.suffix == ".png"
            raise KeyboardInterrupt


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(PictureError, match="a folder has this name"):
        write(tmp_path / "folder")

    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.mark.parametrize("hard_links", [True, False])
@pytest.mark.parametrize("appears", ["before", "meanwhile"])
def test_a_file_is_kept_where_it_may_not_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, appears: str, hard_links: bool
) -> None:
    def unsupported(source: object, target: object) -> None:
        raise PermissionError(errno.EPERM, "as FAT says")

    if not hard_links:
        monkeypatch.setattr(os, "link", unsupported)
    target = tmp_path / "a.bin"
    if appears == "before":
        target.write_bytes(b"old")

    with pytest.raises(FileExistsError), files.atomic_write(target, replace=False) as temporary:
        temporary.write_bytes(CONTENT)
        target.write_bytes(b"old")

    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_new_file_needs_no_permission_to_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    if not hard_links:
        monkeypatch.setattr(os, "link", lambda *_: (tmp_path / "missing").stat())
    target = tmp_path / "a.bin"

    with files.atomic_write(target, replace=False) as temporary:
        temporary.write_bytes(CONTENT)

    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]


def test_a_fifo_without_a_reader_is_an_error_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_WAIT_FOR_READER_S", 0.2)
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(PictureError, match="fifo: cannot be written: nothing reads from it"):
        write(tmp_path / "fifo")

    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


def test_a_reader_that_ends_early_is_an_error(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def read_a_little() -> bytes:
        with fifo.open("rb") as stream:
            return stream.read(1)

    with reader(read_a_little), pytest.raises(PictureError, match="its reader has ended"):
        write(fifo, CONTENT * 10)


STALLED = f"""
import signal, sys
from pathlib import Path
from rt4ksr_client import files
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with files.atomic_write(Path({{target!r}})) as temporary:
    temporary.write_bytes(bytes({len(CONTENT)}))
"""


def test_a_reader_that_stops_reading_does_not_hold_an_interrupted_program(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        program = subprocess.Popen([sys.executable, "-c", STALLED.format(target=str(fifo))])
        assert becomes_true(lambda: select.select([reading], [], [], 0)[0])
        time.sleep(0.2)  # the pipe is full now
        program.terminate()
        assert program.wait(timeout=10) == 143
    finally:
        os.close(reading)


def test_a_descriptor_that_does_not_block_gets_everything() -> None:
    reading, writing_end = os.pipe()
    os.set_blocking(writing_end, False)
    with ThreadPoolExecutor(1) as pool, os.fdopen(reading, "rb") as stream:
        content = pool.submit(stream.read)
        writing.copy_to_descriptor(io.BytesIO(CONTENT), writing_end)
        os.close(writing_end)
        assert content.result(timeout=10) == CONTENT
