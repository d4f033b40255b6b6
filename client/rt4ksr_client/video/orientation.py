"""How a stored picture is turned and mirrored to be shown: the display matrix of a video."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from rt4ksr_client.frames import Yuv420

__all__ = ["Orientation"]

TOLERANCE: Final = 0.01
"""Up to this share of the other entries, an entry of the matrix is taken for a rounded zero."""


@dataclass(frozen=True)
class Orientation:
    """Rows and columns are exchanged first, then the picture is mirrored."""

    transposed: bool = False
    mirrored: bool = False
    upside_down: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Orientation:
        """Read the display matrix of a frame; the picture is upright where there is none.

        Raises:
            ValueError: it shears the picture, or rotates it by less than 90 degrees.

        """
        if SideDataType.DISPLAYMATRIX not in frame.side_data:
            return cls()
        found: Any = frame.side_data
        data = found[SideDataType.DISPLAYMATRIX]
        # The right of the stored picture is shown towards (a, b), its bottom towards (c, d).
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
        straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
        if straight and max(abs(b), abs(c)) <= TOLERANCE * straight:
            return cls(mirrored=a < 0, upside_down=d < 0)
        if crossed and max(abs(a), abs(d)) <= TOLERANCE * crossed:
            return cls(transposed=True, mirrored=c < 0, upside_down=b < 0)
        raise ValueError("its display matrix shears the picture, or turns it by an odd angle")

    def apply(self, image: Yuv420) -> Yuv420:
        """Return a stored frame as it is shown."""
        return Yuv420(self.turned(image.luma), self.turned(image.chroma))

    def turned(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Return a stored plane ``(H, W)`` or ``(H, W, C)`` as it is shown."""
        if self == Orientation():
            return plane
        shown = np.swapaxes(plane, 0, 1) if self.transposed else plane
        shown = shown[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]
        return np.ascontiguousarray(shown)
