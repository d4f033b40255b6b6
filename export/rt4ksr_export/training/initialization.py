"""Initial weights that already upscale about as well as bicubic interpolation.

The network has no path around its norms, so a random start spends its first thousands of
iterations on learning to pass a picture through. Here the first features carry the twelve
unshuffled pixels. *Anchors*, features with a large constant, keep the norm's mean and deviation
nearly constant, so that a constant gain undoes it. The bias keeps the pixels where GELU is nearly
linear. The remaining features start at the bend of GELU with small random weights, free to learn.
The upsampler starts as Keys' cubic kernel (a = -0.5, Pillow's bicubic).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from rt4ksr_export.network import RT4KSR, UNSHUFFLE, Architecture

__all__ = ["cubic_upsampler", "initial_network"]

ANCHOR = 3.0
"""Value of an anchor, and offset of a pixel: GELU(3) = 2.996."""

QUIET, LIVELY = 0.02, 0.3
"""Factors on the default random weights of the features that carry pixels, and of the free ones."""


def initial_network(architecture: Architecture, seed: int) -> RT4KSR:
    """Return a network to start training from; the same seed gives the same weights.

    With too few features for anchors (as many as unshuffled pixels, plus two) the random default
    is returned.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RT4KSR(architecture)
    if architecture.features >= architecture.unshuffled_channels + 2:
        with torch.no_grad():
            _pass_pixels(network)
    return network


def _pass_pixels(network: RT4KSR) -> None:
    """Set the weights of ``network`` so that it upscales by cubic interpolation."""
    a = network.architecture
    weights = dict(network.named_parameters())
    pixels = slice(0, a.unshuffled_channels)
    free_count = (a.features - a.unshuffled_channels) // 2
    anchors = slice(a.unshuffled_channels, a.features - free_count)
    free = slice(a.features - free_count, a.features)
    offset = torch.zeros(a.features)
    offset[anchors], offset[free] = ANCHOR, -ANCHOR

    weights["head.0.weight"][: a.features - free_count] *= QUIET
    for channel in range(a.unshuffled_channels):
        weights["head.0.weight"][channel, channel, 1, 1] += 1
    weights["head.0.bias"].copy_(offset)

    gain = math.sqrt((a.features - a.unshuffled_channels) / a.features) * ANCHOR
    for norm in (*(f"body.{index}.norm" for index in range(a.blocks)), "tail.0"):
        weights[f"{norm}.weight"].fill_(gain)
        weights[f"{norm}.bias"].zero_()
    for index in range(a.blocks):
        # Pixels return to ANCHOR above their value, anchors to 2 ANCHOR, free features to 0.
        _subtract_anchors(weights, f"body.{index}.conv1", anchors, free).fill_(2 * ANCHOR)
    bias = _subtract_anchors(weights, "tail.1", anchors, free)
    bias.zero_()
    bias[pixels] += ANCHOR

    weights["upsample.0.weight"].mul_(QUIET)
    weights["upsample.0.weight"][:, a.unshuffled_channels :] *= 0.1
    weights["upsample.0.weight"][:, pixels] += cubic_upsampler(a.scale)
    weights["upsample.0.bias"].zero_()


def _subtract_anchors(
    weights: Mapping[str, Tensor], conv: str, anchors: slice, free: slice
) -> Tensor:
    """Make ``conv`` the identity minus the anchors' mean, which undoes what the norm subtracted.

    Returns its output bias, which the caller sets.
    """
    expand, feature, reduce = (
        weights[f"{conv}.{part}.weight"] for part in ("expand_conv", "fea_conv", "reduce_conv")
    )
    weights[f"{conv}.expand_conv.bias"].zero_()
    weights[f"{conv}.fea_conv.bias"].zero_()
    reduce *= QUIET
    reduce[free] *= LIVELY / QUIET
    # The first expanded feature is the anchors' mean, and nothing else.
    expand[0] = 0
    expand[0, anchors] = 1 / (anchors.stop - anchors.start)
    feature[0] = 0
    feature[:, 0] = 0
    reduce[:, 0] = -1
    return weights[f"{conv}.reduce_conv.bias"]


def cubic_upsampler(scale: int) -> Tensor:
    """Weights ``(3*(2s)^2, 12, 3, 3)`` of cubic interpolation from and to shuffled pixels."""
    side = UNSHUFFLE * scale
    along = torch.zeros(side, UNSHUFFLE, 3)  # output position, parity of the input, tap
    for position in range(side):
        centre = (position + 0.5) / scale - 0.5
        for pixel in range(-UNSHUFFLE, 2 * UNSHUFFLE):
            along[position, pixel % UNSHUFFLE, pixel // UNSHUFFLE + 1] = _keys_kernel(
                centre - pixel
            )
    plane = torch.einsum("ipy,jqx->ijpqyx", along, along).reshape(side**2, UNSHUFFLE**2, 3, 3)
    weight = torch.zeros(3, side**2, 3, UNSHUFFLE**2, 3, 3)
    for colour in range(3):
        weight[colour, :, colour] = plane
    return weight.reshape(3 * side**2, 3 * UNSHUFFLE**2, 3, 3)


def _keys_kernel(distance: float, a: float = -0.5) -> float:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981."""
    t = abs(distance)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0
