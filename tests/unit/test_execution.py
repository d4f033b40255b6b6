"""How the embedded server's backend runs a graph for a GPU; here on the CPU's provider."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import execution
import numpy as np
import onnxruntime as ort
import pytest
from execution import CPU, CUDA, TENSORRT, BoundMemory, PageLock, provider_options

from rt4ksr_client.contract import MODELS
from support.nearest_models import nearest, nearest_graph

X2 = MODELS["rt4ksr_x2"]


@pytest.fixture(scope="module")
def session() -> Iterator[ort.InferenceSession]:
    graph = nearest_graph(X2).SerializeToString()
    yield ort.InferenceSession(graph, providers=[CPU])


def frames(*shape: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_every_run_is_right_whatever_was_bound_before(session: ort.InferenceSession) -> None:
    memory = BoundMemory(session, 0)
    small, large = (1, 4, 6, 3), (2, 8, 4, 3)

    for seed, shape in enumerate([small, small, small, large, small, large, large]):
        image = frames(*shape, seed=seed)
        (answer,) = memory.run(("upscaled",), {"image": image})
        assert np.array_equal(answer, nearest(image, 2)), (seed, shape)


def test_frames_of_one_size_are_answered_from_the_same_memory(
    session: ort.InferenceSession,
) -> None:
    memory = BoundMemory(session, 0)
    addresses = {
        memory.run(("upscaled",), {"image": frames(1, 4, 4, 3, seed=seed)})[0].ctypes.data
        for seed in range(6)
    }

    assert len(addresses) == 2  # ONNX Runtime's own for the first one


def test_a_frame_that_the_graph_rejects_leaves_the_memory_usable(
    session: ort.InferenceSession,
) -> None:
    memory = BoundMemory(session, 0)
    good = frames(1, 4, 4, 3, seed=1)
    for _ in range(2):
        memory.run(("upscaled",), {"image": good})
        with pytest.raises(Exception, match="cannot be reshaped"):
            memory.run(("upscaled",), {"image": frames(1, 3, 4, 3, seed=2)})

    assert np.array_equal(memory.run(("upscaled",), {"image": good})[0], nearest(good, 2))


def test_memory_stays_pageable_where_cuda_cannot_lock_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "cuda_driver", lambda device_id: None)
    lock = PageLock(np.zeros(8, np.uint8), 0)
    assert not lock.holds
    lock.release()


def test_tensorrt_takes_the_options_of_the_configuration_and_the_cache_of_this_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "engines" / "tensorrt-10"
    monkeypatch.setenv("RT4KSR_ENGINE_CACHE", str(cache))
    accelerator = {
        "name": "tensorrt",
        "parameters": {
            "trt_engine_cache_path": "/var/cache/rt4ksr",
            "trt_profile_opt_shapes": "image:1x1080x1920x3",
        },
    }

    (tensorrt, first), (cuda, second) = provider_options([TENSORRT, CUDA], 1, [accelerator])

    assert (tensorrt, cuda) == (TENSORRT, CUDA)
    assert first == {
        "device_id": "1",
        "trt_engine_cache_path": str(cache),
        "trt_profile_opt_shapes": "image:1x1080x1920x3",
    }
    assert second["device_id"] == "1"
    assert cache.stat().st_mode & 0o777 == 0o700


def test_a_gpu_instance_without_a_provider_for_it_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(nearest_graph(X2).SerializeToString())
    monkeypatch.delenv("RT4KSR_PROVIDERS", raising=False)
    with pytest.raises(execution.ProviderError, match="rt4ksr serve --device cuda"):
        execution.open_session(path, ort.SessionOptions(), 0)

    monkeypatch.setenv("RT4KSR_PROVIDERS", CPU)
    assert execution.open_session(path, ort.SessionOptions(), 0).get_providers() == [CPU]
