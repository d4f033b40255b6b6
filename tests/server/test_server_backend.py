from __future__ import annotations

import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig as Config
from tritonclient.utils import InferenceServerException

from rt4ksr_client.contract import DEFAULT_MODELS, MODELS, ModelSpec
from rt4ksr_server import TritonServer
from support.nearest_models import infer, nearest, nearest_config, nearest_graph, write_model
from support.processes import becomes_true, child_pids, private_bytes

pytestmark = pytest.mark.server

X2 = MODELS["rt4ksr_x2"]


def noise(*shape: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("spec", DEFAULT_MODELS.values(), ids=lambda spec: spec.name)
@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (3, 6, 4, 3), (1, 1080, 1920, 3)], ids=str)
def test_every_byte_of_the_answer_arrives(
    nearest_server: TritonServer, spec: ModelSpec, shape: tuple[int, ...]
) -> None:
    image = noise(*shape)
    assert np.array_equal(infer(nearest_server, spec.name, image), nearest(image, spec.scale))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 3, 4, 3), r"image \[1, 3, 4, 3\] cannot be run: The input tensor cannot be reshaped"),
        ((1, 4, 3, 3), r"image \[1, 4, 3, 3\] cannot be run: The input tensor cannot be reshaped"),
        ((1, 0, 4, 3), r"image \[1, 0, 4, 3\] cannot be run: it is empty"),
        ((1, 4, 4, 4), r"Expected \[-1,-1,-1,3\], got \[1,4,4,4\]"),
        ((9, 2, 2, 3), "batch-size must be <= 8"),
    ],
    ids=["odd height", "odd width", "empty", "four channels", "too many"],
)
def test_a_bad_request_is_rejected_and_the_next_one_is_answered(
    nearest_server: TritonServer, shape: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(InferenceServerException, match=reason) as caught:
        infer(nearest_server, X2.name, np.zeros(shape, np.uint8))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    image = noise(1, 4, 4, 3)
    assert np.array_equal(infer(nearest_server, X2.name, image), nearest(image, 2))


@pytest.fixture(scope="module")
def queueing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Waits long enough for requests to meet in one batch."""
    repository = tmp_path_factory.mktemp("queueing")
    config = nearest_config(X2)
    config.dynamic_batching.preferred_batch_size.append(4)
    config.dynamic_batching.max_queue_delay_microseconds = 3_000_000
    write_model(repository, config, nearest_graph(X2))
    with TritonServer(repository) as server:
        yield server


@pytest.mark.parametrize("side", [8, 256], ids=["stacked", "one by one"])
def test_requests_of_one_batch_get_their_own_answers(
    queueing_server: TritonServer, side: int
) -> None:
    images = [noise(1, side, side, 3, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda image: infer(queueing_server, X2.name, image), images)
    for image, answer in zip(images, answers, strict=True):
        assert np.array_equal(answer, nearest(image, 2))
    assert becomes_true(lambda: 4 in _batch_sizes(queueing_server))


def test_every_request_of_a_bad_batch_gets_its_error(queueing_server: TritonServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        odd = np.zeros((1, 3, 3, 3), np.uint8)
        calls = [pool.submit(infer, queueing_server, X2.name, odd) for _ in range(4)]
    for call in calls:
        with pytest.raises(InferenceServerException, match=r"image \[1, 3, 3, 3\] cannot be run"):
            call.result()


def test_rejected_requests_count_as_failed_and_the_others_as_answered(
    queueing_server: TritonServer,
) -> None:
    answered, failed = _counts(queueing_server)
    shapes = [(1, 4, 4, 3), (1, 3, 4, 3), (1, 0, 4, 3), (1, 4, 4, 3), (1, 3, 4, 3), (2, 4, 4, 3)]
    with ThreadPoolExecutor(len(shapes)) as pool:
        calls = [pool.submit(infer, queueing_server, X2.name, noise(*shape)) for shape in shapes]
    for shape, call in zip(shapes, calls, strict=True):
        if shape[1] == 4:
            assert np.array_equal(call.result(), nearest(noise(*shape), 2))
        else:
            with pytest.raises(InferenceServerException, match="cannot be run"):
                call.result()

    assert becomes_true(lambda: _counts(queueing_server) == (answered + 3, failed + 3))
    with urllib.request.urlopen(f"http://{queueing_server.metrics_url}/metrics") as response:
        metrics = response.read().decode()
    for name, count in (
        ("success", answered + 3),
        ('failure.*reason="BACKEND"', failed + 3),
        ('failure.*reason="OTHER"', 0),
        ('failure.*reason="REJECTED"', 0),
    ):
        assert re.search(rf"^nv_inference_request_{name}.* {count}$", metrics, re.MULTILINE), (
            metrics
        )
    # What counting them takes is not for the reader of the log.
    assert "Failed to process the request" not in queueing_server.log_tail(1000)


def _counts(server: TritonServer) -> tuple[int, int]:
    """How many requests were answered, and how many failed, so far."""
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        statistics = client.get_inference_statistics(X2.name).model_stats[0].inference_stats
    return statistics.success.count, statistics.fail.count


def _batch_sizes(server: TritonServer) -> set[int]:
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        statistics = client.get_inference_statistics(X2.name).model_stats[0]
    return {batch.batch_size for batch in statistics.batch_stats}


def _rename_input(config: Config) -> None:
    config.input[0].name = "picture"


def _rename_output(config: Config) -> None:
    config.output[0].name = "large"


def _change_type(config: Config) -> None:
    config.input[0].data_type = model_config_pb2.TYPE_FP32


def _fix_an_output_side(config: Config) -> None:
    config.output[0].dims[0] = 2160


def _free_the_channels(config: Config) -> None:
    config.input[0].dims[2] = -1


def _drop_a_dimension(config: Config) -> None:
    del config.input[0].dims[0]


def _misspell_threads(config: Config) -> None:
    config.parameters["intra_op_thread_count"].string_value = "two"


def _expect_another_file(config: Config) -> None:
    config.parameters["sha256:model.onnx"].string_value = "0" * 64


def _miss_the_file(config: Config) -> None:
    config.default_model_filename = "other.onnx"


REFUSED: dict[str, tuple[Callable[[Config], None], str]] = {
    "input_name": (_rename_input, "config names the inputs ['picture'], the graph has ['image']"),
    "output_name": (_rename_output, "config names the outputs ['large'], the graph"),
    "type": (_change_type, "input image: config has TYPE_FP32, the graph TYPE_UINT8"),
    "output_side": (_fix_an_output_side, "config has dims [-1, 2160, -1, 3], the graph [-1, -1"),
    "channels": (_free_the_channels, "config has dims [-1, -1, -1, -1], the graph [-1, -1, -1, 3]"),
    "rank": (_drop_a_dimension, "config has dims [-1, -1, 3], the graph [-1, -1, -1, 3]"),
    "threads": (_misspell_threads, "intra_op_thread_count: 'two' is not an integer"),
    "hash": (_expect_another_file, "model.onnx was changed: its SHA-256 is"),
    "file": (_miss_the_file, "other.onnx"),
}


@pytest.fixture(scope="module")
def load_errors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Why each of :data:`REFUSED` was not loaded, and "fixed_batch", by one server."""
    repository = tmp_path_factory.mktemp("refused")
    for name, (spoil, _) in REFUSED.items():
        config = nearest_config(X2)
        config.name = name
        spoil(config)
        write_model(repository, config, nearest_graph(X2))
    _write_model_with_a_fixed_batch(repository)
    flags = ("--exit-on-error=false", "--strict-readiness=false")
    with (
        TritonServer(repository, extra_args=flags) as server,
        triton_grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        yield {model.name: model.reason for model in client.get_model_repository_index().models}


def _write_model_with_a_fixed_batch(repository: Path) -> None:
    graph = nearest_graph(X2)
    for tensor in (*graph.graph.input, *graph.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 1
    config = nearest_config(X2)
    config.name = "fixed_batch"
    write_model(repository, config, graph)


@pytest.mark.parametrize("name", REFUSED)
def test_a_config_that_contradicts_the_graph_is_not_loaded(
    load_errors: dict[str, str], name: str
) -> None:
    assert REFUSED[name][1] in load_errors[name]


def test_batching_needs_a_dynamic_first_dimension(load_errors: dict[str, str]) -> None:
    assert "max_batch_size needs a dynamic first dimension" in load_errors["fixed_batch"]


def test_threads_instances_and_file_name_come_from_the_config(tmp_path: Path) -> None:
    for name, threads in (("one", 1), ("four", 4)):
        config = nearest_config(X2)
        config.name = name
        config.default_model_filename = "graph.onnx"
        config.instance_group[0].count = 2
        config.instance_group[0].kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
        config.parameters["intra_op_thread_count"].string_value = str(threads)
        write_model(tmp_path, config, nearest_graph(X2))
        (tmp_path / name / "1" / "model.onnx").rename(tmp_path / name / "1" / "graph.onnx")
    with TritonServer(tmp_path) as server:
        counts: dict[str, list[int]] = {"one": [], "four": []}
        for pid in child_pids(server.pid):
            command = Path(f"/proc/{pid}/cmdline").read_text()
            name = "one" if f"{tmp_path}/one/" in command else "four"
            counts[name].append(len(list(Path(f"/proc/{pid}/task").iterdir())))
    assert [len(instances) for instances in counts.values()] == [2, 2]
    assert counts["four"] == [count + 3 for count in counts["one"]]


def test_a_frame_larger_than_clients_send_leaves_its_memory_to_others(
    tmp_path: Path, root: Path
) -> None:
    shutil.copytree(root / "model_repository" / X2.name, tmp_path / X2.name)
    path = tmp_path / X2.name / "config.pbtxt"
    config = text_format.Parse(path.read_text(), Config())
    config.parameters["max_side_px"].string_value = "128"
    path.write_text(text_format.MessageToString(config))
    with TritonServer(tmp_path) as server:
        (model,) = child_pids(server.pid)
        before = private_bytes(model)
        image = noise(2, 1080, 1920, 3)
        answer = infer(server, X2.name, image)
        assert private_bytes(model) - before < 150e6  # 0.6 GB without giving back
        assert np.array_equal(answer[:1], infer(server, X2.name, image[:1]))
        assert np.array_equal(answer[1:], infer(server, X2.name, image[1:]))


def test_an_input_may_be_narrower_than_the_graph(tmp_path: Path) -> None:
    config = nearest_config(X2)
    config.input[0].dims[0] = 4
    write_model(tmp_path, config, nearest_graph(X2))
    with TritonServer(tmp_path) as server:
        image = noise(1, 4, 6, 3)
        assert np.array_equal(infer(server, X2.name, image), nearest(image, 2))
        with pytest.raises(InferenceServerException, match="unexpected shape"):
            infer(server, X2.name, noise(1, 6, 6, 3))
