"""Every encoder in every container, and what of a source each container keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt4ksr_client import Upscaler
from rt4ksr_client.errors import VideoError
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_client.video import Progress, VideoOptions, upscale_video
from support.videos import (
    FAST,
    av,
    decoded,
    joined,
    make_video,
    muxed,
    numbered,
    numbers,
    seconds,
    sound_of,
    steady,
    uneven,
)

pytestmark = pytest.mark.server

HELD = {
    "libx264": {".mkv", ".mp4", ".m4v", ".mov"},
    "libx265": {".mkv", ".mp4", ".m4v", ".mov"},
    "libsvtav1": {".mkv", ".webm", ".mp4", ".m4v"},
    "libvpx-vp9": {".mkv", ".webm", ".mp4", ".m4v"},
    "ffv1": {".mkv", ".mp4", ".m4v"},
}
"""Hardware encoders need a driver: see the test of encoders that do not work."""
SUFFIXES = (".mkv", ".webm", ".mp4", ".m4v", ".mov")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("codec", HELD)
def test_every_encoder_works_in_every_container_or_is_rejected_before_the_work(
    video_upscaler: Upscaler, tmp_path: Path, codec: str, suffix: str
) -> None:
    source, target = make_video(tmp_path / "in.mp4", frames=4, when=uneven), tmp_path / f"o{suffix}"
    options = VideoOptions(codec=codec, segment_frames=3)
    if suffix not in HELD[codec]:
        with pytest.raises(VideoError, match=r"cannot hold .*: try \.mkv"):
            upscale_video(source, target, video_upscaler, options, on_progress=no_frame)
        assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
        return

    upscale_video(source, target, video_upscaler, options)

    frames = decoded(target)
    assert [(frame.width, frame.height) for frame in frames] == [(128, 96)] * 4
    shown = [float(frame.pts * frame.time_base) for frame in frames]
    assert shown == pytest.approx([float(time) for time in seconds(source)], abs=0.0006)
    with av.open(str(target)) as container:
        tag = container.streams.video[0].codec_context.codec_tag
    assert tag == "hvc1" or codec != "libx265" or suffix == ".mkv"


def no_frame(progress: Progress) -> None:
    pytest.fail("a frame was upscaled")


@pytest.mark.parametrize(
    "options",
    [
        VideoOptions(preset="nonsense"),
        VideoOptions(codec="libsvtav1", pixel_format="yuv444p"),
        VideoOptions(codec="h264_nvenc"),
        VideoOptions(codec="hevc_nvenc"),
        VideoOptions(codec="av1_nvenc"),
    ],
    ids=["preset", "pixel format", "h264_nvenc", "hevc_nvenc", "av1_nvenc"],
)
def test_an_encoder_that_does_not_work_is_named_before_the_work(
    video_upscaler: Upscaler, tmp_path: Path, options: VideoOptions
) -> None:
    if options.codec not in HELD and Path("/dev/nvidiactl").exists():
        pytest.skip("there is an NVIDIA driver, so this encoder may work")
    source = make_video(tmp_path / "in.mp4", frames=2)

    with pytest.raises(VideoError, match=rf"^{options.codec or 'libx264'}: .*try another --codec"):
        upscale_video(source, tmp_path / "out.mkv", video_upscaler, options, on_progress=no_frame)

    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mp4", ".mov"])
@pytest.mark.parametrize(("timecode", "later"), [("01:02:03:04", "01:02:04:04")])
def test_a_time_code_is_kept(
    video_upscaler: Upscaler, tmp_path: Path, suffix: str, timecode: str, later: str
) -> None:
    def with_timecode(container: Any) -> None:
        container.streams.video[0].metadata["timecode"] = timecode

    made = make_video(tmp_path / "made.mp4", frames=50)
    source = muxed(tmp_path / "in.mov", made, edit=with_timecode)
    options = VideoOptions(preset="ultrafast", start_s=1.0)
    if suffix == ".webm":
        options = replace(options, codec="libvpx-vp9", preset=None)

    upscale_video(source, tmp_path / f"out{suffix}", video_upscaler, options)
    upscale_video(source, tmp_path / f"all{suffix}", video_upscaler, replace(options, start_s=None))

    for name, expected in (("all", timecode), ("out", later)):
        with av.open(str(tmp_path / f"{name}{suffix}")) as container:
            tags = {key.lower(): tag for key, tag in container.streams.video[0].metadata.items()}
        assert tags["timecode"] == expected


@pytest.mark.parametrize("source_suffix", [".mkv", ".ts", ".mp4"])
def test_matroska_declares_a_rate_that_is_constant(
    video_upscaler: Upscaler, tmp_path: Path, source_suffix: str
) -> None:
    def ntsc(index: int) -> int:
        return index * 3003

    source = make_video(tmp_path / f"in{source_suffix}", frames=40, when=ntsc)
    upscale_video(source, tmp_path / "out.mkv", video_upscaler, FAST)
    with av.open(str(tmp_path / "out.mkv")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == pytest.approx(Fraction(30000, 1001))
        assert stream.guessed_rate == stream.average_rate


def test_matroska_declares_no_rate_where_it_varies(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    def slides(index: int) -> int:
        return [0, 90000, 450000, 540000, 1000000][index]

    source = make_video(tmp_path / "in.mp4", frames=5, when=slides)
    upscale_video(
        source, tmp_path / "out.mkv", video_upscaler, FAST
    )  # it does not end early, either
    assert default_duration(tmp_path / "out.mkv") is None
    assert [round(float(time), 2) for time in seconds(tmp_path / "out.mkv")] == [0, 1, 5, 6, 11.11]


def default_duration(path: Path) -> int | None:
    content = path.read_bytes()
    place = content.find(b"\x23\xe3\x83")
    return None if place < 0 else int.from_bytes(content[place + 4 : place + 8], "big")


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_another_video_with_reordered_frames_is_copied(
    video_upscaler: Upscaler, tmp_path: Path, suffix: str
) -> None:
    reordered = {"bf": "3", "b_strategy": "0"}
    made = [
        make_video(tmp_path / f"{name}.mp4", frames=40, draw=numbered, encoder=reordered)
        for name in "ab"
    ]
    source = muxed(tmp_path / "in.mkv", *made)

    upscale_video(source, tmp_path / f"out{suffix}", video_upscaler, FAST)

    with av.open(str(tmp_path / f"out{suffix}")) as container:
        copied = list(container.decode(video=1))
    assert numbers(frame.to_ndarray(format="rgb24") for frame in copied) == list(range(40))
    times = [float(frame.pts * frame.time_base) for frame in copied]
    assert times == pytest.approx([index / 25 for index in range(40)], abs=0.001)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_recording_that_begins_late_begins_at_zero(
    video_upscaler: Upscaler, tmp_path: Path, suffix: str
) -> None:
    def late(index: int) -> int:
        return 20 * 3600 * 90000 + steady(index)

    source = make_video(tmp_path / "in.ts", frames=25, when=late)
    options = VideoOptions(preset="ultrafast", start_s=0.4)
    upscale_video(source, tmp_path / f"out{suffix}", video_upscaler, FAST)
    upscale_video(source, tmp_path / f"part{suffix}", video_upscaler, options)

    for name, frames in (("out", 25), ("part", 15)):
        times = [float(time) for time in seconds(tmp_path / f"{name}{suffix}")]
        assert times == pytest.approx([index / 25 for index in range(frames)], abs=0.001)


def test_sound_that_is_longer_than_the_picture_is_no_file_that_ends_early(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    picture = make_video(tmp_path / "short.mp4", frames=5)
    sound = make_video(tmp_path / "long.mp4", frames=75, sound=True)
    source = muxed(tmp_path / "in.mkv", picture, sound, kinds=("video", "audio"))

    upscale_video(source, tmp_path / "out.mkv", video_upscaler, FAST)

    assert len(sound_of(tmp_path / "out.mkv")) == len(sound_of(sound))


def test_a_stream_that_begins_in_the_middle_is_left_out_with_a_warning(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    def noise(index: int, size: tuple[int, int]) -> Any:
        drawn = np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3))
        return drawn.astype(np.uint8)

    lossless = {"crf": "0", "preset": "ultrafast"}
    first = make_video(tmp_path / "1.ts", frames=30, size=(480, 360), draw=noise, encoder=lossless)
    assert first.stat().st_size > 5_000_000, "FFmpeg looks for streams in the first 5 MB"

    def later(index: int) -> int:
        return steady(index + 30)

    def last(index: int) -> int:
        return steady(index + 40)

    second = make_video(tmp_path / "2.ts", frames=10, size=(480, 360), sound=True, when=later)
    # FFmpeg looks at the end, too.
    end = make_video(
        tmp_path / "3.ts", frames=5, size=(480, 360), draw=noise, encoder=lossless, when=last
    )
    source = joined(tmp_path / "in.ts", first, second, end)

    with pytest.warns(
        PictureWarning, match="audio that begins in the middle of the file: left out"
    ):
        done = upscale_video(source, tmp_path / "out.mkv", video_upscaler, FAST)

    assert done.done == len(decoded(tmp_path / "out.mkv")) == 45


def test_upscaled_frames_are_used_for_another_container_after_an_error(
    video_upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=12)

    @contextmanager
    def failing(path: Path, frames: int) -> Iterator[None]:
        yield
        raise VideoError("broken")

    with monkeypatch.context() as patch:
        patch.setattr("rt4ksr_client.video.muxer.nothing_lost", failing)
        with pytest.raises(VideoError, match=r"broken: .* used with: -o .*out\.mkv --resume"):
            upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)
    done = upscale_video(source, tmp_path / "out.mkv", video_upscaler, FAST, resume=True)

    assert (done.done, done.resumed) == (12, 12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mkv"]
    assert len(decoded(tmp_path / "out.mkv")) == 12


def test_a_run_that_interlacing_stopped_continues_with_deinterlacing(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    def later(index: int) -> int:
        return steady(index + 25)

    fields = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    source = joined(
        tmp_path / "in.ts",
        make_video(tmp_path / "1.ts", frames=25, draw=numbered),
        make_video(tmp_path / "2.ts", frames=20, draw=numbered, when=later, encoder=fields),
    )
    # A number of frames keeps the run from looking at all of the file beforehand.
    options = replace(FAST, segment_frames=5, frames=45)
    with pytest.raises(VideoError, match="add --deinterlace"):
        upscale_video(source, tmp_path / "out.mkv", video_upscaler, options)
    options = replace(options, deinterlace=True)
    done = upscale_video(source, tmp_path / "out.mkv", video_upscaler, options, resume=True)

    assert done.done == 45
    assert done.resumed >= 15
    frames = [frame.to_ndarray(format="rgb24") for frame in decoded(tmp_path / "out.mkv")]
    assert numbers(frames) == [*range(25), *range(20)]


def test_frames_hidden_by_an_edit_list_are_counted(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    def begin_at_frame_2(packet: Any) -> None:
        packet.pts -= 2 * 3600
        packet.dts -= 2 * 3600

    made = make_video(tmp_path / "made.mp4", frames=10, draw=numbered)
    source = muxed(tmp_path / "in.mp4", made, each=begin_at_frame_2)

    with pytest.warns(PictureWarning, match="hidden by the file's edit list.*: 2"):
        done = upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)

    assert done.done == 8
    frames = decoded(tmp_path / "out.mp4")
    assert numbers(frame.to_ndarray(format="rgb24") for frame in frames) == list(range(2, 10))


def test_frames_before_zero_are_shown(video_upscaler: Upscaler, tmp_path: Path) -> None:
    def from_frame_5(packet: Any) -> None:
        packet.pts -= 200
        packet.dts -= 200

    made = make_video(tmp_path / "made.mkv", frames=20, draw=numbered, encoder={"bf": "0"})
    options = {"avoid_negative_ts": "disabled"}
    source = muxed(tmp_path / "in.mkv", made, each=from_frame_5, options=options)

    with pytest.warns(PictureWarning, match="without a usable time, given one: 5"):
        upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)

    frames = decoded(tmp_path / "out.mp4")
    assert numbers(frame.to_ndarray(format="rgb24") for frame in frames) == list(range(20))


def test_joined_matroska_files_run_on(video_upscaler: Upscaler, tmp_path: Path) -> None:
    made = make_video(tmp_path / "made.mkv", frames=40, draw=numbered, encoder={"bf": "3"})
    source = joined(tmp_path / "in.mkv", made, made)

    upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)

    times = seconds(tmp_path / "out.mp4")
    assert [float(time) for time in times] == pytest.approx([n / 25 for n in range(80)], abs=0.002)
