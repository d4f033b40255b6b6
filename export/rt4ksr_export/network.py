"""RT4KSR in its two forms: :class:`RT4KSR` for training, and :class:`FusedRT4KSR` for serving.

Zamfir, Conde, Timofte, "Towards Real-Time 4K Image Super-Resolution", CVPRW 2023. Both compute the
same function; :func:`rt4ksr_export.fusion.fuse` turns the first into the second. Parameter
names of :class:`RT4KSR` are those of the authors' checkpoints.

Both come for two kinds of colours. The one for RGB takes a 4D tensor of shape ``(N, 3, H, W)``,
RGB in [0, 1], H and W even, and returns ``(N, 3, s*H, s*W)``, which is not clipped. The one for
4:2:0 video takes ``(N, 6, H/2, W/2)``, four luma samples and the chroma of each block of 2x2 pixels
(:func:`pack_yuv420`), and returns ``(N, 6, s*H/2, s*W/2)``. Black is 0 in both, so zero padding
surrounds a picture with black.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rt4ksr_client.contract import Colours

__all__ = [
    "RT4KSR",
    "Architecture",
    "FusedRT4KSR",
    "RepConv",
    "pack_yuv420",
    "parameter_count",
    "unpack_yuv420",
    "upscale_samples",
]

UNSHUFFLE: Final = 2
NORM_EPS: Final = 1e-6

PACKED_CHANNELS: Final = 6
"""Of packed 4:2:0: four of luma, two of chroma."""


@dataclass(frozen=True)
class Architecture:
    """Hyperparameters of the network; the shapes of the weights determine all of them."""

    scale: int
    features: int = 24
    blocks: int = 4
    expansion: int = 2
    colours: Colours = "rgb"

    def __post_init__(self) -> None:
        """Reject values no network can have."""
        for field in ("scale", "features", "blocks", "expansion"):
            value = getattr(self, field)
            if value < 1:
                raise ValueError(f"{field} must be at least 1, got {value}")

    @property
    def channels(self) -> int:
        """Channels of the tensors that the network takes and returns."""
        return 3 if self.colours == "rgb" else PACKED_CHANNELS

    @property
    def unshuffle(self) -> int:
        """Factor of the pixel-unshuffle at the start; packed 4:2:0 is unshuffled already."""
        return UNSHUFFLE if self.colours == "rgb" else 1

    @property
    def unshuffled_channels(self) -> int:
        """Channels of the pixel-unshuffled input."""
        return self.channels * self.unshuffle**2

    @property
    def shuffle(self) -> int:
        """Upscale factor of the final pixel shuffle, which also undoes the unshuffle."""
        return self.unshuffle * self.scale

    @property
    def upsample_channels(self) -> int:
        """Channels that the final pixel shuffle turns into the upscaled frame."""
        return self.channels * self.shuffle**2

    @property
    def halo_px(self) -> int:
        """Even number of input pixels around an output pixel that it depends on.

        Head, blocks, tail and upsampler reach one unshuffled pixel each, and the input pixel below
        an output pixel may lie at either side of its unshuffled one.
        """
        return UNSHUFFLE * (self.blocks + 3) + UNSHUFFLE


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel of a ``(N, C, H, W)`` tensor."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(N, C, H, W)``."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RepConv(nn.Module):
    """A 3x3 convolution in its reparameterizable form (the authors' ``ResBlock``).

    1x1 expand, 3x3 with an identity around it, 1x1 reduce, and an identity around all. The 3x3
    is padded with the expand's bias, which is what expanding a zero gives. The block is therefore
    exactly one zero-padded 3x3 convolution, borders included.
    """

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand_conv = nn.Conv2d(channels, wide, 1)
        self.fea_conv = nn.Conv2d(wide, wide, 3)
        self.reduce_conv = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape, convolution by convolution."""
        wide = self.expand_conv(x)
        padded = self.expand_conv(F.pad(x, (1, 1, 1, 1)))
        out: Tensor = self.reduce_conv(self.fea_conv(padded) + wide) + x
        return out


class RepBlock(nn.Module):
    """Norm, reparameterizable convolution, exact GELU."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv1 = RepConv(channels, expansion)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        return F.gelu(self.conv1(self.norm(x)))


class RT4KSR(nn.Module):
    """The training form: every fusable convolution is expanded."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = a = architecture
        self.head = nn.Sequential(nn.Conv2d(a.unshuffled_channels, a.features, 3, padding=1))
        self.body = nn.Sequential(*(RepBlock(a.features, a.expansion) for _ in range(a.blocks)))
        self.tail = nn.Sequential(ChannelNorm(a.features), RepConv(a.features, a.expansion))
        self.upsample = nn.Sequential(
            nn.Conv2d(a.features, a.upsample_channels, 3, padding=1), nn.PixelShuffle(a.shuffle)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Upscale RGB or packed 4:2:0; both sides of the result are s times as long."""
        features = self.body(self.head(F.pixel_unshuffle(x, self.architecture.unshuffle)))
        out: Tensor = self.upsample(self.tail(features))
        return out


class FusedBlock(nn.Module):
    """Norm and one 3x3 convolution; the network applies the activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        out: Tensor = self.conv(self.norm(x))
        return out


class FusedRT4KSR(nn.Module):
    """The served form: seven 3x3 convolutions for the usual four blocks."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = a = architecture
        self.head = nn.Conv2d(a.unshuffled_channels, a.features, 3, padding=1)
        self.body = nn.ModuleList(FusedBlock(a.features) for _ in range(a.blocks))
        self.tail = FusedBlock(a.features)
        self.upsample = nn.Conv2d(a.features, a.upsample_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale RGB or packed 4:2:0; both sides of the result are s times as long."""
        x = self.head(F.pixel_unshuffle(x, self.architecture.unshuffle))
        for block in self.body:
            x = F.gelu(block(x))
        return F.pixel_shuffle(self.upsample(self.tail(x)), self.architecture.shuffle)


def pack_yuv420(luma: Tensor, chroma: Tensor) -> Tensor:
    """Return ``(N, 6, H/2, W/2)`` of luma ``(N, 1, H, W)`` and chroma ``(N, 2, H/2, W/2)``.

    The first four channels are the luma of each block of 2x2 pixels, row by row, the others its
    chroma. Luma is 0 for black and 1 for white, chroma 0 for gray and within -0.5 and 0.5.
    """
    return torch.cat([F.pixel_unshuffle(luma, UNSHUFFLE), chroma], dim=1)


def unpack_yuv420(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Undo :func:`pack_yuv420`."""
    luma = F.pixel_shuffle(packed[:, : UNSHUFFLE**2], UNSHUFFLE)
    return luma, packed[:, UNSHUFFLE**2 :]


def parameter_count(module: nn.Module) -> int:
    """Number of trainable values in ``module``."""
    return sum(torch.numel(p) for p in module.parameters())


def upscale_samples(network: nn.Module, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run ``network`` on one frame, ``(C, H, W)`` as it takes them; the result is not clipped."""
    with torch.inference_mode():
        upscaled: NDArray[np.float32] = network(torch.from_numpy(samples)[None])[0].numpy()
    return upscaled
