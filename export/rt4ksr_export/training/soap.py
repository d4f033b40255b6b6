"""The SOAP optimizer: Adam in the eigenbasis of Shampoo's preconditioner.

Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", ICLR 2025. A network this small
without paths around its norms is badly conditioned, and Adam needs tens of times more iterations
for the same picture quality. The matrices to decompose are at most a few hundred wide, so the
second-order step costs less than the gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["Soap"]


class Soap(torch.optim.Optimizer):
    """SOAP for convolutions (as matrices: outputs by all the rest), plain Adam for vectors.

    Args:
        parameters: to optimize, in place.
        lr: learning rate, in the units of Adam's.
        decay: of the averages of the gradient, its square and its covariances.
        refresh_every: steps between updates of the eigenbases.

    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        decay: float = 0.95,
        refresh_every: int = 10,
    ) -> None:
        super().__init__(list(parameters), {"lr": lr})
        self._decay = decay
        self._refresh_every = refresh_every

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    change = self._change(parameter.grad, self.state[parameter])
                    parameter.add_(change.reshape(parameter.shape), alpha=-group["lr"])

    def _change(self, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """Return what to subtract at a learning rate of 1, and update ``state``."""
        gradient = gradient.flatten(1) if gradient.ndim > 1 else gradient
        if not state:
            state.update(_initial_state(gradient))
        state["count"] += 1
        count, decay = state["count"], self._decay
        state["mean"].lerp_(gradient, 1 - decay)
        state["square"].lerp_(_to_eigenbasis(gradient, state).square(), 1 - decay)
        correction = 1 - decay**count
        change: Tensor = _to_eigenbasis(state["mean"], state) / correction
        change /= (state["square"] / correction).sqrt() + 1e-8
        if gradient.ndim == 1:
            return change
        change = state["left_basis"] @ change @ state["right_basis"].mT
        state["left"].lerp_(gradient @ gradient.T, 1 - decay)
        state["right"].lerp_(gradient.T @ gradient, 1 - decay)
        if count % self._refresh_every == 0:
            _refresh_eigenbasis(state, "left", dim=0)
            _refresh_eigenbasis(state, "right", dim=1)
        return change


def _initial_state(gradient: Tensor) -> dict[str, Any]:
    """Return averages of zero and, for a matrix, the eigenbases of the first gradient."""
    state: dict[str, Any] = {
        "count": 0,
        "mean": torch.zeros_like(gradient),
        "square": torch.zeros_like(gradient),
    }
    if gradient.ndim > 1:
        state["left"], state["right"] = gradient @ gradient.T, gradient.T @ gradient
        for side in ("left", "right"):
            state[f"{side}_basis"] = torch.linalg.eigh(state[side])[1].flip(1)
    return state


def _to_eigenbasis(matrix: Tensor, state: dict[str, Any]) -> Tensor:
    """Return ``matrix`` in the eigenbases of ``state``; a vector has none and is returned as is."""
    if matrix.ndim == 1:
        return matrix
    rotated: Tensor = state["left_basis"].mT @ matrix @ state["right_basis"]
    return rotated


def _refresh_eigenbasis(state: dict[str, Any], side: str, dim: int) -> None:
    """Run one power iteration and a QR decomposition: enough, as covariances change slowly."""
    covariance, basis = state[side], state[f"{side}_basis"]
    order = (basis * (covariance @ basis)).sum(0).argsort(descending=True)
    state["square"] = state["square"].index_select(dim, order)
    state[f"{side}_basis"] = torch.linalg.qr(covariance @ basis[:, order])[0]
