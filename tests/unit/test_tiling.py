from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rt4ksr_client.call import Cancellation
from rt4ksr_client.contract import Colours
from rt4ksr_client.frames import Planes, from_batch, to_batch
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.tiling import TILES_IN_FLIGHT, plan_tiles, upscale_in_tiles

SIZES = [(1, 1), (7, 300), (300, 7), (101, 203), (256, 256), (511, 97)]
SERVED = ServedModel("test", 2, 2, 4, 0, "", "")


def local_network(batch: Planes, cancellation: Cancellation | None) -> Planes:
    """Zero padding, a dependence on 4 pixels around and on the phase of 2: like the real one.

    On chroma it is the half of that.
    """
    return tuple(upscaled_plane(plane, reach) for plane, reach in zip(batch, (4, 2), strict=False))


def upscaled_plane(batch: NDArray[Any], reach: int) -> NDArray[Any]:
    _, height, width, _ = batch.shape
    assert reach == 2 or height % 2 == width % 2 == 0
    padded = np.pad(batch.astype(np.int64), ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    mixed = sum(
        (dy * 31 + dx * 17 + 1) * padded[:, dy : dy + height, dx : dx + width]
        for dy in range(2 * reach + 1)
        for dx in range(2 * reach + 1)
    )
    assert isinstance(mixed, np.ndarray)
    if reach == 4:
        mixed[:, ::2, 1::2] += 91
        mixed[:, 1::2, ::2] *= 3
    return (mixed % 256).astype(batch.dtype).repeat(2, axis=1).repeat(2, axis=2)


def upscaled_whole(planes: Planes, served: ServedModel) -> Planes:
    height, width = planes[0].shape[:2]
    answer = local_network(to_batch(planes, served.inputs, 2), None)
    return from_batch(answer, served.outputs, 2 * height, 2 * width)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("max_px", [1, 64, 1000, 10_000])
@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_tiles_cover_every_pixel_once_and_start_in_phase(
    size: tuple[int, int], max_px: int, multiple: int
) -> None:
    covered = np.zeros(size, np.uint8)

    tiles = plan_tiles(*size, max_px=max_px, halo_px=16, multiple_px=multiple)

    for tile in tiles:
        covered[tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop] += 1
        for span, length in zip((tile.rows, tile.columns), size, strict=True):
            assert span.sent_start % multiple == 0
            assert 0 <= span.sent_start <= span.start < span.stop <= span.sent_stop <= length
            assert span.start - span.sent_start >= min(16, span.start)
            assert span.sent_stop - span.stop >= min(16, length - span.stop)
    assert (covered == 1).all()


@given(
    st.integers(1, 100),
    st.integers(1, 100),
    st.integers(1, 12_000),
    st.integers(0, 40),
    st.integers(1, 9),
    st.none() | st.integers(1, 60),
)
def test_any_plan_covers_every_pixel_once_within_its_limits_and_in_phase(
    height: int, width: int, max_px: int, halo: int, multiple: int, room: int | None
) -> None:
    covered = np.zeros((height, width), np.uint8)
    # A model's longest side leaves room between two halos, all rounded up to the multiple.
    max_side = None if room is None else 2 * (halo + multiple) + multiple + room

    tiles = plan_tiles(
        height, width, max_px=max_px, halo_px=halo, multiple_px=multiple, max_side_px=max_side
    )

    for tile in tiles:
        rows, columns = tile.rows, tile.columns
        covered[rows.start : rows.stop, columns.start : columns.stop] += 1
        for span, length in ((rows, height), (columns, width)):
            assert span.start % multiple == span.sent_start % multiple == 0
            assert 0 <= span.sent_start <= span.start < span.stop <= span.sent_stop <= length
            assert span.start - span.sent_start >= min(halo, span.start)
            assert span.sent_stop - span.stop >= min(halo, length - span.stop)
            assert max_side is None or span.sent_stop - span.sent_start <= max_side
        # Rounding a side up to the multiple may take a tile beyond the limit by as much.
        sides = [max(1, span.stop - span.start - multiple + 1) for span in (rows, columns)]
        assert sides[0] * sides[1] <= max_px
    assert (covered == 1).all()


@pytest.mark.parametrize("size", [(4321, 8765), (100, 900_000), (2049, 2048)])
def test_no_tile_is_larger_than_asked_for_and_few_are_smaller_than_half(
    size: tuple[int, int],
) -> None:
    tiles = plan_tiles(*size, max_px=1_000_000, halo_px=16, multiple_px=2)

    areas = [
        (tile.rows.stop - tile.rows.start) * (tile.columns.stop - tile.columns.start)
        for tile in tiles
    ]
    assert max(areas) <= 1_000_000 * 1.01  # rounding a side up to the multiple
    assert len(tiles) <= 2.5 * size[0] * size[1] / 1_000_000


@pytest.mark.parametrize("size", [(100, 9000), (2161, 3841), (2080, 2081), (5000, 300)])
@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_no_side_of_a_tile_is_longer_than_the_model_accepts(
    size: tuple[int, int], multiple: int
) -> None:
    tiles = plan_tiles(*size, max_px=2048**2, halo_px=15, multiple_px=multiple, max_side_px=2080)

    sent = {
        span.sent_stop - span.sent_start for tile in tiles for span in (tile.rows, tile.columns)
    }
    assert max(sent) <= 2080
    down, across = (1 if side <= 2080 else -(-side // 2048) for side in size)
    assert len(tiles) == down * across


def test_a_picture_of_the_longest_side_is_one_tile_and_a_longer_one_two() -> None:
    for width, count in ((2080, 1), (2081, 2), (4096, 2), (4097, 3)):
        tiles = plan_tiles(300, width, max_px=2048**2, halo_px=16, multiple_px=2, max_side_px=2080)
        assert len(tiles) == count


def test_without_a_limit_a_side_may_be_as_long_as_the_pixels_allow() -> None:
    assert len(plan_tiles(100, 40_000, max_px=2048**2, halo_px=16, multiple_px=2)) == 1


def noise(colours: Colours, height: int, width: int) -> Planes:
    rng = np.random.default_rng(0)
    if colours == "rgb":
        return (rng.integers(0, 256, (height, width, 3), dtype=np.uint8),)
    sides = ((height, width, 1), (-(-height // 2), -(-width // 2), 2))
    return tuple(rng.integers(0, 65536, shape, dtype=np.uint16) for shape in sides)


def assert_equal(some: Planes, others: Planes) -> None:
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [(40, 60), (41, 59), (9, 200), (97, 33)])
@pytest.mark.parametrize("max_px", [100, 700, 5000])
@pytest.mark.parametrize("colours", ["rgb", "yuv420"])
def test_a_tiled_frame_equals_the_whole_one(
    size: tuple[int, int], max_px: int, colours: Colours
) -> None:
    served = replace(SERVED, colours=colours)
    planes = noise(colours, *size)

    tiled = upscale_in_tiles(planes, served, max_px, local_network, None)

    assert_equal(tiled, upscaled_whole(planes, served))


@pytest.mark.parametrize("size", [(9, 300), (301, 9), (199, 200)])
@pytest.mark.parametrize("colours", ["rgb", "yuv420"])
def test_a_frame_tiled_for_its_sides_equals_the_whole_one(
    size: tuple[int, int], colours: Colours
) -> None:
    served = replace(SERVED, max_side_px=80, colours=colours)
    planes = noise(colours, *size)
    longest = 0

    def measured(batch: Planes, cancellation: Cancellation | None) -> Planes:
        nonlocal longest
        longest = max(longest, *batch[0].shape[1:3])
        return local_network(batch, cancellation)

    tiled = upscale_in_tiles(planes, served, 1_000_000, measured, None)

    assert_equal(tiled, upscaled_whole(planes, served))
    assert longest <= 80


def test_a_halo_that_is_too_small_changes_the_result() -> None:
    planes = noise("rgb", 64, 64)

    (tiled,) = upscale_in_tiles(planes, replace(SERVED, halo_px=2), 700, local_network, None)

    assert (tiled != upscaled_whole(planes, SERVED)[0]).any()


def test_only_a_few_tiles_are_in_flight_at_once() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def watched(batch: Planes, cancellation: Cancellation | None) -> Planes:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        answer = local_network(batch, cancellation)
        with lock:
            now -= 1
        return answer

    upscale_in_tiles(noise("rgb", 200, 200), SERVED, 1000, watched, None)

    assert 1 <= most <= TILES_IN_FLIGHT
