"""Which files ``rt4ksr upscale`` reads, and where each result goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rt4ksr_client.cli.jobs import Job, default_target, jobs_in_folder
from rt4ksr_client.errors import PictureError


def test_results_are_named_beside_the_source_by_what_they_are(tmp_path: Path) -> None:
    assert default_target(tmp_path / "a.b.jpg", "x2", ".png") == tmp_path / "a.b_x2.png"
    assert default_target(tmp_path, "4k", ".png") == tmp_path.with_name(f"{tmp_path.name}_4k")


def test_the_current_folder_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert default_target(Path(), "x3", ".png") == tmp_path.with_name(f"{tmp_path.name}_x3")


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / ".hidden.png").touch()

    with pytest.raises(PictureError, match="no pictures"):
        jobs_in_folder(tmp_path, tmp_path / "out", ".png")


def test_a_link_to_its_own_folder_does_not_loop(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "loop").symlink_to(tmp_path)

    assert len(jobs_in_folder(tmp_path, tmp_path / "out", ".png")) == 1


def test_a_target_older_than_its_source_is_not_done(tmp_path: Path) -> None:
    job = Job(tmp_path / "a", tmp_path / "b")
    job.source.touch()
    assert not job.is_done()
    job.target.touch()
    assert job.is_done()
    os.utime(job.source, (time.time() + 9, time.time() + 9))
    assert not job.is_done()
