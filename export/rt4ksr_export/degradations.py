"""How large pictures are degraded to small ones: pieces, and presets made of them.

A piece degrades a small picture. All its random choices come from the generator it is given, so
that a seed determines the result.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from rt4ksr_client.errors import MissingExtraError

__all__ = [
    "PRESETS",
    "Blur",
    "Degradation",
    "Jpeg",
    "Noise",
    "Piece",
    "Pixels",
    "Video",
    "Webp",
    "compress",
    "compress_clip",
    "downscale",
]

Pixels = NDArray[np.uint8]
KERNELS: Final = MappingProxyType(
    {
        "bicubic": Image.Resampling.BICUBIC,
        "lanczos": Image.Resampling.LANCZOS,
        "bilinear": Image.Resampling.BILINEAR,
        "box": Image.Resampling.BOX,
    }
)


def downscale(picture: Image.Image, scale: int, kernel: str = "bicubic") -> Image.Image:
    """Return ``picture`` downscaled by ``scale``, antialiased, with one of Pillow's kernels."""
    size = (picture.width // scale, picture.height // scale)
    return picture.resize(size, KERNELS[kernel])


class Piece(Protocol):
    """One degradation of a small picture."""

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return ``picture`` (mode RGB) degraded, of the same size."""


@dataclass(frozen=True)
class Jpeg:
    """JPEG, 4:2:0 as most files are, at a quality drawn uniformly from the range."""

    lowest: int
    highest: int

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Compress and decode."""
        return compress(picture, "JPEG", int(rng.integers(self.lowest, self.highest + 1)))


@dataclass(frozen=True)
class Webp:
    """Lossy WebP at a quality drawn uniformly from the range."""

    lowest: int
    highest: int

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Compress and decode."""
        return compress(picture, "WEBP", int(rng.integers(self.lowest, self.highest + 1)))


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of a standard deviation drawn from 0 to ``most`` levels."""

    most: float

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Add noise."""
        pixels = np.asarray(picture, dtype=np.float32)
        noisy = pixels + rng.normal(0, rng.uniform(0, self.most), pixels.shape)
        return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Blur:
    """Gaussian blur of a radius drawn from 0 to ``most_px`` pixels of the small picture."""

    most_px: float

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Blur."""
        return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, self.most_px)))


@dataclass(frozen=True)
class Video:
    """The last frame of a short pan over the picture, compressed at a constant rate factor.

    Streams of 2 to 8 Mbit/s in 720p and 1080p have rate factors of about 20 to 32 (x264's scale).
    The motion is a pixel or two per frame; the last frame is a predicted one.
    """

    codec: str
    lowest_crf: int
    highest_crf: int
    frames: int = 3

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Compress and decode."""
        crf = int(rng.integers(self.lowest_crf, self.highest_crf + 1))
        motion = rng.integers(-2, 3, size=2)
        pixels = np.asarray(picture)
        clip = [
            np.ascontiguousarray(np.roll(pixels, tuple(motion * (self.frames - 1 - i)), (0, 1)))
            for i in range(self.frames)
        ]
        return Image.fromarray(compress_clip(clip, self.codec, crf))


@dataclass(frozen=True)
class Degradation:
    """A preset: a share of pictures that are only downscaled, and degradations of the others.

    ``kernels`` are drawn with equal probability; of ``pieces``, one tuple is drawn and applied in
    order.
    """

    clean_share: float
    pieces: tuple[tuple[Piece, ...], ...] = ()
    kernels: tuple[str, ...] = ("bicubic",)

    def __post_init__(self) -> None:
        """Reject a preset that cannot be drawn from."""
        if not 0 <= self.clean_share <= 1:
            raise ValueError(f"clean_share must be within 0..1, got {self.clean_share}")
        if self.clean_share < 1 and not self.pieces:
            raise ValueError("pieces are needed unless clean_share is 1")

    def __call__(self, large: Image.Image, scale: int, rng: np.random.Generator) -> Image.Image:
        """Return the small picture (mode RGB) that belongs to ``large``."""
        small = downscale(large, scale, self.kernels[rng.integers(len(self.kernels))])
        if rng.random() < self.clean_share:
            return small
        for piece in self.pieces[rng.integers(len(self.pieces))]:
            small = piece(small, rng)
        return small


PRESETS: Final[Mapping[str, Degradation]] = MappingProxyType(
    {
        "clean": Degradation(clean_share=1.0),
        "jpeg": Degradation(clean_share=0.5, pieces=((Jpeg(60, 95),),)),
        "some-jpeg": Degradation(clean_share=0.75, pieces=((Jpeg(60, 95),),)),
        "all-jpeg": Degradation(clean_share=0.0, pieces=((Jpeg(60, 92),),)),
        "webp": Degradation(clean_share=0.3, pieces=((Webp(50, 95),),)),
        "h264": Degradation(clean_share=0.05, pieces=((Video("libx264", 20, 32),),)),
        "h265": Degradation(clean_share=0.15, pieces=((Video("libx265", 22, 34),),)),
        "camera": Degradation(
            clean_share=0.2,
            pieces=((Noise(4),), (Blur(0.6), Noise(2)), (Noise(3), Jpeg(70, 95))),
            kernels=("bicubic", "lanczos", "box"),
        ),
    }
)
"""By the name for ``--degrade``. The shipped weights were trained with ``jpeg``, x3 at the end with
``some-jpeg``."""


def compress(picture: Image.Image, format_name: str, quality: int) -> Image.Image:
    """Return ``picture`` (mode RGB) compressed with Pillow and decoded."""
    buffer = io.BytesIO()
    picture.save(buffer, format_name, quality=quality)
    return Image.open(buffer).convert("RGB")


def compress_clip(clip: list[Pixels], codec: str, crf: int) -> Pixels:
    """Return the last frame of ``clip``, uint8 ``(H, W, 3)``, compressed with FFmpeg and decoded.

    Args:
        clip: uint8 ``(H, W, 3)`` each.
        codec: ``libx264`` or ``libx265``.
        crf: constant rate factor.

    Raises:
        MissingExtraError: PyAV is not installed.

    """
    try:
        import av
        from av.video.reformatter import Interpolation
    except ModuleNotFoundError as exc:
        raise MissingExtraError(
            "video degradations need PyAV: pip install 'rt4ksr-triton[video]'"
        ) from exc
    height, width = clip[0].shape[:2]
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height = width - width % 2, height - height % 2
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
    encoder.options = {"crf": str(crf), "preset": "veryfast", "bf": "0", "log-level": "none"}
    encoder.thread_count = 1
    decoder: Any = av.CodecContext.create({"libx264": "h264", "libx265": "hevc"}[codec], "r")
    decoder.thread_count = 1
    # As the client reads video: FFmpeg's faster default costs the colours 4 dB.
    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
    exact |= Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    packets = []
    for index, pixels in enumerate(clip):
        frame = av.VideoFrame.from_ndarray(pixels[: encoder.height, : encoder.width], "rgb24")
        frame = frame.reformat(format="yuv420p", interpolation=exact)
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoded = [frame for packet in packets for frame in decoder.decode(packet)]
    decoded += decoder.decode(None)
    last = decoded[-1].reformat(format="rgb24", interpolation=exact).to_ndarray()
    return np.pad(last, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
