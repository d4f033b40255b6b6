r"""From the trained form to the served one: re-parameterization, then recentring. Both are exact.

A third exact step, :func:`fold_yuv420`, makes a network for 4:2:0 video of one for RGB.

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

**Folding** uses that the way from 4:2:0 to RGB and back is linear. With the colour matrix
:math:`M`, :math:`(r, g, b)^T = M^{-1} (y, u, v)^T`, and chroma repeated for the 2x2 pixels of its
block (:math:`k`), the head :math:`H` sees :math:`x_{ck} = M^{-1}_{cy}\, y_k + M^{-1}_{cu}\, u +
M^{-1}_{cv}\, v`, so that

.. math:: H'_{y_k} = \sum_c H_{ck} M^{-1}_{cy}, \quad
   H'_u = \sum_{ck} H_{ck} M^{-1}_{cu}, \quad H'_v = \sum_{ck} H_{ck} M^{-1}_{cv}

for each tap of the kernel, borders included, as black is zero in both. Likewise the upsampler
:math:`U`, whose output is RGB, gives luma by :math:`\sum_c M_{yc} U_{ck}`, and chroma by
:math:`\frac{1}{4} \sum_{ck} M_{uc} U_{ck}`, the mean over the block. What is not folded is the
clipping of colours outside RGB.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rt4ksr_export.network import RT4KSR, UNSHUFFLE, FusedBlock, FusedRT4KSR, pack_yuv420

__all__ = [
    "BT709",
    "REMAINDER",
    "collapse",
    "fold_yuv420",
    "fuse",
    "fuse_parameters",
    "recentre",
    "recentre_block",
]

BT709: Final = torch.tensor(
    [
        [0.2126, 0.7152, 0.0722],
        [-0.2126 / 1.8556, -0.7152 / 1.8556, 0.9278 / 1.8556],
        [0.7874 / 1.5748, -0.7152 / 1.5748, -0.0722 / 1.5748],
    ],
    dtype=torch.float64,
)
"""From RGB in [0, 1] to luma in [0, 1] and chroma in [-0.5, 0.5] (ITU-R BT.709-6, section 3)."""

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


def fold_yuv420(network: RT4KSR, matrix: Tensor = BT709) -> RT4KSR:
    """Return the network for 4:2:0 that does what ``network``, for RGB, does between conversions.

    Before it, chroma is repeated for the four pixels of its block and ``matrix`` undone; behind it,
    ``matrix`` is applied and chroma averaged over each block. ``network`` is not changed. The
    result is a network to train further or to :func:`fuse`.

    Args:
        network: the training form, for RGB.
        matrix: ``(3, 3)``, from RGB to luma and chroma, as :data:`BT709`.

    Raises:
        ValueError: ``network`` is not for RGB.

    """
    rgb = network.architecture
    if rgb.colours != "rgb":
        raise ValueError("a network for 4:2:0 cannot be folded again")
    folded = RT4KSR(replace(rgb, colours="yuv420"))
    state = {name: value.detach().cpu().double() for name, value in network.state_dict().items()}

    # (features, colour, pixel of the block, rows, columns)
    head = state["head.0.weight"].unflatten(1, (3, UNSHUFFLE**2))
    head = torch.einsum("fckyx,cm->fmkyx", head, torch.linalg.inv(matrix.double()))
    state["head.0.weight"] = torch.cat([head[:, 0], head[:, 1:].sum(dim=2)], dim=1)

    # torch shuffles from channels (colour, row, column), the rows and columns of s blocks of 2 each
    blocks = (3, rgb.scale, UNSHUFFLE, rgb.scale, UNSHUFFLE)
    for name in ("upsample.0.weight", "upsample.0.bias"):
        values = torch.einsum(
            "mc,crisj...->mijrs...", matrix.double(), state[name].unflatten(0, blocks)
        )
        luma, chroma = values[0], values[1:].mean(dim=(1, 2))
        state[name] = torch.cat([luma.flatten(0, 3), chroma.flatten(0, 2)])
    folded.load_state_dict({name: value.float() for name, value in state.items()})
    return folded.train(network.training)


def recentre(network: FusedRT4KSR) -> FusedRT4KSR:
    """Return a network with small convolution inputs that computes the same, up to float rounding.

    The input of each normed convolution is then about ``REMAINDER * norm.weight`` plus its signal.
    The constants are measured on patches of every colour, the same on every machine.
    """
    patches = np.random.default_rng(20230617).integers(0, 256, (3, 16, 16)) / 255.0
    picture = torch.from_numpy(np.kron(patches, np.ones((8, 8))))[None]  # (1, 3, 128, 128)
    if network.architecture.colours == "yuv420":
        picture = torch.einsum("yc,nchw->nyhw", BT709, picture)
        picture = pack_yuv420(picture[:, :1], picture[:, 1:, ::UNSHUFFLE, ::UNSHUFFLE])
    exact = copy.deepcopy(network).double()
    with torch.inference_mode():
        x = exact.head(F.pixel_unshuffle(picture, network.architecture.unshuffle))
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
