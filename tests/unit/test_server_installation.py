"""Which tritonserver is run, and with which environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rt4ksr_server.installation import KEEP_MEMORY, Installation


def test_a_tritonserver_on_the_path_takes_precedence_and_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "tritonserver"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    found = Installation.find()
    assert found == Installation(binary)
    assert found.prepare(tmp_path) == []
    assert found.environment(tmp_path) == {**os.environ, "GLIBC_TUNABLES": KEEP_MEMORY}
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    assert found.environment(tmp_path) == dict(os.environ)


def test_the_binary_of_the_wheel_is_recognised() -> None:
    by_default = Installation.find()
    assert by_default.wheel is not None
    assert Installation.find(by_default.binary) == by_default


def test_the_tritonserver_of_the_wheel_sees_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    environment = Installation.find().environment(tmp_path)

    assert environment["CUDA_VISIBLE_DEVICES"] == ""  # KIND_AUTO stays with the CPU
