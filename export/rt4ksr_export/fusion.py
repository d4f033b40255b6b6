r"""From the trained form to the served one: re-parameterization, then recentring. Both are exact.

**Fusion** collapses each :class:`~rt4ksr_export.network.RepConv` into one 3x3 convolution. With
expand :math:`E, b_E` (1x1), feature convolution :math:`F, b_F` (3x3) and reduce :math:`R, b_R`
(1x1), and because the 3x3 is padded with :math:`b_E`, which is what expanding a zero gives, the
block maps :math:`x` to

.. math:: R (F (E x + b_E) + b_F + E x + b_E) + b_R + x
   = (R (F E + \delta E) + \delta I)\, x + R (\Sigma F\, b_E + b_F + b_E) + b_R

where :math:`\delta` is the 3x3 kernel that is 1 in its centre and :math:`\Sigma F` is :math:`F`
summed over its nine taps: one zero-padded 3x3 convolution.

**Recentring** makes half precision accurate enough. The input of a trained convolution is a
constant of about 3 plus a signal of about 0.2, and the weights cancel the constants. Rounding such
weights to the ten bits of FP16, or of the TF32 that GPUs use for FP32 convolutions, costs two
levels on average. FP32 becomes five times as accurate, too.

A norm's output is :math:`x = \gamma n + \beta` with :math:`\sum_c n_c = 0`. That constraint leaves
a degree of freedom: for any :math:`\beta'` with :math:`B' = \sum_c \beta'_c / \gamma_c \ne 0`,

.. math:: W x = W' x', \quad x' = \gamma n + \beta', \quad
   W' = W + \frac{W (\beta - \beta')}{B'} \gamma^{-1}

for each tap of the kernel separately, hence with zero padding, too. Here
:math:`\beta' = \gamma (\tau - \bar n)`, which removes the constants except :math:`\gamma \tau`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Final, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rt4ksr_export.network import RT4KSR, UNSHUFFLE, FusedBlock, FusedRT4KSR

__all__ = ["REMAINDER", "collapse", "fuse", "fuse_parameters", "recentre", "recentre_block"]

REMAINDER: Final = 0.3
""":math:`\\tau`: the smaller the remaining constants, the larger the compensating weights."""

_CONSTANT_STEPS: Final = 1024.0
"""Recentring is exact for any constants; multiples of 1/1024 are the same on every machine."""

_PARTS = ("expand_conv", "fea_conv", "reduce_conv")
_FUSED_NAMES = {"head.0": "head", "tail.0": "tail.norm", "upsample.0": "upsample"}


def fuse(network: RT4KSR) -> FusedRT4KSR:
    """Return the served form of ``network``, float32, on the CPU; ``network`` is not changed.

    The algebra runs in float64, so that the result does not depend on the order of summation.
    """
    fused = FusedRT4KSR(network.architecture)
    wide = {name: value.detach().cpu().double() for name, value in network.state_dict().items()}
    fused.load_state_dict({k: v.float() for k, v in fuse_parameters(wide).items()})
    return fused.eval()


def fuse_parameters(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map the parameters of an ``RT4KSR`` to those of the ``FusedRT4KSR`` that computes the same.

    Pure and differentiable: training in the expanded form can run the fused one (SESR, Bhardwaj
    et al., MLSys 2022, trains this way) at a third of the cost.
    """
    fused: dict[str, Tensor] = {}
    for name, value in parameters.items():
        prefix, _, leaf = name.rpartition(".")
        conv, _, part = prefix.rpartition(".")
        if part == _PARTS[0] and leaf == "weight":
            weight, bias = collapse(parameters, conv)
            target = "tail.conv" if conv == "tail.1" else conv.replace("conv1", "conv")
            fused[f"{target}.weight"], fused[f"{target}.bias"] = weight, bias
        elif part not in _PARTS:
            fused[f"{_FUSED_NAMES.get(prefix, prefix)}.{leaf}"] = value
    return fused


def collapse(parameters: Mapping[str, Tensor], conv: str) -> tuple[Tensor, Tensor]:
    """Return weight ``(C, C, 3, 3)`` and bias ``(C,)`` of the ``RepConv`` named ``conv``, fused."""
    expand, feature, reduce = (parameters[f"{conv}.{part}.weight"] for part in _PARTS)
    b_expand, b_feature, b_reduce = (parameters[f"{conv}.{part}.bias"] for part in _PARTS)
    expand, reduce = expand[:, :, 0, 0], reduce[:, :, 0, 0]
    identity = torch.eye(expand.shape[1], dtype=expand.dtype, device=expand.device)

    weight = torch.einsum("rw,wvyx,vc->rcyx", reduce, feature, expand)
    centre = reduce @ expand + identity
    weight = weight + F.pad(centre[:, :, None, None], (1, 1, 1, 1))
    bias = reduce @ (feature.sum(dim=(2, 3)) @ b_expand + b_feature + b_expand) + b_reduce
    return weight, bias


def recentre(network: FusedRT4KSR) -> FusedRT4KSR:
    """Return a network with small convolution inputs that computes the same, up to float rounding.

    The input of each normed convolution is then about ``REMAINDER * norm.weight`` plus its signal.
    The constants are measured on patches of every colour, the same on every machine.
    """
    patches = np.random.default_rng(20230617).integers(0, 256, (3, 16, 16)) / 255.0
    picture = torch.from_numpy(np.kron(patches, np.ones((8, 8))))[None]  # (1, 3, 128, 128)
    exact = copy.deepcopy(network).double()
    with torch.inference_mode():
        x = exact.head(F.pixel_unshuffle(picture, UNSHUFFLE))
        for module in (*exact.body.children(), exact.tail):
            block = cast(FusedBlock, module)
            recentre_block(block, x)
            x = F.gelu(block(x))
    return exact.float().eval()


def recentre_block(block: FusedBlock, x: Tensor) -> None:
    """Recentre ``block`` in place for inputs like ``x``; a norm with a zero weight stays as it is.

    ``block`` maps every input to what it mapped it to before.
    """
    gamma, beta, weight = block.norm.weight, block.norm.bias, block.conv.weight
    if (gamma == 0).any():
        return
    normed = (block.norm(x) - beta[:, None, None]) / gamma[:, None, None]
    constant = torch.round(normed.mean(dim=(0, 2, 3)) * _CONSTANT_STEPS) / _CONSTANT_STEPS
    constant -= constant.mean()
    new_beta = gamma * (REMAINDER - constant)
    correction = torch.einsum("ocyx,c->oyx", weight, beta - new_beta) / (new_beta / gamma).sum()
    weight += correction[:, None] / gamma[:, None, None]
    beta.copy_(new_beta)
