"""The commands and the load test, through a gateway with TLS that asks for a token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import free_port
from support.tls import TOKEN, Authority, Gateway

pytestmark = pytest.mark.server


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from rt4ksr_client.cli import main; main()", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_takes_options_and_variables(
    gateway: Gateway, authority: Authority, token_file: Path, photograph: Path, tmp_path: Path
) -> None:
    ca_file, out = str(authority.ca_file), tmp_path / "out.png"
    by_option = run(
        *("upscale", photograph, "-o", out, "--url", gateway.url, "-vv"),
        *("--ca-file", ca_file, "--header-file", token_file),
    )
    by_variable = run(
        *("status", "--url", gateway.url, "--json"),
        RT4KSR_CA_FILE=ca_file,
        RT4KSR_HEADERS=f"authorization: {TOKEN}\nmodel-id: x",
    )
    denied = run("--debug", "status", "--url", gateway.url, RT4KSR_CA_FILE=ca_file)

    assert by_option.returncode == 0, by_option.stderr
    assert out.exists()
    assert by_variable.returncode == 0, by_variable.stderr
    assert json.loads(by_variable.stdout)["transport"] == "http"
    assert "HTTP 401" in denied.stderr
    for result in (by_option, by_variable, denied):
        assert TOKEN.split()[1] not in result.stdout + result.stderr


def test_the_command_warns_before_it_sends_a_secret_without_encryption() -> None:
    port = free_port()
    result = run(
        *("status", "--url", f"http://rt4ksr.invalid:{port}", "--timeout", "1"),
        RT4KSR_HEADERS="authorization: s3cr3t",
    )

    assert result.stderr.startswith(f"rt4ksr: warning: rt4ksr.invalid:{port}: the headers author")
    assert result.stderr.count("warning") == 1
    assert "s3cr3t" not in result.stderr


def test_a_load_test_over_https(
    gateway: Gateway, authority: Authority, token_file: Path, tmp_path: Path
) -> None:
    result = run(
        *("loadtest", "--url", gateway.url, "--frame-size", "320x180", "--duration", "3s"),
        *("--warm-up", "0s", "--out", tmp_path, "--ca-file", authority.ca_file, "-vv"),
        *("--header-file", token_file),
    )

    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "result.json").read_text())
    assert report["totals"]["right"] > 0
    assert report["totals"]["failures"] == {}
    assert report["machine"]["server_version"] != "not known"
    written = [path.read_text(errors="replace") for path in tmp_path.glob("re*")]
    for text in (*written, result.stdout, result.stderr):
        assert TOKEN.split()[1] not in text
