"""Scores weights, or a running server, on photographs, against bicubic interpolation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rt4ksr_client.frames import Yuv420
from rt4ksr_export.colours import (
    Codes,
    Samples,
    pack,
    rgb_samples,
    samples_from_codes,
    samples_to_codes,
    unpack,
)
from rt4ksr_export.degradations import Pixels, compress, downscale
from rt4ksr_export.fusion import fuse
from rt4ksr_export.network import RT4KSR, upscale_samples
from rt4ksr_export.scores import luma, psnr_db, ssim

__all__ = [
    "QUALITIES",
    "Method",
    "Scored",
    "Scores",
    "Summary",
    "bicubic",
    "evaluate",
    "in_torch",
    "pairs",
    "plot_gains",
    "summary_table",
    "with_gains",
]

Method = Callable[[Pixels], Pixels]
"""Upscales uint8 ``(H, W, 3)``, H and W even."""

QUALITIES: Final = (90, 75)
"""Qualities of JPEG (Pillow's, 4:2:0) that a small picture is scored at, besides as it is."""


class Scored(Protocol):
    """What photographs and clips have in common."""

    @property
    def picture(self) -> str:
        """Name of the picture."""

    @property
    def condition(self) -> str:
        """How it was degraded."""

    @property
    def method(self) -> str:
        """Name of what upscaled it."""

    @property
    def psnr_rgb_db(self) -> float:
        """PSNR in dB."""


Score = TypeVar("Score", bound=Scored)


@dataclass(frozen=True)
class Scores:
    """Scores of one method on one picture in one condition. Higher is better; PSNR in dB."""

    picture: str
    condition: str
    method: str
    psnr_rgb_db: float
    psnr_y_db: float
    ssim_rgb: float
    ssim_y: float

    def as_dict(self) -> dict[str, object]:
        """Return the fields by name."""
        return asdict(self)


def bicubic_rgb(samples: Samples, scale: int) -> Samples:
    """Return RGB samples upscaled by Pillow's bicubic interpolation of uint8."""
    small = np.moveaxis(samples_to_codes(samples, "rgb"), 0, -1)
    return rgb_samples(bicubic(scale)(np.ascontiguousarray(small)))


def bicubic_yuv420(samples: Samples, scale: int) -> Samples:
    """Return packed 4:2:0 upscaled plane by plane with Pillow's bicubic interpolation.

    Chroma lies at the left of its block before and afterwards, so its grid moves by a quarter of a
    sample of the small picture, less the same of the large one.
    """
    frame = samples_to_codes(samples, "yuv420")
    small = unpack(frame)
    shift = 0.25 - 0.25 / scale
    luma, u, v = (
        _resize(plane, scale, left)
        for plane, left in (
            (small.luma, 0.0),
            (small.chroma[..., 0], shift),
            (small.chroma[..., 1], shift),
        )
    )
    packed = pack(Yuv420(luma, np.stack([u, v], axis=-1)))
    return samples_from_codes(packed, "yuv420")


def _resize(plane: NDArray[Any], scale: int, left: float) -> Codes:
    """Return ``plane`` upscaled from ``left`` samples right of its edge, which is repeated."""
    height, width = plane.shape
    padded = Image.fromarray(np.pad(plane, ((0, 0), (0, 1)), mode="edge"))
    box = (left, 0, width + left, height)
    resized = padded.resize((width * scale, height * scale), Image.Resampling.BICUBIC, box)
    return np.asarray(resized)


def bicubic(scale: int) -> Method:
    """Return Pillow's bicubic interpolation by ``scale``."""

    def upscale(small: Pixels) -> Pixels:
        height, width, _ = small.shape
        size = (width * scale, height * scale)
        return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))

    return upscale


def in_torch(network: RT4KSR) -> Method:
    """Return ``network``, fused and run with PyTorch on the CPU."""
    fused = fuse(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def upscale(small: Pixels) -> Pixels:
        codes = samples_to_codes(upscale_samples(fused, rgb_samples(small)), "rgb")
        return np.ascontiguousarray(np.moveaxis(codes, 0, -1))

    return upscale


def pairs(
    large: Pixels, scale: int, qualities: Sequence[int] = QUALITIES
) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Yield condition, small and large picture; the large one is cropped to fit the scale."""
    step = 2 * scale
    height, width = (side // step * step for side in large.shape[:2])
    large = large[:height, :width]
    small = downscale(Image.fromarray(large), scale)
    yield "clean", np.asarray(small), large
    for quality in qualities:
        yield f"JPEG {quality}", np.asarray(compress(small, "JPEG", quality)), large


def evaluate(
    pictures: Iterable[tuple[str, Pixels]],
    scale: int,
    methods: Mapping[str, Method],
    qualities: Sequence[int] = QUALITIES,
) -> Iterator[Scores]:
    """Score every method on every picture, clean and as JPEG.

    Args:
        pictures: name and uint8 ``(H, W, 3)`` of each, in full size.
        scale: 2 or 3; a border of twice as many pixels is not scored.
        methods: by name.
        qualities: of the JPEGs, 1 to 100.

    """
    border = 2 * scale
    for name, picture in pictures:
        for condition, small, large in pairs(picture, scale, qualities):
            large_y = luma(large)
            for method, upscale in methods.items():
                upscaled = upscale(small)
                upscaled_y = luma(upscaled)
                yield Scores(
                    picture=name,
                    condition=condition,
                    method=method,
                    psnr_rgb_db=psnr_db(large, upscaled, border),
                    psnr_y_db=psnr_db(large_y, upscaled_y, border),
                    ssim_rgb=ssim(large, upscaled, border),
                    ssim_y=ssim(large_y, upscaled_y, border),
                )


@dataclass(frozen=True)
class Summary:
    """Means of a method over the pictures of a condition, and its worst gain over bicubic."""

    condition: str
    method: str
    psnr_rgb_db: float
    psnr_y_db: float
    ssim_rgb: float
    ssim_y: float
    gain_db: float
    worst_gain_db: float
    worst_picture: str


def with_gains(
    scores: Sequence[Score], baseline: str, psnr_db: Callable[[Score], float]
) -> Iterator[tuple[tuple[str, str], list[Score], list[float]]]:
    """Yield condition and method, their scores, and their gains over ``baseline`` in dB."""
    reference = {(s.condition, s.picture): psnr_db(s) for s in scores if s.method == baseline}
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.condition, score.method), []).append(score)
    for (condition, method), group in groups.items():
        gains = [psnr_db(score) - reference[condition, score.picture] for score in group]
        yield (condition, method), group, gains


def summary_table(scores: Sequence[Scores], baseline: str) -> list[Summary]:
    """Summarize by condition and method; gains are in PSNR (RGB) over ``baseline``."""
    rows = []
    for (condition, method), group, gains in with_gains(
        scores, baseline, lambda score: score.psnr_rgb_db
    ):
        worst = int(np.argmin(gains))
        rows.append(
            Summary(
                condition=condition,
                method=method,
                psnr_rgb_db=fmean(s.psnr_rgb_db for s in group),
                psnr_y_db=fmean(s.psnr_y_db for s in group),
                ssim_rgb=fmean(s.ssim_rgb for s in group),
                ssim_y=fmean(s.ssim_y for s in group),
                gain_db=fmean(gains),
                worst_gain_db=gains[worst],
                worst_picture=group[worst].picture,
            )
        )
    return rows


def plot_gains(scores: Sequence[Scored], baseline: str, path: Path) -> None:
    """Plot each picture's gain over ``baseline``, by condition, as a PNG at ``path``."""
    from matplotlib.figure import Figure

    reference = {(s.condition, s.picture): s.psnr_rgb_db for s in scores if s.method == baseline}
    methods = [m for m in dict.fromkeys(s.method for s in scores) if m != baseline]
    conditions = list(dict.fromkeys(s.condition for s in scores))
    figure = Figure(figsize=(4 * len(conditions), 4), layout="constrained")
    axes = figure.subplots(1, len(conditions), sharey=True, squeeze=False)[0]
    for axis, condition in zip(axes, conditions, strict=True):
        for method in methods:
            gains = sorted(
                s.psnr_rgb_db - reference[condition, s.picture]
                for s in scores
                if (s.condition, s.method) == (condition, method)
            )
            axis.plot(gains, "o-", label=method)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(title=condition, xlabel="pictures, by gain")
    axes[0].set_ylabel(f"PSNR (RGB) above {baseline}, dB")
    axes[0].legend()
    figure.savefig(path, format="png", dpi=100)
