"""Encoded pictures to frames for the network, and a sidecar each for the encode stage."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import PngImagePlugin

from rt4ksr_client import files, pictures
from rt4ksr_client.contract import (
    INPUT_NAME,
    MAX_INPUT_PX,
    MAX_PICTURE_BYTES,
    PICTURE_NAME,
    SIDECAR_NAME,
    SIZE_MULTIPLE_PX,
    Parameter,
)
from rt4ksr_client.errors import PictureError
from rt4ksr_client.frames import Frame, to_batch
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_server.stages.encoding import Encodings
from rt4ksr_server.stages.inspection import Limits, inspect
from rt4ksr_server.stages.sidecar import Sidecar
from rt4ksr_server.stages.triton import (
    announce_disposable,
    answer,
    bytes_tensor,
    config_parameters,
    input_array,
    request_parameters,
)

__all__ = ["TritonPythonModel"]

_MAX_PNG_TEXT_BYTES: Final = 8 * 1024 * 1024
"""What the compressed texts of a PNG may become."""


class TritonPythonModel:
    """One instance of ``rt4ksr_decode``; its configuration's parameters are its limits."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the limits; raise where they make no sense, which fails the load."""
        announce_disposable()
        parameters = config_parameters(args)
        self._limits = Limits(
            int(parameters.get(Parameter.MAX_PICTURE_BYTES, MAX_PICTURE_BYTES)),
            int(parameters.get(Parameter.MAX_INPUT_PX, MAX_INPUT_PX)),
            int(parameters[Parameter.MAX_SIDE]) if Parameter.MAX_SIDE in parameters else None,
        )
        PngImagePlugin.MAX_TEXT_MEMORY = _MAX_PNG_TEXT_BYTES
        warnings.simplefilter("ignore", PictureWarning)  # they have no place in an answer

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer every request as soon as it is done; a bad one gets an error of its own."""
        for request in requests:
            answer(request, self._decoded)

    def _decoded(self, request: Any) -> list[Any]:
        Encodings().wanted(request_parameters(request))  # refused here, before the network works
        files_ = [bytes(data) for data in input_array(request, PICTURE_NAME).reshape(-1)]
        frames, sidecars = [], []
        for number, data in enumerate(files_, start=1):
            frame, sidecar = _decode(data, self._limits, f"picture {number} of {len(files_)}")
            frames.append(frame)
            sidecars.append(sidecar.to_bytes())
        return [
            pb_utils.Tensor(INPUT_NAME, _batch(frames)),
            bytes_tensor(SIDECAR_NAME, sidecars),
        ]


def _decode(data: bytes, limits: Limits, name: str) -> tuple[Frame, Sidecar]:
    try:
        format_ = inspect(data, limits)
    except PictureError as exc:
        raise PictureError(f"{name}: {exc}") from exc
    image = files.decode(io.BytesIO(data), name, formats=(format_.upper(),), max_px=limits.max_px)
    if limits.max_side_px is not None and max(image.size) > limits.max_side_px:
        raise PictureError(
            f"{name}: rejected as too large: {image.width}x{image.height} has a side of more than "
            f"{limits.max_side_px} pixels; the rt4ksr client sends such pictures in tiles"
        )
    with files.read_errors(name):
        frame, side_data = pictures.split(image)
    height, width, _ = frame.shape
    return frame, Sidecar(width, height, side_data)


def _batch(frames: Sequence[Frame]) -> Frame:
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        told = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise PictureError(f"the pictures of one request must have one size, these have {told}")
    batches = [to_batch(frame, SIZE_MULTIPLE_PX) for frame in frames]
    return batches[0] if len(batches) == 1 else np.concatenate(batches)
