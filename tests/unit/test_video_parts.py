"""Parts of the video pipeline that need neither a server nor a video file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="the video extra is not installed")

from rt4ksr_client.cli.video import FrameRate
from rt4ksr_client.errors import VideoError
from rt4ksr_client.video import VideoOptions
from rt4ksr_client.video.containers import ContainerFormat
from rt4ksr_client.video.copies import Cut
from rt4ksr_client.video.prefetch import prefetch
from rt4ksr_client.video.segments import SegmentFolder
from rt4ksr_client.video.timing import decode_times

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
    folder = SegmentFolder(target, IDENTITY, resume=False)
    for index in (0, 1, 3):
        finish_segment(folder, index)

    resumed = SegmentFolder(target, IDENTITY, resume=True)

    assert [segment.pts for segment in resumed.finished()] == [(0,), (1,)]
    with pytest.raises(VideoError, match="leave out --resume"):
        SegmentFolder(target, {"model": "rt4ksr_x3"}, resume=True)
    assert not SegmentFolder(target, IDENTITY, resume=False).finished()


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_anything_else_in_it_is_not_removed(tmp_path: Path, resume: bool) -> None:
    target = tmp_path / "out.mp4"
    if resume:
        folder = SegmentFolder(target, IDENTITY, resume=False)
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
