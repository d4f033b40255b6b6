"""``rt4ksr evaluate --url``: the answers of a real tritonserver are what is scored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt4ksr_client import Upscaler
from rt4ksr_client.cli import main
from rt4ksr_client.contract import MODELS
from rt4ksr_export.checkpoint import load_network, packaged_weights
from rt4ksr_export.video_evaluation import CODECS, clips, network_method, server_method
from rt4ksr_server import TritonServer
from support.servers import ServerFactory


@pytest.fixture(scope="module")
def server(server_with: ServerFactory, root: Path) -> Iterator[TritonServer]:
    with server_with(root / "model_repository") as running:
        yield running


@pytest.fixture
def picture(photograph: Path, tmp_path: Path) -> Path:
    path = tmp_path / "bark.png"
    Image.open(photograph).crop((400, 250, 600, 410)).save(path)
    return path


@pytest.mark.parametrize("model", ["rt4ksr_x2_video", "rt4ksr_x2_video16", "rt4ksr_x2"])
def test_a_served_model_upscales_frames_as_its_weights_do(
    server: TritonServer, model: str, picture: Path
) -> None:
    frame = clips(np.asarray(Image.open(picture)), 2)[0][0]
    network = load_network(packaged_weights(MODELS[model].weights_name))
    expected = network_method(network)(frame)

    with Upscaler(server.grpc_url, model=model) as upscaler:
        upscaled = server_method(upscaler)(frame)

    for plane, wanted in ((upscaled.luma, expected.luma), (upscaled.chroma, expected.chroma)):
        assert plane.dtype == np.uint8
        difference = np.abs(plane.astype(int) - wanted)
        assert difference.max() <= 1
        assert (difference == 0).mean() > 0.99


def test_the_command_scores_the_servers_video_model(
    server: TritonServer, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.grpc_url
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("evaluate", "--data", str(picture), "--scale", "2", "--video", "--json"),
                *("--url", url),
            ]
        )

    assert not ended.value.code
    summary = json.loads(capsys.readouterr().out)["summary"]
    served = [row for row in summary if row["method"] == f"rt4ksr_x2_video at {url}"]
    assert [row["condition"] for row in served] == list(CODECS)
    assert all(row["gain_db"] > 0 for row in served)


def test_a_video_model_is_not_scored_on_photographs(
    server: TritonServer, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("evaluate", "--data", str(picture), "--scale", "2"),
                *("--url", server.grpc_url, "--model", "rt4ksr_x2_video"),
            ]
        )

    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "rt4ksr_x2_video is for video in 4:2:0: score it with --video" in said
