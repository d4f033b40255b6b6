r"""Re-parameterization: the trained form collapsed into one convolution per block, exactly.

With expand :math:`E, b_E` (1x1), feature convolution :math:`F, b_F` (3x3) and reduce
:math:`R, b_R` (1x1), and because expanding a zero gives :math:`b_E`, the value the 3x3 is padded
with, a :class:`~rt4ksr_export.network.RepConv` maps :math:`x` to

.. math:: R (F (E x + b_E) + b_F + E x + b_E) + b_R + x
   = (R (F E + \delta E) + \delta I)\, x + R (\Sigma F\, b_E + b_F + b_E) + b_R

where :math:`\delta` is the 3x3 kernel that is 1 in its centre and :math:`\Sigma F` is :math:`F`
summed over its nine taps: one zero-padded 3x3 convolution.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rt4ksr_export.network import RT4KSR, FusedRT4KSR

__all__ = ["fuse", "fuse_parameters"]

_PARTS = ("expand_conv", "fea_conv", "reduce_conv")


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

    Pure and differentiable: training in the expanded form may run the fused one (SESR, Bhardwaj
    et al., MLSys 2022, trains this way) at a third of the cost.
    """
    fused: dict[str, Tensor] = {}
    for name, value in parameters.items():
        prefix, _, leaf = name.rpartition(".")
        conv, _, part = prefix.rpartition(".")
        if part == _PARTS[0] and leaf == "weight":
            weight, bias = _collapse(parameters, conv)
            target = "tail.conv" if conv == "tail.1" else conv.replace("conv1", "conv")
            fused[f"{target}.weight"], fused[f"{target}.bias"] = weight, bias
        elif part not in _PARTS:
            fused[_renamed(prefix) + "." + leaf] = value
    return fused


def _renamed(prefix: str) -> str:
    return {"head.0": "head", "tail.0": "tail.norm", "upsample.0": "upsample"}.get(prefix, prefix)


def _collapse(parameters: Mapping[str, Tensor], conv: str) -> tuple[Tensor, Tensor]:
    """Weight ``(C, C, 3, 3)`` and bias ``(C,)`` of the module docstring's formula."""
    expand, feature, reduce = (parameters[f"{conv}.{part}.weight"] for part in _PARTS)
    b_expand, b_feature, b_reduce = (parameters[f"{conv}.{part}.bias"] for part in _PARTS)
    expand, reduce = expand[:, :, 0, 0], reduce[:, :, 0, 0]
    identity = torch.eye(expand.shape[1], dtype=expand.dtype, device=expand.device)

    weight = torch.einsum("rw,wvyx,vc->rcyx", reduce, feature, expand)
    centre = reduce @ expand + identity
    weight = weight + torch.nn.functional.pad(centre[:, :, None, None], (1, 1, 1, 1))
    bias = reduce @ (feature.sum(dim=(2, 3)) @ b_expand + b_feature + b_expand) + b_reduce
    return weight, bias
