"""The flags that the container starts tritonserver with, as its own entrypoint gives them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "deploy" / "container" / "entrypoint.sh"

KEY = "0123456789abcdef0123456789abcdef"
NEWER = {"http-max-input-size", "allow-client-shm"}  # than the release this server is of
# Given to TritonServer otherwise, or free ports of this machine in their place.
OWN = {"model-repository", "exit-timeout-secs"} | {
    f"{service}-{what}" for service in ("grpc", "http", "metrics") for what in ("port", "address")
}


def known_flags() -> set[str]:
    """Return the flags that tritonserver knows, without dashes; the file tells the source."""
    lines = Path(__file__).with_name("tritonserver_flags.txt").read_text().splitlines()
    return {line for line in lines if not line.startswith("#")}


def run_entrypoint(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the entrypoint with a ``tritonserver``, made in ``folder``, that prints its arguments."""
    binary = folder / "tritonserver"
    binary.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    binary.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [ENTRYPOINT, *arguments],
        env={"PATH": path, **(env or {})},
        capture_output=True,
        text=True,
    )


def container_flags(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the container's flags by name, without dashes, as the last of each name counts."""
    result = run_entrypoint(folder, *arguments, env=env)
    assert result.returncode == 0, result.stderr
    return flags_by_name(result.stdout.splitlines())


def flags_by_name(arguments: list[str]) -> dict[str, str]:
    """Split ``--name=value``; anything else is an error."""
    pairs = [argument.partition("=") for argument in arguments]
    assert all(name.startswith("--") and value for name, _, value in pairs), arguments
    return {name[2:]: value for name, _, value in pairs}
