r"""The same network with small numbers in it, so that half precision is enough for it.

Trained norms live off large constants: what enters a convolution is a constant of about 3 plus a
signal of about 0.2, and weights that let the constants cancel. Rounding the weights to the ten bits
of FP16, or of the TF32 that GPUs use for FP32 convolutions, then errs by 2 levels on average.
In FP32, too, the numbers below are five times as accurate.

A norm's output is :math:`x = \gamma n + \beta` with :math:`\sum_c n_c = 0`. That constraint leaves
a freedom: for any :math:`\beta'` with :math:`B' = \sum_c \beta'_c / \gamma_c \ne 0`,

.. math:: W x = W' x', \quad x' = \gamma n + \beta', \quad
   W' = W + \frac{W (\beta - \beta')}{B'} \gamma^{-1}

for each tap of the kernel by itself, hence with zero padding too. Here
:math:`\beta' = \gamma (\tau - \bar n)`: the constants are gone but for :math:`\gamma \tau`.
"""

from __future__ import annotations

import copy
from typing import Final, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rt4ksr_export.network import UNSHUFFLE, FusedBlock, FusedRT4KSR

__all__ = ["REMAINDER", "recentred"]

REMAINDER: Final = 0.3
""":math:`\\tau`: the less remains of the constants, the larger the weights that make up for it."""

_GRID: Final = 1024.0
"""Any constants are exact; these are multiples of 1/1024, so that every machine finds the same."""


def recentred(network: FusedRT4KSR) -> FusedRT4KSR:
    """Return a network that computes the same, exactly but for float rounding.

    The input of each normed convolution is about ``REMAINDER * norm.weight``, plus its signal.
    A norm with a zero in its weight is left as it is.
    """
    exact = copy.deepcopy(network).double()
    with torch.inference_mode():
        x = exact.head(F.pixel_unshuffle(_typical_picture(), UNSHUFFLE))
        for block in exact.body.children():
            x = F.gelu(_recentre(cast(FusedBlock, block), x))
        _recentre(exact.tail, x)
    return exact.float().eval()


def _recentre(block: FusedBlock, x: Tensor) -> Tensor:
    """Change ``block`` in place; return what it makes of ``x``, which is what it made before."""
    gamma, beta, weight = block.norm.weight, block.norm.bias, block.conv.weight
    if (gamma != 0).all():
        normed = (block.norm(x) - beta[:, None, None]) / gamma[:, None, None]
        constant = torch.round(normed.mean(dim=(0, 2, 3)) * _GRID) / _GRID
        constant -= constant.mean()
        new_beta = gamma * (REMAINDER - constant)
        made_up = torch.einsum("ocyx,c->oyx", weight, beta - new_beta) / (new_beta / gamma).sum()
        weight += made_up[:, None] / gamma[:, None, None]
        beta.copy_(new_beta)
    out: Tensor = block(x)
    return out


def _typical_picture() -> Tensor:
    """Patches of every colour, ``(1, 3, 128, 128)`` in [0, 1]; the same on every machine."""
    patches = np.random.default_rng(20230617).integers(0, 256, (3, 16, 16)) / 255.0
    return torch.from_numpy(np.kron(patches, np.ones((8, 8))))[None]
