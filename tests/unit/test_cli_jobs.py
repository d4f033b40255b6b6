"""Which files ``rt4ksr upscale`` reads, where each result goes, and what it may replace."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from rt4ksr_client.cli.jobs import Job, Naming, Plan, plan_jobs
from rt4ksr_client.cli.results import LIST_NAME, FileStamp, ResultFolder
from rt4ksr_client.cli.targets import check_target, default_target
from rt4ksr_client.errors import PictureError, Rt4ksrError

X2 = Naming("x2", ".png", {"scale": 2})


def create(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(8))


def planned(
    *sources: Path, output: Path | None = None, naming: Naming = X2, overwrite: bool = False
) -> Plan:
    return plan_jobs(sources, output, naming, overwrite=overwrite)


def run(plan: Plan, naming: Naming = X2) -> dict[str, str]:
    """Write a result that says what it is of, as the command does; return what was written."""
    for job in plan.jobs:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        stamp = FileStamp.of(job.source)
        assert job.may_replace() or not job.target.exists()
        job.target.write_bytes(os.fsencode(job.source))
        if job.results is not None:
            job.results.add(job.target.name, job.source, stamp, naming.options)
    return {job.source.name: job.target.name for job in plan.jobs}


def upscaled(*sources: Path, output: Path | None = None) -> dict[str, str]:
    return run(planned(*sources, output=output))


def reasons(plan: Plan) -> str:
    return " ".join(f"{failure.source}: {failure.error}" for failure in plan.failures)


def touch_later(*paths: Path) -> None:
    for path in paths:
        changed_ns = path.stat().st_mtime_ns + 60 * 10**9
        os.utime(path, ns=(changed_ns, changed_ns))


def files_in(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != LIST_NAME}


# names


def test_results_are_named_beside_the_source_by_what_they_are(tmp_path: Path) -> None:
    assert default_target(tmp_path / "a.b.jpg", "x2", ".png") == tmp_path / "a.b_x2.png"
    assert default_target(tmp_path, "4k", ".png") == tmp_path.with_name(f"{tmp_path.name}_4k")


@pytest.mark.parametrize("spelling", [".", "sub/..", "./"])
def test_the_current_folder_has_a_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)

    expected = tmp_path.with_name(f"{tmp_path.name}_x3")
    assert default_target(Path(spelling), "x3", ".png").resolve() == expected


def test_the_folder_above_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")

    assert default_target(Path(".."), "x3", ".png") == tmp_path / "a_x3"


@pytest.mark.parametrize("stem", ["n" * 251, "ä" * 125 + "b"])
def test_a_long_name_is_shortened_to_what_can_be_written(tmp_path: Path, stem: str) -> None:
    source = tmp_path / f"{stem}.jpg"
    create(source)

    target = default_target(source, "x2", ".png")

    create(target)
    assert target.name.endswith("_x2.png")
    assert stem.startswith(target.name.removesuffix("_x2.png"))


def test_long_names_that_differ_in_their_ends_have_a_result_each(tmp_path: Path) -> None:
    album = tmp_path / "album"
    create(*(album / f"{'n' * 250}{end}.jpg" for end in "abc"))

    assert len(set(upscaled(album).values())) == 3


# files and folders as sources


def test_files_have_their_results_beside_them_or_in_one_folder(tmp_path: Path) -> None:
    sources = [tmp_path / "x" / "a.jpg", tmp_path / "y" / "b.tiff"]
    create(*sources)

    targets = [job.target for job in planned(*sources).jobs]
    assert targets == [tmp_path / "x" / "a_x2.png", tmp_path / "y" / "b_x2.png"]
    targets = [job.target for job in planned(*sources, output=tmp_path / "out").jobs]
    assert targets == [tmp_path / "out" / "a.png", tmp_path / "out" / "b.png"]


def test_several_folders_have_a_folder_each(tmp_path: Path) -> None:
    sources = [tmp_path / "x", tmp_path / "y"]
    create(tmp_path / "x" / "1" / "a.jpg", tmp_path / "y" / "a.jpg")

    targets = [job.target for job in planned(*sources).jobs]
    assert targets == [tmp_path / "x_x2" / "1" / "a.png", tmp_path / "y_x2" / "a.png"]
    out = tmp_path / "out"
    targets = [job.target for job in planned(*sources, output=out).jobs]
    assert targets == [out / "x" / "1" / "a.png", out / "y" / "a.png"]


def test_a_file_given_twice_is_upscaled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)

    assert len(planned(Path("a.jpg"), Path("./a.jpg"), tmp_path / "a.jpg").jobs) == 1


def test_missing_files_and_fifos_fail_and_the_rest_goes_on(tmp_path: Path) -> None:
    create(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "fifo.png")

    plan = planned(tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "fifo.png")

    assert len(plan.jobs) == 1
    assert "b.jpg: there is no such file" in reasons(plan)
    assert "fifo.png: a FIFO: give it alone, with -o" in reasons(plan)


# two sources never have one result


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("a.jpg", "a.png"),
        ("a.jpg", "A.JPG"),
        ("a.jpg", "A.png", "a.PNG"),
        ("a.jpg", "a.png", "a.jpg.png"),
        ("ä.jpg", "a\N{COMBINING DIAERESIS}.jpg"),
    ],
)
def test_names_that_a_file_system_may_take_for_the_same_have_results_of_their_own(
    tmp_path: Path, names: tuple[str, ...], beside: bool
) -> None:
    sources = [tmp_path / "album" / name for name in names]
    create(*sources)

    plan = planned(*sources) if beside else planned(tmp_path / "album")

    targets = [str(job.target).casefold() for job in plan.jobs]
    assert len(set(targets)) == len(names)
    assert run(plan).keys() == set(names)


def test_files_of_one_name_from_several_folders_have_results_of_their_own(tmp_path: Path) -> None:
    sources = [tmp_path / folder / "a.jpg" for folder in "xyz"]
    create(*sources)

    upscaled(*sources, output=tmp_path / "out")

    found = files_in(tmp_path / "out")
    assert found.keys() == {"a.jpg.png", "a-2.jpg.png", "a-3.jpg.png"}
    assert set(found.values()) == set(map(str, sources))
    again = planned(*reversed(sources), output=tmp_path / "out")
    assert (again.jobs, again.done_before) == ([], 3)


def test_folders_of_one_name_share_a_folder_and_no_result(tmp_path: Path) -> None:
    create(tmp_path / "x" / "album" / "a.jpg", tmp_path / "y" / "album" / "a.jpg")

    upscaled(tmp_path / "x" / "album", tmp_path / "y" / "album", output=tmp_path / "out")

    assert files_in(tmp_path / "out" / "album").keys() == {"a.jpg.png", "a-2.jpg.png"}


def test_an_earlier_result_is_kept_when_a_picture_of_the_same_name_comes(tmp_path: Path) -> None:
    album = tmp_path / "album"
    create(album / "a.jpg")
    assert upscaled(album) == {"a.jpg": "a.png"}
    create(album / "a.png")

    assert upscaled(album) == {"a.png": "a.png.png"}
    assert upscaled(album) == {}
    (album / "a.jpg").unlink()
    touch_later(album / "a.png")
    assert upscaled(album) == {"a.png": "a.png.png"}
    assert files_in(tmp_path / "album_x2")["a.png"] == str(album / "a.jpg")


def test_a_picture_does_not_take_the_result_of_one_that_is_gone(tmp_path: Path) -> None:
    album = tmp_path / "album"
    create(album / "a.jpg")
    upscaled(album)
    (album / "a.jpg").unlink()
    create(album / "a.png")
    os.utime(album / "a.png", (1, 1))  # older than the result of the other one

    assert upscaled(album) == {"a.png": "a.png.png"}
    assert len(files_in(tmp_path / "album_x2")) == 2


def test_two_albums_written_to_one_folder_keep_their_results(tmp_path: Path) -> None:
    for album in ("x", "y"):
        create(tmp_path / album / "a.jpg")
        upscaled(tmp_path / album, output=tmp_path / "out")

    found = files_in(tmp_path / "out")
    assert set(found.values()) == {str(tmp_path / "x" / "a.jpg"), str(tmp_path / "y" / "a.jpg")}


def test_a_name_is_free_again_when_its_result_was_removed(tmp_path: Path) -> None:
    create(tmp_path / "album" / "a.jpg")
    upscaled(tmp_path / "album")
    (tmp_path / "album" / "a.jpg").unlink()
    (tmp_path / "album_x2" / "a.png").unlink()
    create(tmp_path / "album" / "a.png")

    assert upscaled(tmp_path / "album") == {"a.png": "a.png"}


# what is there already


def test_a_result_is_done_until_its_source_changes(tmp_path: Path) -> None:
    source = tmp_path / "album" / "a.jpg"
    create(source)
    assert upscaled(tmp_path / "album") == {"a.jpg": "a.png"}
    assert planned(tmp_path / "album").done_before == 1
    for changed_s in (1, 2**31):  # to an older file, to a newer one
        os.utime(source, (changed_s, changed_s))
        assert upscaled(tmp_path / "album") == {"a.jpg": "a.png"}
    (tmp_path / "album_x2" / "a.png").unlink()
    assert upscaled(tmp_path / "album") == {"a.jpg": "a.png"}


def test_album_and_results_may_be_moved_together_or_the_album_alone(tmp_path: Path) -> None:
    create(tmp_path / "album" / "a.jpg", tmp_path / "album" / "sub" / "a.jpg")
    upscaled(tmp_path / "album", output=tmp_path / "out")
    for name in ("album", "out"):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "new" / name)

    plan = planned(tmp_path / "new" / "album", output=tmp_path / "new" / "out")
    assert (plan.jobs, plan.done_before) == ([], 2)
    (tmp_path / "new" / "album").rename(tmp_path / "elsewhere")
    plan = planned(tmp_path / "elsewhere", output=tmp_path / "new" / "out")
    assert (plan.jobs, plan.done_before) == ([], 2)


@pytest.mark.parametrize("beside", [False, True])
def test_a_file_that_the_command_did_not_write_is_kept(tmp_path: Path, beside: bool) -> None:
    create(tmp_path / "album" / "a.jpg", tmp_path / "album" / "b.jpg")
    mine = tmp_path / ("album/a_x2.png" if beside else "album_x2/a.png")
    create(mine)
    touch_later(mine)
    sources = [tmp_path / "album"]
    if beside:
        sources = [tmp_path / "album" / "a.jpg", tmp_path / "album" / "b.jpg"]

    plan = planned(*sources)

    assert [job.source.name for job in plan.jobs] == ["b.jpg"]
    assert f"{mine}: the file exists" in reasons(plan)
    assert "--overwrite replaces it" in reasons(plan)
    assert len(planned(*sources, overwrite=True).jobs) == 2


def test_a_result_that_somebody_changed_is_kept(tmp_path: Path) -> None:
    source, result = tmp_path / "album" / "a.jpg", tmp_path / "album_x2" / "a.png"
    create(source)
    upscaled(tmp_path / "album")
    result.write_text("retouched")

    assert planned(tmp_path / "album").done_before == 1
    touch_later(source)
    plan = planned(tmp_path / "album")
    assert not plan.jobs
    assert "was changed after rt4ksr wrote it" in reasons(plan)


def test_a_result_that_is_changed_during_the_run_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "album" / "a.jpg"
    create(source)
    upscaled(tmp_path / "album")
    touch_later(source)
    (job,) = planned(tmp_path / "album").jobs
    assert job.may_replace()

    job.target.write_text("retouched in the meantime")

    with pytest.raises(PictureError, match="changed during this run"):
        job.may_replace()
    job.target.unlink()
    assert job.may_replace()


def test_times_that_a_memory_card_rounds_are_no_change(tmp_path: Path) -> None:
    source, result = tmp_path / "album" / "a.jpg", tmp_path / "album_x2" / "a.png"
    create(source)
    upscaled(tmp_path / "album")
    rounded_s = result.stat().st_mtime_ns // 2_000_000_000 * 2
    os.utime(result, (rounded_s, rounded_s))
    touch_later(source)

    assert len(planned(tmp_path / "album").jobs) == 1


def test_results_of_other_options_are_kept(tmp_path: Path) -> None:
    create(tmp_path / "album" / "a.jpg")
    upscaled(tmp_path / "album", output=tmp_path / "out")

    x3 = Naming("x3", ".png", {"scale": 3})
    plan = planned(tmp_path / "album", output=tmp_path / "out", naming=x3)

    assert not plan.jobs
    assert "was made with other options: --overwrite replaces it" in reasons(plan)
    jpeg = Naming("x2", ".jpg", {"scale": 2})
    assert planned(tmp_path / "album", output=tmp_path / "out", naming=jpeg).jobs


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_source_is_a_target_by_whatever_name(tmp_path: Path, overwrite: bool) -> None:
    sources = [tmp_path / name for name in ("a.jpg", "a_x2.png", "b.png", "link.jpg")]
    create(*sources[:3])
    sources[3].symlink_to("b.png")
    (tmp_path / "link_x2.png").symlink_to("a.jpg")
    os.link(sources[2], tmp_path / "b_x2.png")

    plan = planned(*sources, overwrite=overwrite)

    assert [job.source.name for job in plan.jobs] == ["a_x2.png"]
    assert reasons(plan).count("this is a source itself") == 3
    plan = planned(*sources, output=tmp_path, overwrite=overwrite)
    assert "b.png: this is a source itself" in reasons(plan)


def test_a_folder_or_a_fifo_in_the_place_of_a_result_stays(tmp_path: Path) -> None:
    create(tmp_path / "album" / "a.jpg", tmp_path / "album" / "b.jpg")
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    os.mkfifo(tmp_path / "out" / "b.png")

    plan = planned(tmp_path / "album", output=tmp_path / "out", overwrite=True)

    assert not plan.jobs
    assert "a folder has this name" in reasons(plan)
    assert "a FIFO has this name" in reasons(plan)


# folders


def test_a_link_to_its_own_folder_does_not_loop(tmp_path: Path) -> None:
    create(tmp_path / "album" / "a.png")
    (tmp_path / "album" / "loop").symlink_to(tmp_path / "album")

    plan = planned(tmp_path / "album")

    assert len(plan.jobs) == 1
    assert plan.skipped == {"linked folder": 1}


def spellings(folder: Path) -> Iterable[Path]:
    yield folder
    yield Path(os.path.relpath(folder))
    yield folder.parent / "x" / ".." / folder.name
    link = folder.parent.parent / "link"
    if not link.exists():
        link.symlink_to(folder)
    yield link
    yield Path(f"./{os.path.relpath(folder)}/")


@pytest.mark.parametrize("index", range(5))
def test_an_output_inside_the_source_is_not_read_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    album = tmp_path / "album"
    create(album / "a.jpg", album / "x" / "b.jpg")
    (album / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    output = list(spellings(album / "out"))[index]

    for source in (album, Path("album"), Path("./x/../album")):
        run(planned(source, output=output))

    assert {str(path.relative_to(album)) for path in album.rglob("*.png")} == {
        "out/a.png",
        "out/x/b.png",
    }


def test_results_in_other_folders_are_not_upscaled_again_unless_they_are_named(
    tmp_path: Path,
) -> None:
    create(tmp_path / "all" / "album" / "a.jpg", tmp_path / "all" / "album_x2" / "mine.jpg")
    upscaled(tmp_path / "all" / "album")

    plan = planned(tmp_path / "all")

    assert {job.source.name for job in plan.jobs} == {"a.jpg", "mine.jpg"}
    assert plan.skipped == {"result of an earlier run": 1}
    assert len(planned(tmp_path / "all" / "album_x2").jobs) == 2


def test_pictures_in_the_output_folder_that_are_no_results_are_counted(tmp_path: Path) -> None:
    create(tmp_path / "album" / "a.jpg", tmp_path / "album" / "2020" / "b.jpg")
    for _ in range(2):
        plan = planned(tmp_path / "album", output=tmp_path / "album" / "2020")
        assert plan.skipped == {"in the output folder": 1}
        run(plan)


def test_the_output_is_not_the_source(tmp_path: Path) -> None:
    create(tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.jpg")
    (tmp_path / "link").symlink_to("x")

    for sources in ([tmp_path / "x"], [tmp_path / "x", tmp_path / "y"]):
        with pytest.raises(PictureError, match="give another one with -o"):
            planned(*sources, output=tmp_path / "link")


def test_everything_that_is_left_out_is_counted(tmp_path: Path) -> None:
    album = tmp_path / "album"
    create(*(album / name for name in ("a.jpg", "b.txt", "c.TXT", "d.nef", "e", ".hidden.jpg")))
    create(album / ".git" / "x.jpg")
    os.mkfifo(album / "pipe")
    (album / "gone").symlink_to("nowhere")

    plan = planned(album)

    assert [job.source.name for job in plan.jobs] == ["a.jpg"]
    assert not plan.failures
    assert plan.skipped == {
        ".txt": 2,
        ".nef": 1,
        "other files": 1,
        "hidden": 2,
        "FIFO": 1,
        "file that cannot be read (No such file or directory)": 1,
    }


def test_what_has_a_pictures_name_and_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    album = tmp_path / "album"
    create(album / "a.jpg")
    os.mkfifo(album / "fifo.png")
    (album / "link.png").symlink_to("fifo.png")
    (album / "gone.png").symlink_to("nowhere")
    monkeypatch.chdir(album)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")

        plan = planned(album)

    assert [job.source.name for job in plan.jobs] == ["a.jpg"]
    assert "fifo.png: a FIFO: skipped" in reasons(plan)
    assert "link.png: a FIFO: skipped" in reasons(plan)
    assert "socket.png: a socket: skipped" in reasons(plan)
    assert "gone.png: a file that cannot be read (No such file or directory)" in reasons(plan)


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path / "album" / "a.jpg", tmp_path / "album" / "closed" / "b.jpg")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    plan = planned(tmp_path / "album")

    assert len(plan.jobs) == 1
    assert "closed: cannot be read: Permission denied" in reasons(plan)


# the list


def test_the_list_survives_crashes_and_other_programs(tmp_path: Path) -> None:
    create(*(tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg", "a.png", "b.png", "c.png")))
    folder, other = ResultFolder(tmp_path), ResultFolder(tmp_path)
    folder.add("a.png", tmp_path / "a.jpg", FileStamp(1, 2), {})
    with (tmp_path / LIST_NAME).open("ab") as stream:
        stream.write(b'null\n[]\n{"name": 3}\n\xff\n{"name": "b.png", "sou')
    other.add("c.png", tmp_path / "c.jpg", FileStamp(1, 2), {})

    found = ResultFolder(tmp_path)

    assert [name for name in ("a.png", "b.png", "c.png") if name in found] == ["a.png", "c.png"]
    entry = found.entry_for(tmp_path / "c.jpg", ".png")
    assert entry is not None
    assert (entry.source, entry.source_stamp) == ("c.jpg", FileStamp(1, 2))


def test_names_that_are_not_text_are_in_the_list(tmp_path: Path) -> None:
    source = Path(os.fsdecode(os.fsencode(tmp_path / "album") + b"/a\xff\n%s.jpg"))
    create(source)

    upscaled(tmp_path / "album")

    assert planned(tmp_path / "album").done_before == 1


def test_a_list_that_is_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LIST_NAME)

    assert "a.png" not in ResultFolder(tmp_path)


# a single target


def test_a_target_is_checked_before_the_work(tmp_path: Path) -> None:
    source, target = tmp_path / "a.jpg", tmp_path / "b.png"
    create(source)
    check_target(target, source, overwrite=False)
    create(target)
    (tmp_path / "link.png").symlink_to(source)
    (tmp_path / "to b.png").symlink_to(target)

    for existing in (target, tmp_path / "to b.png"):
        with pytest.raises(Rt4ksrError, match=r"exists: --overwrite replaces it, -o"):
            check_target(existing, source, overwrite=False)
        check_target(existing, source, overwrite=True)
    for itself in (source, tmp_path / "link.png"):
        with pytest.raises(Rt4ksrError, match="the source itself"):
            check_target(itself, source, overwrite=True)
    with pytest.raises(Rt4ksrError, match="a folder"):
        check_target(tmp_path, source, overwrite=True)


@pytest.mark.parametrize("name", ["n" * 300, "a/b/c.png", "loop"])
def test_a_target_that_cannot_exist_is_left_to_the_attempt(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")

    check_target(tmp_path / name, overwrite=False)


def test_what_is_written_to_and_not_replaced_needs_no_permission(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for stream in (tmp_path / "fifo", Path(os.devnull)):
        check_target(stream, overwrite=False)


def test_a_job_without_a_permission_replaces_nothing(tmp_path: Path) -> None:
    assert not Job(tmp_path / "a.jpg", tmp_path / "b.png").may_replace()
    assert Job(tmp_path / "a.jpg", tmp_path / "b.png", overwrite=True).may_replace()
