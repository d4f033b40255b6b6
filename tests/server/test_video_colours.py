"""Colours, depths and their tags, through a real tritonserver with nearest-neighbour models."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rt4ksr_client import Upscaler
from rt4ksr_client.errors import PictureError
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_client.video import VideoOptions, source_models, upscale_video
from rt4ksr_client.video.colours import ColourTags
from rt4ksr_client.video.planes import from_video_frame
from rt4ksr_server import TritonServer
from support.videos import (
    COLOUR,
    FAST,
    av,
    centre,
    counted,
    decoded,
    make_video,
)

pytestmark = pytest.mark.server


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
