from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from rt4ksr_client.contract import INPUTS, OUTPUTS
from rt4ksr_client.errors import PictureError
from rt4ksr_client.frames import Frame, Yuv420, as_frame, frame_of, from_batch, planes_of, to_batch


def counting(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def test_a_frame_that_fits_is_sent_without_a_copy() -> None:
    frame = counting(4, 6)

    (batch,) = to_batch((as_frame(frame),), INPUTS["rgb"], 2)

    assert batch.shape == (1, 4, 6, 3)
    assert np.shares_memory(batch, frame)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (4, 3), (5, 7)])
@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_an_odd_frame_is_padded_with_its_last_row_and_column(
    size: tuple[int, int], multiple: int
) -> None:
    height, width = size
    frame = counting(height, width)

    (batch,) = to_batch((frame,), INPUTS["rgb"], multiple)

    (padded,) = batch

    assert padded.shape[0] % multiple == padded.shape[1] % multiple == 0
    assert padded.shape[0] < height + multiple and padded.shape[1] < width + multiple
    np.testing.assert_array_equal(padded[:height, :width], frame)
    assert (padded[height:, :width] == frame[-1]).all()
    assert (padded[:height, width:] == frame[:, -1:]).all()


def test_the_padding_is_cropped_off_the_answer_without_a_copy() -> None:
    answer = counting(6, 8)[np.newaxis]

    (cropped,) = from_batch((answer,), OUTPUTS["rgb"], 5, 7)

    assert np.shares_memory(cropped, answer)
    np.testing.assert_array_equal(cropped, answer[0, :5, :7])


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 7), (5, 7), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_planes_of_any_size_are_padded_together_and_cropped_again(
    size: tuple[int, int], dtype: type[np.uint8 | np.uint16]
) -> None:
    height, width = size
    luma = np.arange(height * width, dtype=dtype).reshape(size)
    chroma = np.arange(50, dtype=dtype)[: -(-height // 2) * -(-width // 2) * 2]
    planes: Any = luma, chroma.reshape(-(-height // 2), -(-width // 2), 2)
    frame = Yuv420(*planes)

    batch = to_batch(planes_of(frame), INPUTS["yuv420"], 2)
    same = frame_of(from_batch(batch, OUTPUTS["yuv420"], height, width))

    even = (height + height % 2, width + width % 2)
    assert [plane.shape for plane in batch] == [
        (1, *even, 1),
        (1, even[0] // 2, even[1] // 2, 2),
    ]
    assert isinstance(same, Yuv420)
    np.testing.assert_array_equal(same.luma, luma)
    np.testing.assert_array_equal(same.chroma, frame.chroma)


@pytest.mark.parametrize(
    ("luma", "chroma", "reason"),
    [
        (np.zeros((4, 6), np.uint8), np.zeros((2, 3), np.uint8), "shape (2, 3, 2), U and V last"),
        (np.zeros((5, 7), np.uint8), np.zeros((2, 3, 2), np.uint8), "shape (3, 4, 2)"),
        (np.zeros((4, 6, 1), np.uint8), np.zeros((2, 3, 2), np.uint8), "shape (H, W), got"),
        (np.zeros((0, 6), np.uint8), np.zeros((0, 3, 2), np.uint8), "shape (H, W), got (0, 6)"),
        (np.zeros((4, 6), np.uint8), np.zeros((2, 3, 2), np.uint16), "got uint8 and uint16"),
        (np.zeros((4, 6)), np.zeros((2, 3, 2)), "got float64 and float64"),
        ([[1]], np.zeros((2, 3, 2), np.uint8), "got list and uint8"),
    ],
)
def test_planes_that_do_not_fit_one_another_are_refused(
    luma: Any, chroma: Any, reason: str
) -> None:
    with pytest.raises(PictureError, match=re.escape(reason)):
        Yuv420(luma, chroma)


@pytest.mark.parametrize(
    ("array", "remedy"),
    [
        (np.zeros((4, 4, 3), np.float32), "multiply values of 0 to 1 by 255"),
        (np.zeros((4, 4, 3), np.float16), "multiply values of 0 to 1 by 255"),
        (np.zeros((4, 4, 3), np.uint16), "divide values of 0 to 65535 by 257"),
        (np.zeros((4, 4, 3), np.bool_), "multiply by 255"),
        (np.zeros((4, 4, 3), np.int8), "convert the array to uint8"),
        (np.zeros((4, 4, 3), np.int64), "convert the array to uint8"),
        (np.zeros((4, 4), np.uint8), "gray: pass PIL.Image.fromarray"),
        (np.zeros((4, 4, 1), np.uint8), "gray: pass PIL.Image.fromarray"),
        (np.zeros((4, 5, 7), np.uint8), "pass image.transpose(1, 2, 0)"),
        (np.zeros((5, 4, 4), np.uint8), "with alpha: pass PIL.Image.fromarray"),
        (np.zeros((3, 4, 5), np.uint8), "channels first: pass image.transpose(1, 2, 0)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "to map()"),
        (np.zeros((12,), np.uint8), "expected the shape (H, W, 3)"),
        (np.zeros((4, 4, 2), np.uint8), "expected the shape (H, W, 3)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 0, 3), np.uint8), "no pixels"),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_an_array_that_is_no_frame_is_refused_with_the_way_to_one(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], remedy: str
) -> None:
    with pytest.raises(PictureError, match=re.escape(remedy)):
        as_frame(array)


class OnADevice:
    """Like a tensor on a GPU: torch's raise TypeError, too, where NumPy asks for their memory."""

    device = "cuda:1"

    def __array__(self, *args: Any, **kwargs: Any) -> NDArray[Any]:
        raise TypeError("can't convert cuda:1 device type tensor to numpy")

    def cpu(self) -> None: ...


class CuPyLike:
    __cuda_array_interface__: ClassVar[dict[str, Any]] = {}

    def __array__(self, *args: Any, **kwargs: Any) -> NDArray[Any]:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def get(self) -> None: ...


class Broken:
    def __array__(self, *args: Any, **kwargs: Any) -> NDArray[Any]:
        raise RuntimeError("out of luck")


@pytest.mark.parametrize(
    ("image", "remedy"),
    [
        ("a.jpg", "got the str 'a.jpg': open the file with rt4ksr_client.files.open_picture()"),
        (Path("a.jpg"), "Path 'a.jpg': open the file"),
        (b"\xff\xd8\xff", "got 3 bytes: decode them with PIL.Image.open(io.BytesIO(data))"),
        (bytearray(2), "got 2 bytes"),
        ([[[0, 0, 0]]], "a list: pass several pictures to map()"),
        ((), "a tuple: pass several pictures to map()"),
        (None, "got None: pass a PIL.Image"),
        (7, "got int: pass a PIL.Image"),
        (OnADevice(), "in the memory of cuda:1: copy it first, with image.cpu()"),
        (CuPyLike(), "copy it first, with image.get()"),
        (Broken(), "cannot become a NumPy array: out of luck"),
    ],
    ids=lambda value: "" if isinstance(value, str) and " " in value else type(value).__name__,
)
def test_what_is_no_array_is_refused_with_what_to_pass(image: object, remedy: str) -> None:
    with pytest.raises(PictureError, match=re.escape(remedy)):
        as_frame(image)


class Interface:
    """Has NumPy's protocol, as pictures of other libraries do, and nothing else."""

    def __init__(self, frame: Frame) -> None:
        self.__array_interface__ = frame.__array_interface__


class Exchange:
    """Has DLPack's protocol and nothing else."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def __dlpack__(self, **options: Any) -> Any:
        return self._frame.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._frame.__dlpack_device__()


@pytest.mark.parametrize("kind", [Interface, Exchange])
def test_arrays_of_other_libraries_are_taken_without_a_copy(
    kind: Callable[[Frame], object],
) -> None:
    frame = counting(4, 6)

    found = as_frame(kind(frame))

    np.testing.assert_array_equal(found, frame)
    assert np.shares_memory(found, frame)


def test_a_tensor_on_the_cpu_is_a_frame() -> None:
    torch = pytest.importorskip("torch", reason="needs the export extra")
    tensor = torch.arange(72, dtype=torch.uint8).reshape(4, 6, 3)

    np.testing.assert_array_equal(as_frame(tensor), counting(4, 6))

    for refused, remedy in {
        tensor.permute(2, 0, 1): "channels first: pass image.permute(1, 2, 0)",
        tensor.float() / 255: "multiply values of 0 to 1 by 255",
        tensor.to("meta"): "in the memory of meta",
    }.items():
        with pytest.raises(PictureError, match=re.escape(remedy)):
            as_frame(refused)
