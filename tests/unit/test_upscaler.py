from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from rt4ksr_client import AsyncUpscaler, Upscaler
from rt4ksr_client.errors import PictureError


def surface(cls: type) -> dict[str, Any]:
    return {name: member for name, member in vars(cls).items() if not name.startswith("_")}


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
    ]


def test_sync_and_async_have_the_same_names() -> None:
    assert list(surface(Upscaler)) == list(surface(AsyncUpscaler))


@pytest.mark.parametrize("name", ["__init__", *surface(Upscaler)])
def test_sync_and_async_take_the_same_arguments(name: str) -> None:
    sync, async_ = getattr(Upscaler, name), getattr(AsyncUpscaler, name)

    assert isinstance(sync, property) == isinstance(async_, property)
    if not isinstance(sync, property):
        assert parameters(sync) == parameters(async_)


@pytest.mark.parametrize("name", surface(Upscaler))
def test_whatever_is_async_says_so(name: str) -> None:
    member = surface(AsyncUpscaler)[name]

    if isinstance(member, property):
        assert "Awaitable" in inspect.signature(member.fget or len).return_annotation
    else:
        assert inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)


@pytest.mark.parametrize(
    "arguments",
    [
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": float("nan")},
        {"scale": 5},
        {"url": "nowhere"},
        {"transport": "pigeon"},
        {"max_request_px": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", [Upscaler, AsyncUpscaler])
def test_arguments_that_cannot_work_are_refused_at_once(
    cls: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        cls(**arguments)


def test_an_array_that_is_no_frame_is_refused_before_anything_is_sent() -> None:
    with Upscaler("127.0.0.1:9") as upscaler, pytest.raises(PictureError, match="uint8"):
        upscaler.upscale(np.zeros((4, 4, 3), np.float32))


def test_map_without_pictures_asks_no_server() -> None:
    with Upscaler("127.0.0.1:9") as upscaler:
        assert list(upscaler.map([])) == []


def test_map_with_nothing_in_flight_is_refused() -> None:
    with Upscaler("127.0.0.1:9") as upscaler, pytest.raises(ValueError, match="in_flight"):
        upscaler.map([], in_flight=0)


def test_async_map_takes_both_kinds_of_iterables() -> None:
    async def pictures() -> AsyncIterator[Any]:
        yield np.zeros((4, 4, 3), np.float32)

    async def first(images: Any) -> None:
        async with AsyncUpscaler("127.0.0.1:9") as upscaler:
            with pytest.raises(PictureError, match="uint8"):
                async for _ in upscaler.map(images):
                    pass

    assert isinstance(pictures(), AsyncIterable)
    asyncio.run(first(pictures()))
    asyncio.run(first([np.zeros((4, 4, 3), np.float32)]))
