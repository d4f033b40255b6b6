from __future__ import annotations

import asyncio
import dataclasses
import inspect
import socket
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from rt4ksr_client import AsyncUpscaler, Connection, Upscaler
from rt4ksr_client.connection import WireName
from rt4ksr_client.errors import PictureError, ServerError


def surface(cls: type) -> dict[str, Any]:
    return {name: member for name, member in vars(cls).items() if not name.startswith("_")}


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """Return what it takes; asyncio cancels the task instead of a ``cancellation``."""
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "cancellation"
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
def test_async_members_are_awaitable(name: str) -> None:
    member = surface(AsyncUpscaler)[name]

    if isinstance(member, classmethod):  # a constructor: sends nothing
        assert "Self" in inspect.signature(member.__func__).return_annotation
    elif isinstance(member, property):
        assert "Awaitable" in inspect.signature(member.fget or len).return_annotation
    else:
        assert inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)


@pytest.mark.parametrize("cls", [Upscaler, AsyncUpscaler])
def test_the_keywords_of_a_client_are_the_fields_of_a_connection(cls: type[Any]) -> None:
    fields = [(f.name, f.default) for f in dataclasses.fields(Connection)]
    keywords = [(name, default) for name, _, default in parameters(cls)]

    assert [row for row in keywords if row[0] not in ("scale", "model")] == fields


@pytest.mark.parametrize("cls", [Upscaler, AsyncUpscaler])
def test_a_client_is_made_from_a_connection(cls: type[Upscaler]) -> None:
    connection = Connection("127.0.0.1:9", "grpc", "encoded", "png", 3.0, 1000)

    opened = cls.from_connection(connection, scale=3)
    sync = getattr(opened, "_upscaler", opened)

    assert sync._connection == connection  # noqa: SLF001 - what it was made from is not public
    assert sync._model_name == "rt4ksr_x3"  # noqa: SLF001 - likewise


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
def test_invalid_arguments_are_rejected_by_the_constructor(
    cls: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        cls(**arguments)


def test_an_invalid_frame_is_rejected_before_anything_is_sent() -> None:
    with Upscaler("127.0.0.1:9") as upscaler, pytest.raises(PictureError, match="uint8"):
        upscaler.upscale(np.zeros((4, 4, 3), np.float32))


def test_map_without_pictures_asks_no_server() -> None:
    with Upscaler("127.0.0.1:9") as upscaler:
        assert list(upscaler.map([])) == []


def test_map_with_nothing_in_flight_is_rejected() -> None:
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


@pytest.mark.parametrize("scheme", ["", "http://"])
@pytest.mark.parametrize("wire", ["raw", "auto"])
@pytest.mark.parametrize(
    "ask", ["upscale", "served_model", "status", "transport_name", "negotiate"]
)
def test_closing_does_not_wait_for_a_cancelled_call_to_a_silent_server(
    scheme: str, wire: WireName, ask: str
) -> None:
    if (scheme, wire) == ("http://", "raw") and ask in ("transport_name", "negotiate"):
        return  # nothing to ask

    async def cancel(url: str) -> float:
        upscaler = AsyncUpscaler(url, wire=wire, timeout_s=8)
        arguments = [np.zeros((4, 4, 3), np.uint8)] if ask == "upscale" else []
        member = getattr(upscaler, ask)
        task = asyncio.ensure_future(member(*arguments) if callable(member) else member)
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        begin_s = time.monotonic()
        await upscaler.close()
        return time.monotonic() - begin_s

    with socket.create_server(("127.0.0.1", 0)) as silent:
        waited_s = asyncio.run(cancel(f"{scheme}127.0.0.1:{silent.getsockname()[1]}"))

    assert waited_s < 3


def test_use_after_close_of_an_asynchronous_client_is_an_error_of_ours() -> None:
    async def use() -> None:
        upscaler = AsyncUpscaler("host:1")
        await upscaler.close()
        await upscaler.close()
        await upscaler.served_model

    with pytest.raises(ServerError, match="closed"):
        asyncio.run(use())
