"""The sizes that ``--to`` asks for, and the passes through the network that reach them."""

from __future__ import annotations

import itertools
import math

import pytest

from rt4ksr_client.cli.output_size import Box, SizePlan, plan_size


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((1920, 1080), None, SizePlan((2,), 3840, 2160)),
        ((1920, 1080), "4k", SizePlan((2,), 3840, 2160)),
        ((1080, 1920), "4k", SizePlan((2,), 2160, 3840)),
        ((1080, 1920), "3840x2160", SizePlan((2,), 1215, 2160)),
        ((640, 480), "4k", SizePlan((2, 2, 2), 2880, 2160)),
        ((3840, 2160), "4k", SizePlan((), 3840, 2160)),
        ((8000, 100), "4k", SizePlan((), 3840, 48)),
        ((960, 540), "4k", SizePlan((2, 2), 3840, 2160)),
    ],
)
def test_passes_and_size_for_a_box(
    size: tuple[int, int], box: str | None, expected: SizePlan
) -> None:
    assert plan_size(*size, (2,), None if box is None else Box.parse(box)) == expected


@pytest.mark.parametrize(
    ("times", "passes"),
    [
        (1, ()),
        (1.1, (2,)),
        (2.5, (3,)),
        (3, (3,)),
        (3.2, (2, 2)),
        (4.5, (2, 3)),
        (6.1, (3, 3)),
        (9, (3, 3)),
        (17, (2, 3, 3)),
    ],
)
def test_the_passes_that_send_the_fewest_pixels_are_chosen(
    times: float, passes: tuple[int, ...]
) -> None:
    def pixels(way: tuple[int, ...]) -> int:
        return sum(math.prod(way[:index]) ** 2 for index in range(len(way)))

    box = Box(round(1000 * times), round(1000 * times))

    assert plan_size(1000, 1000, (2, 3), box).passes == passes
    ways = [way for n in range(6) for way in itertools.product((2, 3), repeat=n)]
    enough = [way for way in ways if math.prod(way) >= times]
    assert min((pixels(way), math.prod(way)) for way in enough) == (
        pixels(passes),
        math.prod(passes),
    )


@pytest.mark.parametrize("text", ["4k", "4K", "8k", "1080p", "1440p", "800x600"])
def test_a_size_names_the_result_as_the_user_wrote_it(text: str) -> None:
    assert Box.parse(text).name == text.lower()


def test_one_pixel_into_the_largest_size_is_planned_at_once() -> None:
    assert math.prod(plan_size(1, 1, (2, 3), Box(999_999, 999_999)).passes) >= 999_999


@pytest.mark.parametrize("text", ["", "4", "0x5", "-1x5", "5x", "axb", "3840*2160"])
def test_a_malformed_size_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|expected"):
        Box.parse(text)
