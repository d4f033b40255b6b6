"""Checks whether the server's answers are the right pictures."""

from __future__ import annotations

import random
from typing import Final

import numpy as np

from rt4ksr_client.frames import Frame
from rt4ksr_loadtest.load.frames import STAMP_HEIGHT_PX, read_stamp

__all__ = ["AnswerChecker", "WrongPictureError"]

TOLERANCE_LEVELS: Final = 1
"""How much a pixel may differ: builds of one network differ in the last bit before rounding."""

LIKENESS_LEVELS: Final = 8.0
"""How much the answer, scaled down again, may differ on average from the frame that was sent."""


class WrongPictureError(Exception):
    """The server answered in time, but with a wrong picture."""


class AnswerChecker:
    """Checks the answers of one model; the users of a process share it.

    Shape, dtype and stamp of every answer are checked. For a share of them, every pixel that the
    stamp cannot reach is compared with an earlier answer to the same base frame. The first answer
    to a base frame, which becomes that reference, must look like the frame that was sent.

    Args:
        scale: of the model.
        halo_px: how far a pixel's influence reaches, in pixels of the frame that is sent.
        share: of the answers to compare pixel by pixel, 0 to 1.
        rng: chooses them.

    """

    def __init__(self, scale: int, halo_px: int, share: float, rng: random.Random) -> None:
        self._scale = scale
        self._first_row = (STAMP_HEIGHT_PX + halo_px) * scale  # the first that no stamp reaches
        self._share = share
        self._rng = rng
        self._references: dict[int, Frame] = {}

    def check(self, base_index: int, sent: Frame, number: int, upscaled: Frame) -> None:
        """Check one answer.

        Args:
            base_index: which base frame was sent.
            sent: uint8 ``(1, H, W, 3)``, with its stamp.
            number: what the stamp says.
            upscaled: the answer; uint8 ``(1, s*H, s*W, 3)`` if it is right.

        Raises:
            WrongPictureError: the answer is wrong.

        """
        _, height, width, channels = sent.shape
        expected = (1, height * self._scale, width * self._scale, channels)
        if upscaled.shape != expected or upscaled.dtype != np.uint8:
            raise WrongPictureError(f"{upscaled.dtype} {upscaled.shape}, expected uint8 {expected}")
        if (found := read_stamp(upscaled, self._scale)) != number & 0xFFFFFFFF:
            raise WrongPictureError(f"the stamp says {found}, this request's number is {number}")
        comparable = upscaled[0, self._first_row :]
        reference = self._references.get(base_index)
        if reference is None:
            self._check_likeness(sent, upscaled)
            self._references[base_index] = comparable.copy()
        elif self._rng.random() < self._share:
            difference = np.maximum(comparable, reference) - np.minimum(comparable, reference)
            if (levels := int(difference.max())) > TOLERANCE_LEVELS:
                raise WrongPictureError(f"a pixel is {levels} levels from an earlier answer's")

    def _check_likeness(self, sent: Frame, upscaled: Frame) -> None:
        _, height, width, channels = sent.shape
        cells = upscaled.reshape(height, self._scale, width, self._scale, channels)
        difference = cells.mean(axis=(1, 3), dtype=np.float32) - sent[0]
        if (levels := float(np.abs(difference).mean())) > LIKENESS_LEVELS:
            raise WrongPictureError(f"on average {levels:.0f} levels from what was sent")
