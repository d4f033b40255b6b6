"""The image endpoint that chooses: sends each picture to the endpoint of the model for it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from rt4ksr_client import files
from rt4ksr_client.contract import (
    PICTURE_NAME,
    UPSCALED_PICTURE_NAME,
    ModelSpec,
    Parameter,
    image_endpoint,
)
from rt4ksr_client.errors import PictureError
from rt4ksr_client.formats.compression import compression_of
from rt4ksr_client.model_choice import model_for
from rt4ksr_server.stages.inspection import Limits, inspect
from rt4ksr_server.stages.triton import (
    ModelError,
    Stage,
    bytes_tensor,
    input_array,
    request_parameters,
)

__all__ = ["TritonPythonModel"]


class TritonPythonModel(Stage):
    """One instance of ``rt4ksr_x2_auto_image``, which answers a request before the next one.

    Only files go through it. The endpoint decodes the picture once more, which costs less than
    another copy of the upscaled frame.
    """

    def configure(self, parameters: Mapping[str, str]) -> None:
        """Read the models, the default one first, and their limits."""
        names = parameters[Parameter.CHOICES].split(",")

        def limit(key: str, name: str) -> int:
            return int(parameters.get(f"{key}:{name}", 0))

        self._models = [
            ModelSpec(
                name,
                int(parameters[Parameter.SCALE]),
                0,
                0,
                max_jpeg_quality=limit(Parameter.MAX_JPEG_QUALITY, name),
                max_jpeg_quality_444=limit(Parameter.MAX_JPEG_QUALITY_444, name),
            )
            for name in names
        ]

    def run(self, request: Any) -> list[Any]:
        """Answer with the endpoints' pictures."""
        parameters = request_parameters(request)
        encoded = [bytes(data) for data in input_array(request, PICTURE_NAME).reshape(-1)]
        answers = []
        for number, data in enumerate(encoded, start=1):
            name = f"picture {number} of {len(encoded)}"
            answers.append(self.upscale(data, name, parameters))
        return [bytes_tensor(UPSCALED_PICTURE_NAME, answers)]

    def upscale(self, data: bytes, name: str, parameters: Mapping[str, Any]) -> bytes:
        """Return the answer of the endpoint for a picture.

        Raises:
            ModelError: the endpoint rejects it, or is overloaded.

        """
        try:
            format_ = inspect(data, Limits())
            image = files.decode(io.BytesIO(data), name, formats=(format_.upper(),))
        except PictureError:
            choice = self._models[0]  # whose endpoint says what is wrong
        else:
            with image:
                choice = model_for(compression_of(image), self._models[0], self._models)
        response = self._ask(choice, data, parameters)
        # The server may lack a model. The error's code is that of a full queue, too.
        if response.has_error() and response.error().message().endswith("is not ready."):
            response = self._ask(self._models[0], data, parameters)
        if response.has_error():
            raise ModelError(response.error())
        (tensor,) = response.output_tensors()
        return bytes(tensor.as_numpy().reshape(-1)[0])

    def _ask(self, model: ModelSpec, data: bytes, parameters: Mapping[str, Any]) -> Any:
        request = pb_utils.InferenceRequest(
            model_name=image_endpoint(model.name),
            requested_output_names=[UPSCALED_PICTURE_NAME],
            inputs=[bytes_tensor(PICTURE_NAME, [data])],
            parameters=dict(parameters),
        )
        return request.exec()
