"""Videos upscaled through a real tritonserver with a nearest-neighbour model."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rt4ksr_client import Upscaler
from rt4ksr_client.errors import PictureError, VideoError
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_client.video import VideoOptions, source_models, upscale_video
from rt4ksr_client.video.colours import ColourTags
from rt4ksr_client.video.decoding import nothing_lost
from rt4ksr_client.video.planes import from_video_frame
from rt4ksr_server import TritonServer
from support.videos import (
    COLOUR,
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


@pytest.mark.parametrize("levels", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [6, 1], ids=["BT.601", "BT.709"])
def test_colours_and_their_tags_stay_what_they_are(
    video_upscaler: Upscaler, tmp_path: Path, matrix: int, levels: int
) -> None:
    source = make_video(
        tmp_path / "in.mp4", frames=3, colour=(matrix, levels), transfer=matrix, primaries=matrix
    )

    upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)

    frame = decoded(tmp_path / "out.mp4")[0]
    assert (int(frame.colorspace), int(frame.color_range)) == (matrix, levels)
    assert (int(frame.color_trc), int(frame.color_primaries)) == (matrix, matrix)
    assert np.abs(centre(frame) - COLOUR).max() <= 3


def test_untagged_sd_is_taken_for_bt601_and_tagged(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2, colour=(2, 1), transfer=2, primaries=2)

    upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)

    frame = decoded(tmp_path / "out.mp4")[0]
    tags = frame.colorspace, frame.color_primaries, frame.color_trc
    assert [int(tag) for tag in tags] == [6, 6, 6]
    assert np.abs(centre(frame) - COLOUR).max() <= 3


HDR10 = {
    "x265-params": "log-level=none:hdr10=1:max-cll=1000,400:master-display="
    "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)",
    "chroma_sample_location": "topleft",
}


def codes(frame: Any) -> npt.NDArray[np.int64]:
    """Luma, as it is stored."""
    return np.asarray(from_video_frame(frame).luma).astype(np.int64)


def tags_of(path: Path) -> ColourTags:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return ColourTags.of(next(container.decode(stream)), stream, path)


@pytest.mark.parametrize(
    ("pixel_format", "out_format", "codec"),
    [
        ("yuv420p10le", "yuv420p10le", "hevc"),
        ("yuv420p12le", "yuv420p12le", "hevc"),
        ("yuv422p10le", "yuv420p10le", "hevc"),
        ("yuv444p", "yuv420p", "h264"),
        ("yuv420p", "yuv420p", "h264"),
    ],
)
@pytest.mark.parametrize("tags", [(9, 9, 16), (9, 9, 18)], ids=["PQ", "HLG"])
def test_depth_and_hdr_stay_what_they_are(
    video_server: TritonServer,
    tmp_path: Path,
    pixel_format: str,
    out_format: str,
    codec: str,
    tags: tuple[int, int, int],
) -> None:
    matrix, primaries, transfer = tags
    source = make_video(
        tmp_path / "in.mkv",
        frames=3,
        codec="libx265",
        encoder=HDR10,
        pixel_format=pixel_format,
        colour=(matrix, 1),
        primaries=primaries,
        transfer=transfer,
    )
    model = "rt4ksr_x2_video16" if "1" in pixel_format[-4:] else "rt4ksr_x2_video"

    said = nullcontext() if codec == "hevc" else pytest.warns(PictureWarning, match="HDR10")
    with said, Upscaler(video_server.grpc_url, model=model) as upscaler:
        upscale_video(source, tmp_path / "out.mkv", upscaler, VideoOptions(crf=4))

    before, after = (decoded(tmp_path / name)[0] for name in ("in.mkv", "out.mkv"))
    assert after.format.name == out_format
    for name in ("colorspace", "color_primaries", "color_trc", "color_range"):
        assert getattr(after, name) == getattr(before, name)
    was, kept = tags_of(source), tags_of(tmp_path / "out.mkv")
    assert was.mastering_display == HDR10["x265-params"].rpartition("=")[2]
    if codec == "hevc":
        assert replace(kept, chroma_location=was.chroma_location) == was
    if "420" in pixel_format:
        assert kept.chroma_location == was.chroma_location == "topleft"
    steps = np.abs(codes(after)[16:-16:2, 16:-16:2] - codes(before)[8:-8, 8:-8])
    one_code = 1 if codec == "h264" else 64
    assert steps.max() <= 2 * one_code


@pytest.mark.parametrize(
    ("codec", "pixel_format", "matrix", "levels"),
    [("ffv1", "bgr0", 0, 2), ("libx264", "yuv444p", 6, 1), ("libx264", "yuvj444p", 1, 2)],
)
def test_video_with_all_of_its_chroma_goes_by_the_default_model(
    upscaler: Upscaler,
    video_upscaler: Upscaler,
    tmp_path: Path,
    codec: str,
    pixel_format: str,
    matrix: int,
    levels: int,
) -> None:
    """As RGB, which scores better; with a model for video its chroma is halved before."""
    encoder = {"crf": "4"} if codec == "libx264" else {}
    source = make_video(
        tmp_path / "in.mkv",
        frames=3,
        codec=codec,
        encoder=encoder,
        pixel_format=pixel_format,
        colour=(matrix, levels),
        draw=counted,
    )

    assert source_models(source, 2) == ["rt4ksr_x2", "rt4ksr_x2_video"]
    for name, used in (("rgb", upscaler), ("video", video_upscaler)):
        target = tmp_path / f"{name}.mkv"
        upscale_video(source, target, used, FAST)
        frames = decoded(target)
        assert [frame.width for frame in frames] == [2 * frame.width for frame in decoded(source)]
        assert frames[0].format.name in ("yuv420p", "yuvj420p")
        tags = int(frames[0].colorspace), int(frames[0].color_range)
        assert tags == ((1, 1) if codec == "ffv1" else (matrix, levels))
        for index, frame in enumerate(frames):
            assert np.abs(centre(frame) - (16 + 2 * index)).max() <= 2


def test_video_of_half_its_chroma_is_not_for_a_model_of_pictures(
    upscaler: Upscaler, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2)

    assert source_models(source, 2) == ["rt4ksr_x2_video"]
    with pytest.raises(PictureError, match="takes RGB pictures of 8 bits"):
        upscale_video(source, tmp_path / "out.mp4", upscaler, FAST)


def test_10_bits_for_a_model_of_8_become_8(video_upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2, pixel_format="yuv420p10le")

    with pytest.warns(PictureWarning, match="10 bits a value: upscaled with 8"):
        upscale_video(source, tmp_path / "out.mp4", video_upscaler, FAST)

    frame = decoded(tmp_path / "out.mp4")[0]
    assert frame.format.name == "yuv420p"
    assert np.abs(centre(frame) - COLOUR).max() <= 3


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
