"""Which tritonserver is run, and with which environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rt4ksr_client.errors import ServerStartError
from rt4ksr_server.installation import KEEP_MEMORY, Installation
from support.entrypoint import NEWER, known_flags


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


def test_the_binary_is_asked_for_the_flags_that_it_knows() -> None:
    found = Installation.find().known_flags()

    assert {"model-config-name", "http-header-forward-pattern"} <= found & known_flags()
    assert not found & NEWER


def test_the_flags_of_a_newer_binary_are_read_from_its_help(tmp_path: Path) -> None:
    binary = tmp_path / "tritonserver"
    binary.write_text(
        "#!/bin/sh\nprintf '  --allow-client-shm <boolean>\\n\\tDefault: --no\\n' >&2\n"
    )
    binary.chmod(0o755)
    assert Installation(binary).known_flags() == {"allow-client-shm"}
    binary.write_text("no program")
    with pytest.raises(ServerStartError, match=r"cannot run .*/tritonserver: "):
        Installation(binary).known_flags()
