"""Parts of the video pipeline that need neither a server nor a video file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="the video extra is not installed")

from rt4ksr_client.cli.video import FrameRate
from rt4ksr_client.errors import VideoError
from rt4ksr_client.video import VideoOptions
from rt4ksr_client.video.containers import ContainerFormat
from rt4ksr_client.video.copies import CopiedStream, Cut
from rt4ksr_client.video.prefetch import prefetch
from rt4ksr_client.video.segments import SegmentFolder
from rt4ksr_client.video.timecode import later_timecode
from rt4ksr_client.video.timing import constant_rate, decode_times

IDENTITY = {"model": "rt4ksr_x2"}


def test_items_are_computed_ahead_and_no_further() -> None:
    made: list[int] = []
    ahead = threading.Event()

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 4:
                ahead.set()
            yield number

    fetched = prefetch(items(), 3)
    assert next(fetched) == 0
    assert ahead.wait(10)  # one is taken, three wait, and one has no place yet
    fetched.close()
    assert made == [0, 1, 2, 3, 4]
    assert not [t for t in threading.enumerate() if t.name == "rt4ksr-prefetch"]


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise VideoError("broken")

    fetched = prefetch(items(), 2)
    assert next(fetched) == 1
    with pytest.raises(VideoError, match="broken"):
        next(fetched)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=40, unique=True))
def test_packets_are_decoded_in_order_and_never_after_they_are_shown(pts: list[int]) -> None:
    dts = decode_times(pts)

    assert len(dts) == len(pts)
    assert dts == sorted(set(dts))
    assert all(decoded <= shown for decoded, shown in zip(dts, pts, strict=True))


def test_packets_without_reordering_are_decoded_when_they_are_shown() -> None:
    assert decode_times([0, 5, 10, 25]) == [0, 5, 10, 25]


def test_chapters_are_cut_and_moved_with_the_part() -> None:
    def chapter(begin_s: int, end_s: int) -> dict[str, object]:
        unit = Fraction(1, 1000)
        return {"id": 1, "start": begin_s * 1000, "end": end_s * 1000, "time_base": unit}

    cut = Cut((Fraction(2), Fraction(5)), Fraction(2))

    kept = cut.chapters([chapter(0, 1), chapter(1, 3), chapter(3, 9), chapter(5, 6)])

    assert [(c["start"], c["end"]) for c in kept] == [(0, 1000), (1000, 3000)]


@pytest.mark.parametrize(
    ("name", "options"),
    [("matroska", {}), ("mp4", {"movflags": "+faststart"}), ("mov", {"movflags": "+faststart"})],
)
def test_a_format_is_known_by_the_suffix(name: str, options: dict[str, str]) -> None:
    suffix = {"matroska": "MKV"}.get(name, name)

    found = ContainerFormat.of(Path(f"out.{suffix}"))

    assert (found.name, found.muxer_options) == (name, options)


@pytest.mark.parametrize(
    ("choices", "remedy"),
    [
        ({"codec": "mpeg1"}, "choose one of libx264"),
        ({"codec": "ffv1", "crf": 3}, "leave out crf"),
        ({"codec": "ffv1", "preset": "slow"}, "leave out preset"),
        ({"start_s": 2.0, "end_s": 1.0}, "end must be after it"),
        ({"frames": 0}, "at least 1"),
        ({"fps": Fraction(0)}, "fps must be above 0"),
    ],
)
def test_options_that_contradict_each_other_say_what_to_do(
    choices: dict[str, object], remedy: str
) -> None:
    with pytest.raises(VideoError, match=remedy):
        VideoOptions(**choices)  # type: ignore[arg-type]


def finish_segment(folder: SegmentFolder, index: int) -> None:
    folder.segment_path(index).touch()
    folder.segment_path(index).with_suffix(".json").write_text(f"[{index}]")


def test_only_whole_segments_from_the_first_on_are_resumed(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    with SegmentFolder(target, IDENTITY, resume=False) as folder:
        for index in (0, 1, 3):
            finish_segment(folder, index)

    with SegmentFolder(target, IDENTITY, resume=True) as resumed:
        assert [segment.pts for segment in resumed.finished()] == [(0,), (1,)]
    with pytest.raises(VideoError, match="leave out --resume"):
        SegmentFolder(target, {"model": "rt4ksr_x3"}, resume=True)
    with SegmentFolder(target, IDENTITY, resume=False) as fresh:
        assert not fresh.finished()


def test_segments_are_used_for_a_target_of_another_format(tmp_path: Path) -> None:
    for name, identity in (("other.mp4", {"model": "rt4ksr_x3"}), ("out.mp4", IDENTITY)):
        with SegmentFolder(tmp_path / name, identity, resume=False) as folder:
            finish_segment(folder, 0)

    with SegmentFolder(tmp_path / "elsewhere.mkv", IDENTITY, resume=True) as resumed:
        assert len(resumed.finished()) == 1

    folders = sorted(path.name for path in tmp_path.iterdir())
    assert folders == [".elsewhere.mkv.parts", ".other.mp4.parts"]


@pytest.mark.parametrize(
    ("before", "now", "continues"),
    [
        ({"deinterlace": False, "strict": True}, {"deinterlace": True, "strict": False}, True),
        ({"deinterlace": True, "strict": False}, {"deinterlace": False, "strict": False}, False),
        ({"deinterlace": False, "strict": False}, {"deinterlace": False, "strict": True}, False),
    ],
)
def test_a_run_continues_with_the_option_for_what_stopped_it(
    tmp_path: Path, before: dict[str, bool], now: dict[str, bool], continues: bool
) -> None:
    target = tmp_path / "out.mp4"
    SegmentFolder(target, IDENTITY | {"options": before}, resume=False).close()

    with ExitStack() as stack:
        if not continues:
            stack.enter_context(pytest.raises(VideoError, match="other options"))
        SegmentFolder(target, IDENTITY | {"options": now}, resume=True).close()


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_at_once_for_one_target_are_rejected(tmp_path: Path, resume: bool) -> None:
    target = tmp_path / "out.mp4"
    with SegmentFolder(target, IDENTITY, resume=False) as folder:
        finish_segment(folder, 0)
        for other in (target, tmp_path / "out.mkv") if resume else (target,):
            with pytest.raises(VideoError, match="another run is at work here"):
                SegmentFolder(other, IDENTITY, resume=resume)
        assert len(folder.finished()) == 1


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_anything_else_in_it_is_not_removed(tmp_path: Path, resume: bool) -> None:
    target = tmp_path / "out.mp4"
    if resume:
        with SegmentFolder(target, IDENTITY, resume=False) as folder:
            finish_segment(folder, 0)
    parts = tmp_path / ".out.mp4.parts"
    parts.mkdir(exist_ok=True)
    (parts / "holiday.mkv").write_bytes(b"mine")

    with pytest.raises(VideoError, match=r"holiday\.mkv in it is something else: move it away"):
        SegmentFolder(target, IDENTITY, resume=resume).remove()

    assert (parts / "holiday.mkv").read_bytes() == b"mine"
    assert not resume or (parts / "000000.mkv").exists()


@pytest.mark.parametrize(
    ("text", "rate"), [("25", Fraction(25)), ("30000/1001", Fraction(30000, 1001))]
)
def test_a_frame_rate_is_a_number_or_a_fraction(text: str, rate: Fraction) -> None:
    assert FrameRate().convert(text, None, None) == rate


@pytest.mark.parametrize("text", ["0", "-25", "1/0", "fast", "1001"])
def test_no_frame_rate_says_what_one_looks_like(text: str) -> None:
    with pytest.raises(click.BadParameter, match="try 25 or 30000/1001"):
        FrameRate().convert(text, None, None)


@dataclass
class MadePacket:
    """A packet without content, in milliseconds."""

    pts: int | None
    dts: int | None
    duration: int = 40
    time_base: Fraction = Fraction(1, 1000)
    is_keyframe: bool = False
    is_discard: bool = False
    stream: object = None


@dataclass
class MadeStream:
    type: str
    disposition: int = 0
    time_base: Fraction = Fraction(1, 1000)


def copied_times(
    kind: str, times: list[tuple[int | None, int | None]], *, least_step: int = 0
) -> tuple[list[tuple[int, int]], CopiedStream]:
    output: Any = MadeStream(kind)
    stream = CopiedStream(output, (), Cut(None, Fraction(0)), least_step=least_step)
    written = [each for pts, dts in times for each in stream.take(MadePacket(pts, dts))]
    written += stream.rest()
    return [(packet.pts, packet.dts) for packet in written], stream


@pytest.mark.parametrize(("least_step", "moved_to"), [(0, 120), (1, 121)])
def test_times_that_step_back_are_moved(least_step: int, moved_to: int) -> None:
    given: list[tuple[int | None, int | None]] = [(time, time) for time in (0, 120, 90, 130, 160)]

    times, stream = copied_times("audio", given, least_step=least_step)

    assert times == [(time, time) for time in (0, 120, moved_to, 130, 160)]
    assert stream.moved == 1


def test_one_packet_with_a_time_far_ahead_is_put_back() -> None:
    given: list[tuple[int | None, int | None]] = [(time, time) for time in (0, 10**9, 80, 120)]

    times, stream = copied_times("audio", given)

    assert times == [(time, time) for time in (0, 40, 80, 120)]
    assert stream.moved == 1


def test_a_pause_is_kept() -> None:
    given: list[tuple[int | None, int | None]] = [(time, time) for time in (0, 40, 50_000, 50_040)]

    assert copied_times("audio", given)[0] == given


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            [(0, None), (120, None), (40, 0), (80, 40)],
            [(0, -80), (120, -40), (40, 0), (80, 40)],
        ),
        ([(0, None), (80, None), (40, None)], [(0, -40), (80, 0), (40, 40)]),
    ],
    ids=["the first", "all"],
)
def test_decode_times_that_are_missing_are_filled_in(
    given: list[tuple[int | None, int | None]], expected: list[tuple[int, int]]
) -> None:
    assert copied_times("video", given)[0] == expected


def test_sound_hidden_by_an_edit_list_is_left_out_but_for_what_decoders_need() -> None:
    output: Any = MadeStream("audio")
    stream = CopiedStream(output, (), Cut(None, Fraction(0)), least_step=0)
    packets = [
        MadePacket(time, time, is_discard=time < 0 or time > 40) for time in range(-120, 121, 40)
    ]

    written = [each.pts for packet in packets for each in stream.take(packet)]

    assert written + [each.pts for each in stream.rest()] == [-40, 0, 40]


def test_packets_without_any_time_are_counted() -> None:
    times, stream = copied_times("audio", [(0, 0), (None, None), (None, 80)])

    assert times == [(0, 0), (80, 80)]
    assert stream.timeless == 1


@pytest.mark.parametrize(
    ("timecode", "frames", "rate", "later"),
    [
        ("01:02:03:04", 25, Fraction(25), "01:02:04:04"),
        ("23:59:59:24", 1, Fraction(25), "00:00:00:00"),
        ("00:00:59;29", 1, Fraction(30000, 1001), "00:01:00;02"),
        ("00:09:59;29", 1, Fraction(30000, 1001), "00:10:00;00"),
        ("00:01:00;02", 1798, Fraction(30000, 1001), "00:02:00;02"),
        ("00:00:00;00", 17982, Fraction(30000, 1001), "00:10:00;00"),
        ("00:00:59;59", 1, Fraction(60000, 1001), "00:01:00;04"),
        ("noon", 1, Fraction(25), "noon"),
    ],
)
def test_time_codes_count_frames(timecode: str, frames: int, rate: Fraction, later: str) -> None:
    assert later_timecode(timecode, frames, rate) == later


def rounded_to_ms(rate: Fraction, shown: list[int]) -> list[Fraction]:
    return [Fraction(round(index / rate * 1000), 1000) for index in shown]


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25), Fraction(60000, 1001)])
@pytest.mark.parametrize("declared", [Fraction(25), Fraction(1000)])
def test_a_constant_rate_is_found_in_rounded_times(rate: Fraction, declared: Fraction) -> None:
    shown = [index for index in range(1000) if index not in (10, 500, 501)]

    assert constant_rate(rounded_to_ms(rate, shown[:9]), rate) == (rate, 0)
    assert constant_rate(rounded_to_ms(rate, list(range(1000))), declared) == (rate, 0)
    assert constant_rate(rounded_to_ms(rate, shown), declared) == (rate, 3)
    varying = [index / rate + index % 3 * Fraction(1, 100) for index in shown]
    assert constant_rate(varying, rate) == (None, None)
