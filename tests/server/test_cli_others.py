"""``rt4ksr status``, ``compare``, ``video``, and servers started for one call."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from rt4ksr_client import Upscaler
from rt4ksr_client.cli import cli
from rt4ksr_client.contract import DEFAULT_MODELS, MODELS
from rt4ksr_client.errors import Rt4ksrError, ServerUnreachableError, VideoError
from rt4ksr_client.video import VideoOptions, upscale_video
from rt4ksr_server import TritonServer
from support.processes import free_port
from support.servers import RepositoryFactory
from support.videos import make_video

SERVED = {spec.name for spec in DEFAULT_MODELS.values()}

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> str:
    """The default address, at which nothing listens during the test."""
    url = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr("rt4ksr_client.cli.options.DEFAULT_URL", url)
    return url


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture of 16x12."""
    # The command sets the limit for its process, which here is the tests'.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    path = tmp_path / "a.png"
    Image.new("RGB", (16, 12), "teal").save(path)
    return path


def test_status_shows_every_model_and_the_transport(nearest_server: TritonServer) -> None:
    result = run("status", "--url", nearest_server.grpc_url, "--json")

    told = json.loads(result.stdout)
    assert {model["name"] for model in told["models"]} == SERVED
    assert told["transport"] in ("shm", "grpc")


def test_status_is_readable_when_piped(nearest_server: TritonServer) -> None:
    result = run("status", "--url", nearest_server.grpc_url, "--transport", "grpc")

    assert "transport  grpc" in result.stdout
    assert all(name in result.stdout for name in SERVED)


def test_no_server_at_a_given_address_is_an_error() -> None:
    result = run("status", "--url", "127.0.0.1:9", "--timeout", "0.3")

    assert isinstance(result.exception, ServerUnreachableError)


def test_compare_writes_one_page(
    nearest_server: TritonServer, tmp_path: Path, photograph: Path
) -> None:
    page = tmp_path / "page.html"
    small = tmp_path / "small.png"
    with Image.open(photograph) as image:
        image.resize((64, 36)).save(small)

    result = run("compare", small, "-o", page, "--url", nearest_server.grpc_url)

    assert result.exit_code == 0, result.output
    assert "128x72" in page.read_text()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("option", [[], ["--local"]], ids=["default address", "--local"])
def test_a_server_is_started_for_one_call(
    nearest_repository: RepositoryFactory,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_server: str,
    option: list[str],
) -> None:
    nearest_repository().rename(small.parent / "model_repository")
    monkeypatch.chdir(small.parent)

    result = run("upscale", small, *option)

    assert result.exit_code == 0, result.output
    said = f"rt4ksr: no server at {no_server}: starting one for this call\n"
    assert result.stderr == ("" if option else said)
    with Image.open(small.with_name("a_x2.png")) as large:
        assert large.size == (32, 24)


@pytest.mark.parametrize("command", ["video", "compare", "status"])
def test_every_command_starts_a_server_where_none_runs(
    nearest_server: TritonServer,
    video_server: TritonServer,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_server: str,
    command: str,
) -> None:
    @contextlib.contextmanager
    def lend_a_running_one(*, models: Sequence[str]) -> Iterator[str]:
        assert set(models) <= set(MODELS)
        yield (video_server if command == "video" else nearest_server).grpc_url

    monkeypatch.setattr("rt4ksr_client.cli.server.local_server", lend_a_running_one)
    monkeypatch.chdir(small.parent)
    sources = {"video": [make_video(small.with_name("in.mp4"), frames=2)], "compare": [small]}

    result = run(command, *sources.get(command, []))

    assert result.exit_code == 0, result.output
    said = f"rt4ksr: no server at {no_server}: starting one for this call\n"
    assert result.stderr == said
    files = {path.name for path in small.parent.iterdir()}
    results = {"video": {"in_x2.mp4"}, "compare": {"compare.html"}, "status": set()}
    assert files == {"a.png", *[path.name for path in sources.get("video", [])]} | results[command]


def test_status_of_a_local_server_has_every_model_of_the_repository(
    nearest_repository: RepositoryFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [MODELS["rt4ksr_x2"], MODELS["rt4ksr_x2_video"]]
    nearest_repository(both).rename(tmp_path / "model_repository")
    monkeypatch.chdir(tmp_path)

    result = run("status", "--local", "--json")

    ready = {model["name"] for model in json.loads(result.stdout)["models"] if model["ready"]}
    assert ready == {"rt4ksr_x2", "rt4ksr_x2_video"}


def test_video_uses_the_model_for_the_bits_of_its_source(
    video_server: TritonServer, tmp_path: Path
) -> None:
    for pixel_format, model in (
        ("yuv420p", "rt4ksr_x2_video"),
        ("yuv420p10le", "rt4ksr_x2_video16"),
    ):
        source = make_video(tmp_path / "in.mp4", frames=2, pixel_format=pixel_format)
        words = ["video", source, "-o", tmp_path / "out.mp4", "--overwrite", "--json"]
        result = run(*words, "--url", video_server.grpc_url)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["model"] == model


def test_a_server_without_a_model_for_video_is_named(
    nearest_server: TritonServer, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2)

    result = run("video", source, "--url", nearest_server.grpc_url, "--timeout", "5")
    other = run("video", source, "--url", nearest_server.grpc_url, "--model", "rt4ksr_x2")

    assert "'rt4ksr_x2_video' is not ready" in str(result.exception)
    assert "takes RGB pictures of 8 bits, not 4:2:0 video frames" in str(other.exception)
    assert "those are for rt4ksr_x2_video" in str(other.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_video_or_page_that_exists_is_only_replaced_on_demand(
    nearest_server: TritonServer,
    video_server: TritonServer,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(small.parent)
    make_video(small.with_name("in.mp4"), frames=2)
    targets = {"in_x2.mp4": ["video", "in.mp4"], "compare.html": ["compare", "a.png"]}
    targets |= {"b.mp4": ["video", "in.mp4", "-o", "b.mp4"]}
    for name, words in targets.items():
        target = small.with_name(name)
        target.write_text("mine")
        server = video_server if words[0] == "video" else nearest_server

        kept = run(*words, "--url", server.grpc_url)
        assert isinstance(kept.exception, Rt4ksrError)
        assert f"{name}: the file exists: --overwrite replaces it" in str(kept.exception)
        assert target.read_text() == "mine"
        assert run(*words, "--url", server.grpc_url, "--overwrite").exit_code == 0
        assert target.read_bytes() != b"mine"
    assert len(list(small.parent.iterdir())) == 5


def test_a_source_that_is_not_a_file_is_no_video(small: Path) -> None:
    os.mkfifo(small.with_name("fifo.mp4"))

    small.with_name("folder.mp4").mkdir()
    reasons = {"fifo.mp4": "give the output with -o", "folder.mp4": "not a file"}
    for name, words in {**reasons, "gone.mp4": "there is no such file"}.items():
        result = run("video", small.with_name(name), "--url", "127.0.0.1:9")
        assert isinstance(result.exception, VideoError)
        assert words in str(result.exception)


def test_a_video_that_appears_during_the_work_is_kept(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    source, target = make_video(tmp_path / "in.mp4", frames=2), tmp_path / "out.mp4"

    with pytest.raises(VideoError, match="exists"):
        upscale_video(
            source,
            target,
            video_upscaler,
            VideoOptions(),
            overwrite=False,
            on_progress=lambda progress: target.write_text("mine"),
        )

    assert target.read_text() == "mine"
    with pytest.raises(VideoError, match="exists"):
        upscale_video(source, target, video_upscaler, VideoOptions(), overwrite=False)
    assert target.read_text() == "mine"


def test_a_demo_replaces_nothing(small: Path) -> None:
    (small.parent / "demo").mkdir()
    for name in ("a_x2.png", "before_after.png"):
        target = small.parent / "demo" / name
        target.write_text("mine")
        result = run("demo", small, "-o", small.parent / "demo")
        assert f"{name}: the file exists" in str(result.exception)
        target.unlink()


def test_a_video_is_named_by_the_scale_of_its_model(
    video_server: TritonServer, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.avi", frames=2)

    result = run("video", source, "--model", "rt4ksr_x3_video", "--url", video_server.grpc_url)

    assert result.exit_code == 0, result.output
    assert (tmp_path / "in_x3.mkv").is_file()
