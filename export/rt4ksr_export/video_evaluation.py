"""Scores weights, or a running server, on compressed video, against bicubic interpolation.

Each picture becomes a short clip, a slow pan over its middle; the clip is downscaled, compressed
and decoded, upscaled frame by frame in 4:2:0, and compared with what it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.filters import gaussian

from rt4ksr_client.errors import MissingExtraError
from rt4ksr_client.frames import Yuv420
from rt4ksr_export.colours import (
    Samples,
    pack,
    samples_from_codes,
    samples_to_codes,
    unpack,
    yuv420_samples,
    yuv420_to_rgb,
)
from rt4ksr_export.degradations import (
    SMALLEST_VIDEO_PX,
    Codec,
    Pixels,
    compress_video,
    downscale,
)
from rt4ksr_export.evaluation import Method, bicubic_yuv420, in_torch, with_gains
from rt4ksr_export.fusion import fuse
from rt4ksr_export.network import RT4KSR, upscale_samples
from rt4ksr_export.scores import psnr_db
from rt4ksr_export.vmaf import Vmaf

if TYPE_CHECKING:
    from rt4ksr_client import Upscaler

__all__ = [
    "CODECS",
    "FRAMES",
    "VideoMethod",
    "VideoScores",
    "VideoSummary",
    "bicubic_planes",
    "by_rgb",
    "clips",
    "detail",
    "evaluate_video",
    "flicker",
    "network_method",
    "server_method",
    "smallest_picture_px",
    "summarize_video",
]

VideoMethod = Callable[[Yuv420], Yuv420]
"""Upscales a frame of 8 bits, its sides even, chroma at the left of its block."""

CODECS: Final[Mapping[str, Codec]] = MappingProxyType(
    {
        "H.264 23": Codec("libx264", 23, 23),
        "H.264 28": Codec("libx264", 28, 28),
        "H.265 28": Codec("libx265", 28, 28),
        "AV1 35": Codec("libsvtav1", 35, 35),
    }
)
"""By name and constant rate factor, each on its codec's scale."""

FRAMES: Final = 5
MOTION_PX: Final = (1, 3)
"""Of the large picture, down and right a frame: parts of a pixel of the small one."""
WINDOW_PX: Final = (720, 1280)
"""The most that a clip shows of the large picture."""
PLANES: Final[Sequence[Callable[[Yuv420], NDArray[Any]]]] = (
    lambda frame: frame.luma,
    lambda frame: frame.chroma[..., 0],
    lambda frame: frame.chroma[..., 1],
)
DETAIL_SIGMA_PX: Final = 1.0
"""Detail is what a Gaussian of this width takes from the luma."""


@dataclass(frozen=True)
class VideoScores:
    """Scores of one method on the clip of one picture in one condition.

    PSNR in dB, the mean over the frames; higher is better, as for VMAF (0 to 100, None where there
    is none). :func:`detail` is 1 and :func:`flicker` 0 for the reference.
    """

    picture: str
    condition: str
    method: str
    psnr_y_db: float
    psnr_u_db: float
    psnr_v_db: float
    psnr_rgb_db: float
    vmaf: float | None
    detail: float
    flicker: float

    def as_dict(self) -> dict[str, object]:
        """Return the fields by name."""
        return asdict(self)


def smallest_picture_px(scale: int) -> int:
    """Return the shortest side of a picture that is large enough for a clip."""
    return SMALLEST_VIDEO_PX * scale + (FRAMES - 1) * max(MOTION_PX) + 2 * scale


def clips(large: Pixels, scale: int) -> tuple[list[Yuv420], list[Yuv420]]:
    """Return the small clip, not compressed, and the large one of a pan over ``large``."""
    step = 2 * scale
    travel = [(FRAMES - 1) * motion for motion in MOTION_PX]
    sides = [
        min(side - moved, most) // step * step
        for side, moved, most in zip(large.shape[:2], travel, WINDOW_PX, strict=True)
    ]
    corner = [
        (side - moved - kept) // 2
        for side, moved, kept in zip(large.shape[:2], travel, sides, strict=True)
    ]
    small_clip, large_clip = [], []
    for index in range(FRAMES):
        top, left = (at + index * motion for at, motion in zip(corner, MOTION_PX, strict=True))
        window = large[top : top + sides[0], left : left + sides[1]]
        small = np.asarray(downscale(Image.fromarray(window), scale))
        small_clip.append(_codes(yuv420_samples(small)))
        large_clip.append(_codes(yuv420_samples(window)))
    return small_clip, large_clip


def bicubic_planes(scale: int) -> VideoMethod:
    """Return bicubic interpolation of each plane, which keeps chroma where it lies."""
    return lambda frame: _codes(bicubic_yuv420(_samples(frame), scale))


def network_method(network: RT4KSR) -> VideoMethod:
    """Return ``network``, fused and run with PyTorch on the CPU; one for RGB :func:`by_rgb`."""
    if network.architecture.colours == "rgb":
        return by_rgb(in_torch(network))
    fused = fuse(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return lambda frame: _codes(upscale_samples(fused, _samples(frame)))


def server_method(upscaler: Upscaler) -> VideoMethod:
    """Return what a server answers; frames are converted to what its model takes."""
    served = upscaler.served_model
    if served.colours == "rgb":
        return by_rgb(upscaler.upscale)
    if served.bits == 8:
        return upscaler.upscale

    def widened(plane: NDArray[Any]) -> NDArray[np.uint16]:
        return np.left_shift(plane, 8, dtype=np.uint16)

    def narrowed(plane: NDArray[Any]) -> NDArray[np.uint8]:
        codes: NDArray[np.uint8] = np.rint(plane / 256).clip(0, 255).astype(np.uint8)
        return codes

    def upscale(frame: Yuv420) -> Yuv420:
        upscaled = upscaler.upscale(Yuv420(widened(frame.luma), widened(frame.chroma)))
        return Yuv420(narrowed(upscaled.luma), narrowed(upscaled.chroma))

    return upscale


def by_rgb(upscale: Method) -> VideoMethod:
    """Return ``upscale``, of RGB, between conversions by libswscale with accurate rounding.

    Raises:
        MissingExtraError: PyAV is not installed.

    """
    try:
        from av.video.frame import VideoFrame
        from av.video.reformatter import ColorRange, Colorspace

        from rt4ksr_client.video.colours import ColourTags
        from rt4ksr_client.video.planes import ACCURATE_BICUBIC, from_video_frame, to_video_frame
    except ModuleNotFoundError as exc:
        raise MissingExtraError("video needs PyAV: pip install 'rt4ksr-triton[video]'") from exc
    full_chroma_output, full_chroma_input = 0x2000, 0x4000  # SWS_FULL_CHR_H_INT, _INP

    def upscale_planes(frame: Yuv420) -> Yuv420:
        small = to_video_frame(frame, "yuv420p", ColourTags(8)).reformat(
            format="rgb24",
            src_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=ACCURATE_BICUBIC | full_chroma_output,
        )
        rgb = upscale(small.to_ndarray().view(np.uint8))
        large = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24").reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=ACCURATE_BICUBIC | full_chroma_input,
        )
        return from_video_frame(large, 8)

    return upscale_planes


def evaluate_video(
    pictures: Iterable[tuple[str, Pixels]],
    scale: int,
    methods: Mapping[str, VideoMethod],
    vmaf: Vmaf,
    codecs: Mapping[str, Codec] = CODECS,
) -> Iterator[VideoScores]:
    """Score every method on the clip of every picture in every condition.

    Args:
        pictures: name and uint8 ``(H, W, 3)`` of each, in full size, of at least
            :func:`smallest_picture_px`.
        scale: 2 or 3; a border of twice as many pixels is not scored, except by VMAF.
        methods: by name.
        vmaf: which may be missing.
        codecs: by the name of the condition, each with one rate factor.

    Raises:
        MissingExtraError: PyAV is not installed.
        VideoError: VMAF failed.

    """
    border = 2 * scale
    for name, picture in pictures:
        small, large = clips(picture, scale)
        true_rgb = [yuv420_to_rgb(_samples(frame)) for frame in large]
        for condition, codec in codecs.items():
            decoded = compress_video(small, codec.name, codec.lowest_crf)
            for method, upscale in methods.items():
                upscaled = [upscale(frame) for frame in decoded]
                rgb = [yuv420_to_rgb(_samples(frame)) for frame in upscaled]
                y, u, v = (
                    ([plane(frame) for frame in large], [plane(frame) for frame in upscaled])
                    for plane in PLANES
                )
                yield VideoScores(
                    picture=name,
                    condition=condition,
                    method=method,
                    psnr_y_db=_psnr_db(*y, border),
                    psnr_u_db=_psnr_db(*u, scale),
                    psnr_v_db=_psnr_db(*v, scale),
                    psnr_rgb_db=_psnr_db(true_rgb, rgb, border),
                    vmaf=vmaf(large, upscaled),
                    detail=detail(*y, border),
                    flicker=flicker(*y, border),
                )


def detail(true: Sequence[NDArray[Any]], test: Sequence[NDArray[Any]], border: int) -> float:
    """Return the energy of what is finer than a Gaussian in ``test``, against that in ``true``.

    Below 1 the picture is softer than the reference. Noise and ringing count as detail, too. It is
    1 where the reference has none.
    """
    energies = []
    for lumas in (true, test):
        planes = [luma.astype(np.float64) for luma in lumas]
        fine = [plane - gaussian(plane, DETAIL_SIGMA_PX) for plane in planes]
        energies.append(fmean(float(np.square(_inner(plane, border)).mean()) for plane in fine))
    return energies[1] / energies[0] if energies[0] else 1.0


def flicker(true: Sequence[NDArray[Any]], test: Sequence[NDArray[Any]], border: int) -> float:
    """Return by how many codes the change from frame to frame differs from that of ``true``.

    The root of the mean square. An error that stays where it is does not count.
    """
    errors = [
        _inner(after.astype(np.float64) - before, border)
        for before, after in zip(true, test, strict=True)
    ]
    squares = [float(np.square(after - before).mean()) for before, after in pairwise(errors)]
    return float(np.sqrt(fmean(squares)))


@dataclass(frozen=True)
class VideoSummary:
    """Means of a method over the clips of a condition; gains over the baseline are of luma."""

    condition: str
    method: str
    psnr_y_db: float
    psnr_u_db: float
    psnr_v_db: float
    psnr_rgb_db: float
    vmaf: float | None
    detail: float
    flicker: float
    gain_db: float
    worst_gain_db: float
    worst_picture: str


def summarize_video(scores: Sequence[VideoScores], baseline: str) -> list[VideoSummary]:
    """Summarize by condition and method; gains are in PSNR (Y) over ``baseline``."""
    rows = []
    for (condition, method), group, gains in with_gains(
        scores, baseline, lambda score: score.psnr_y_db
    ):
        worst = int(np.argmin(gains))
        vmafs = [s.vmaf for s in group if s.vmaf is not None]
        rows.append(
            VideoSummary(
                condition=condition,
                method=method,
                psnr_y_db=fmean(s.psnr_y_db for s in group),
                psnr_u_db=fmean(s.psnr_u_db for s in group),
                psnr_v_db=fmean(s.psnr_v_db for s in group),
                psnr_rgb_db=fmean(s.psnr_rgb_db for s in group),
                vmaf=fmean(vmafs) if vmafs else None,
                detail=fmean(s.detail for s in group),
                flicker=fmean(s.flicker for s in group),
                gain_db=fmean(gains),
                worst_gain_db=gains[worst],
                worst_picture=group[worst].picture,
            )
        )
    return rows


def _psnr_db(true: Sequence[NDArray[Any]], test: Sequence[NDArray[Any]], border: int) -> float:
    """Return the mean over the frames."""
    return fmean(psnr_db(a, b, border) for a, b in zip(true, test, strict=True))


def _inner(plane: NDArray[Any], border: int) -> NDArray[Any]:
    return plane[border:-border, border:-border]


def _samples(frame: Yuv420) -> Samples:
    return samples_from_codes(pack(frame), "yuv420")


def _codes(samples: Samples) -> Yuv420:
    return unpack(samples_to_codes(samples, "yuv420"))
