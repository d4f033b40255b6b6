"""The encode stage: upscaled frames and their sidecars to encoded pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rt4ksr_client import files, pictures
from rt4ksr_client.contract import (
    OUTPUT_NAME,
    SIDECAR_NAME,
    UPSCALED_PICTURE_NAME,
)
from rt4ksr_client.frames import Frame
from rt4ksr_server.stages.encoding import Encoding, EncodingDefaults
from rt4ksr_server.stages.sidecar import Sidecar
from rt4ksr_server.stages.triton import Stage, bytes_tensor, input_array, request_parameters

__all__ = ["TritonPythonModel", "encode"]


class TritonPythonModel(Stage):
    """One instance of ``rt4ksr_encode``; its configuration holds the defaults of answers."""

    def configure(self, parameters: Mapping[str, str]) -> None:
        """Read the defaults."""
        self._defaults = EncodingDefaults.from_config(parameters)

    def run(self, request: Any) -> list[Any]:
        """Encode the frames of a request."""
        encoding = self._defaults.encoding_for(request_parameters(request))
        sidecars = input_array(request, SIDECAR_NAME).reshape(-1)
        frames = input_array(request, OUTPUT_NAME)
        encoded = [
            encode(frame, Sidecar.from_bytes(bytes(data)), encoding)
            for frame, data in zip(frames, sidecars, strict=True)
        ]
        return [bytes_tensor(UPSCALED_PICTURE_NAME, encoded)]


def encode(upscaled: Frame, sidecar: Sidecar, encoding: Encoding) -> bytes:
    """Return an upscaled frame, its padding included, as an encoded picture.

    Raises:
        PictureError: the sidecar is of another picture, or the format cannot hold the size.

    """
    frame = sidecar.crop(upscaled)
    height, width, _ = frame.shape
    files.check_size(encoding.format.upper(), width, height)
    image = pictures.join(frame, sidecar.side_data)
    with files.write_errors("the upscaled picture"):
        return files.encode(image, encoding.format.upper(), quality=encoding.quality)
