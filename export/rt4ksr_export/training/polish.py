"""The upsampler's weights, last of all, by least squares.

What training leaves is noise of the optimizer: half a level of brightness, say, which no patch of
texture tells from chance, and which costs a smooth picture decibels. The last layer is linear, so
its best weights for given features are the solution of a linear system. Patches count by the
inverse of their error, which makes the sum of squares a model of what is measured: the mean, over
pictures, of the logarithm of the error (iteratively reweighted least squares).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rt4ksr_export.fuse import fuse
from rt4ksr_export.network import RT4KSR, FusedRT4KSR
from rt4ksr_export.training.pictures import PairSource

__all__ = ["POLISH_PATCH_PX", "polished"]

POLISH_PATCH_PX = 96
BATCH_SIZE = 8
EDGE = 8
"""Unshuffled pixels at a patch's edge that see its zero padding: left out."""

FLOOR = 1e-5
"""Added to a patch's error (1.0 = white): beyond 50 dB nothing needs to get better."""

RIDGE = 1e-6
"""Pull towards the weights as they are, as a share of the features' mean power."""


@dataclass
class _System:
    """The normal equations of one pass, in float64."""

    power: Tensor
    products: Tensor

    def add(self, features: Tensor, residual: Tensor, weight: Tensor) -> None:
        """Add rows: ``(P, K)`` features and ``(P, O)`` residuals, of one patch."""
        weighted = weight * features.T
        self.power += weighted @ features
        self.products += weighted @ residual

    def solution(self) -> Tensor:
        """Return the change ``(K, O)`` of the weights that leaves the least residual."""
        ridge = RIDGE * self.power.diagonal().mean() * torch.eye(len(self.power)).double()
        change: Tensor = torch.linalg.solve(self.power + ridge, self.products)
        return change


def polished(
    network: RT4KSR, source: PairSource, batches: int, done: Callable[[], None] = lambda: None
) -> RT4KSR:
    """Return ``network`` with the upsampler that fits ``batches`` batches of pairs best.

    ``network`` is not changed. ``done`` is called after each batch.
    """
    result = RT4KSR(network.architecture)
    result.load_state_dict(network.state_dict())
    fused = fuse(network)
    convolution = fused.upsample
    outputs, inputs = convolution.weight.shape[:2]
    system = _System(
        torch.zeros(9 * inputs + 1, 9 * inputs + 1).double(),
        torch.zeros(9 * inputs + 1, outputs).double(),
    )
    with torch.inference_mode():
        for index in range(batches):
            # Counted back from the end of time: pairs that no training iteration drew.
            small, large = source.batch(2**31 - 1 - index, BATCH_SIZE, POLISH_PATCH_PX)
            for rows in _rows(fused, _tensor(small), _tensor(large)):
                system.add(*rows)
            done()
        change = system.solution().float()
        state = result.state_dict()
        state["upsample.0.weight"] += change[:-1].T.reshape(convolution.weight.shape)
        state["upsample.0.bias"] += change[-1]
    return result.eval()


def _rows(fused: FusedRT4KSR, small: Tensor, large: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return features, residuals and weight of each patch."""
    features = fused.features(small)
    residual = F.pixel_unshuffle(large, fused.architecture.shuffle) - fused.upsample(features)
    side = features.shape[-1] - 2 * EDGE
    columns = F.unfold(features[..., EDGE - 1 : EDGE + side + 1, EDGE - 1 : EDGE + side + 1], 3)
    residual = residual[..., EDGE : EDGE + side, EDGE : EDGE + side].flatten(2)
    ones = torch.ones_like(columns[:, :1])
    weights = 1 / (residual.square().mean(dim=(1, 2)) + FLOOR)
    rows = torch.cat([columns, ones], 1).transpose(1, 2).double()
    return list(zip(rows, residual.transpose(1, 2).double(), weights.double(), strict=True))


def _tensor(pixels: object) -> Tensor:
    tensor = torch.as_tensor(pixels)
    return tensor.permute(0, 3, 1, 2).float() / 255
