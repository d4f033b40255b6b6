"""What carrying video in 4:2:0 saves: the client's CPU time, and the network's time on a CPU.

python benchmarks/video_path.py [--rounds 30] [--scale 2]

*Client*: from a decoded frame to what a model takes, and from its answer to the frame to encode;
without decoder, encoder and transport. Before, colours went to RGB and back by libswscale, as is
kept here: accurate rounding, bicubic chroma, BT.709, and 8 bits of any source. Now planes are
copied.

*Network*: the graph for 4:2:0 against that for RGB of the same features and blocks, in ONNX Runtime
with all cores. What it computes does not depend on the values of the weights.

Both sides take turns within a round, and a ratio is the median of the rounds' own. CPU time is that
of all threads of this process, which do not spin.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import av
import numpy as np
import onnxruntime
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from rt4ksr_client.contract import DEFAULT_MODELS, INPUTS, ModelSpec, models_for
from rt4ksr_client.frames import Frame, planes_of
from rt4ksr_client.video.colours import ColourTags
from rt4ksr_client.video.planes import ACCURATE_BICUBIC, from_video_frame, to_video_frame

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = {2: "nuthatch_1080p.jpg", 3: "nuthatch_720p.jpg"}
FOUR_K = (3840, 2160)
FULL_CHROMA_OUTPUT, FULL_CHROMA_INPUT = 0x2000, 0x4000  # SWS_FULL_CHR_H_INT, SWS_FULL_CHR_H_INP

Run = Callable[[], object]


@dataclass(frozen=True)
class Taken:
    """Seconds of one run."""

    wall_s: float
    cpu_s: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--scale", type=int, choices=sorted(DEFAULT_MODELS), default=2)
    arguments = parser.parse_args()
    rounds, scale = arguments.rounds, arguments.scale
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, PyAV {av.__version__}, ONNX Runtime "
        f"{onnxruntime.__version__}; medians of {rounds} rounds"
    )
    for depth in (8, 10):
        frame = decoded(scale, depth)
        report(f"client, {depth} bits: RGB, planes", client_runs(frame, depth), rounds)
    rgb = network_run(DEFAULT_MODELS[scale], decoded(scale, 8))
    for bits in (8, 16):
        planes = network_run(models_for("video", bits)[scale], decoded(scale, min(bits, 10)))
        report(f"network, x{scale}, {bits} bits: RGB, 4:2:0", (rgb, planes), rounds)


def client_runs(frame: VideoFrame, depth: int) -> tuple[Run, Run]:
    """Return what the client did with ``frame`` and an answer of 4K, and what it does."""
    large = frame.reformat(*FOUR_K)
    answer, rgb, tags = from_video_frame(large), to_rgb(large), ColourTags(depth)

    def before() -> None:
        to_rgb(frame)
        from_rgb(rgb)

    def after() -> None:
        from_video_frame(frame)
        to_video_frame(answer, frame.format.name, tags)

    return before, after


def report(what: str, runs: tuple[Run, Run], rounds: int) -> None:
    """Run both in turns and print their medians."""
    taken = [[measured(run) for run in runs] for _ in range(rounds + 1)][1:]
    for kind in ("cpu_s", "wall_s"):
        pairs = [(getattr(a, kind), getattr(b, kind)) for a, b in taken]
        first, second = (median(pair[side] for pair in pairs) * 1e3 for side in (0, 1))
        ratio = median(b / a for a, b in pairs)
        print(f"{what}: {kind[:-2]:4} {first:8.1f} ms {second:8.1f} ms, ratio {ratio:.3f}")


def measured(run: Run) -> Taken:
    """Run once."""
    wall_s, cpu_s = perf_counter(), process_time()
    run()
    return Taken(perf_counter() - wall_s, process_time() - cpu_s)


def decoded(scale: int, depth: int) -> VideoFrame:
    """Return a photograph as a decoder returns it."""
    pixels = np.asarray(Image.open(ROOT / "docs" / "pictures" / PHOTOGRAPHS[scale]))
    return from_rgb(pixels, "yuv420p" if depth == 8 else "yuv420p10le")


def to_rgb(frame: VideoFrame) -> Frame:
    """Convert as the client did before: uint8 ``(H, W, 3)``."""
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=ACCURATE_BICUBIC | FULL_CHROMA_OUTPUT,
    )
    return rgb.to_ndarray().view(np.uint8)


def from_rgb(image: Frame, pixel_format: str = "yuv420p") -> VideoFrame:
    """Convert back as the client did before."""
    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return rgb.reformat(
        format=pixel_format,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=ACCURATE_BICUBIC | FULL_CHROMA_INPUT,
    )


def network_run(spec: ModelSpec, frame: VideoFrame) -> Run:
    """Return a run of the shipped graph of ``spec`` on ``frame``."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = ROOT / "model_repository" / spec.name / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    planes = planes_of(to_rgb(frame) if spec.colours == "rgb" else from_video_frame(frame))
    names = [tensor.name for tensor in INPUTS[spec.colours]]
    batch = {name: plane[None] for name, plane in zip(names, planes, strict=True)}
    return lambda: session.run(None, batch)


if __name__ == "__main__":
    main()
