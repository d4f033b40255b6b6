"""Upscaled frames and their sidecars to encoded pictures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rt4ksr_client import files, pictures
from rt4ksr_client.contract import (
    OUTPUT_NAME,
    SIDECAR_NAME,
    UPSCALED_PICTURE_NAME,
    PictureFormat,
)
from rt4ksr_client.errors import PictureError
from rt4ksr_client.frames import Frame
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_server.stages.encoding import Encoding, Encodings
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

_LONGEST_SIDE_PX: Final[Mapping[PictureFormat, int]] = {"jpeg": 65_500, "webp": 16_383}
"""What the formats themselves allow (JPEG: what libjpeg does)."""


class TritonPythonModel:
    """One instance of ``rt4ksr_encode``; its configuration has the defaults of answers."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the defaults; raise where they make no sense, which fails the load."""
        announce_disposable()
        self._encodings = Encodings.from_config(config_parameters(args))
        warnings.simplefilter("ignore", PictureWarning)  # they have no place in an answer

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer every request as soon as it is done; a bad one gets an error of its own."""
        for request in requests:
            answer(request, self._encoded)

    def _encoded(self, request: Any) -> list[Any]:
        wanted = self._encodings.wanted(request_parameters(request))
        sidecars = input_array(request, SIDECAR_NAME).reshape(-1)
        frames = input_array(request, OUTPUT_NAME)
        encoded = [
            _encode(frame, Sidecar.from_bytes(bytes(data)), wanted)
            for frame, data in zip(frames, sidecars, strict=True)
        ]
        return [bytes_tensor(UPSCALED_PICTURE_NAME, encoded)]


def _encode(upscaled: Frame, sidecar: Sidecar, wanted: Encoding) -> bytes:
    frame = sidecar.crop(upscaled)
    height, width, _ = frame.shape
    longest = _LONGEST_SIDE_PX.get(wanted.format)
    if longest is not None and max(height, width) > longest:
        raise PictureError(
            f"{width}x{height} does not go into a {wanted.format.upper()}, which has at most "
            f"{longest} pixels a side: ask for the format png"
        )
    image = pictures.join(frame, sidecar.side_data)
    with files.write_errors("the upscaled picture"):
        return files.encode(image, wanted.format.upper(), quality=wanted.quality)
