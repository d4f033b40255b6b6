"""Long runs of ``rt4ksr video``: interrupted, resumed, without their server; sound in step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from rt4ksr_client import Upscaler
from rt4ksr_client.connection import TransportName
from rt4ksr_client.contract import MODELS
from rt4ksr_client.errors import VideoError
from rt4ksr_client.video import Progress, VideoOptions, upscale_video
from rt4ksr_server import TritonServer
from support.processes import becomes_true, free_port
from support.servers import RepositoryFactory
from support.videos import FAST, av, centre, counted, decoded, make_video, seconds, sound_of, uneven

pytestmark = pytest.mark.server


class _Stopped(Exception):  # noqa: N818 - not an error
    pass


def test_a_resumed_run_gives_the_file_of_an_uninterrupted_one(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=60, when=uneven, draw=counted, sound=True)
    options = VideoOptions(preset="medium", segment_frames=16)
    upscale_video(source, tmp_path / "whole.mp4", video_upscaler, options)

    def stop_at_40(progress: Progress) -> None:
        if progress.done == 40:
            raise _Stopped

    with pytest.raises(_Stopped):
        upscale_video(source, tmp_path / "out.mp4", video_upscaler, options, on_progress=stop_at_40)
    assert not (tmp_path / "out.mp4").exists()
    done = upscale_video(source, tmp_path / "out.mp4", video_upscaler, options, resume=True)

    assert done == Progress(done=60, expected=60, resumed=32)
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_resuming_with_other_options_is_rejected(video_upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames=10)

    def stop(progress: Progress) -> None:
        if progress.done == 8:
            raise _Stopped

    with pytest.raises(_Stopped):
        upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST, on_progress=stop)
    with pytest.raises(VideoError, match="other options"):
        upscale_video(
            source, tmp_path / "out.mp4", video_upscaler, VideoOptions(crf=30), resume=True
        )


def started(source: Path, target: Path, url: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "video"),
            *(str(source), "-o", str(target), "--url", url, "--preset", "ultrafast", *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_a_segment(target: Path, program: subprocess.Popen[str]) -> None:
    parts = target.with_name(f".{target.name}.parts")
    assert becomes_true(lambda: (parts / "000000.json").exists(), 60)
    assert program.poll() is None


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_file_and_can_be_resumed(
    video_server: TritonServer, tmp_path: Path, signal_number: int
) -> None:
    source, target = make_video(tmp_path / "in.mp4", frames=900, draw=counted), tmp_path / "out.mp4"
    program = started(source, target, video_server.grpc_url)
    wait_for_a_segment(target, program)
    program.send_signal(signal_number)
    _, stderr = program.communicate(timeout=30)

    assert program.returncode == 128 + signal_number
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert not target.exists()
    assert_it_resumes(source, target, video_server.grpc_url, frames=900)


def assert_it_resumes(source: Path, target: Path, url: str, *, frames: int) -> None:
    program = started(source, target, url, "--resume")
    stdout, stderr = program.communicate(timeout=60)
    assert program.returncode == 0, stderr
    assert "of them before" in stdout
    assert seconds(target) == seconds(source)
    assert len(decoded(target)) == frames


@pytest.mark.parametrize("transport", ["shm", "grpc", "http"])
def test_a_server_killed_and_started_again_costs_no_frame(
    nearest_repository: RepositoryFactory, tmp_path: Path, transport: TransportName
) -> None:
    repository = nearest_repository([MODELS["rt4ksr_x2_video"]])
    ports: dict[str, Any] = {"grpc_port": free_port(), "http_port": free_port()}
    source, target = make_video(tmp_path / "in.mp4", frames=700, draw=counted), tmp_path / "out.mp4"
    with TritonServer(repository, **ports) as doomed:
        url = doomed.http_url if transport == "http" else doomed.grpc_url
        program = started(source, target, url, "--transport", transport)
        wait_for_a_segment(target, program)
        os.kill(doomed.pid, signal.SIGKILL)
    with TritonServer(repository, **ports):
        _, stderr = program.communicate(timeout=60)

    assert program.returncode == 0, stderr
    assert seconds(target) == seconds(source)
    levels = [int(centre(frame)[0]) for frame in decoded(target)]
    assert levels == pytest.approx([16 + index * 2 % 224 for index in range(700)], abs=4)


def test_a_server_that_does_not_come_back_is_reported_and_finished_segments_are_kept(
    nearest_repository: RepositoryFactory, video_server: TritonServer, tmp_path: Path
) -> None:
    source, target = make_video(tmp_path / "in.mp4", frames=700, draw=counted), tmp_path / "out.mp4"
    with TritonServer(nearest_repository([MODELS["rt4ksr_x2_video"]])) as doomed:
        program = started(source, target, doomed.grpc_url, "--timeout", "2")
        wait_for_a_segment(target, program)
        os.kill(doomed.pid, signal.SIGKILL)
    _, stderr = program.communicate(timeout=30)

    assert program.returncode == 1
    assert "rt4ksr: error: no Triton server answers" in stderr
    assert "--resume continues" in stderr
    assert not target.exists()
    assert_it_resumes(source, target, video_server.grpc_url, frames=700)


def test_sound_is_copied_bit_for_bit_and_does_not_drift(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=750, size=(16, 16), sound=True)

    upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)

    assert sound_of(tmp_path / "out.mp4") == sound_of(source)
    assert seconds(tmp_path / "out.mp4")[-1] == Fraction(749, 25)


def test_the_command_counts_what_it_repaired(video_server: TritonServer, tmp_path: Path) -> None:
    source, target = make_video(tmp_path / "in.mkv", frames=60, draw=counted), tmp_path / "out.mkv"
    with av.open(str(source)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    content = bytearray(source.read_bytes())
    content[places[30] + 8 : places[30] + 16] = bytes(8)
    source.write_bytes(content)

    program = started(source, target, video_server.grpc_url, "--json")
    stdout, stderr = program.communicate(timeout=60)

    assert program.returncode == 0, stderr
    row = json.loads(stdout)
    assert row["frames"] == len(decoded(target)) >= 59
    assert row["damaged_packets"] + row["damaged_frames"] > 0
    assert "in.mkv: damaged packets skipped: 1" in stderr
    program = started(source, tmp_path / "strict.mkv", video_server.grpc_url, "--strict")
    _, stderr = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "leave out --strict" in stderr


@pytest.mark.parametrize(
    "name",
    ["2024-05-01T12:30:45", "http:x", "-y", "50%d", "a\nb|c'd\\ [e]", "x" * 251, "ä" * 125],
    ids=["colons", "protocol", "dash", "percent", "newline and quotes", "255 bytes", "umlauts"],
)
def test_a_name_may_have_any_characters(
    video_upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    source, target = Path(f"{name}.mkv"), Path(f"{name}.mp4")
    make_video(source, frames=8)
    options = VideoOptions(preset="ultrafast", segment_frames=4)

    def stop(progress: Progress) -> None:
        if progress.done == 6:
            raise _Stopped

    with pytest.raises(_Stopped):
        upscale_video(source, target, video_upscaler, options, on_progress=stop)
    done = upscale_video(source, target, video_upscaler, options, resume=True)

    assert (done.done, done.resumed) == (8, 4)
    assert {path.name for path in tmp_path.iterdir()} == {source.name, target.name}
    assert len(decoded(target)) == 8
