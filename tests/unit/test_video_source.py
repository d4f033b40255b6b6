"""Videos as they come: without times, damaged, joined, mirrored, of several sizes."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rt4ksr_client.errors import VideoError
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_client.video import VideoOptions
from rt4ksr_client.video.decoding import Faults, nothing_lost
from rt4ksr_client.video.planes import from_video_frame
from rt4ksr_client.video.source import TimedFrame, VideoSource
from rt4ksr_client.video.timing import ContinuousClock, FrameTimes, VideoClock
from support.videos import (
    av,
    joined,
    make_video,
    muxed,
    numbered,
    numbers,
    steady,
    stored_without_times,
    uneven,
    with_display_matrix,
)

ANY = VideoOptions()
REORDERED = {"bf": "3", "b_strategy": "0", "g": "12"}
ONE = 0x10000
HDR10_PLUS_SEI = bytes.fromhex("000000014e010416b5003c0001040140001f4186a0c35061a809c400640080")
"""Made after SMPTE ST 2094-40, application version 1: one window, no tone mapping."""


def read(
    path: Path, options: VideoOptions = ANY, after_pts: int | None = None
) -> tuple[VideoSource, list[TimedFrame], Faults]:
    source, faults = VideoSource.probe(path, options), Faults()
    return source, list(source.frames(options, after_pts, faults)), faults


def shown(frame: TimedFrame) -> npt.NDArray[np.uint8]:
    return frame.image.to_ndarray(format="rgb24").view(np.uint8)


def times_s(source: VideoSource, frames: list[TimedFrame]) -> list[Fraction]:
    return [frame.pts * source.time_base for frame in frames]


def reordered(folder: Path, suffix: str, frames: int = 40) -> Path:
    raw = make_video(folder / "in.h264", frames=frames, draw=numbered, encoder=REORDERED)
    return raw if suffix == ".h264" else stored_without_times(raw, folder / f"in{suffix}")


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_frames_stored_in_the_order_of_decoding_are_put_in_order(
    tmp_path: Path, suffix: str
) -> None:
    source, frames, faults = read(reordered(tmp_path, suffix))

    assert numbers(shown(frame) for frame in frames) == list(range(40))
    assert times_s(source, frames) == [Fraction(index, 25) for index in range(40)]
    assert faults == Faults()


def test_raw_h264_is_shown_at_its_rate_or_at_the_one_given(tmp_path: Path) -> None:
    path = reordered(tmp_path, ".h264")

    with pytest.warns(PictureWarning, match="25 frames/s: --fps sets another"):
        source, frames, _ = read(path)
    assert times_s(source, frames) == [Fraction(index, 25) for index in range(40)]

    ntsc = Fraction(30000, 1001)
    source, frames, _ = read(path, VideoOptions(fps=ntsc))
    assert source.rate == ntsc
    assert numbers(shown(frame) for frame in frames) == list(range(40))
    assert times_s(source, frames) == [index / ntsc for index in range(40)]


def test_a_rate_is_rejected_for_frames_with_times(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="leave out --fps"):
        read(make_video(tmp_path / "in.mp4"), VideoOptions(fps=Fraction(30)))


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".ts"])
def test_a_run_continues_with_the_next_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"in{suffix}"
    if suffix == ".avi":
        path = reordered(tmp_path, suffix)
    else:
        make_video(path, frames=40, draw=numbered, encoder=REORDERED)
    _, whole, _ = read(path)

    _, rest, _ = read(path, after_pts=whole[20].pts)

    assert [frame.pts for frame in rest] == [frame.pts for frame in whole[21:]]
    assert numbers(shown(frame) for frame in rest) == list(range(21, 40))


@pytest.mark.parametrize("times", [[0, 40, 40, 120], [None, None, None, None], [0, 7000, 80, 120]])
def test_a_frame_without_a_usable_time_gets_one_between_its_neighbours(
    times: list[int | None],
) -> None:
    clock = FrameTimes(0, Fraction(40))

    given = [clock.next(a, b) for a, b in zip(times, [*times[1:], None], strict=True)]

    assert given == [0, 40, 80, 120]


def test_frames_at_a_seam_that_overlaps_are_kept_and_counted(tmp_path: Path) -> None:
    def later(index: int) -> int:
        return steady(index + 13)

    first = make_video(tmp_path / "1.ts", frames=25, draw=numbered)
    second = make_video(tmp_path / "2.ts", frames=25, draw=numbered, when=later)

    source, frames, faults = read(joined(tmp_path / "in.ts", first, second))

    assert numbers(shown(frame) for frame in frames) == [*range(25), *range(25)]
    begin, *_ = times = times_s(source, frames)
    assert [time - begin for time in times] == [Fraction(index, 25) for index in range(50)]
    assert faults == Faults(retimed_frames=25)


# What is stored as rows 01, 23 (levels of the four corners) is shown as these rows.
MATRICES = {
    "none": ((ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), [[0, 1], [2, 3]]),
    "hflip": ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), [[1, 0], [3, 2]]),
    "vflip": ((ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), [[2, 3], [0, 1]]),
    "rotated by 180": ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), [[3, 2], [1, 0]]),
    "transposed": ((0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), [[0, 2], [1, 3]]),
    "antitransposed": ((0, -ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), [[3, 1], [2, 0]]),
    "clockwise": ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), [[2, 0], [3, 1]]),
    "counterclockwise": ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), [[1, 3], [0, 2]]),
}


def corners(index: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    width, height = size
    shades = np.array([[40, 90], [150, 220]], np.uint8)
    picture = shades.repeat(height // 2, 0).repeat(width // 2, 1)
    return np.repeat(picture[:, :, None], 3, axis=2)


@pytest.mark.parametrize("name", MATRICES)
def test_pictures_are_turned_and_mirrored_as_players_do(tmp_path: Path, name: str) -> None:
    matrix, as_shown = MATRICES[name]
    path = make_video(tmp_path / "in.mp4", frames=2, size=(64, 32), draw=corners)

    source, frames, _ = read(with_display_matrix(path, matrix))

    image = source.orientation.apply(from_video_frame(frames[0].image)).luma
    assert image.shape == (source.height_px, source.width_px)
    assert image.shape == ((32, 64) if abs(matrix[0]) else (64, 32))
    luma = image[image.shape[0] // 4 :: image.shape[0] // 2, image.shape[1] // 4 : :]
    found = (luma[:, :: image.shape[1] // 2].astype(int) - 16) * 255 / 219
    assert np.abs(found - np.array([40, 90, 150, 220])[as_shown]).max() <= 6


@pytest.mark.parametrize(
    "matrix",
    [(ONE, ONE // 2, 0, 0, ONE, 0), (46341, 46341, 0, -46341, 46341, 0), (0, 0, 0, 0, 0, 0)],
    ids=["sheared", "turned by 45 degrees", "no area"],
)
def test_other_display_matrices_are_rejected(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    path = make_video(tmp_path / "in.mp4", frames=2)

    with pytest.raises(VideoError, match="display matrix shears the picture"):
        read(with_display_matrix(path, (*matrix, 0, 0, 1 << 30)))


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_left_of_a_damaged_file_is_decoded(tmp_path: Path, suffix: str, seed: int) -> None:
    def noisy(index: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        drawn = np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3))
        return drawn.astype(np.uint8)

    path = make_video(
        tmp_path / f"in{suffix}",
        frames=75,
        draw=noisy,
        encoder={"g": "25", "crf": "30"},
    )
    content, dice = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(12):
        place = dice.randrange(int(len(content) * 0.35), int(len(content) * 0.6))
        content[place : place + 16] = dice.randbytes(16)
    path.write_bytes(content)

    source, frames, faults = read(path)

    assert 45 <= len(frames) <= 75
    times = times_s(source, frames)
    assert times == sorted(set(times))
    assert times[-1] - times[0] < 4
    if not faults.damaged_packets + faults.damaged_frames:
        return  # decoders do not notice everything
    with pytest.raises(VideoError, match="leave out --strict"):
        read(path, VideoOptions(strict=True))


def test_a_clock_that_is_set_anew_runs_on(tmp_path: Path) -> None:
    def late(index: int) -> int:
        return steady(index) + 100 * 90000

    first = make_video(tmp_path / "1.ts", frames=25, draw=numbered, when=late)
    second = make_video(tmp_path / "2.ts", frames=25, draw=numbered)

    source, frames, faults = read(joined(tmp_path / "in.ts", first, second))

    begin = times_s(source, frames)[0]
    assert 0 <= begin - 100 < 1.5
    assert [time - begin for time in times_s(source, frames)] == [
        Fraction(index, 25) for index in range(50)
    ]
    assert source.expected_frames == 50
    assert faults == Faults()


@dataclass
class MadePacket:
    """A packet without content, in milliseconds."""

    pts: int
    dts: int | None
    time_base: Fraction = Fraction(1, 1000)


def test_a_clock_is_not_set_anew_by_frames_that_are_shown_later() -> None:
    clock = VideoClock(Fraction(5), may_jump_ahead=False)
    slides = [(0, None), (25000, None), (5000, 0), (10000, 5000), (15000, 10000), (20000, 15000)]
    packets = [MadePacket(*times) for times in slides]
    for packet in packets:
        clock.correct(packet)

    assert [(packet.pts, packet.dts) for packet in packets] == slides
    assert not clock.seams


def test_a_clock_that_is_set_anew_by_a_frame_without_decoding_time_runs_on() -> None:
    clock = VideoClock(Fraction(1), may_jump_ahead=False)
    part = [(0, None), (3000, None), (1000, 0), (2000, 1000), (4000, 2000), (5000, 3000)]
    packets = [MadePacket(*times) for times in part * 2]
    for packet in packets:
        clock.correct(packet)

    assert sorted(packet.pts for packet in packets) == list(range(0, 12_000, 1000))
    assert [packet.dts for packet in packets[6:]] == [None, None, 6000, 7000, 8000, 9000]


def test_frames_without_times_at_the_beginning_come_before_those_with(tmp_path: Path) -> None:
    made = make_video(tmp_path / "made.mkv", frames=20, draw=numbered, encoder={"bf": "0"})

    def from_frame_5(packet: Any) -> None:
        packet.pts -= 200
        packet.dts -= 200

    # Matroska stores no negative times: the first five have none.
    options = {"avoid_negative_ts": "disabled"}
    source, frames, faults = read(
        muxed(tmp_path / "in.mkv", made, each=from_frame_5, options=options)
    )

    assert numbers(shown(frame) for frame in frames) == list(range(20))
    assert times_s(source, frames) == [Fraction(index - 5, 25) for index in range(20)]
    assert faults.retimed_frames == 5


def test_sound_follows_the_clock_of_the_video() -> None:
    video = VideoClock(Fraction(1), may_jump_ahead=True)
    pictures = [MadePacket(time_ms, time_ms) for time_ms in (0, 1000, 2000, 500, 1500)]
    for picture in pictures:
        video.correct(picture)
    assert [p.pts for p in pictures] == [0, 1000, 2000, 3000, 4000]

    clock = ContinuousClock(video.seams)
    packets = [MadePacket(time_ms, time_ms) for time_ms in (100, 1100, 2900, 2990, 500, 1500, 2400)]
    for packet in packets:
        clock.correct(packet)

    assert [p.pts for p in packets] == [100, 1100, 2900, 2990, 3000, 4000, 4900]


def test_a_pause_in_a_recording_of_a_screen_is_kept(tmp_path: Path) -> None:
    def paused(index: int) -> int:
        return steady(index) + (20 * 90000 if index > 10 else 0)

    source, frames, _ = read(make_video(tmp_path / "in.mp4", frames=20, when=paused))

    assert times_s(source, frames)[-1] == 20 + Fraction(19, 25)


def two_kinds(folder: Path, **second: object) -> Path:
    """A recording whose second half is of another kind."""

    def later(index: int) -> int:
        return steady(index + 30)

    one = make_video(folder / "1.ts", frames=25, draw=numbered)
    two = make_video(folder / "2.ts", frames=25, draw=numbered, when=later, **second)  # type: ignore[arg-type]
    return joined(folder / "in.ts", one, two)


def test_frames_of_another_size_are_scaled_to_that_of_the_first(tmp_path: Path) -> None:
    path = two_kinds(tmp_path, size=(96, 32))

    with pytest.warns(PictureWarning, match="its size changes to 96x32: scaled to 64x48"):
        source = VideoSource.probe(path, ANY)
    faults = Faults()
    frames = list(source.frames(ANY, None, faults))

    assert {(frame.image.height, frame.image.width) for frame in frames} == {(48, 64)}
    assert numbers(shown(frame) for frame in frames) == [*range(25), *range(25)]
    assert faults == Faults(rescaled_frames=25)
    with pytest.raises(VideoError, match="changes to 96x32: leave out --strict"):
        VideoSource.probe(path, VideoOptions(strict=True))
    with pytest.raises(VideoError, match="changes to 96x32: leave out --strict"):
        list(source.frames(VideoOptions(strict=True), None, Faults()))


def test_interlacing_is_found_anywhere(tmp_path: Path) -> None:
    fields = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    path = two_kinds(tmp_path, encoder=fields)

    with pytest.raises(VideoError, match="add --deinterlace"):
        VideoSource.probe(path, ANY)
    source = VideoSource.probe(path, replace(ANY, frames=50))  # looks at the first frame only
    with pytest.raises(VideoError, match="add --deinterlace"):
        list(source.frames(ANY, None, Faults()))


def test_the_default_video_is_upscaled(tmp_path: Path) -> None:
    path, other = tmp_path / "in.mkv", make_video(tmp_path / "other.mp4", size=(32, 32))
    main = make_video(tmp_path / "main.mp4", size=(64, 48), when=uneven)
    with av.open(str(path), "w") as output, av.open(str(other)) as a, av.open(str(main)) as b:
        copies = [(c, output.add_stream_from_template(c.streams.video[0])) for c in (a, b)]
        copies[0][1].disposition, copies[1][1].disposition = 0, 1
        for container, stream in copies:
            for packet in container.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)

    source, frames, _ = read(path)

    assert (source.width_px, source.height_px, len(frames)) == (64, 48, 30)


def test_an_alpha_channel_of_vp9_is_not_left_out_silently(tmp_path: Path) -> None:
    path = tmp_path / "in.webm"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libvpx-vp9", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuva420p"
        rgba = np.full((32, 32, 4), 128, np.uint8)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba")))
        output.mux(stream.encode(None))

    with pytest.warns(PictureWarning, match="the alpha channel is not kept"):
        VideoSource.probe(path, ANY)


def test_hdr10_plus_is_not_left_out_silently(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.hevc", codec="libx265", pixel_format="yuv420p10le", frames=3)
    path.write_bytes(HDR10_PLUS_SEI + path.read_bytes())

    with pytest.warns(PictureWarning, match=r"HDR10\+ metadata is not kept"):
        VideoSource.probe(path, VideoOptions(fps=Fraction(25)))


def test_a_file_with_fewer_frames_than_were_upscaled_is_an_error(tmp_path: Path) -> None:
    path = make_video(tmp_path / "out.mp4", frames=30)

    with nothing_lost(path, 30):
        pass
    with pytest.raises(VideoError, match="30 of 31 frames"), nothing_lost(path, 31):
        pass
