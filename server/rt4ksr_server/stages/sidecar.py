"""What travels around the network, from the decode stage to the encode stage, as bytes.

JSON, for both stages may be called by anyone who reaches the server: nothing in it is ever run.
Bytes are in base64, alpha as a PNG.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image

from rt4ksr_client import files, metadata
from rt4ksr_client.contract import SIZE_MULTIPLE_PX
from rt4ksr_client.errors import PictureError
from rt4ksr_client.frames import Frame
from rt4ksr_client.pictures import SideData

__all__ = ["Sidecar"]

_BYTES = frozenset(metadata.KEPT) - {"dpi"}


@dataclass(frozen=True)
class Sidecar:
    """A picture but for its colours; its size is that before padding and upscaling."""

    width_px: int
    height_px: int
    side_data: SideData

    def to_bytes(self) -> bytes:
        """Return the form that :meth:`from_bytes` reads."""
        around = self.side_data
        alpha = None if around.alpha is None else _text(files.encode(around.alpha, "PNG"))
        return json.dumps(
            {
                "width_px": self.width_px,
                "height_px": self.height_px,
                "gray": around.gray,
                "alpha": alpha,
                "info": {
                    key: _text(value) if key in _BYTES else value
                    for key, value in around.info.items()
                },
            }
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Sidecar:
        """Read what :meth:`to_bytes` wrote.

        Raises:
            PictureError: it did not.

        """
        try:
            found = json.loads(data)
            width_px, height_px = int(found["width_px"]), int(found["height_px"])
            alpha = None if found["alpha"] is None else _alpha(found["alpha"])
            info = {key: _value(key, value) for key, value in found["info"].items()}
            sidecar = cls(width_px, height_px, SideData(alpha, bool(found["gray"]), info))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
            raise PictureError(f"not a sidecar of the decode stage: {exc!r}") from exc
        if min(width_px, height_px) < 1 or (alpha and alpha.size != (width_px, height_px)):
            raise PictureError("not a sidecar of the decode stage: its sizes contradict each other")
        return sidecar

    def crop(self, upscaled: Frame) -> Frame:
        """Return the upscaled picture without its padding; ``upscaled`` is ``(H, W, 3)``.

        Raises:
            PictureError: it is not this picture's size, padded, times a whole number.

        """
        height, width, _ = upscaled.shape
        padded = [side + -side % SIZE_MULTIPLE_PX for side in (self.height_px, self.width_px)]
        scale = max(1, height // padded[0])
        if [height, width] != [side * scale for side in padded]:
            raise PictureError(
                f"a picture of {self.width_px}x{self.height_px} does not become {width}x{height}"
            )
        return upscaled[: self.height_px * scale, : self.width_px * scale]


def _alpha(text: str) -> Image.Image:
    alpha = files.decode(io.BytesIO(_bytes(text)), "alpha", formats=("PNG",))
    if alpha.mode != "L":
        raise ValueError(f"alpha of mode {alpha.mode}")
    return alpha


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError(str(exc)) from exc


def _value(key: str, value: Any) -> Any:
    if key in _BYTES:
        return _bytes(value)
    if key == metadata.SUBSAMPLED:
        return bool(value)
    if key != "dpi":
        raise ValueError(f"unknown {key!r}")
    across, down = (float(number) for number in value)
    return across, down
