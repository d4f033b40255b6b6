"""GPU memory of all models together, computed without a GPU.

python benchmarks/gpu_memory.py [--side 2080] [--batch 2] [--instances 1]

When a TensorRT context is created, it reserves its activations for the largest frames of the
profile. The builder of TensorRT for RTX reports that size without a GPU; TensorRT may choose other
kernels. ONNX Runtime (`gpu`) allocates the frames of a request as they come; Triton's TensorRT
backend (`tensorrt`) reserves two sets of the largest (`output_copy_stream`).

The second table says what fits on a card of 8, 16, 24 and 80 GB, of which 7 % are for the driver
and the desktop: the container, one process whose CUDA context and kernels take an estimated 0.5 GB,
and the embedded server, by its own estimate for a process for each model.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from rt4ksr_client.contract import INPUTS, MAX_SIDE_PX, MODELS, OUTPUTS, ModelSpec
from rt4ksr_export.config import GRAPHS, VERSION
from rt4ksr_export.graph import Precision
from rt4ksr_export.tensorrt import MAX_BATCH_SIZE, Compiler, Profile, Target
from rt4ksr_server.device import PROCESS_BYTES, required_bytes
from rt4ksr_server.gpu_probe import CUDA, TENSORRT

ROOT = Path(__file__).parents[1]
CARDS_GIB = (8, 16, 24, 80)
USABLE = 0.93
REPORTED = re.compile(r"Total Activation Memory: (\d+) bytes")


@dataclass(frozen=True)
class ModelMemory:
    """Bytes on the GPU of one instance of a model, for the largest frames of its profile."""

    context: int
    frames: int
    has_plan: bool

    @property
    def gpu(self) -> int:
        """With `configs/gpu.pbtxt`."""
        return self.context + self.frames

    @property
    def tensorrt(self) -> int:
        """With `configs/tensorrt.pbtxt`."""
        return self.context + (2 if self.has_plan else 1) * self.frames


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=MAX_SIDE_PX, help="longest side of a frame")
    parser.add_argument("--batch", type=int, default=MAX_BATCH_SIZE)
    parser.add_argument("--instances", type=int, default=1)
    arguments = parser.parse_args()
    models = measure(arguments.side, arguments.batch)
    print("| GB | context | frames | `gpu` | `tensorrt` |\n|---|---|---|---|---|")
    for name, model in models.items():
        row = (model.context, model.frames, model.gpu, model.tensorrt)
        print(f"| `{name}` | {' | '.join(f'{value / 1e9:.2f}' for value in row)} |")
    totals = (
        sum(getattr(model, config) for model in models.values()) * arguments.instances / 1e9
        for config in ("gpu", "tensorrt")
    )
    what = f"all, {arguments.instances} instance{'s' if arguments.instances > 1 else ''} each"
    print(f"| {what} | | | {' | '.join(f'{total:.1f}' for total in totals)} |\n")
    print(*cards(models), sep="\n")


def cards(models: Mapping[str, ModelMemory]) -> Iterator[str]:
    """Yield a table: bytes of each configuration with all models, and the cards that they fit."""
    needs = {}
    for config in ("gpu", "tensorrt"):
        for instances in (1, 2):
            total = sum(getattr(model, config) for model in models.values())
            name = f"`{config}`, {instances} instance{'s' if instances > 1 else ''}"
            needs[name] = PROCESS_BYTES + instances * total
    for name, provider in (("CUDA", CUDA), ("TensorRT", TENSORRT)):
        needs[f"embedded server, {name}"] = required_bytes([provider], len(models))
    yield f"| all models | GB | {' | '.join(f'{gib} GB' for gib in CARDS_GIB)} |"
    yield f"|---|---|{'---|' * len(CARDS_GIB)}"
    for name, need in needs.items():
        fits = ("fits" if need <= gib * 2**30 * USABLE else "no" for gib in CARDS_GIB)
        yield f"| {name} | {need / 1e9:.1f} | {' | '.join(fits)} |"


def measure(side_px: int = MAX_SIDE_PX, batch: int = MAX_BATCH_SIZE) -> Mapping[str, ModelMemory]:
    """Return the memory of each model in the repository."""
    compiler = Compiler(Target.RTX)
    return {spec.name: _memory(compiler, spec, side_px, batch) for spec in MODELS.values()}


def _memory(compiler: Compiler, spec: ModelSpec, side_px: int, batch: int) -> ModelMemory:
    folder = ROOT / "model_repository" / spec.name / VERSION
    usual = Profile.of(spec)
    profile = Profile(usual.least, usual.best, (batch, side_px, side_px))
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("rt4ksr_export.tensorrt")
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        compiler.compile(engine_graph(folder / GRAPHS[Precision.FP16]), profile)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    (context,) = (int(found[1]) for found in map(REPORTED.search, messages) if found)
    sent, answered = (
        sum(math.prod(tensor.shape(batch, side_px * scale, side_px * scale)) for tensor in tensors)
        for tensors, scale in ((INPUTS[spec.colours], 1), (OUTPUTS[spec.colours], spec.scale))
    )
    value_bytes = 1 if spec.bits == 8 else 2 + 4  # as codes, and as the floats of them
    return ModelMemory(context, (sent + answered) * value_bytes, spec.bits == 8)


def engine_graph(path: Path) -> bytes:
    """Return what TensorRT builds of a graph: it has no 16-bit integers, others cast around it."""
    graph = onnx.load(path)
    wide, floats = onnx.TensorProto.UINT16, onnx.TensorProto.FLOAT
    for value in (*graph.graph.input, *graph.graph.output):
        if value.type.tensor_type.elem_type == wide:
            value.type.tensor_type.elem_type = floats
    for node in graph.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == wide:
            node.attribute[0].i = floats
    serialized: bytes = graph.SerializeToString()
    return serialized


if __name__ == "__main__":
    main()
