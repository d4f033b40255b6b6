"""Checks whether the server's answers are the right pictures."""

from __future__ import annotations

import random
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rt4ksr_client.frames import Planes
from rt4ksr_client.served_model import ServedModel
from rt4ksr_loadtest.load.frames import STAMP_HEIGHT_PX, level_of, read_stamp

__all__ = ["AnswerChecker", "WrongPictureError"]

TOLERANCE_LEVELS: Final = 1
"""How much a pixel may differ: builds of one network differ in the last bit before rounding. A
level is one of 256, in planes of 16 bits too."""

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
        model: whose answers; a pixel's influence reaches as far as its halo.
        share: of the answers to compare pixel by pixel, 0 to 1.
        rng: chooses them.

    """

    def __init__(self, model: ServedModel, share: float, rng: random.Random) -> None:
        self._model = model
        self._share = share
        self._rng = rng
        self._references: dict[int, Planes] = {}

    def check(self, base_index: int, sent: Planes, number: int, upscaled: Planes) -> None:
        """Check one answer.

        Args:
            base_index: which base frame was sent.
            sent: ``(1, H, W, C)`` of each plane, with its stamp.
            number: what the stamp says.
            upscaled: the answer; ``(1, s*H, s*W, C)`` of each plane if it is right.

        Raises:
            WrongPictureError: the answer is wrong.

        """
        scale = self._model.scale
        found = [(plane.shape, plane.dtype) for plane in upscaled]
        expected = [
            ((1, height * scale, width * scale, channels), plane.dtype)
            for plane in sent
            for _, height, width, channels in [plane.shape]
        ]
        if found != expected:
            texts = (
                " and ".join(f"{dtype} {shape}" for shape, dtype in planes)
                for planes in (found, expected)
            )
            raise WrongPictureError(", expected ".join(texts))
        if (stamp := read_stamp(upscaled[0], scale)) != number & 0xFFFFFFFF:
            raise WrongPictureError(f"the stamp says {stamp}, this request's number is {number}")
        first_row = (STAMP_HEIGHT_PX + self._model.halo_px) * scale  # that no stamp reaches
        comparable = tuple(
            plane[0, first_row // tensor.subsampling :]
            for plane, tensor in zip(upscaled, self._model.outputs, strict=True)
        )
        references = self._references.get(base_index)
        if references is None:
            for plane, answer in zip(sent, upscaled, strict=True):
                _check_likeness(plane, answer, scale)
            self._references[base_index] = tuple(plane.copy() for plane in comparable)
        elif self._rng.random() < self._share:
            for plane, reference in zip(comparable, references, strict=True):
                difference = np.maximum(plane, reference) - np.minimum(plane, reference)
                if (levels := int(difference.max()) / level_of(plane)) > TOLERANCE_LEVELS:
                    raise WrongPictureError(
                        f"a pixel is {levels:g} levels from an earlier answer's"
                    )


def _check_likeness(sent: NDArray[Any], upscaled: NDArray[Any], scale: int) -> None:
    _, height, width, channels = sent.shape
    cells = upscaled.reshape(height, scale, width, scale, channels)
    difference = cells.mean(axis=(1, 3), dtype=np.float32) - sent[0]
    if (levels := float(np.abs(difference).mean()) / level_of(sent)) > LIKENESS_LEVELS:
        raise WrongPictureError(f"on average {levels:.0f} levels from what was sent")
