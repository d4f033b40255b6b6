"""Whether an answer is right."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from rt4ksr_client.frames import Frame
from rt4ksr_loadtest.frames import STAMP_HEIGHT_PX, read_stamp

__all__ = ["Checker", "WrongPictureError"]

TOLERANCE_LEVELS = 1
"""How far a pixel may be off: builds of one network differ in the last bit before rounding."""

LIKENESS_LEVELS = 8.0
"""How far, on average, a picture scaled down again may be from the one that was sent."""


class WrongPictureError(Exception):
    """The server answered in time, with a picture that is not the right one."""


@dataclass
class Checker:
    """Checks the answers of one model, in one process; may be shared by its users.

    Every answer's shape, type and stamp are looked at. Of a share of them every pixel away from
    the stamp is compared with an earlier answer to the same base frame; the first answer of each
    base frame, which becomes that reference, must look like the frame that was sent.
    """

    scale: int
    halo_px: int
    share: float
    rng: random.Random
    _references: dict[int, Frame] = field(default_factory=dict)

    def check(self, base_index: int, sent: Frame, number: int, upscaled: Frame) -> None:
        """Raise for an answer that is wrong.

        Args:
            base_index: which base frame was sent.
            sent: uint8 ``(1, H, W, 3)``, stamped.
            number: what the stamp says.
            upscaled: the answer, uint8 ``(1, s*H, s*W, 3)`` if it is right.

        Raises:
            WrongPictureError: it is not.

        """
        _, height, width, channels = sent.shape
        expected = (1, height * self.scale, width * self.scale, channels)
        if upscaled.shape != expected or upscaled.dtype != np.uint8:
            raise WrongPictureError(f"{upscaled.dtype} {upscaled.shape}, expected uint8 {expected}")
        if (found := read_stamp(upscaled, self.scale)) != number & 0xFFFFFFFF:
            raise WrongPictureError(f"stamped {found}, this request's number is {number}")
        reference = self._references.get(base_index)
        if reference is None:
            self._check_likeness(sent, upscaled)
            self._references[base_index] = self._comparable(upscaled).copy()
        elif self.rng.random() < self.share:
            _check_equal(self._comparable(upscaled), reference)

    def _comparable(self, upscaled: Frame) -> Frame:
        """Return the rows that no stamp reaches."""
        return upscaled[0, (STAMP_HEIGHT_PX + self.halo_px) * self.scale :]

    def _check_likeness(self, sent: Frame, upscaled: Frame) -> None:
        _, height, width, channels = sent.shape
        cells = upscaled.reshape(height, self.scale, width, self.scale, channels)
        difference = cells.mean(axis=(1, 3), dtype=np.float32) - sent[0]
        if (levels := float(np.abs(difference).mean())) > LIKENESS_LEVELS:
            raise WrongPictureError(f"on average {levels:.0f} levels from what was sent")


def _check_equal(found: Frame, reference: Frame) -> None:
    worst = int((np.maximum(found, reference) - np.minimum(found, reference)).max())
    if worst > TOLERANCE_LEVELS:
        raise WrongPictureError(f"a pixel is {worst} levels from an earlier answer's")
