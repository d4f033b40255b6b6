"""``rt4ksr status``, ``compare``, ``video`` and ``--local`` on a real tritonserver."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from rt4ksr_client.cli.compare import compare
from rt4ksr_client.cli.server import local_server
from rt4ksr_client.cli.status import status
from rt4ksr_client.cli.upscale import upscale
from rt4ksr_client.cli.video import video
from rt4ksr_client.contract import DEFAULT_MODELS, MODELS
from rt4ksr_client.errors import MissingExtraError, ServerError
from rt4ksr_server import TritonServer
from support.videos import make_video

SERVED = {spec.name for spec in DEFAULT_MODELS.values()}

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]


def test_status_tells_of_every_model_and_the_transport(nearest_server: TritonServer) -> None:
    result = CliRunner().invoke(status, ["--url", nearest_server.grpc_url, "--json"])

    told = json.loads(result.stdout)
    assert {model["name"] for model in told["models"]} == SERVED
    assert told["transport"] in ("shm", "grpc")


def test_status_is_readable_when_piped(nearest_server: TritonServer) -> None:
    result = CliRunner().invoke(status, ["--url", nearest_server.grpc_url, "--transport", "grpc"])

    assert "transport  grpc" in result.stdout
    assert all(name in result.stdout for name in SERVED)


def test_no_server_is_an_error_of_ours() -> None:
    result = CliRunner().invoke(status, ["--url", "127.0.0.1:9", "--timeout", "0.3"])

    assert isinstance(result.exception, ServerError)


def test_compare_writes_one_page(
    nearest_server: TritonServer, tmp_path: Path, photograph: Path
) -> None:
    page = tmp_path / "page.html"
    small = tmp_path / "small.png"
    with Image.open(photograph) as image:
        image.resize((64, 36)).save(small)

    result = CliRunner().invoke(
        compare, [str(small), "-o", str(page), "--url", nearest_server.grpc_url]
    )

    assert result.exit_code == 0, result.output
    assert "128x72" in page.read_text()
    assert len(list(tmp_path.iterdir())) == 2


def test_local_starts_a_server_for_one_call(
    nearest_repository: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearest_repository().rename(tmp_path / "model_repository")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.new("RGB", (16, 12), "teal").save(tmp_path / "a.png")

    result = CliRunner().invoke(upscale, [str(tmp_path / "a.png"), "--local"])

    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "a_4k.png") as large:
        assert large.size == (32, 24)


def test_status_of_a_local_server_has_every_model_of_the_repository(
    nearest_repository: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [MODELS["rt4ksr_x2"], MODELS["rt4ksr_x2_video"]]
    nearest_repository(both).rename(tmp_path / "model_repository")
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(status, ["--local", "--json"])

    ready = {model["name"] for model in json.loads(result.stdout)["models"] if model["ready"]}
    assert ready == {"rt4ksr_x2", "rt4ksr_x2_video"}


def test_video_takes_the_model_for_video_where_the_server_has_it(
    nearest_repository: Callable[..., Path], nearest_server: TritonServer, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2)

    def taken(server: TritonServer, *options: str) -> str:
        arguments = [str(source), "-o", str(tmp_path / "out.mp4"), "--json", *options]
        result = CliRunner().invoke(video, [*arguments, "--url", server.grpc_url])
        assert result.exit_code == 0, result.output
        return str(json.loads(result.stdout)["model"])

    both = [MODELS["rt4ksr_x2"], MODELS["rt4ksr_x2_video"]]
    with TritonServer(nearest_repository(both)) as server:
        assert taken(server) == "rt4ksr_x2_video"
        assert taken(server, "--model", "rt4ksr_x2") == "rt4ksr_x2"
    assert taken(nearest_server) == "rt4ksr_x2"


def test_local_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rt4ksr_server", None)

    with pytest.raises(MissingExtraError, match=r"rt4ksr-triton\[server\]"), local_server():
        pass
