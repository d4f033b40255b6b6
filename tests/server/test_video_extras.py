"""What surrounds an upscaled video: covers, attachments, tags, flags and chapters."""

from __future__ import annotations

import io
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rt4ksr_client import Upscaler
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_client.video import VideoOptions, upscale_video
from support.videos import FAST, av, make_video

pytestmark = pytest.mark.server

FONT = bytes(range(256)) * 5
COVER = 1024  # FFmpeg's flag of an attached picture
CHAPTER = {"id": 1, "start": 0, "end": 1000, "time_base": Fraction(1, 1000)}


def picture(kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(content, kind)
    return content.getvalue()


def with_extras(
    path: Path,
    *,
    cover: str | None = None,
    font: bool = False,
    tags: dict[str, str] = {},  # noqa: B006 - only read
    title: str | None = None,
    flags: int = 1,
    chapter: bool = False,
) -> Path:
    plain = make_video(path.with_name("plain.mp4"), frames=30, sound=True, encoder={"bf": "0"})
    keeps_all = {"movflags": "use_metadata_tags"} if "." in "".join(tags) else {}
    with av.open(str(plain)) as source, av.open(str(path), "w", options=keeps_all) as output:
        copies = [output.add_stream_from_template(stream) for stream in source.streams]
        copies[1].disposition = flags
        if title is not None:
            copies[1].metadata["title"] = title
        output.metadata.update(tags)
        if chapter:
            output.set_chapters([{**CHAPTER, "metadata": {"title": "One"}}])
        attached: Any = None
        if cover is not None and path.suffix == ".mkv":
            output.add_attachment(f"cover.{cover}", f"image/{cover}", picture(cover))
        elif cover is not None:
            codec = "mjpeg" if cover == "jpeg" else cover
            attached = output.add_mux_stream(codec, width=48, height=32)
            attached.disposition = COVER
        if font:
            output.add_attachment("a.ttf", "application/x-truetype-font", FONT)
        for packet in source.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                output.mux(packet)
        if attached:
            packet = av.Packet(picture(str(cover)))
            packet.stream, packet.pts, packet.dts = attached, 0, 0
            output.mux(packet)
    plain.unlink()
    return path


def upscaled(
    source: Path, target: Path, video_upscaler: Upscaler, options: VideoOptions = FAST
) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PictureWarning)
        upscale_video(source, target, video_upscaler, options)
    return target


def covers(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        found = [stream for stream in container.streams.video if stream.disposition & COVER]
        return [bytes(packet) for packet in container.demux(found) if packet.size] if found else []


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize(
    ("source", "target"), [("mp4", "mp4"), ("mp4", "mkv"), ("mkv", "mp4"), ("mkv", "mkv")]
)
def test_a_cover_is_kept(
    video_upscaler: Upscaler, tmp_path: Path, source: str, target: str, kind: str
) -> None:
    path = with_extras(tmp_path / f"in.{source}", cover=kind)
    options = VideoOptions(preset="ultrafast", start_s=0.4)

    assert covers(upscaled(path, tmp_path / f"out.{target}", video_upscaler)) == [picture(kind)]
    assert covers(upscaled(path, tmp_path / f"part.{target}", video_upscaler, options)) == [
        picture(kind)
    ]


def test_fonts_are_kept_in_matroska(video_upscaler: Upscaler, tmp_path: Path) -> None:
    source = with_extras(tmp_path / "in.mkv", cover="jpeg", font=True)

    target = upscaled(source, tmp_path / "out.mkv", video_upscaler)

    with av.open(str(target)) as container:
        [font] = container.streams.attachments
        assert (font.name, font.mimetype) == ("a.ttf", "application/x-truetype-font")
        assert font.data == FONT
    assert len(covers(target)) == 1


def test_what_a_format_cannot_hold_is_named_before_the_work(
    video_upscaler: Upscaler, tmp_path: Path
) -> None:
    source = with_extras(
        tmp_path / "in.mkv", cover="jpeg", font=True, tags={"DIRECTOR": "me", "title": "T"}
    )

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        upscale_video(source, tmp_path / "out.mov", video_upscaler, FAST)

    said = "\n".join(str(warning.message) for warning in caught)
    assert "cannot hold cover picture stream 2 (mjpeg): left out" in said
    assert "cannot hold attachment stream 3 (a.ttf): left out" in said
    assert "cannot hold the tags DIRECTOR: left out" in said
    assert len(caught) == 3


APPLE = {
    "com.apple.quicktime.make": "Apple",
    "com.apple.quicktime.location.ISO6709": "+48.1371+011.5754+519.000/",
    "com.apple.quicktime.creationdate": "2024-05-01T12:30:45+0200",
}


@pytest.mark.parametrize("suffix", ["mov", "mp4", "mkv"])
def test_tags_of_phones_are_kept(video_upscaler: Upscaler, tmp_path: Path, suffix: str) -> None:
    source = with_extras(tmp_path / "in.mov", tags=APPLE)

    target = upscaled(source, tmp_path / f"out.{suffix}", video_upscaler)

    with av.open(str(target)) as container:
        found = {key.lower(): value for key, value in container.metadata.items()}
    assert {key.lower(): value for key, value in APPLE.items()}.items() <= found.items()


@pytest.mark.parametrize("source", ["mp4", "mkv"])
@pytest.mark.parametrize("target", ["mp4", "mkv"])
def test_titles_flags_and_chapters_are_kept(
    video_upscaler: Upscaler, tmp_path: Path, source: str, target: str
) -> None:
    tags = {"title": "A talk", "artist": "Me"}
    flags = 1 | 8  # default, comment
    path = with_extras(
        tmp_path / f"in.{source}", tags=tags, title="Comments", flags=flags, chapter=True
    )

    with av.open(str(upscaled(path, tmp_path / f"out.{target}", video_upscaler))) as container:
        found = {key.lower(): value for key, value in container.metadata.items()}
        assert tags.items() <= found.items()
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["One"]
        sound = container.streams.audio[0]
        assert sound.metadata.get("title", sound.metadata.get("name")) == "Comments"
        assert int(sound.disposition) == flags
