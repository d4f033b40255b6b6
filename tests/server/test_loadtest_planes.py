"""The load test with models of 4:2:0 video: what it sends, counts and finds wrong."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2

from rt4ksr_client.contract import MODELS
from rt4ksr_loadtest.result import RunResult, read_result
from rt4ksr_server import TritonServer
from support.nearest_models import nearest_config, nearest_graph, write_model
from support.servers import RepositoryFactory, ServerFactory
from support.videos import make_video

PROGRAM = (sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "loadtest")
SHORT = ("--profile=steady", "--duration=2s", "--users=2", "--warm-up=0", "--check-share=1")
FRAME = ("--frame-size", "256x128")
RGB, EIGHT, SIXTEEN = (
    MODELS[name] for name in ("rt4ksr_x2", "rt4ksr_x2_video", "rt4ksr_x2_video16")
)
MIX = f"{RGB.name}:1,{EIGHT.name}:2,{SIXTEEN.name}:1"
WRONG, OTHER = "wrong_now_and_then", "another_projects"
WRONG_EVERY = 10
FRAMES_PER_ANSWER = 512 * 256 / (3840 * 2160)
CALIBRATED_MODEL = Path(__file__).parents[1] / "support" / "calibrated_model.py"


@pytest.fixture(scope="module")
def server(
    server_with: ServerFactory, nearest_repository: RepositoryFactory
) -> Iterator[TritonServer]:
    """A server of models of both colours, one that is wrong now and then, and one of others."""
    repository = nearest_repository([RGB, EIGHT, SIXTEEN])
    config = nearest_config(dataclasses.replace(EIGHT, name=WRONG), max_batch_size=0)
    config.backend = "python"
    config.ClearField("dynamic_batching")
    config.instance_group[0].kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    for tensor in (*config.input, *config.output):
        tensor.dims[:] = [-1, *tensor.dims]
    config.parameters["delay_s"].string_value = "0.01"
    config.parameters["wrong_every"].string_value = str(WRONG_EVERY)
    (repository / WRONG / "1").mkdir(parents=True)
    shutil.copy(CALIBRATED_MODEL, repository / WRONG / "1" / "model.py")
    (repository / WRONG / "config.pbtxt").write_text(str(config))
    config = nearest_config(dataclasses.replace(RGB, name=OTHER))
    config.parameters.clear()
    write_model(repository, config, nearest_graph(RGB))
    with server_with(repository) as running:
        yield running


@pytest.fixture(scope="module")
def runs(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What short runs found, by name: their result, or their output."""
    folder = tmp_path_factory.mktemp("runs")
    clip = make_video(folder / "clip.mkv", frames=3, size=(260, 132), pixel_format="yuv420p10le")
    commands: dict[str, tuple[str, ...]] = {
        "grpc": ("--model", SIXTEEN.name, "--transport", "grpc", *FRAME),
        WRONG: ("--model", WRONG, "--url", f"http://{server.http_url}", *FRAME),
        "mix": ("--model", MIX, "--transport", "shm", "--frames", str(clip), "--tile-px", "130"),
        OTHER: ("--model", f"{EIGHT.name},{OTHER}"),
    }

    def run(name: str) -> RunResult | str:
        command = [*PROGRAM, "--url", server.grpc_url, *commands[name], *SHORT]
        done = subprocess.run(
            [*command, "--out", str(folder / name)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == (name in (WRONG, OTHER)), done.stdout + done.stderr
        return done.stderr if name == OTHER else read_result(folder / name)

    with ThreadPoolExecutor() as threads:
        return dict(zip(commands, threads.map(run, commands), strict=True))


@pytest.mark.parametrize(("name", "bytes_of_a_px"), [("grpc", 3), (WRONG, 1.5)])
def test_planes_are_counted_by_their_bytes_and_frames_by_their_luma(
    runs: dict[str, Any], name: str, bytes_of_a_px: float
) -> None:
    result: RunResult = runs[name]

    totals = result.totals
    of_an_output_px = totals.wire_mb_per_s / totals.output_mpx_per_s
    assert of_an_output_px == pytest.approx(bytes_of_a_px * (1 + 1 / 4))
    frames = sum(i.goodput_fps * i.length_s for i in result.intervals)
    assert frames == pytest.approx(totals.right * FRAMES_PER_ANSWER, rel=0.01)


def test_rgb_and_planes_are_mixed_in_one_run_and_the_report_says_what_went(
    runs: dict[str, Any],
) -> None:
    result: RunResult = runs["mix"]

    assert result.totals.failures == {}
    assert result.totals.right > 0
    assert result.settings.models == {RGB.name: 0.25, EIGHT.name: 0.5, SIXTEEN.name: 0.25}
    assert set(result.settings.input_size_px.values()) == {(130, 130)}
    assert result.machine.model_frame_formats == {
        RGB.name: "RGB, 8 bits",
        EIGHT.name: "4:2:0, 8 bits",
        SIXTEEN.name: "4:2:0, 16 bits",
    }


def test_wrong_planes_are_wrong_pictures(runs: dict[str, Any]) -> None:
    totals = runs[WRONG].totals

    assert totals.failures == {"wrong picture": totals.requests // WRONG_EVERY}
    assert totals.requests >= WRONG_EVERY


def test_a_model_that_takes_no_frames_is_an_error_before_the_run(runs: dict[str, Any]) -> None:
    assert f"{OTHER}: not a model that takes frames" in runs[OTHER]
    assert "Traceback" not in runs[OTHER]
