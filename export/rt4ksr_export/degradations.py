"""How large pictures are degraded to small ones: pieces, and presets made of them.

A piece degrades a small picture. All its random choices come from the generator it is given, so
that a seed determines the result.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from rt4ksr_client.contract import Colours
from rt4ksr_client.errors import MissingExtraError
from rt4ksr_client.frames import Yuv420
from rt4ksr_export.colours import (
    Samples,
    Siting,
    pack,
    rgb_samples,
    samples_from_codes,
    samples_to_codes,
    unpack,
    yuv420_samples,
)

__all__ = [
    "PRESETS",
    "Blur",
    "Codec",
    "Degradation",
    "Jpeg",
    "Noise",
    "Piece",
    "Pixels",
    "VideoDegradation",
    "Webp",
    "compress",
    "compress_pan",
    "compress_video",
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
    """JPEG at a quality drawn uniformly from the range.

    Chroma is subsampled 4:2:0 as in most files; a ``full_chroma_share`` keeps all of it.
    """

    lowest: int
    highest: int
    full_chroma_share: float = 0.0

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Compress and decode."""
        quality = int(rng.integers(self.lowest, self.highest + 1))
        is_full = self.full_chroma_share > 0 and rng.random() < self.full_chroma_share
        return compress(picture, "JPEG", quality, "4:4:4" if is_full else "4:2:0")


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

    @property
    def colours(self) -> Colours:
        """Of the network that learns from it."""
        return "rgb"

    def __call__(self, large: Image.Image, scale: int, rng: np.random.Generator) -> Image.Image:
        """Return the small picture (mode RGB) that belongs to ``large``."""
        small = downscale(large, scale, self.kernels[rng.integers(len(self.kernels))])
        if rng.random() < self.clean_share:
            return small
        for piece in self.pieces[rng.integers(len(self.pieces))]:
            small = piece(small, rng)
        return small

    def pair(
        self, large: Image.Image, scale: int, rng: np.random.Generator
    ) -> tuple[Samples, Samples]:
        """Return the samples of the small picture, degraded, and of ``large`` (mode RGB)."""
        small = self(large, scale, rng)
        return rgb_samples(np.asarray(small)), rgb_samples(np.asarray(large))


@dataclass(frozen=True)
class Codec:
    """One encoder, at a constant rate factor drawn uniformly from the range.

    Streams of 2 to 8 Mbit/s in 720p and 1080p have rate factors of about 20 to 32 on x264's scale.
    """

    name: str
    lowest_crf: int
    highest_crf: int


@dataclass(frozen=True)
class VideoDegradation:
    """The last frame of a short pan over the picture, in 4:2:0, compressed by one of ``codecs``.

    The motion is a pixel or two a frame; the last frame is a predicted one. A ``clean_share`` is
    not compressed. Chroma lies as in most streams, and at ``topleft_share`` as in BT.2020's.
    """

    codecs: tuple[Codec, ...]
    clean_share: float = 0.05
    topleft_share: float = 0.1
    frames: int = 3

    @property
    def colours(self) -> Colours:
        """Of the network that learns from it."""
        return "yuv420"

    def pair(
        self, large: Image.Image, scale: int, rng: np.random.Generator
    ) -> tuple[Samples, Samples]:
        """Return the samples of the small frame, degraded, and of ``large`` (mode RGB)."""
        siting: Siting = "topleft" if rng.random() < self.topleft_share else "left"
        small = np.asarray(downscale(large, scale))
        codec = self.codecs[rng.integers(len(self.codecs))]
        crf = int(rng.integers(codec.lowest_crf, codec.highest_crf + 1))
        motion = rng.integers(-2, 3, size=2)
        if rng.random() < self.clean_share:
            codes = samples_to_codes(yuv420_samples(small, siting), "yuv420")
        else:
            codes = pack(compress_pan(small, siting, codec.name, crf, motion, self.frames))
        return samples_from_codes(codes, "yuv420"), yuv420_samples(np.asarray(large), siting)


H264: Final = Codec("libx264", 18, 32)
H265: Final = Codec("libx265", 20, 34)
AV1: Final = Codec("libsvtav1", 24, 48)

PRESETS: Final[Mapping[str, Degradation | VideoDegradation]] = MappingProxyType(
    {
        "clean": Degradation(clean_share=1.0),
        "jpeg": Degradation(clean_share=0.5, pieces=((Jpeg(60, 95),),)),
        "some-jpeg": Degradation(clean_share=0.75, pieces=((Jpeg(60, 95),),)),
        "all-jpeg": Degradation(clean_share=0.0, pieces=((Jpeg(60, 92),),)),
        "light-jpeg": Degradation(clean_share=0.0, pieces=((Jpeg(82, 98, 0.3),),)),
        "full-chroma-jpeg": Degradation(clean_share=0.0, pieces=((Jpeg(45, 98, 1.0),),)),
        "strong-jpeg": Degradation(clean_share=0.0, pieces=((Jpeg(38, 90, 0.4),),)),
        "webp": Degradation(clean_share=0.3, pieces=((Webp(50, 95),),)),
        "camera": Degradation(
            clean_share=0.2,
            pieces=((Noise(4),), (Blur(0.6), Noise(2)), (Noise(3), Jpeg(70, 95))),
            kernels=("bicubic", "lanczos", "box"),
        ),
        "video": VideoDegradation((H264, H264, H265, AV1)),
        "h264": VideoDegradation((H264,)),
        "h265": VideoDegradation((H265,)),
        "av1": VideoDegradation((AV1,)),
    }
)
"""By the name for ``--degrade``; the last four are for 4:2:0 video. The recipes in ``weights/`` say
which of them the shipped weights were trained with."""


def compress(
    picture: Image.Image, format_name: str, quality: int, subsampling: str = "4:2:0"
) -> Image.Image:
    """Return ``picture`` (mode RGB) compressed with Pillow and decoded."""
    buffer = io.BytesIO()
    picture.save(buffer, format_name, quality=quality, subsampling=subsampling)
    return Image.open(buffer).convert("RGB")


SMALLEST_VIDEO_PX: Final = 64
"""The least of SVT-AV1; smaller pictures are extended."""

DECODERS: Final = {"libx264": "h264", "libx265": "hevc", "libsvtav1": "libdav1d"}
ENCODER_OPTIONS: Final = {
    "libx264": {"preset": "veryfast", "bf": "0"},
    "libx265": {"preset": "superfast", "bf": "0", "x265-params": "log-level=none:pools=none"},
    "libsvtav1": {"preset": "10", "svtav1-params": "lp=1"},
}


def compress_pan(
    pixels: Pixels,
    siting: Siting,
    codec: str,
    crf: int,
    motion: NDArray[np.int64],
    frames: int = 3,
) -> Yuv420:
    """Return ``pixels`` as the last frame of a pan, compressed with FFmpeg and decoded.

    Args:
        pixels: uint8 RGB ``(H, W, 3)``, H and W even.
        siting: of the chroma.
        codec: a name of :data:`DECODERS`.
        crf: constant rate factor, on the codec's scale.
        motion: pixels a frame, down and right.
        frames: of the pan.

    Raises:
        MissingExtraError: PyAV is not installed.

    """
    height, width = pixels.shape[:2]
    margins = [(0, max(0, SMALLEST_VIDEO_PX - side)) for side in (height, width)]
    pixels = np.pad(pixels, (*margins, (0, 0)), mode="edge")
    shifts = [tuple(motion * (frames - 1 - index)) for index in range(frames)]
    pan = [yuv420_samples(np.roll(pixels, shift, (0, 1)), siting) for shift in shifts]
    last = compress_video([unpack(samples_to_codes(s, "yuv420")) for s in pan], codec, crf)[-1]
    return Yuv420(last.luma[:height, :width], last.chroma[: height // 2, : width // 2])


def compress_video(frames: Sequence[Yuv420], codec: str, crf: int) -> list[Yuv420]:
    """Return ``frames`` compressed with FFmpeg at a constant rate factor and decoded.

    Args:
        frames: of 8 bits and one size, sides even and at least :data:`SMALLEST_VIDEO_PX`.
        codec: a name of :data:`DECODERS`.
        crf: constant rate factor, on the codec's scale.

    Raises:
        MissingExtraError: PyAV is not installed.

    """
    try:
        import av

        from rt4ksr_client.video.segments import ordinary_priority
    except ModuleNotFoundError as exc:
        raise MissingExtraError(
            "video degradations need PyAV: pip install 'rt4ksr-triton[video]'"
        ) from exc
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    rows, columns = frames[0].luma.shape
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.height, encoder.width = rows, columns
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
    encoder.options = {"crf": str(crf), **ENCODER_OPTIONS[codec]}
    encoder.thread_count = 1
    packets = []
    for index, frame in enumerate(frames):
        planar = np.concatenate([frame.luma.ravel(), np.moveaxis(frame.chroma, -1, 0).ravel()])
        picture = av.VideoFrame.from_ndarray(planar.reshape(-1, columns), "yuv420p")
        picture.pts = index
        with ordinary_priority():
            packets += encoder.encode(picture)
    packets += encoder.encode(None)
    decoder: Any = av.CodecContext.create(DECODERS[codec], "r")
    decoder.thread_count = 1
    decoded = [picture for packet in packets for picture in decoder.decode(packet)]
    decoded += decoder.decode(None)
    compressed = []
    for planes in (picture.to_ndarray() for picture in decoded):
        chroma = planes[rows:].reshape(2, rows // 2, columns // 2)
        compressed.append(Yuv420(planes[:rows], np.ascontiguousarray(np.moveaxis(chroma, 0, -1))))
    return compressed
