"""A Python-backend model that fails as Triton's native backends do: INTERNAL, whoever is at fault.

It is copied into a test's repository as ``1/model.py`` and runs in Triton's Python stub. Otherwise
it is nearest neighbour under the wire contract, twice as large.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

BROKEN = 13


class TritonPythonModel:
    """Fails at odd and empty frames, and, like a broken GPU, at frames that begin with BROKEN."""

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        if not image.size or image.shape[1] % 2 or image.shape[2] % 2:
            raise RuntimeError("the input tensor cannot be reshaped to the requested shape")
        if image.flat[0] == BROKEN:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        upscaled = np.ascontiguousarray(image.repeat(2, axis=1).repeat(2, axis=2))
        return pb_utils.InferenceResponse([pb_utils.Tensor("upscaled", upscaled)])
