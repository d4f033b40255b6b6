"""Runs a plan on the GPU and compares what comes out with what the ONNX graph gives."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from rt4ksr_client.contract import INPUT_NAME, OUTPUT_NAME
from rt4ksr_client.errors import ExportError
from rt4ksr_export.plans.compiler import Compiler
from rt4ksr_export.plans.profile import Profile
from rt4ksr_export.verify_half import HalfAgreement, agreement_of

__all__ = ["PlanRunner", "compare_plan"]

Batch = NDArray[np.uint8]


def compare_plan(
    compiler: Compiler, plan: bytes, graph: bytes, profile: Profile
) -> HalfAgreement | None:
    """Run ``plan`` and ``graph`` on the inputs of the verification that fit the profile.

    Returns None where PyTorch sees no GPU.

    Raises:
        VerificationError: they differ by more than half precision may from full precision.
        ExportError: the plan cannot be loaded or run.

    """
    if not torch.cuda.is_available():
        return None
    return agreement_of(PlanRunner(compiler, plan, profile), onnx.load_model_from_string(graph))


class PlanRunner:
    """Calls a plan on the first GPU: uint8 ``(N, H, W, 3)`` to ``(N, s*H, s*W, 3)``."""

    def __init__(self, compiler: Compiler, plan: bytes, profile: Profile) -> None:
        self._profile = profile
        self._runtime = compiler.trt.Runtime(compiler.logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ExportError(f"{compiler.target.value} cannot load the plan it has just built")
        self._context = self._engine.create_execution_context()

    def __call__(self, batch: Batch) -> Batch | None:
        """Return None for a batch that is larger than the profile."""
        if any(size > top for size, top in zip(batch.shape, self._profile.largest, strict=True)):
            return None
        device = torch.device("cuda")
        frames = torch.from_numpy(np.ascontiguousarray(batch)).to(device)
        self._context.set_input_shape(INPUT_NAME, tuple(frames.shape))
        shape = tuple(self._context.get_tensor_shape(OUTPUT_NAME))
        upscaled = torch.empty(shape, dtype=torch.uint8, device=device)
        self._context.set_tensor_address(INPUT_NAME, frames.data_ptr())
        self._context.set_tensor_address(OUTPUT_NAME, upscaled.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream(device).cuda_stream):
            raise ExportError(f"the plan cannot be run on a batch of {batch.shape}")
        pixels: Batch = upscaled.cpu().numpy()  # waits for the stream
        return pixels
