from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def test_clean_leaves_pictures_that_make_did_not_write(tmp_path: Path, root: Path) -> None:
    shutil.copy(root / "Makefile", tmp_path)
    program = tmp_path / ".venv/bin/rt4ksr"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nmkdir -p demo; touch demo/before_after.png demo/a\\ b_x3.png\n")
    program.chmod(0o755)
    for name in ("python", ".demo"):
        (tmp_path / ".venv/bin" / name).touch()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv/.demo").touch()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/mine.jpg").write_bytes(b"mine")

    make(tmp_path, "demo", "IMAGE=pictures/a b.jpg", "SCALE=3")
    assert (tmp_path / "demo/a b_x3.png").exists()
    make(tmp_path, "clean")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["mine.jpg"]

    (tmp_path / "demo/mine.jpg").unlink()
    make(tmp_path, "clean")
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile", "pyproject.toml"]


def make(folder: Path, *words: str) -> None:
    subprocess.run(["make", "--silent", *words], cwd=folder, check=True)
