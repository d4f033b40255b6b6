"""The image endpoint that chooses: decodes each picture, and sends it to the model for it.

An ensemble cannot choose. This model takes the part of one, with requests of its own to the network
and to the encode stage; the frames stay in shared memory, in which they would be anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from rt4ksr_client.contract import (
    ENCODE_STAGE,
    INPUT_NAME,
    INPUTS,
    OUTPUT_NAME,
    SIDECAR_NAME,
    SIZE_MULTIPLE_PX,
    UPSCALED_PICTURE_NAME,
    ModelSpec,
    Parameter,
)
from rt4ksr_client.formats.compression import Compression, compression_of
from rt4ksr_client.frames import to_batch
from rt4ksr_client.model_choice import model_for
from rt4ksr_server.stages import decode
from rt4ksr_server.stages.triton import ModelError, bytes_tensor, request_parameters

__all__ = ["TritonPythonModel"]


class TritonPythonModel(decode.TritonPythonModel):
    """One instance of ``rt4ksr_x2_auto_image``, which has one request in work at a time."""

    def configure(self, parameters: Mapping[str, str]) -> None:
        """Read the models, the default one first, and the limits."""
        super().configure(parameters)

        def limit(key: str, name: str) -> int:
            return int(parameters.get(f"{key}:{name}", 0))

        self._models = [
            ModelSpec(
                name,
                int(parameters[Parameter.SCALE]),
                input_width_px=0,
                input_height_px=0,
                max_jpeg_quality=limit(Parameter.MAX_JPEG_QUALITY, name),
                max_jpeg_quality_444=limit(Parameter.MAX_JPEG_QUALITY_444, name),
            )
            for name in parameters[Parameter.CHOICES].split(",")
        ]

    def run(self, request: Any) -> list[Any]:
        """Answer with the upscaled pictures, which need not have one size."""
        parameters = request_parameters(request)
        answers = []
        for image, frame, sidecar in self.decoded(request):
            compression = compression_of(image)
            (batch,) = to_batch((frame,), INPUTS["rgb"], SIZE_MULTIPLE_PX)
            upscaled = self.upscale(pb_utils.Tensor(INPUT_NAME, batch), compression)
            inputs = [upscaled, bytes_tensor(SIDECAR_NAME, [sidecar.to_bytes()])]
            response = ask(ENCODE_STAGE, inputs, UPSCALED_PICTURE_NAME, parameters)
            answers.append(bytes(output_of(response).as_numpy().reshape(-1)[0]))
        return [bytes_tensor(UPSCALED_PICTURE_NAME, answers)]

    def upscale(self, image: Any, compression: Compression) -> Any:
        """Return the answer of the model for ``image``, of those that the server has."""
        offered = list(self._models)
        while True:
            chosen = model_for(compression, self._models[0], offered)
            response = ask(chosen.name, [image], OUTPUT_NAME)
            # The error's code is that of a full queue, too.
            is_missing = response.has_error() and response.error().message().endswith("not ready.")
            if not is_missing or chosen is self._models[0]:
                return output_of(response)
            offered.remove(chosen)


def ask(
    model: str, inputs: list[Any], output: str, parameters: Mapping[str, Any] | None = None
) -> Any:
    """Return the response of another model of the server."""
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=[output],
        inputs=inputs,
        parameters=dict(parameters or {}),
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    return request.exec()


def output_of(response: Any) -> Any:
    """Return the only output tensor of a response.

    Raises:
        ModelError: the model failed.

    """
    if response.has_error():
        raise ModelError(response.error())
    (tensor,) = response.output_tensors()
    return tensor
