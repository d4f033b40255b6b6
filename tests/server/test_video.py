"""Videos upscaled through a real tritonserver with a nearest-neighbour model."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, ExitStack
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rt4ksr_client import Upscaler
from rt4ksr_client.errors import VideoError
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_client.video import VideoOptions, upscale_video
from rt4ksr_client.video.decoding import nothing_lost
from rt4ksr_server import TritonServer
from support.videos import (
    FAST,
    av,
    centre,
    counted,
    decoded,
    joined,
    make_video,
    numbered,
    numbers,
    seconds,
    sound_of,
    stored_without_times,
    uneven,
)

pytestmark = pytest.mark.server


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_every_frame_keeps_its_time_at_a_variable_frame_rate(
    video_upscaler: Upscaler, tmp_path: Path, suffix: str
) -> None:
    source = make_video(tmp_path / f"in.{suffix}", when=uneven)

    done = upscale_video(source, tmp_path / f"out.{suffix}", video_upscaler, FAST)

    assert done.done == 30
    assert seconds(tmp_path / f"out.{suffix}") == seconds(source)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"in.{suffix}", f"out.{suffix}"]


@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
def test_times_are_exact_across_segments_with_reordered_frames(
    video_upscaler: Upscaler, tmp_path: Path, preset: str
) -> None:
    source = make_video(tmp_path / "in.mp4", when=uneven, draw=counted)
    options = VideoOptions(preset=preset, segment_frames=7)

    upscale_video(source, tmp_path / "out.mp4", video_upscaler, options)

    assert seconds(tmp_path / "out.mp4") == seconds(source)
    levels = [int(centre(frame)[0]) for frame in decoded(tmp_path / "out.mp4")]
    assert levels == pytest.approx([16 + 2 * i for i in range(30)], abs=2)


def test_interlaced_video_is_rejected_unless_deinterlaced(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    fields = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    source = make_video(tmp_path / "in.mp4", frames=10, draw=counted, encoder=fields)

    with pytest.raises(VideoError, match="--deinterlace"):
        upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)
    upscale_video(source, tmp_path / "out.mp4", video_upscaler, VideoOptions(deinterlace=True))

    assert not any(frame.interlaced_frame for frame in decoded(tmp_path / "out.mp4"))
    assert seconds(tmp_path / "out.mp4") == seconds(source)


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_is_applied_as_players_do(
    video_upscaler: Upscaler, tmp_path: Path, rotation: int
) -> None:
    def top_left_is_white(index: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        frame = np.zeros((size[1], size[0], 3), np.uint8)
        frame[: size[1] // 2, : size[0] // 2] = 255
        return frame

    source = make_video(
        tmp_path / "in.mp4", frames=2, size=(64, 32), draw=top_left_is_white, rotation=rotation
    )
    # FFmpeg's angle is counterclockwise, as that of rot90.
    stored = top_left_is_white(0, (64, 32))
    expected = np.rot90(stored, decoded(source)[0].rotation // 90).repeat(2, 0).repeat(2, 1)

    upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)

    frame = decoded(tmp_path / "out.mp4")[0]
    assert frame.rotation == 0
    shown = frame.reformat(format="rgb24").to_ndarray().astype(int)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean() < 3


def test_the_pixel_aspect_ratio_is_kept(video_upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2, aspect=Fraction(16, 11))

    upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)

    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)


def test_odd_sizes_are_padded_to_what_420_can_hold(
    video_server: TritonServer, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2, size=(63, 47), pixel_format="yuv444p")

    with Upscaler(video_server.grpc_url, model="rt4ksr_x3_video") as video_upscaler:
        upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)

    assert (decoded(tmp_path / "out.mp4")[0].width, decoded(tmp_path / "out.mp4")[0].height) == (
        190,
        142,
    )


def test_a_part_starts_at_zero_with_its_sound(video_upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames=100, sound=True, draw=counted)
    options = VideoOptions(preset="ultrafast", start_s=1.0, end_s=3.0)

    done = upscale_video(source, tmp_path / "out.mp4", video_upscaler, options)

    assert done.done == 50
    times = seconds(tmp_path / "out.mp4")
    assert (times[0], times[-1]) == (Fraction(0), Fraction(49, 25))
    assert int(centre(decoded(tmp_path / "out.mp4")[0])[0]) == pytest.approx(16 + 50, abs=2)
    tone = sound_of(tmp_path / "out.mp4")
    assert 0 <= tone[0][0] < 0.03
    assert 1.9 < tone[-1][0] < 2.0


def test_subtitles_chapters_and_metadata_are_kept(video_upscaler: Upscaler, tmp_path: Path) -> None:
    plain_video = make_video(tmp_path / "plain.mkv", frames=50)
    captions = tmp_path / "captions.srt"
    captions.write_text("1\n00:00:00,500 --> 00:00:01,500\nHello\n")
    source = tmp_path / "in.mkv"
    with (
        av.open(str(plain_video)) as picture,
        av.open(str(captions)) as text,
        av.open(str(source), "w") as output,
    ):
        copies = [
            (picture, output.add_stream_from_template(picture.streams.video[0])),
            (text, output.add_stream_from_template(text.streams.subtitles[0])),
        ]
        output.metadata["title"] = "A talk"
        output.set_chapters(
            [
                {
                    "id": 1,
                    "start": 0,
                    "end": 1000,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": "One"},
                }
            ]
        )
        for container, stream in copies:
            for packet in container.demux():
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)

    upscale_video(source, tmp_path / "out.mkv", video_upscaler, FAST)

    with av.open(str(tmp_path / "out.mkv")) as result:
        assert result.metadata["title"] == "A talk"
        assert [c["metadata"]["title"] for c in result.chapters()] == ["One"]
        words = [bytes(p) for p in result.demux(subtitles=0) if p.size]
    assert words == [b"Hello"]


def test_the_log_names_what_is_read_copied_and_written(
    video_upscaler: Upscaler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=10, sound=True)

    with caplog.at_level("INFO", "rt4ksr_client.video"):
        upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)

    messages = "\n".join(caplog.messages)
    assert "in.mp4: h264, 64x48, 25 frames/s, 0.4 s" in messages
    assert "out.mp4: copies audio stream 1" in messages
    assert "000000.mkv: 10 frames" in messages
    assert "out.mp4: written from 1 segments" in messages


@pytest.mark.parametrize("content", [b"", b"not a video" * 50])
def test_a_file_that_is_not_a_video_is_rejected(
    video_upscaler: Upscaler, tmp_path: Path, content: bytes
) -> None:
    source = tmp_path / "in.mp4"
    source.write_bytes(content)

    with pytest.raises(VideoError, match="cannot be read as a video"):
        upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_a_truncated_source_is_reported(video_upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", frames=60, draw=counted)
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) * 2 // 3])

    with pytest.warns(PictureWarning, match="ends early"):
        upscale_video(source, tmp_path / "out.mkv", video_upscaler, FAST)


def test_an_unknown_format_is_rejected_before_the_work(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2)

    with pytest.raises(VideoError, match=r"\.mkv"):
        upscale_video(source, tmp_path / "out.xyz", video_upscaler, FAST)


@pytest.mark.parametrize("suffix", [".avi", ".h264"])
def test_frames_without_usable_times_come_out_in_order(
    video_upscaler: Upscaler, tmp_path: Path, suffix: str
) -> None:
    fields = {"bf": "3", "b_strategy": "0"}
    source = make_video(tmp_path / "in.h264", frames=40, draw=numbered, encoder=fields)
    if suffix == ".avi":
        source = stored_without_times(source, tmp_path / "in.avi")
    options = VideoOptions(preset="ultrafast", segment_frames=16, fps=Fraction(25))

    done = upscale_video(source, tmp_path / "out.mp4", video_upscaler, options)

    assert done.done == 40
    frames = decoded(tmp_path / "out.mp4")
    assert numbers(frame.to_ndarray(format="rgb24") for frame in frames) == list(range(40))
    assert seconds(tmp_path / "out.mp4") == [Fraction(index, 25) for index in range(40)]


def test_picture_and_sound_of_joined_recordings_run_on(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    recordings = [make_video(tmp_path / f"{name}.ts", sound=True) for name in (1, 2)]
    source = joined(tmp_path / "in.ts", *recordings)
    with pytest.warns(PictureWarning, match="times step back, moved: 1"):
        upscale_video(source, tmp_path / "out.mkv", video_upscaler, FAST)

    times = seconds(tmp_path / "out.mkv")
    assert len(times) == 60
    assert times[-1] - times[0] == pytest.approx(59 / 25, abs=0.002)
    sound = [float(time) for time, _ in sound_of(tmp_path / "out.mkv")]
    assert sound == sorted(sound)
    assert sound[-1] - float(times[-1]) == pytest.approx(0, abs=0.1)


def test_nothing_is_replaced_by_a_file_with_too_few_frames(
    video_upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = make_video(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    target.write_bytes(b"before")

    def one_more(path: Path, frames: int) -> AbstractContextManager[None]:
        return nothing_lost(path, frames + 1)

    monkeypatch.setattr("rt4ksr_client.video.muxer.nothing_lost", one_more)

    with pytest.raises(VideoError, match="30 of 31 frames"):
        upscale_video(source, target, video_upscaler, FAST)

    assert target.read_bytes() == b"before"
    assert (tmp_path / ".out.mp4.parts" / "000000.json").exists()


def test_damaged_sound_is_left_out_and_the_rest_kept(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.ts", frames=50, sound=True)
    content, dice = bytearray(source.read_bytes()), random.Random(2)
    for _ in range(20):
        content[dice.randrange(len(content) * 2 // 5, len(content) * 4 // 5)] ^= 255
    source.write_bytes(content)

    with pytest.warns(PictureWarning, match="damaged packets of other streams skipped"):
        done = upscale_video(source, tmp_path / "out.mkv", video_upscaler, FAST)

    assert len(decoded(tmp_path / "out.mkv")) == done.done >= 45
    assert len(sound_of(tmp_path / "out.mkv")) >= 60


@pytest.mark.parametrize("flag", [0, 1])
def test_the_flag_of_the_default_video_is_kept(
    video_upscaler: Upscaler, tmp_path: Path, flag: int
) -> None:
    videos = [make_video(tmp_path / f"{n}.mp4", encoder={"bf": "0"}) for n in "ab"]
    source = tmp_path / "in.mkv"
    with ExitStack() as stack:
        output = stack.enter_context(av.open(str(source), "w"))
        inputs = [stack.enter_context(av.open(str(video))) for video in videos]
        copies = [output.add_stream_from_template(each.streams.video[0]) for each in inputs]
        for index, stream in enumerate(copies):
            stream.disposition = int(index == flag)
        for container, stream in zip(inputs, copies, strict=True):
            for packet in container.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)

    upscale_video(source, tmp_path / "out.mkv", video_upscaler, FAST)

    with av.open(str(tmp_path / "out.mkv")) as result:
        found = [(s.width, bool(s.disposition & 1)) for s in result.streams.video]
    assert found == [(128, True), (64, False)]
