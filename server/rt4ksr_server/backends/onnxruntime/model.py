"""Serves ONNX models with ONNX Runtime, as a Python-based Triton backend.

It replaces the native ``onnxruntime`` backend where there is none (the tritonserver of the
``nvidia-pytriton`` wheel) and rejects what that one rejects, so that a model folder that loads here
loads in NVIDIA's container too. It runs inside Triton's Python stub, which has numpy and ONNX
Runtime but not this project.

Read from ``config.pbtxt``: ``default_model_filename``, ``max_batch_size``, instance groups, the
execution accelerator ``tensorrt`` of a GPU, and the parameters ``intra_op_thread_count``,
``inter_op_thread_count``, ``enable_mem_arena``, ``enable_mem_pattern``, ``max_input_px`` (a larger
frame is rejected), ``max_side_px`` and ``sha256:FILE`` (a model file of another hash is not
loaded).

Copies of a frame: on the CPU, the input is used where Triton put it (shared memory); ONNX Runtime
writes the output into memory that it keeps between runs, and the stub copies it once, into shared
memory. On a GPU, input and output go through page-locked memory, and requests of one batch overlap:
one is copied while another is computed.
Memory: frames of more than ``max_side_px`` squared pixels, larger than clients send, are run one at
a time, and ONNX Runtime gives their memory back.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import execution
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

# Stacking requests into one run costs a copy of each and saves the fixed cost of a run. Four tiles
# of RT4KSR x2 gain 1.4 times at 32x32 pixels, 1.14 at 96x96 and nothing from 128x128 on.
STACK_LIMIT_BYTES = 32 * 1024

GPU_LANES = 2
"""Runs at the same time: while one frame is computed, the other is copied."""

ORT_FATAL = 4  # a severity: ONNX Runtime's errors reach the client, stderr need not repeat them
TRITON_TYPES = {
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int8)": "TYPE_INT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
}

Array = npt.NDArray[Any]
Run = Callable[[tuple[str, ...], dict[str, Array]], Sequence[Array]]
"""Takes the names of outputs and the inputs; returns the outputs."""


class RejectedError(Exception):
    """The graph cannot be run on these tensors."""


class Call:
    """A request: the tensors it brings and the outputs it asks for.

    ``rejection`` is the answer to a request that was rejected.
    """

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()
        self.rejection: Any = None
        self.inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        self.wanted = tuple(sorted(request.requested_output_names()))
        self.input_bytes = sum(array.nbytes for array in self.inputs.values())

    @property
    def signature(self) -> Hashable:
        """Equal for calls that can be stacked: names and shapes of a frame, outputs."""
        return frozenset((name, a.shape[1:]) for name, a in self.inputs.items()), self.wanted

    @property
    def batch_size(self) -> int:
        """The number of frames."""
        return len(next(iter(self.inputs.values())))

    def send(self, outputs: Sequence[Array]) -> None:
        """Answer with the outputs, in the order of ``wanted``."""
        named = zip(self.wanted, outputs, strict=True)
        response = pb_utils.InferenceResponse([pb_utils.Tensor(*pair) for pair in named])
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def reject(self, reason: str) -> None:
        """Answer with the status INVALID_ARGUMENT."""
        error = pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG)
        self.rejection = pb_utils.InferenceResponse([], error)
        self._sender.send(self.rejection, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class TritonPythonModel:
    """One instance of one model: one ONNX Runtime session."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session; raise where config and graph do not match, which fails the load."""
        # Tells the supervisor that there is nothing to finalize (its DISPOSABLE_STUB), unless this
        # process is traced: then coverage or a debugger has something to save at the end.
        if sys.gettrace() is None:
            Path("/proc/self/comm").write_text("rt4ksr_model")
        ort.disable_telemetry_events()
        # Triton's Python stub was built for numpy 1; of numpy 2 arrays it sends zero bytes.
        if int(np.__version__.partition(".")[0]) > 1:
            raise pb_utils.TritonModelException(
                f"this is numpy {np.__version__}: install numpy<2 for Triton's Python backend"
            )
        config = json.loads(args["model_config"])
        on_gpu = args["model_instance_kind"] == "GPU"
        device_id = int(args["model_instance_device_id"]) if on_gpu else None
        version_folder = Path(args["model_repository"]) / args["model_version"]
        path = version_folder / (config.get("default_model_filename") or "model.onnx")
        check_hash(path, parameter(config, f"sha256:{path.name}"))
        try:
            self._session = execution.open_session(
                path, session_options(config), device_id, gpu_accelerators(config)
            )
        except execution.ProviderError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        except Exception as error:
            raise pb_utils.TritonModelException(f"cannot open {path}: {error}") from error
        if on_gpu:  # a provider that cannot be loaded is left out by ONNX Runtime
            providers = ", ".join(self._session.get_providers())
            pb_utils.Logger.log_info(f"{args['model_name']} on GPU {device_id}: {providers}")
        self._max_input_px = int_parameter(config, "max_input_px")
        self._keeps_up_to_px = int_parameter(config, "max_side_px") ** 2
        giving_back = ort.RunOptions()
        if parameter(config, "enable_mem_arena") != "0":
            arenas = "cpu:0" if device_id is None else f"cpu:0;gpu:{device_id}"
            giving_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)
        self._run_giving_back: Run = functools.partial(self._session.run, run_options=giving_back)
        self._lanes = self.lanes(device_id)
        self._threads = ThreadPoolExecutor(len(self._lanes))
        self._may_stack = int(config["max_batch_size"]) > 0
        check_tensors("input", config["input"], self._session.get_inputs(), self._may_stack)
        check_tensors("output", config["output"], self._session.get_outputs(), self._may_stack)

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer every request as soon as it is done; a bad one gets an error of its own.

        Returns the rejections, although they have been sent. Triton's Python backend takes that for
        a failure of the whole call, and only then counts requests as failed, as the native backend
        counts rejected ones. All requests of a call have one shape, so that all are rejected or
        none is.
        """
        calls = [Call(request) for request in requests]
        groups: dict[Any, list[Call]] = defaultdict(list)
        for number, call in enumerate(calls):
            alike = self._may_stack and call.input_bytes <= STACK_LIMIT_BYTES
            groups[call.signature if alike else number].append(call)
        waiting = list(groups.values())
        while waiting:
            self.answer_together(waiting[: len(self._lanes)])
            del waiting[: len(self._lanes)]
        rejections = [call.rejection for call in calls]
        return rejections if any(rejections) else None

    def lanes(self, device_id: int | None) -> list[Run]:
        """Return what can run at the same time; each keeps the outputs of its last run."""
        if device_id is None:
            return [self._session.run]
        memories = (execution.BoundMemory(self._session, device_id) for _ in range(GPU_LANES))
        return [memory.run for memory in memories]

    def answer_together(self, groups: Sequence[Sequence[Call]]) -> None:
        """Answer at most as many groups as there are lanes, in their order."""
        if len(groups) == 1:
            self.answer(groups[0], self._lanes[0])
            return
        pairs = list(zip(groups, self._lanes, strict=False))
        runs = [self._threads.submit(self.run_stacked, group, lane) for group, lane in pairs]
        for (group, lane), run in zip(pairs, runs, strict=True):
            self.answer(group, lane, run.result)

    def answer(
        self,
        group: Sequence[Call],
        lane: Run,
        computed: Callable[[], list[Sequence[Array]]] | None = None,
    ) -> None:
        """Answer calls that can be run together, if they are not ``computed`` already."""
        try:
            results = computed() if computed else self.run_stacked(group, lane)
            for call, outputs in zip(group, results, strict=True):
                call.send(outputs)
        except RejectedError as error:
            if len(group) == 1:
                group[0].reject(str(error))
                return
            for call in group:  # each fails, or not, by itself
                self.answer([call], lane)

    def run_stacked(self, group: Sequence[Call], lane: Run) -> list[Sequence[Array]]:
        """Return the outputs of each call, computed in one run."""
        first = group[0]
        if len(group) == 1:
            return [self.run(first.inputs, first.wanted, lane)]
        names = first.inputs
        stacked = {name: np.concatenate([call.inputs[name] for call in group]) for name in names}
        ends = np.cumsum([call.batch_size for call in group])[:-1]
        parts = [np.split(output, ends) for output in self.run(stacked, first.wanted, lane)]
        return list(zip(*parts, strict=True))

    def run(self, arrays: dict[str, Array], wanted: tuple[str, ...], lane: Run) -> Sequence[Array]:
        """Return the outputs ``wanted`` for inputs ``(N, H, W, C)`` by name.

        Raises:
            RejectedError: empty, too many pixels per frame, or shapes that the graph cannot take or
                that do not fit one another.

        """
        if not all(array.size for array in arrays.values()):
            raise rejected(arrays, "it is empty")
        frame_px = max(int(np.prod(a.shape[1:3], dtype=np.int64)) for a in arrays.values())
        if 0 < self._max_input_px < frame_px:
            raise rejected(arrays, f"more than {self._max_input_px} pixels a frame")
        if reason := contradiction(self._session.get_inputs(), arrays):
            raise rejected(arrays, reason)
        if not 0 < self._keeps_up_to_px < frame_px:
            return self.run_graph(arrays, wanted, lane)
        batch_size = len(next(iter(arrays.values())))
        if batch_size == 1 or not self._may_stack:
            return self.run_graph(arrays, wanted, self._run_giving_back)
        batches: list[Array] = []
        for index in range(batch_size):
            frame = {name: array[index : index + 1] for name, array in arrays.items()}
            outputs = self.run_graph(frame, wanted, self._run_giving_back)
            if not batches:
                batches = [np.empty((batch_size, *one.shape[1:]), one.dtype) for one in outputs]
            for batch, output in zip(batches, outputs, strict=True):
                batch[index] = output[0]
            del outputs, output  # ONNX Runtime does not give back what is in use
        return batches

    def run_graph(
        self, arrays: dict[str, Array], wanted: tuple[str, ...], run: Run
    ) -> Sequence[Array]:
        """Return the outputs of one run of ONNX Runtime.

        Raises:
            RejectedError: a shape that the graph cannot take.

        """
        try:
            return run(wanted, arrays)
        except Exception as error:  # its types share no base class of their own
            # Without the node, source file and condition before the message.
            reason = str(error).rpartition("Status Message:")[2].rpartition(" was false. ")[2]
            raise rejected(arrays, reason.strip()) from error


def rejected(arrays: dict[str, Array], reason: str) -> RejectedError:
    """Return the error for tensors that cannot be run."""
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
    return RejectedError(f"{shapes} cannot be run: {reason}")


def contradiction(nodes: Sequence[Any], arrays: dict[str, Array]) -> str:
    """Return where shapes contradict the symbolic dimensions of a graph's inputs; else nothing.

    A symbol is one number in all inputs, and ``H/2`` is half of ``H``. ONNX Runtime does not check
    that: it broadcasts an input of 1x1 over another, and fails at others deep in the graph.
    """
    known: dict[str, tuple[int, str]] = {}
    for node in nodes:
        for dim, size in zip(node.shape, arrays[node.name].shape, strict=True):
            if isinstance(dim, str):
                symbol, _, divisor = dim.partition("/")
                is_share = divisor.isdecimal()
                whole = size * int(divisor) if is_share else size
                found = f"{dim} of {node.name} is {size}"
                expected, before = known.setdefault(symbol if is_share else dim, (whole, found))
                if whole != expected:
                    return f"{found}, but {before}"
    return ""


def session_options(config: dict[str, Any]) -> ort.SessionOptions:
    """Return ONNX Runtime's options for a model configuration."""
    options = ort.SessionOptions()
    options.log_severity_level = ORT_FATAL
    # Threads that wait for the next frame by spinning take the cores from the codecs and gain
    # nothing: a frame takes as long without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = int_parameter(config, "intra_op_thread_count")
    options.inter_op_num_threads = int_parameter(config, "inter_op_thread_count")
    options.enable_cpu_mem_arena = parameter(config, "enable_mem_arena") != "0"
    options.enable_mem_pattern = parameter(config, "enable_mem_pattern") != "0"
    if not options.intra_op_num_threads:
        # By default, each instance would start as many threads as there are cores.
        instances = sum(group["count"] for group in config["instance_group"])
        options.intra_op_num_threads = max(1, physical_cores() // max(1, instances))
    return options


def gpu_accelerators(config: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Return the accelerators that a model configuration has for a GPU."""
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    found: Sequence[dict[str, Any]] = accelerators.get("gpu_execution_accelerator", ())
    return found


def physical_cores() -> int:
    """Return how many cores this process may use, counting the threads of one core once."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.is_file() else str(cpu))
    return len(cores)


def parameter(config: dict[str, Any], key: str) -> str:
    """Return a parameter of a model configuration; empty if it is not there."""
    text: str = config.get("parameters", {}).get(key, {}).get("string_value", "")
    return text


def int_parameter(config: dict[str, Any], key: str) -> int:
    """Return a parameter's value, or 0 where it is missing or asks for the default."""
    text = parameter(config, key) or "0"
    try:
        return max(0, int(text))
    except ValueError:
        raise pb_utils.TritonModelException(f"{key}: {text!r} is not an integer") from None


def check_hash(path: Path, expected: str) -> None:
    """Reject a file that is not the one the config was written for."""
    found = hashlib.sha256(path.read_bytes()).hexdigest() if expected and path.is_file() else ""
    if found != expected and path.is_file():
        raise pb_utils.TritonModelException(
            f"{path} was changed: its SHA-256 is {found}, config.pbtxt has {expected}"
        )


def check_tensors(
    kind: str, configured: Sequence[dict[str, Any]], graph: Sequence[Any], batched: bool
) -> None:
    """Reject inputs or outputs that the native backend rejects.

    Every input has to be configured, with its name and type. A dimension that is fixed in the
    graph is the same in the config; one that is symbolic is -1, though an input may narrow it.
    """
    nodes = {node.name: node for node in graph}
    names = [tensor["name"] for tensor in configured]
    unknown = set(names) - set(nodes)
    missing = set(nodes) - set(names) if kind == "input" else set()
    if unknown or missing:
        raise pb_utils.TritonModelException(
            f"config names the {kind}s {sorted(names)}, the graph has {sorted(nodes)}"
        )
    for tensor in configured:
        node = nodes[tensor["name"]]
        label = f"{kind} {node.name}"
        expected = TRITON_TYPES.get(node.type, f"{node.type}, which is not supported")
        if tensor["data_type"] != expected:
            raise pb_utils.TritonModelException(
                f"{label}: config has {tensor['data_type']}, the graph {expected}"
            )
        check_dims(label, tensor, node, batched, may_narrow=kind == "input")


def check_dims(
    label: str, tensor: dict[str, Any], node: Any, batched: bool, *, may_narrow: bool
) -> None:
    """Reject dimensions in the config that are not the graph's."""
    graph_dims = [dim if isinstance(dim, int) else -1 for dim in node.shape]
    dims = [-1] * batched + [int(dim) for dim in tensor["dims"]]
    if batched and graph_dims[:1] != [-1]:
        raise pb_utils.TritonModelException(
            f"{label}: max_batch_size needs a dynamic first dimension, the graph has {graph_dims}"
        )
    matches = len(dims) == len(graph_dims) and all(
        dim == graph_dim or (may_narrow and graph_dim == -1)
        for dim, graph_dim in zip(dims, graph_dims, strict=False)
    )
    if not matches:
        raise pb_utils.TritonModelException(
            f"{label}: config has dims {dims}, the graph {graph_dims}"
            + (" (the first is the batch)" if batched else "")
        )
