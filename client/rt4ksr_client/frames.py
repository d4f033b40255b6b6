"""Frames in and out of the wire's shape. No input or output, no server: arrays to arrays.

A *frame* is what a user has: uint8, ``(H, W, 3)``, RGB, any size from 1x1; or :class:`Yuv420`. Its
*planes* are what the tensors of a model hold of it. A *batch* is what the wire takes: such planes
of N frames, H and W multiples of the model's ``size_multiple``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rt4ksr_client.contract import CHANNELS, FrameTensor
from rt4ksr_client.errors import PictureError

__all__ = [
    "Frame",
    "Planes",
    "SupportsArray",
    "Yuv420",
    "as_frame",
    "frame_of",
    "from_batch",
    "planes_of",
    "to_batch",
]

Frame = NDArray[np.uint8]
Planes = tuple[NDArray[Any], ...]
"""One array for each tensor of a model: RGB, or luma and chroma."""


@dataclass(frozen=True, eq=False)
class Yuv420:
    """A frame of 4:2:0 video, as NV12 or P010 hold it.

    ``luma`` is ``(H, W)``, ``chroma`` ``(ceil(H/2), ceil(W/2), 2)``, U before V. Both are uint8, or
    both uint16 with the value in the high bits: a 10-bit code times 64. Matrix, range and transfer
    are not part of it: they come out as they went in.
    """

    luma: NDArray[np.uint8] | NDArray[np.uint16]
    chroma: NDArray[np.uint8] | NDArray[np.uint16]

    def __post_init__(self) -> None:
        """Reject planes that do not fit one another.

        Raises:
            PictureError: the message says what to pass.

        """
        luma, chroma = self.luma, self.chroma
        kinds = {getattr(plane, "dtype", None) for plane in (luma, chroma)}
        if kinds not in ({np.dtype(np.uint8)}, {np.dtype(np.uint16)}):
            found = " and ".join(str(getattr(p, "dtype", type(p).__name__)) for p in (luma, chroma))
            raise PictureError(f"luma and chroma must both be uint8 or both uint16, got {found}")
        if luma.ndim != 2 or not luma.size:
            raise PictureError(f"expected luma of the shape (H, W), got {luma.shape}")
        height, width = luma.shape
        expected = ((height + 1) // 2, (width + 1) // 2, 2)
        if chroma.shape != expected:
            raise PictureError(
                f"luma of {width}x{height} goes with chroma of the shape {expected}, U and V last, "
                f"got {chroma.shape}"
            )


class SupportsArray(Protocol):
    """A NumPy array, or an object that becomes one, such as a ``torch.Tensor`` on the CPU."""

    def __array__(self, *args: Any, **kwargs: Any) -> NDArray[Any]:
        """Return the array."""


def as_frame(image: object) -> Frame:
    """Return ``image`` as a frame; memory that NumPy can use is not copied.

    Args:
        image: uint8 ``(H, W, 3)``, RGB (OpenCV's arrays are BGR: pass ``image[:, :, ::-1]``). A
            NumPy array, or an object with ``__array__``, ``__array_interface__`` or
            ``__dlpack__``, such as a ``torch.Tensor`` on the CPU.

    Raises:
        PictureError: anything else. The message says what to pass.

    """
    array = image if isinstance(image, np.ndarray) else _as_array(image)
    if array.dtype != np.uint8:
        raise PictureError(
            f"expected uint8 values of 0 to 255, got {array.dtype}: {_to_uint8(array.dtype)}"
        )
    if array.ndim != 3 or array.shape[2] != CHANNELS:
        raise PictureError(
            f"expected the shape (H, W, 3), RGB, got {array.shape}{_to_rgb(image, array.shape)}"
        )
    if 0 in array.shape:
        raise PictureError(f"the picture has no pixels: its shape is {array.shape}")
    return array


def _as_array(image: object) -> NDArray[Any]:
    kind = type(image).__name__
    if isinstance(image, (str, os.PathLike)):
        raise PictureError(
            f"expected a picture, got the {kind} {str(image)!r}: open the file with "
            "rt4ksr_client.files.open_picture() or PIL.Image.open()"
        )
    if isinstance(image, (bytes, bytearray)):
        raise PictureError(
            f"expected a picture, got {len(image)} bytes: decode them with "
            "PIL.Image.open(io.BytesIO(data))"
        )
    if isinstance(image, (list, tuple)):
        raise PictureError(
            f"expected one picture, got a {kind}: pass several pictures to map(), and nested "
            "numbers as numpy.asarray(image, numpy.uint8)"
        )
    try:
        if hasattr(image, "__array__") or hasattr(image, "__array_interface__"):
            return np.asarray(image)
        if hasattr(image, "__dlpack__"):
            return np.from_dlpack(image)
    except Exception as exc:  # whatever the other library raises
        device = str(getattr(image, "device", "a device"))
        if hasattr(image, "__cuda_array_interface__") or not device.startswith(("cpu", "a ")):
            copy = "image.cpu()" if hasattr(image, "cpu") else "image.get()"
            raise PictureError(
                f"the {kind} is in the memory of {device}: copy it first, with {copy}"
            ) from exc
        raise PictureError(f"the {kind} cannot become a NumPy array: {exc}") from exc
    raise PictureError(
        f"expected a picture, got {'None' if image is None else kind}: pass a PIL.Image, or an "
        "array, uint8, (H, W, 3), RGB"
    )


def _to_uint8(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "f":
        return "multiply values of 0 to 1 by 255, round them and convert them to uint8"
    if dtype == np.uint16:
        return "divide values of 0 to 65535 by 257, round them and convert them to uint8"
    if dtype.kind == "b":
        return "multiply by 255 and convert to uint8"
    return "convert the array to uint8"


def _to_rgb(image: object, shape: tuple[int, ...]) -> str:
    swap = "permute" if hasattr(image, "permute") else "transpose"
    if len(shape) == 4:
        return ": pass the pictures of a batch to map()"
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        return ", gray: pass PIL.Image.fromarray(image), or repeat the channel three times"
    if len(shape) == 3 and shape[2] == 4:
        return ", with alpha: pass PIL.Image.fromarray(image), or image[:, :, :3] without it"
    if len(shape) == 3 and shape[0] in (1, CHANNELS, 4):
        return f" with the channels first: pass image.{swap}(1, 2, 0)"
    return ""


def planes_of(frame: Frame | Yuv420) -> Planes:
    """Return what each tensor of the wire holds of ``frame``: ``(H, W, C)`` each; views."""
    if isinstance(frame, Yuv420):
        return frame.luma[..., np.newaxis], frame.chroma
    return (frame,)


def frame_of(planes: Planes) -> Frame | Yuv420:
    """Undo :func:`planes_of`."""
    if len(planes) == 1:
        return planes[0]
    luma, chroma = planes
    return Yuv420(luma[..., 0], chroma)


def to_batch(planes: Planes, tensors: Sequence[FrameTensor], size_multiple: int) -> Planes:
    """Return ``(1, H', W', C)`` of each plane, its last row and column repeated up to the multiple.

    A plane that already fits is not copied. ``tensors`` are those of the model that it is for.
    """
    sides = [side + -side % size_multiple for side in planes[0].shape[:2]]
    batch = []
    for plane, tensor in zip(planes, tensors, strict=True):
        _, height, width, _ = tensor.shape(1, *sides)
        bottom, right = height - plane.shape[0], width - plane.shape[1]
        if bottom or right:
            plane = np.pad(plane, ((0, bottom), (0, right), (0, 0)), mode="edge")
        batch.append(plane[np.newaxis])
    return tuple(batch)


def from_batch(
    batch: Planes, tensors: Sequence[FrameTensor], height_px: int, width_px: int
) -> Planes:
    """Return the first frame of a response, cropped to ``height_px`` x ``width_px``; views."""
    return tuple(
        plane[0, : -(-height_px // tensor.subsampling), : -(-width_px // tensor.subsampling)]
        for plane, tensor in zip(batch, tensors, strict=True)
    )
