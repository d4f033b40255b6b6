"""A Python-backend model of known slowness: nearest neighbour under the wire contract.

It is copied into a test's repository as ``1/model.py`` and runs in Triton's Python stub.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Parameters: ``delay_s`` before each answer; each ``wrong_every``-th is wrong.

    ``mark`` (optional) is added to U and V, so that a picture shows where it comes from.
    """

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = config["parameters"]
        pairs = zip(config["input"], config["output"], strict=True)
        self.names = [(taken["name"], given["name"]) for taken, given in pairs]
        self.delay_s = float(parameters["delay_s"]["string_value"])
        self.wrong_every = int(parameters["wrong_every"]["string_value"])
        self.scale = int(parameters["scale"]["string_value"])
        self.mark = int(parameters.get("mark", {}).get("string_value", 0))
        self.answered = 0

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        time.sleep(self.delay_s)
        self.answered += 1
        outputs = []
        for taken, given in self.names:
            image = pb_utils.get_input_tensor_by_name(request, taken).as_numpy()
            upscaled = image.repeat(self.scale, axis=1).repeat(self.scale, axis=2)
            if taken == "chroma":
                upscaled += np.uint8(self.mark)
            if self.wrong_every and self.answered % self.wrong_every == 0:
                upscaled[:, -1, -1] ^= 64  # one pixel, far from everything
            outputs.append(pb_utils.Tensor(given, np.ascontiguousarray(upscaled)))
        return pb_utils.InferenceResponse(outputs)
