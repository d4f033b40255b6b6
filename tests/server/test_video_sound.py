"""Sound of every kind beside an upscaled video: copied, encoded again, or left out."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from rt4ksr_client import Upscaler
from rt4ksr_client.errors import VideoError
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_client.video import VideoOptions, upscale_video
from support.sound import CLICKS_S, FPS, LENGTH_S, clicks_s, with_sound
from support.videos import av, decoded, joined, sound_of

pytestmark = pytest.mark.server

STEP_S = 0.0015
"""Matroska rounds times to milliseconds."""


def upscaled(source: Path, target: Path, video_upscaler: Upscaler, **choices: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PictureWarning)
        options = VideoOptions(**({"preset": "ultrafast"} | choices))
        upscale_video(source, target, video_upscaler, options)
    return target


def sounds(path: Path) -> list[tuple[str, str, int]]:
    """Codec, channels and rate of each stream of sound."""
    with av.open(str(path)) as container:
        return [
            (s.codec_context.codec.canonical_name, s.layout.name, s.rate)
            for s in container.streams.audio
        ]


@pytest.mark.parametrize(
    ("codec", "suffix", "rate"),
    [
        ("wmav2", ".asf", 44100),
        ("adpcm_ms", ".avi", 44100),
        ("adpcm_ima_wav", ".avi", 44100),
        ("pcm_alaw", ".avi", 8000),
        ("pcm_s16le", ".avi", 48000),
        ("ac3", ".ts", 48000),
    ],
)
def test_sound_that_matroska_holds_is_copied_bit_for_bit(
    video_upscaler: Upscaler, tmp_path: Path, codec: str, suffix: str, rate: int
) -> None:
    source = with_sound(tmp_path / f"in{suffix}", codec, rate=rate)

    target = upscaled(source, tmp_path / "out.mkv", video_upscaler)

    assert [data for _, data in sound_of(target)] == [data for _, data in sound_of(source)]
    assert clicks_s(target) == pytest.approx(clicks_s(source), abs=STEP_S)
    assert len(decoded(target)) == FPS * LENGTH_S


def with_unknown_sound(path: Path, *codecs: str) -> Path:
    """Write a .mov whose last stream of sound, AAC, is marked as of a codec that nothing knows."""
    content = bytearray(with_sound(path, *codecs).read_bytes())
    places = [found.start() for found in re.finditer(b"mp4a", content)]  # three of each stream
    content[places[-3] : places[-3] + 4] = b"apac"
    place = content.rindex(b"esds")
    content[place : place + 4] = b"dapa"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("audio", ["copy", "aac"])
def test_sound_of_an_unknown_codec_is_left_out_and_the_other_kept(
    video_upscaler: Upscaler, tmp_path: Path, audio: str
) -> None:
    source = with_unknown_sound(tmp_path / "in.mov", "aac", "aac")

    with pytest.warns(PictureWarning, match=r"audio stream 2 \(unknown codec\).*: left out"):
        upscale_video(source, tmp_path / "out.mp4", video_upscaler, VideoOptions(audio=audio))  # type: ignore[arg-type]

    assert sounds(tmp_path / "out.mp4") == [("aac", "stereo", 48000)]
    assert clicks_s(tmp_path / "out.mp4") == pytest.approx(CLICKS_S, abs=STEP_S)


def test_a_video_whose_only_sound_is_unknown_comes_out_without(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    source = with_unknown_sound(tmp_path / "in.mov", "aac")

    with pytest.warns(PictureWarning, match="unknown codec"):
        upscale_video(source, tmp_path / "out.mkv", video_upscaler, VideoOptions())

    assert sounds(tmp_path / "out.mkv") == []
    assert len(decoded(tmp_path / "out.mkv")) == FPS * LENGTH_S


def test_sound_that_the_format_cannot_hold_is_an_error_that_says_what_keeps_it(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    source = with_sound(tmp_path / "in.asf", "wmav2", rate=44100)

    with pytest.raises(VideoError, match=r"\(wmav2\): --audio aac or --audio opus keeps it, or"):
        upscaled(source, tmp_path / "out.mp4", video_upscaler)
    with pytest.raises(VideoError, match=r"--audio aac keeps it, or try \.mkv; --audio none"):
        upscaled(source, tmp_path / "out.mov", video_upscaler, audio="opus")
    assert [path.name for path in tmp_path.iterdir()] == ["in.asf"]

    target = upscaled(source, tmp_path / "out.mp4", video_upscaler, audio="aac")
    assert sounds(target) == [("aac", "stereo", 44100)]
    target = upscaled(source, tmp_path / "none.mp4", video_upscaler, audio="none")
    assert sounds(target) == []


def test_beside_sound_that_is_kept_other_sound_is_left_out_with_a_warning(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    source = with_sound(tmp_path / "in.avi", "pcm_alaw", "libmp3lame", rate=44100)

    with pytest.warns(PictureWarning, match=r"1 \(pcm_alaw\): left out: --audio aac"):
        upscale_video(
            source, tmp_path / "out.mp4", video_upscaler, VideoOptions(preset="ultrafast")
        )

    assert sounds(tmp_path / "out.mp4") == [("mp3", "stereo", 44100)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize(
    ("codec", "choices"),
    [
        ("pcm_s16le", {"rate": 48000}),
        ("pcm_s16le", {"rate": 22050, "layout": "mono"}),
        ("pcm_s16le", {"begin_s": 0.3}),
        ("pcm_s16le", {"gap_s": (0.7, 1.1)}),
        ("ac3", {"layout": "5.1(side)"}),
    ],
    ids=["plain", "mono of 22 kHz", "late", "gap", "5.1(side)"],
)
def test_sound_that_is_encoded_again_stays_in_step(
    video_upscaler: Upscaler, tmp_path: Path, suffix: str, codec: str, choices: dict[str, Any]
) -> None:
    source = with_sound(tmp_path / "in.mkv", codec, **choices)
    options = {"codec": "libvpx-vp9", "preset": None} if suffix == ".webm" else {}
    audio = "aac" if suffix == ".mp4" else "opus"

    target = upscaled(source, tmp_path / f"out{suffix}", video_upscaler, audio=audio, **options)

    assert clicks_s(target) == pytest.approx(CLICKS_S, abs=STEP_S)
    [(name, layout, rate)] = sounds(target)
    assert name == audio
    assert layout == {"mono": "mono", "5.1(side)": "5.1"}.get(choices.get("layout", ""), "stereo")
    assert rate == (choices.get("rate", 48000) if audio == "aac" else 48000)


@pytest.mark.parametrize("suffix", [".mov", ".mp4"])
@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s24le"])
def test_samples_are_the_same_and_gaps_are_kept_where_a_format_closes_them(
    video_upscaler: Upscaler, tmp_path: Path, suffix: str, codec: str
) -> None:
    source = with_sound(tmp_path / "in.mkv", codec)
    target = upscaled(source, tmp_path / f"out{suffix}", video_upscaler)
    assert [name for name, _, _ in sounds(target)] == [codec]
    samples = [b"".join(data for _, data in sound_of(path)) for path in (source, target)]
    assert samples[0] == samples[1]

    source = with_sound(tmp_path / "gap.mkv", codec, gap_s=(0.7, 1.1))
    target = upscaled(source, tmp_path / f"gap{suffix}", video_upscaler)
    assert clicks_s(target) == pytest.approx(CLICKS_S, abs=STEP_S)


def test_sound_whose_channels_change_is_encoded_to_its_end(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    parts = [
        with_sound(tmp_path / f"{layout}.ts", "ac3", layout=layout) for layout in ("stereo", "5.1")
    ]
    source = joined(tmp_path / "in.ts", *parts)

    target = upscaled(source, tmp_path / "out.mkv", video_upscaler, audio="opus")

    expected = [*CLICKS_S, *(LENGTH_S + click_s for click_s in CLICKS_S)]
    assert clicks_s(target) == pytest.approx(expected, abs=0.05)


def test_only_sound_of_another_codec_is_encoded_again(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    source = with_sound(tmp_path / "in.mkv", "aac", "pcm_s16le", "libmp3lame")

    target = upscaled(source, tmp_path / "out.mp4", video_upscaler, audio="aac")

    assert sounds(target) == [("aac", "stereo", 48000)] * 3
    assert [data for _, data in sound_of(target)] == [data for _, data in sound_of(source)]
    for stream in range(3):
        assert clicks_s(target, stream) == pytest.approx(CLICKS_S, abs=STEP_S)


@pytest.mark.parametrize("audio", ["aac", "opus"])
def test_a_part_has_the_sound_of_its_frames(
    video_upscaler: Upscaler, tmp_path: Path, audio: str
) -> None:
    source = with_sound(tmp_path / "in.mkv", "pcm_s16le")

    target = upscaled(
        source, tmp_path / "out.mp4", video_upscaler, audio=audio, start_s=0.4, end_s=1.6
    )

    assert clicks_s(target) == pytest.approx([0.1, 0.9], abs=STEP_S)
    assert float(sound_of(target)[-1][0]) < 1.25
