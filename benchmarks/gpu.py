"""One table for a GPU: the network in process by runtime, copies, frames served, and video.

python benchmarks/gpu.py [--model rt4ksr_x2] [--frames 200] [--only process,copies,served,video]

*In process*: uint8 in and out, on the device: median and 99th percentile of single runs, and the
ratio to the bound by memory traffic, about 14 passes over the features of a frame (24 channels at a
quarter of the pixels, in the arithmetic's precision: 0.35 GB for 1080p in FP16), at the bandwidth
that a copy of 256 MB on the same device reaches. *Copies*: a frame to the device, its answer back.
*Served*: the embedded server, frames a second with 1, 2, 4 and 8 under way. *Video*: a file of the
same frames from decoder to encoder.

What is not installed, or not on this machine, is left out and listed with the reason. Without a GPU
the same code measures the CPU.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from rt4ksr_client import Upscaler
from rt4ksr_client.connection import TransportName
from rt4ksr_client.contract import INPUTS, MODELS, ModelSpec, models_for
from rt4ksr_client.errors import Rt4ksrError
from rt4ksr_export.checkpoint import load_network, packaged_weights
from rt4ksr_export.config import GRAPHS, VERSION
from rt4ksr_export.fusion import fuse
from rt4ksr_export.graph import Precision
from rt4ksr_export.tensorrt import Profile
from rt4ksr_server import TritonServer

ROOT = Path(__file__).parents[1]
PARTS = ("process", "copies", "served", "video")
PASSES = 14
FEATURES = 24
WARM_UP = 5
IN_FLIGHT = (1, 2, 4, 8)
TRANSPORTS: tuple[TransportName, ...] = ("shm", "grpc", "http")
ENCODERS = ("libx264", "h264_nvenc", "hevc_nvenc", "av1_nvenc")
VALUE_BYTES = {Precision.FP32: 4, Precision.FP16: 2}

Run = Callable[[], object]


class LeftOutError(Exception):
    """Something cannot be measured here; the text is the reason."""


@dataclass
class Bench:
    """What is measured, on which device, and what was left out."""

    spec: ModelSpec
    height_px: int
    width_px: int
    frames: int
    on_gpu: bool
    left_out: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """PyTorch's name of the device."""
        return torch.device("cuda" if self.on_gpu else "cpu")

    def batch(self, size: int) -> dict[str, torch.Tensor]:
        """Return noise for the inputs of the model, uint8 on the device."""
        generator = torch.Generator().manual_seed(0)
        return {
            tensor.name: torch.randint(
                0,
                256,
                tensor.shape(size, self.height_px, self.width_px),
                dtype=torch.uint8,
                generator=generator,
            ).to(self.device)
            for tensor in INPUTS[self.spec.colours]
        }

    def attempt(self, what: str, prepare: Callable[[], Run]) -> np.ndarray[Any, Any] | None:
        """Return the milliseconds of every run, or note why there are none."""
        try:
            run = prepare()
            times_ms = []
            for number in range(WARM_UP + self.frames):
                self.wait()
                begin_s = time.perf_counter()
                run()
                self.wait()
                if number >= WARM_UP:
                    times_ms.append((time.perf_counter() - begin_s) * 1e3)
        except LeftOutError as reason:
            self.left_out.append(f"{what}: {reason}")
            return None
        return np.array(times_ms)

    def wait(self) -> None:
        """Wait until the device has done its work."""
        if self.on_gpu:
            torch.cuda.synchronize()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    served = [name for name, spec in MODELS.items() if spec.bits == 8]
    parser.add_argument("--model", choices=served, default="rt4ksr_x2")
    parser.add_argument("--frames", type=int, default=200, help="runs of each row")
    parser.add_argument("--size", metavar="WxH", help="of a frame; default: the model's own")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas in between")
    arguments = parser.parse_args()
    spec = MODELS[arguments.model]
    parts = arguments.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    width_px, height_px = spec.input_width_px, spec.input_height_px
    if arguments.size:
        width_px, height_px = map(int, arguments.size.split("x"))
    bench = Bench(spec, height_px, width_px, arguments.frames, torch.cuda.is_available())
    print(machine(bench))
    print(f"{spec.name}, {width_px}x{height_px}, {bench.frames} runs of each row")
    measures = {
        "process": measure_process,
        "copies": measure_copies,
        "served": measure_served,
        "video": measure_video,
    }
    for part in parts:
        print()
        for row in measures[part](bench):
            print(row, flush=True)
    print("\nLeft out:", *(bench.left_out or ["nothing"]), sep="\n  ")


def machine(bench: Bench) -> str:
    """Return card or processor, and versions."""
    versions = f"PyTorch {torch.__version__}, ONNX Runtime {ort.__version__}"
    if not bench.on_gpu:
        return f"CPU, {torch.get_num_threads()} threads, {platform.machine()}; {versions}"
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    return (
        f"{torch.cuda.get_device_name()} ({memory:.1f} GB), CUDA {torch.version.cuda}; {versions}"
    )


def measure_process(bench: Bench) -> Iterator[str]:
    """Yield rows of the network in process, RGB and 4:2:0 by every runtime."""
    yield "| in process | batch | median ms | p99 ms | times the bound |\n|---|---|---|---|---|"
    bandwidth = memory_bandwidth(bench)
    video = models_for("video", bits=8)[bench.spec.scale]
    for spec in dict.fromkeys((bench.spec, video)):
        part = Bench(
            spec, bench.height_px, bench.width_px, bench.frames, bench.on_gpu, bench.left_out
        )
        colours = {"rgb": "RGB", "yuv420": "4:2:0"}[spec.colours]
        for name, precision, prepare in runtimes(part):
            for size in (1, 2):
                what = f"{name}, {precision.value}, {colours}"
                times_ms = part.attempt(what, lambda p=prepare, n=size: p(n))  # type: ignore[misc]
                if times_ms is None:
                    break
                pixels = size * part.height_px * part.width_px / 4
                traffic = PASSES * pixels * FEATURES * VALUE_BYTES[precision]
                ratio = np.median(times_ms) / (traffic / bandwidth * 1e3)
                p50, p99 = np.percentile(times_ms, (50, 99))
                yield f"| {what} | {size} | {p50:.2f} | {p99:.2f} | {ratio:.1f} |"
    yield f"\nmemory bandwidth of a copy: {bandwidth / 1e9:.0f} GB/s, read and write together"


Prepare = Callable[[int], Run]


def runtimes(bench: Bench) -> Iterator[tuple[str, Precision, Prepare]]:
    """Yield every runtime and precision, with what prepares a run of a batch."""
    for precision in Precision:
        if bench.spec.colours == "rgb":  # 4:2:0 is a form of the graph
            yield "PyTorch eager", precision, torch_run(bench, precision, compiled=False)
            yield "PyTorch compiled", precision, torch_run(bench, precision, compiled=True)
        for provider in ("CPU", "CUDA", "Tensorrt"):
            name = {"Tensorrt": "TensorRT, by ONNX Runtime"}.get(
                provider, f"ONNX Runtime {provider}"
            )
            yield name, precision, runtime_run(bench, precision, provider)


def torch_run(bench: Bench, precision: Precision, *, compiled: bool) -> Prepare:
    """Return what prepares PyTorch: eager, or compiled with CUDA graphs."""

    def prepare(size: int) -> Run:
        if not bench.on_gpu and (compiled or precision is Precision.FP16):
            raise LeftOutError("for a GPU")
        dtype = {Precision.FP32: torch.float32, Precision.FP16: torch.float16}[precision]
        network = fuse(load_network(packaged_weights(bench.spec.name)))
        network = network.to(bench.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

        def upscale(frames: torch.Tensor) -> torch.Tensor:
            samples: torch.Tensor = network(frames.permute(0, 3, 1, 2).to(dtype) / 255)
            return (samples * 255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

        called = torch.compile(upscale, mode="max-autotune") if compiled else upscale
        (frames,) = bench.batch(size).values()

        def run() -> None:
            with torch.inference_mode():
                called(frames)

        return run

    return prepare


def runtime_run(bench: Bench, precision: Precision, provider: str) -> Prepare:
    """Return what prepares ONNX Runtime with one of its providers; frames are on the device."""

    def prepare(size: int) -> Run:
        name = f"{provider}ExecutionProvider"
        if name not in ort.get_available_providers():
            raise LeftOutError("not in the installed ONNX Runtime")
        if provider != "CPU" and not bench.on_gpu:
            raise LeftOutError("no GPU")
        if provider == "CPU" and (bench.on_gpu or precision is Precision.FP16):
            raise LeftOutError("for a machine without a GPU, in single precision")
        options: dict[str, str] = {}
        if provider == "Tensorrt":
            try:
                import tensorrt  # noqa: F401 - loads its libraries
            except ImportError as exc:
                raise LeftOutError("tensorrt is not installed") from exc
            entries = {tensor.name: tensor for tensor in INPUTS[bench.spec.colours]}
            shapes = Profile.of(bench.spec).texts(entries)
            options = {f"trt_profile_{key}_shapes": text for key, text in shapes.items()}
        if provider != "CPU":
            ort.preload_dlls()
        path = ROOT / "model_repository" / bench.spec.name / VERSION / GRAPHS[precision]
        session = ort.InferenceSession(path, providers=[(name, options)])
        if session.get_providers()[0] != name:
            raise LeftOutError("its libraries cannot be loaded")
        batch, binding = bench.batch(size), session.io_binding()
        kind = bench.device.type
        for tensor, values in batch.items():
            shape = tuple(values.shape)
            binding.bind_input(tensor, kind, 0, np.uint8, shape, values.data_ptr())
        for output in session.get_outputs():
            binding.bind_output(output.name, kind)

        def run(held: object = batch) -> None:
            session.run_with_iobinding(binding)

        return run

    return prepare


def memory_bandwidth(bench: Bench) -> float:
    """Return bytes a second, read and written, of a copy within the device's memory."""
    source = torch.empty(256_000_000, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    copies = Bench(bench.spec, 0, 0, 20, bench.on_gpu)
    times_ms = copies.attempt("copy", lambda: lambda: target.copy_(source))
    assert times_ms is not None
    return float(2 * source.nbytes / np.median(times_ms) * 1e3)


def measure_copies(bench: Bench) -> Iterator[str]:
    """Yield rows of copies between host and device, of one frame and its answer."""
    if not bench.on_gpu:
        bench.left_out.append("copies: no GPU")
        return
    yield "| copy | host memory | median ms | p99 ms | GB/s |\n|---|---|---|---|---|"
    pixels = bench.height_px * bench.width_px
    for name, count in (("a frame to the device", pixels * 3), ("its answer back", pixels * 3 * 4)):
        for pinned in (True, False):
            host = torch.empty(count, dtype=torch.uint8, pin_memory=pinned)
            held = torch.empty(count, dtype=torch.uint8, device="cuda")
            source, target = (host, held) if "to the" in name else (held, host)
            times_ms = bench.attempt(name, lambda t=target, s=source: lambda: t.copy_(s))  # type: ignore[misc]
            assert times_ms is not None
            p50, p99 = np.percentile(times_ms, (50, 99))
            memory = "pinned" if pinned else "pageable"
            yield f"| {name} | {memory} | {p50:.2f} | {p99:.2f} | {count / p50 / 1e6:.1f} |"


def measure_served(bench: Bench) -> Iterator[str]:
    """Yield rows of the embedded server: frames a second by transport, frames under way."""
    if bench.spec.colours != "rgb":
        bench.left_out.append("served: choose a model for pictures")
        return
    frame = next(iter(bench.batch(1).values())).cpu().numpy()[0]
    with TritonServer(ROOT / "model_repository", models=[bench.spec.name]) as server:
        yield f"served on {server.device}, frames/s with so many under way:\n"
        yield f"| transport | {' | '.join(map(str, IN_FLIGHT))} |\n|---|{'---|' * len(IN_FLIGHT)}"
        for transport in TRANSPORTS:
            url = server.http_url if transport == "http" else server.grpc_url
            with Upscaler(url, model=bench.spec.name, transport=transport) as upscaler:
                rates = [f"{frames_per_s(upscaler, frame, n, bench.frames):.1f}" for n in IN_FLIGHT]
            yield f"| {transport} | {' | '.join(rates)} |"


def frames_per_s(upscaler: Upscaler, frame: Any, in_flight: int, frames: int) -> float:
    """Return how many equal frames a second an upscaler carries."""
    for _ in upscaler.map(repeat(frame, 2 * in_flight), in_flight):
        pass
    begin_s = time.perf_counter()
    for _ in upscaler.map(repeat(frame, frames), in_flight):
        pass
    return frames / (time.perf_counter() - begin_s)


def measure_video(bench: Bench) -> Iterator[str]:
    """Yield rows of a whole video, from decoder to encoder; every frame has changed."""
    try:
        from rt4ksr_client.video import VideoOptions, upscale_video
    except ImportError:
        bench.left_out.append("video: the extra video is not installed")
        return
    model = models_for("video", bits=8)[bench.spec.scale].name
    with (
        tempfile.TemporaryDirectory() as folder,
        TritonServer(ROOT / "model_repository", models=[model]) as server,
        Upscaler(server.grpc_url, model=model) as upscaler,
    ):
        yield f"video on {server.device}:\n\n| encoder | frames/s |\n|---|---|"
        source = Path(folder, "noise.mp4")
        write_noise(source, bench)
        for encoder in ENCODERS:
            target = Path(folder, f"{encoder}.mkv")
            begin_s = time.perf_counter()
            try:
                upscale_video(source, target, upscaler, VideoOptions(codec=encoder))
            except Rt4ksrError as error:
                bench.left_out.append(f"video, {encoder}: {str(error).splitlines()[0]}")
                continue
            yield f"| {encoder} | {bench.frames / (time.perf_counter() - begin_s):.1f} |"


def write_noise(path: Path, bench: Bench) -> None:
    """Write a video of coarse noise that moves, so that no part of a frame is still."""
    import av

    coarse = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    rows, columns = -(-bench.height_px // 64), -(-bench.width_px // 64)
    picture = np.kron(coarse[:rows, :columns], np.ones((64, 64, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = bench.width_px, bench.height_px, "yuv420p"
        for number in range(bench.frames):
            moved = np.roll(picture, number, axis=1)[: bench.height_px, : bench.width_px]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(moved))))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
