"""``rt4ksr video`` on a real tritonserver with a nearest-neighbour model."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rt4ksr_client import Upscaler
from rt4ksr_client.errors import VideoError
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_server import TritonServer

av = pytest.importorskip("av", reason="the video extra is not installed")

from rt4ksr_client.video import Progress, VideoOptions, upscale_video  # noqa: E402

pytestmark = pytest.mark.server

UNIT = Fraction(1, 90000)
FAST = VideoOptions(preset="ultrafast", crf=4)
COLOUR = (200, 40, 30)


def steady(index: int) -> int:
    return index * 3600


def uneven(index: int) -> int:
    return index * 3600 + (index % 3) * 701


def plain(index: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return np.full((size[1], size[0], 3), COLOUR, np.uint8)


def counted(index: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The frame's number as its gray level."""
    return np.full((size[1], size[0], 3), 16 + index * 2 % 224, np.uint8)


def make_video(
    path: Path,
    *,
    frames: int = 30,
    size: tuple[int, int] = (64, 48),
    when: Callable[[int], int] = steady,
    draw: Callable[[int, tuple[int, int]], npt.NDArray[np.uint8]] = plain,
    pixel_format: str = "yuv420p",
    colour: tuple[int, int] = (1, 1),
    transfer: int = 1,
    primaries: int = 1,
    aspect: Fraction = Fraction(1),
    rotation: int = 0,
    sound: bool = False,
    encoder: dict[str, str] = {},  # noqa: B006 - only read
) -> Path:
    """``colour``: number of the matrix, 1 for limited or 2 for full range."""
    matrix, levels = colour
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "4"} | encoder)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        context.time_base, context.sample_aspect_ratio = UNIT, aspect
        context.colorspace, context.color_range = matrix, levels
        context.color_trc, context.color_primaries = transfer, primaries
        if rotation:
            stream.set_display_rotation(rotation)
        audio: Any = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(index, size), format="rgb24").reformat(
                format=pixel_format,
                dst_colorspace=1 if matrix == 1 else 5,
                dst_color_range=levels,
            )
            frame.pts, frame.time_base = when(index), UNIT
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            _add_tone(container, audio, frames / 25)
    return path


def _add_tone(container: Any, stream: Any, duration_s: float) -> None:
    for start in range(0, int(duration_s * 48000), 1024):
        wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def decoded(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def seconds(path: Path) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in decoded(path)]


def centre(frame: Any) -> npt.NDArray[np.int64]:
    """The colour a player shows: by the tags the frame itself carries."""
    rgb = frame.reformat(
        format="rgb24", src_colorspace=1 if frame.colorspace == 1 else 5, dst_color_range=2
    ).to_ndarray()
    return np.asarray(rgb[rgb.shape[0] // 2, rgb.shape[1] // 2]).astype(np.int64)


def sound_of(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        packets = container.demux(audio=0)
        return [(p.pts * p.time_base, bytes(p)) for p in packets if p.size]


@pytest.fixture(scope="module")
def upscaler(nearest_server: TritonServer) -> Iterator[Upscaler]:
    with Upscaler(nearest_server.grpc_url, scale=2, timeout_s=30) as opened:
        yield opened


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_every_frame_keeps_its_time_where_the_rate_varies(
    upscaler: Upscaler, tmp_path: Path, suffix: str
) -> None:
    source = make_video(tmp_path / f"in.{suffix}", when=uneven)

    done = upscale_video(source, tmp_path / f"out.{suffix}", upscaler, FAST)

    assert done.done == 30
    assert seconds(tmp_path / f"out.{suffix}") == seconds(source)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"in.{suffix}", f"out.{suffix}"]


@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
def test_times_are_exact_across_segments_with_reordered_frames(
    upscaler: Upscaler, tmp_path: Path, preset: str
) -> None:
    source = make_video(tmp_path / "in.mp4", when=uneven, draw=counted)
    options = VideoOptions(preset=preset, segment_frames=7)

    upscale_video(source, tmp_path / "out.mp4", upscaler, options)

    assert seconds(tmp_path / "out.mp4") == seconds(source)
    levels = [int(centre(frame)[0]) for frame in decoded(tmp_path / "out.mp4")]
    assert levels == pytest.approx([16 + 2 * i for i in range(30)], abs=2)


@pytest.mark.parametrize("levels", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [6, 1], ids=["BT.601", "BT.709"])
def test_colours_are_the_sources_and_tagged_bt709(
    upscaler: Upscaler, tmp_path: Path, matrix: int, levels: int
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=3, colour=(matrix, levels))

    upscale_video(source, tmp_path / "out.mp4", upscaler, FAST)

    frame = decoded(tmp_path / "out.mp4")[0]
    assert (int(frame.colorspace), int(frame.color_range)) == (1, 1)
    assert np.abs(centre(frame) - COLOUR).max() <= 3


def test_untagged_sd_is_taken_for_bt601(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2, colour=(2, 1))

    upscale_video(source, tmp_path / "out.mp4", upscaler, FAST)

    assert np.abs(centre(decoded(tmp_path / "out.mp4")[0]) - COLOUR).max() <= 3


def test_interlaced_is_refused_unless_deinterlaced(upscaler: Upscaler, tmp_path: Path) -> None:
    fields = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    source = make_video(tmp_path / "in.mp4", frames=10, draw=counted, encoder=fields)

    with pytest.raises(VideoError, match="--deinterlace"):
        upscale_video(source, tmp_path / "out.mp4", upscaler, FAST)
    upscale_video(source, tmp_path / "out.mp4", upscaler, VideoOptions(deinterlace=True))

    assert not any(frame.interlaced_frame for frame in decoded(tmp_path / "out.mp4"))
    assert seconds(tmp_path / "out.mp4") == seconds(source)


def test_sound_is_copied_bit_for_bit_and_does_not_drift(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames=750, size=(16, 16), sound=True)

    upscale_video(source, tmp_path / "out.mp4", upscaler, FAST)

    assert sound_of(tmp_path / "out.mp4") == sound_of(source)
    assert seconds(tmp_path / "out.mp4")[-1] == Fraction(749, 25)


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_is_applied_as_a_player_does(
    upscaler: Upscaler, tmp_path: Path, rotation: int
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

    upscale_video(source, tmp_path / "out.mp4", upscaler, FAST)

    frame = decoded(tmp_path / "out.mp4")[0]
    assert frame.rotation == 0
    shown = frame.reformat(format="rgb24").to_ndarray().astype(int)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean() < 3


def test_the_shape_of_pixels_is_kept(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2, aspect=Fraction(16, 11))

    upscale_video(source, tmp_path / "out.mp4", upscaler, FAST)

    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)


def test_odd_sizes_are_padded_to_what_420_can_hold(
    nearest_server: TritonServer, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2, size=(63, 47), pixel_format="yuv444p")

    with Upscaler(nearest_server.grpc_url, scale=3) as upscaler:
        upscale_video(source, tmp_path / "out.mp4", upscaler, FAST)

    assert (decoded(tmp_path / "out.mp4")[0].width, decoded(tmp_path / "out.mp4")[0].height) == (
        190,
        142,
    )


def test_10_bit_is_said(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2, pixel_format="yuv420p10le")

    with pytest.warns(PictureWarning, match="10 bits"):
        upscale_video(source, tmp_path / "out.mp4", upscaler, FAST)

    assert np.abs(centre(decoded(tmp_path / "out.mp4")[0]) - COLOUR).max() <= 3


@pytest.mark.parametrize(
    ("tags", "word"),
    [({"transfer": 16}, "PQ"), ({"transfer": 18}, "HLG"), ({"primaries": 9}, "BT.2020")],
)
def test_hdr_and_wide_gamut_are_refused(
    upscaler: Upscaler, tmp_path: Path, tags: dict[str, int], word: str
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2, **tags)  # type: ignore[arg-type]

    with pytest.raises(VideoError, match=word):
        upscale_video(source, tmp_path / "out.mp4", upscaler, FAST)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_a_part_begins_at_zero_with_its_sound(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames=100, sound=True, draw=counted)
    options = VideoOptions(preset="ultrafast", start_s=1.0, end_s=3.0)

    done = upscale_video(source, tmp_path / "out.mp4", upscaler, options)

    assert done.done == 50
    times = seconds(tmp_path / "out.mp4")
    assert (times[0], times[-1]) == (0, Fraction(49, 25))
    assert int(centre(decoded(tmp_path / "out.mp4")[0])[0]) == pytest.approx(16 + 50, abs=2)
    tone = sound_of(tmp_path / "out.mp4")
    assert 0 <= tone[0][0] < 0.03
    assert 1.9 < tone[-1][0] < 2.0


class _Stopped(Exception):  # noqa: N818 - not an error
    pass


def test_a_resumed_run_gives_the_file_of_an_uninterrupted_one(
    upscaler: Upscaler, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=60, when=uneven, draw=counted, sound=True)
    options = VideoOptions(preset="medium", segment_frames=16)
    upscale_video(source, tmp_path / "whole.mp4", upscaler, options)

    def stop_at_40(progress: Progress) -> None:
        if progress.done == 40:
            raise _Stopped

    with pytest.raises(_Stopped):
        upscale_video(source, tmp_path / "out.mp4", upscaler, options, on_progress=stop_at_40)
    assert not (tmp_path / "out.mp4").exists()
    done = upscale_video(source, tmp_path / "out.mp4", upscaler, options, resume=True)

    assert done == Progress(done=60, expected=60, resumed=32)
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_resuming_with_other_options_is_refused(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames=10)

    def stop(progress: Progress) -> None:
        if progress.done == 8:
            raise _Stopped

    with pytest.raises(_Stopped):
        upscale_video(source, tmp_path / "out.mp4", upscaler, FAST, on_progress=stop)
    with pytest.raises(VideoError, match="other options"):
        upscale_video(source, tmp_path / "out.mp4", upscaler, VideoOptions(crf=30), resume=True)


def test_subtitles_chapters_and_metadata_are_kept(upscaler: Upscaler, tmp_path: Path) -> None:
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

    upscale_video(source, tmp_path / "out.mkv", upscaler, FAST)

    with av.open(str(tmp_path / "out.mkv")) as result:
        assert result.metadata["title"] == "A talk"
        assert [c["metadata"]["title"] for c in result.chapters()] == ["One"]
        words = [bytes(p) for p in result.demux(subtitles=0) if p.size]
    assert words == [b"Hello"]


@pytest.mark.parametrize("content", [b"", b"not a video" * 50])
def test_what_is_not_a_video_is_said(upscaler: Upscaler, tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "in.mp4"
    source.write_bytes(content)

    with pytest.raises(VideoError, match="cannot be read as a video"):
        upscale_video(source, tmp_path / "out.mp4", upscaler, FAST)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_a_source_that_was_cut_off_is_said(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", frames=60, draw=counted)
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) * 2 // 3])

    with pytest.warns(PictureWarning, match="ends early"):
        upscale_video(source, tmp_path / "out.mkv", upscaler, FAST)


def test_an_unknown_format_is_said_before_the_work(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", frames=2)

    with pytest.raises(VideoError, match=r"\.mkv"):
        upscale_video(source, tmp_path / "out.xyz", upscaler, FAST)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_program_leaves_no_file_and_goes_on(
    nearest_server: TritonServer, tmp_path: Path, signal_number: int
) -> None:
    source = make_video(tmp_path / "in.mp4", frames=900, draw=counted)
    command = [sys.executable, "-c", "from rt4ksr_client.cli import main; main()", "video"]
    command += [str(source), "-o", str(tmp_path / "out.mp4"), "--url", nearest_server.grpc_url]
    program = subprocess.Popen([*command], stderr=subprocess.PIPE, text=True)
    parts = tmp_path / ".out.mp4.parts"
    while not (parts / "000000.json").exists() and program.poll() is None:
        time.sleep(0.01)
    program.send_signal(signal_number)
    _, stderr = program.communicate(timeout=30)

    assert program.returncode == 128 + signal_number
    assert "Traceback" not in stderr
    assert not (tmp_path / "out.mp4").exists()
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert "of them before" in again.stdout
    assert len(decoded(tmp_path / "out.mp4")) == 900
