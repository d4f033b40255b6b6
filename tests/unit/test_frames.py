from __future__ import annotations

import numpy as np
import pytest

from rt4ksr_client.errors import PictureError
from rt4ksr_client.frames import check_frame, from_batch, to_batch


def counting(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def test_a_frame_that_fits_is_sent_without_a_copy() -> None:
    frame = counting(4, 6)

    batch = to_batch(check_frame(frame), 2)

    assert batch.shape == (1, 4, 6, 3)
    assert np.shares_memory(batch, frame)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (4, 3), (5, 7)])
@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_a_frame_that_does_not_fit_grows_by_its_own_last_row_and_column(
    size: tuple[int, int], multiple: int
) -> None:
    height, width = size
    frame = counting(height, width)

    (padded,) = to_batch(frame, multiple)

    assert padded.shape[0] % multiple == padded.shape[1] % multiple == 0
    assert padded.shape[0] < height + multiple and padded.shape[1] < width + multiple
    np.testing.assert_array_equal(padded[:height, :width], frame)
    assert (padded[height:, :width] == frame[-1]).all()
    assert (padded[:height, width:] == frame[:, -1:]).all()


def test_the_padding_is_cropped_off_the_answer_without_a_copy() -> None:
    answer = counting(6, 8)[np.newaxis]

    cropped = from_batch(answer, 5, 7)

    assert np.shares_memory(cropped, answer)
    np.testing.assert_array_equal(cropped, answer[0, :5, :7])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_what_is_no_frame_is_refused(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
) -> None:
    with pytest.raises(PictureError):
        check_frame(array)
