"""The decode stage: encoded pictures to frames for the network, and a sidecar for each."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image, PngImagePlugin

from rt4ksr_client import files, pictures
from rt4ksr_client.contract import (
    INPUT_NAME,
    INPUTS,
    MAX_INPUT_PX,
    MAX_PICTURE_BYTES,
    PICTURE_NAME,
    SIDECAR_NAME,
    SIZE_MULTIPLE_PX,
    Parameter,
    PictureParameter,
)
from rt4ksr_client.errors import PictureError
from rt4ksr_client.frames import Frame, to_batch
from rt4ksr_server.stages.encoding import EncodingDefaults
from rt4ksr_server.stages.headers import FORWARD_FLAG, NAMES, parent_ignores_headers
from rt4ksr_server.stages.inspection import Limits, inspect
from rt4ksr_server.stages.sidecar import Sidecar
from rt4ksr_server.stages.triton import Stage, bytes_tensor, input_array, request_parameters

__all__ = ["TritonPythonModel"]

MAX_PNG_TEXT_BYTES: Final = 8 * 1024 * 1024
"""What the compressed texts of a PNG may expand to."""


class TritonPythonModel(Stage):
    """One instance of ``rt4ksr_decode``; its configuration's parameters are its limits."""

    def configure(self, parameters: Mapping[str, str]) -> None:
        """Read the limits."""
        self._limits = Limits(
            int(parameters.get(Parameter.MAX_PICTURE_BYTES, MAX_PICTURE_BYTES)),
            int(parameters.get(Parameter.MAX_INPUT_PX, MAX_INPUT_PX)),
            int(parameters[Parameter.MAX_SIDE]) if Parameter.MAX_SIDE in parameters else None,
        )
        PngImagePlugin.MAX_TEXT_MEMORY = MAX_PNG_TEXT_BYTES
        self._ignores_headers = parent_ignores_headers()

    def run(self, request: Any) -> list[Any]:
        """Decode the pictures of a request, which must have one size."""
        frames, sidecars = [], []
        for _, frame, sidecar in self.decoded(request):
            frames.append(frame)
            sidecars.append(sidecar.to_bytes())
        sizes = sorted({frame.shape[:2] for frame in frames})
        if len(sizes) > 1:
            found = ", ".join(f"{width}x{height}" for height, width in sizes)
            raise PictureError(
                f"the pictures of one request must have the same size, these are {found}: "
                "send one request per size"
            )
        batches = [to_batch((f,), INPUTS["rgb"], SIZE_MULTIPLE_PX)[0] for f in frames]
        batch = batches[0] if len(batches) == 1 else np.concatenate(batches)
        return [pb_utils.Tensor(INPUT_NAME, batch), bytes_tensor(SIDECAR_NAME, sidecars)]

    def decoded(self, request: Any) -> Iterator[tuple[Image.Image, Frame, Sidecar]]:
        """Yield what :meth:`decode` returns for each picture of a request.

        Raises:
            PictureError: an encoding that cannot be had, or as :meth:`decode`.

        """
        # An encoding that cannot be had is rejected here, before the network works.
        parameters = request_parameters(request)
        EncodingDefaults().encoding_for(parameters)
        if self._ignores_headers and not any(name.lower() in NAMES for name in parameters):
            raise PictureError(
                "this tritonserver forwards no HTTP headers, so it cannot tell which format was "
                f"asked for: send {PictureParameter.FORMAT} as a request parameter, or start it "
                f"with {FORWARD_FLAG}='{PictureParameter.HEADERS}'"
            )
        encoded = [bytes(data) for data in input_array(request, PICTURE_NAME).reshape(-1)]
        for number, data in enumerate(encoded, start=1):
            yield self.decode(data, f"picture {number} of {len(encoded)}")

    def decode(self, data: bytes, name: str) -> tuple[Image.Image, Frame, Sidecar]:
        """Return an encoded picture, the frame in it, and the rest; ``name`` is for errors.

        Raises:
            PictureError: not a picture that this server accepts.

        """
        limits = self._limits
        try:
            format_ = inspect(data, limits)
        except PictureError as exc:
            raise PictureError(f"{name}: {exc}") from exc
        image = files.decode(
            io.BytesIO(data), name, formats=(format_.upper(),), max_px=limits.max_px
        )
        if limits.max_side_px is not None and max(image.size) > limits.max_side_px:
            raise PictureError(
                f"{name}: rejected as too large: {image.width}x{image.height} has a side of more "
                f"than {limits.max_side_px} pixels; the rt4ksr client sends such pictures in tiles"
            )
        with files.read_errors(name):
            frame, side_data = pictures.split(image)
        height, width, _ = frame.shape
        return image, frame, Sidecar(width, height, side_data)
