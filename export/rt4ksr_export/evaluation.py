"""Scores weights, or a running server, on photographs, against bicubic interpolation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from rt4ksr_export.conditions import DEFAULT, Condition
from rt4ksr_export.degradations import Pixels, downscale
from rt4ksr_export.fusion import fuse
from rt4ksr_export.network import RT4KSR, upscale_samples
from rt4ksr_export.scores import luma, psnr_db, ssim

__all__ = [
    "AUTO_METHOD",
    "Chooser",
    "Method",
    "Regret",
    "Scored",
    "Scores",
    "Summary",
    "bicubic",
    "evaluate",
    "in_torch",
    "pairs",
    "regrets",
    "summary_table",
    "with_gains",
]

Method = Callable[[Pixels], Pixels]
"""Upscales uint8 ``(H, W, 3)``, H and W even."""

Chooser = Callable[[Image.Image], str]
"""Returns the name of the method for a small picture, as it was opened."""

AUTO_METHOD: Final = "auto"


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
    """Scores of one method on one picture in one condition. Higher is better; PSNR in dB.

    ``chosen`` is the method that was chosen, for what chooses one.
    """

    picture: str
    condition: str
    method: str
    psnr_rgb_db: float
    psnr_y_db: float
    ssim_rgb: float
    ssim_y: float
    chosen: str = ""

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
    large: Pixels, scale: int, conditions: Sequence[Condition] = DEFAULT
) -> Iterator[tuple[str, Image.Image, Pixels]]:
    """Yield condition, small and large picture; the large one is cropped to fit the scale.

    The small one is as its file was opened.
    """
    step = 2 * scale
    height, width = (side // step * step for side in large.shape[:2])
    large = large[:height, :width]
    small = downscale(Image.fromarray(large), scale)
    for condition in conditions:
        yield str(condition), condition(small), large


def evaluate(
    pictures: Iterable[tuple[str, Pixels]],
    scale: int,
    methods: Mapping[str, Method],
    conditions: Sequence[Condition] = DEFAULT,
    choose: Chooser | None = None,
) -> Iterator[Scores]:
    """Score every method on every picture in every condition.

    Args:
        pictures: name and uint8 ``(H, W, 3)`` of each, in full size.
        scale: 2 or 3; a border of twice as many pixels is not scored.
        methods: by name.
        conditions: what happens to the small pictures.
        choose: returns which of ``methods`` :data:`AUTO_METHOD` is, for each small picture.

    """
    border = 2 * scale
    for name, picture in pictures:
        for condition, small, large in pairs(picture, scale, conditions):
            large_y = luma(large)
            pixels = np.asarray(small.convert("RGB"))
            found = {}
            for method, upscale in methods.items():
                upscaled = upscale(pixels)
                upscaled_y = luma(upscaled)
                found[method] = Scores(
                    picture=name,
                    condition=condition,
                    method=method,
                    psnr_rgb_db=psnr_db(large, upscaled, border),
                    psnr_y_db=psnr_db(large_y, upscaled_y, border),
                    ssim_rgb=ssim(large, upscaled, border),
                    ssim_y=ssim(large_y, upscaled_y, border),
                )
                yield found[method]
            if choose is not None:
                chosen = choose(small)
                yield replace(found[chosen], method=AUTO_METHOD, chosen=chosen)


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


@dataclass(frozen=True)
class Regret:
    """What choosing cost in a condition: PSNR (RGB) in dB below the best of what there was.

    ``mean_db`` is the mean below that of the best single method, negative if choosing beats it;
    ``worst_db`` is the most on one picture. ``chosen`` counts the choices.
    """

    condition: str
    best_method: str
    mean_db: float
    worst_db: float
    worst_picture: str
    chosen: Mapping[str, int]


def regrets(scores: Sequence[Scores], baseline: str) -> list[Regret]:
    """Compare :data:`AUTO_METHOD` with what it chose from; empty if it was not scored."""
    by_condition: dict[str, dict[str, dict[str, Scores]]] = {}
    for score in scores:
        methods = by_condition.setdefault(score.condition, {})
        methods.setdefault(score.method, {})[score.picture] = score
    rows = []
    for condition, methods in by_condition.items():
        auto = methods.pop(AUTO_METHOD, {})
        if not auto:
            continue
        del methods[baseline]
        means = {m: fmean(s.psnr_rgb_db for s in by.values()) for m, by in methods.items()}
        best = max(means, key=means.__getitem__)
        losses = {
            picture: max(by[picture].psnr_rgb_db for by in methods.values()) - score.psnr_rgb_db
            for picture, score in auto.items()
        }
        worst = max(losses, key=losses.__getitem__)
        mean_db = means[best] - fmean(score.psnr_rgb_db for score in auto.values())
        chosen = Counter(score.chosen for score in auto.values())
        rows.append(Regret(condition, best, mean_db, losses[worst], worst, dict(chosen)))
    return rows
