"""Shared memory regions: their names, their owners, and what a killed process left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rt4ksr_client.transports import regions


def test_region_names_are_unique_and_not_leftovers_while_their_owner_lives() -> None:
    names = {regions.unique_name() for _ in range(100)}

    assert len(names) == 100
    assert not any(map(regions.is_leftover, names))


def test_the_names_that_a_killed_process_left_are_removed() -> None:
    code = (
        "import time; from rt4ksr_client.transports import regions;"
        "print(regions.SystemRegion(4096).name, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        name = process.stdout.readline().decode().strip()
        path = Path("/dev/shm", name)
        try:
            regions.remove_leftover_names()
            assert path.exists(), "its owner lives"
        finally:
            process.kill()
    assert regions.is_leftover(name)

    regions.remove_leftover_names()

    assert not path.exists()


@pytest.mark.parametrize(
    "name", ["rt4ksr-0-1", "rt4ksr_client_1_2", "rt4ksr_client_0_999999999_1_0_ab", "x_1_2_3_4_5"]
)
def test_names_of_others_and_of_other_namespaces_are_not_leftovers(name: str) -> None:
    assert not regions.is_leftover(name)


def test_another_process_with_the_same_id_does_not_hide_a_leftover() -> None:
    prefix, namespace, pid, start, number, token = regions.unique_name().rsplit("_", 5)
    earlier = f"{prefix}_{namespace}_{pid}_{int(start) - 1}_{number}_{token}"

    assert regions.is_leftover(earlier)
    assert int(pid) == os.getpid()


def test_a_region_that_does_not_fit_leaves_no_name() -> None:
    before = set(Path("/dev/shm").iterdir())

    with pytest.raises(OSError, match=r"\w"):
        regions.SystemRegion(1 << 60)

    ours = {path for path in set(Path("/dev/shm").iterdir()) - before if "client" in path.name}
    assert not ours


@pytest.mark.parametrize(
    ("free_mib", "size_mib", "leaving_mib", "fits"),
    [
        (63, 32, 32, False),
        (64, 32, 32, True),
        (64, 1, 64, False),
        (65, 1, 64, True),
        (33, 1, 2, True),  # the server's pool grows by 32 MiB at once
        (32, 1, 2, False),
    ],
)
def test_a_region_is_only_made_where_it_leaves_enough_for_the_server(
    monkeypatch: pytest.MonkeyPatch, free_mib: int, size_mib: int, leaving_mib: int, fits: bool
) -> None:
    found = SimpleNamespace(f_frsize=4096, f_blocks=128 << 8, f_bavail=free_mib << 8)
    monkeypatch.setattr(os, "statvfs", lambda path: found)

    if fits:
        regions.SystemRegion.check_room(size_mib << 20, leaving_mib << 20)
        return
    needed_mib = size_mib + max(leaving_mib, 32)
    with pytest.raises(OSError, match=rf"has {free_mib} MiB free of 128, .* need {needed_mib}: "):
        regions.SystemRegion.check_room(size_mib << 20, leaving_mib << 20)


def test_a_tmpfs_without_a_limit_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(f_frsize=4096, f_blocks=0, f_bavail=0)
    monkeypatch.setattr(os, "statvfs", lambda path: found)

    regions.SystemRegion.check_room(1 << 30, 1 << 30)


@pytest.mark.parametrize(
    ("sizes", "offsets"),
    [
        ([], [0]),
        ([10], [0, 10]),
        ([64, 1], [0, 64, 65]),
        ([1, 100, 7], [0, 64, 192, 199]),
        ([0, 5], [0, 0, 5]),
    ],
)
def test_tensors_in_a_region_are_aligned(sizes: list[int], offsets: list[int]) -> None:
    assert regions.offsets_bytes(sizes) == offsets


def test_arrays_written_to_a_region_are_read_at_their_offsets() -> None:
    luma = np.arange(30, dtype=np.uint8).reshape(5, 6)[::-1]
    chroma = np.arange(8, dtype=np.uint16)
    region = regions.SystemRegion(4096)
    Path("/dev/shm", region.name).unlink()
    region.write([luma, chroma])

    content = region.read(200)

    np.testing.assert_array_equal(content[:30].reshape(5, 6), luma)
    np.testing.assert_array_equal(content[64:80].view(np.uint16), chroma)
