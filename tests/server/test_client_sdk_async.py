"""The SDK for asyncio, on a real tritonserver."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from rt4ksr_client import AsyncUpscaler
from rt4ksr_client.connection import TransportName
from rt4ksr_client.errors import ServerError
from rt4ksr_client.frames import Frame
from rt4ksr_server import TritonServer
from support.sdk import TRANSPORTS, address, doubled, noise, registered

pytestmark = pytest.mark.server


@pytest.mark.parametrize("name", TRANSPORTS)
def test_gathered_calls_each_get_their_own_picture(
    nearest_server: TritonServer, name: TransportName
) -> None:
    frames = [noise(30, 40 + i) for i in range(40)]

    async def gather() -> list[Frame]:
        async with AsyncUpscaler(address(nearest_server, name), transport=name) as upscaler:
            assert await upscaler.transport_name == name
            assert await upscaler.transport_reason == "requested"
            assert (await upscaler.served_model).scale == 2
            assert (await upscaler.status()).models
            return await asyncio.gather(*(upscaler.upscale(frame) for frame in frames))

    for frame, upscaled in zip(frames, asyncio.run(gather()), strict=True):
        np.testing.assert_array_equal(upscaled, doubled(frame))


def test_async_map_keeps_the_order_and_does_not_block_the_event_loop(
    nearest_server: TritonServer,
) -> None:
    frames = [noise(540, 960, i) for i in range(12)]

    async def source() -> AsyncIterator[Frame]:
        for frame in frames:
            yield frame

    async def work() -> tuple[list[Frame], float]:
        longest_s = 0.0

        async def watch() -> None:
            nonlocal longest_s
            while True:
                begin_s = time.monotonic()
                await asyncio.sleep(0)
                longest_s = max(longest_s, time.monotonic() - begin_s)
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        async with AsyncUpscaler(nearest_server.grpc_url) as upscaler:
            results = [upscaled async for upscaled in upscaler.map(source())]
        watching.cancel()
        return results, longest_s

    results, longest_s = asyncio.run(work())
    for frame, upscaled in zip(frames, results, strict=True):
        np.testing.assert_array_equal(upscaled, doubled(frame))
    assert longest_s < 0.5


@pytest.mark.parametrize("name", TRANSPORTS)
def test_cancelling_a_task_ends_its_call_and_frees_everything(
    nearest_server: TritonServer, name: TransportName
) -> None:
    frame = noise(2000, 2000)
    before = registered(nearest_server)

    async def cancel() -> float:
        async with AsyncUpscaler(address(nearest_server, name), transport=name) as upscaler:
            await upscaler.served_model
            tasks = [asyncio.create_task(upscaler.upscale(frame)) for _ in range(30)]
            await asyncio.sleep(0.1)
            begin_s = time.monotonic()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert sum(isinstance(result, asyncio.CancelledError) for result in results) > 20
            np.testing.assert_array_equal(await upscaler.upscale(frame[:8]), doubled(frame[:8]))
            return time.monotonic() - begin_s

    assert asyncio.run(cancel()) < 10
    assert registered(nearest_server) == before


def test_leaving_async_map_early_ends_it(nearest_server: TritonServer) -> None:
    async def leave() -> int:
        async with AsyncUpscaler(nearest_server.grpc_url) as upscaler:
            results = upscaler.map(noise(64, 64, i) for i in range(1000))
            async for _ in results:
                break
            await results.aclose()
            return len(asyncio.all_tasks())

    assert asyncio.run(leave()) == 1


def test_async_map_takes_an_iterable_that_blocks(nearest_server: TritonServer) -> None:
    frames = [noise(8, 8, i) for i in range(3)]
    running, threads = threading.Event(), set()

    def camera() -> Iterator[Frame]:
        for frame in frames:
            threads.add(threading.get_ident())
            assert running.wait(30), "the event loop stands still"
            running.clear()
            yield frame

    async def tick() -> None:
        while True:
            running.set()
            await asyncio.sleep(0.001)

    async def work() -> list[Frame]:
        ticking = asyncio.create_task(tick())
        async with AsyncUpscaler(nearest_server.grpc_url) as upscaler:
            results = [upscaled async for upscaled in upscaler.map(camera())]
        ticking.cancel()
        return results

    for frame, upscaled in zip(frames, asyncio.run(work()), strict=True):
        np.testing.assert_array_equal(upscaled, doubled(frame))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


@pytest.mark.parametrize("failure", [KeyError("no camera"), SystemExit("enough")], ids=repr)
def test_async_map_raises_what_its_iterable_raises(
    nearest_server: TritonServer, failure: BaseException
) -> None:
    def camera() -> Iterator[Frame]:
        yield noise(8, 8)
        raise failure

    async def work() -> None:
        async with AsyncUpscaler(nearest_server.grpc_url) as upscaler:
            async for _ in upscaler.map(camera()):
                pass

    with pytest.raises(type(failure)) as caught:
        asyncio.run(work())
    assert caught.value is failure


def test_a_program_ends_although_an_iterable_of_async_map_blocks(
    nearest_server: TritonServer,
) -> None:
    program = (
        "import asyncio, queue, sys, numpy, rt4ksr_client\n"
        "frames = queue.Queue()\n"
        "frames.put(numpy.zeros((8, 8, 3), numpy.uint8))\n"
        "async def work():\n"
        "    async with rt4ksr_client.AsyncUpscaler(sys.argv[1]) as upscaler:\n"
        "        async for _ in upscaler.map((frames.get() for _ in range(2)), in_flight=1):\n"
        "            return\n"
        "asyncio.run(work())\n"
    )
    subprocess.run([sys.executable, "-c", program, nearest_server.grpc_url], check=True, timeout=60)


def test_calls_that_wait_when_an_async_client_is_closed_get_an_error_of_ours(
    nearest_server: TritonServer,
) -> None:
    frame = noise(540, 960)

    async def close() -> list[Any]:
        upscaler = AsyncUpscaler(nearest_server.grpc_url, timeout_s=60)
        await upscaler.served_model
        tasks = [asyncio.create_task(upscaler.upscale(frame)) for _ in range(40)]
        await asyncio.sleep(0)
        await upscaler.close()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(close())
    failed = [result for result in results if not isinstance(result, np.ndarray)]
    assert failed
    assert all(isinstance(one, ServerError) and "is closed" in str(one) for one in failed), failed
