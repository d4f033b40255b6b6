"""Encoded pictures against raw frames: 1080p to 4K over the same transport, by frames per second.

Pictures are a JPEG in and a JPEG out of the image endpoint, bytes as they are: what decodes and
encodes is the server. Raw frames go to the model itself. Both take turns within a round, and a
ratio is the median of the rounds' own. Three places show what the endpoint gains and costs:

- a nearest-neighbour model on loopback: next to no network, so this is the endpoint's own ceiling;
- the real model on loopback: what the codecs take beside it, by the CPU time of its processes;
- the nearest-neighbour model over a simulated 1 Gbit/s link: 31 MB a frame against about 3. The
  client then runs in a network namespace, behind a pair of virtual interfaces with a token bucket
  each. That needs root on Linux; elsewhere the link's share is only calculated.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Connection, TransportName
from rt4ksr_client.contract import (
    DECODE_STAGE,
    DEFAULT_MODELS,
    ENCODE_STAGE,
    UPSCALED_PICTURE_NAME,
    image_endpoint,
)
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports import open_transport
from rt4ksr_client.transports.base import Transport
from rt4ksr_client.transports.encoded import pictures_tensor
from rt4ksr_client.transports.messages import InferRequest, RequestedOutput
from rt4ksr_server import TritonServer
from support.nearest_models import add_endpoints, nearest_config, nearest_graph, write_model

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docs" / "pictures" / "nuthatch_1080p.jpg"
SPEC = DEFAULT_MODELS[2]
ENDPOINT = image_endpoint(SPEC.name)
TRANSPORTS: tuple[TransportName, ...] = ("grpc", "http")
CLIENTS = (1, 4)
KINDS = ("raw", "pictures")
FRAMES, REAL_FRAMES = 20, 6
TIMEOUT_S = 60.0
GIGABIT_MB_PER_S = 117.5  # what TCP leaves of 125
SHAPED = "tbf rate 1gbit burst 256kb latency 50ms"
WITH_SBIN = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
PARTS = {"decode": DECODE_STAGE, "network": SPEC.name, "encode": ENCODE_STAGE}
STOPPING = (signal.SIGINT, signal.SIGTERM)
ITSELF = "tritonserver"


class Load(NamedTuple):
    """One measurement: ``frames`` of a kind, shared among clients with a connection each."""

    transport: TransportName
    kind: str
    clients: int
    frames: int

    @property
    def each(self) -> int:
        """Frames of one client, which sends one more before that."""
        return -(-self.frames // self.clients)


class Rate(NamedTuple):
    """What a load came to."""

    per_s: float
    p50_ms: float


Run = Callable[[str, Load], Rate]


@dataclass
class Results:
    """Of one place: rates by transport, clients and kind, and CPU milliseconds a frame by kind."""

    title: str
    rates: dict[tuple[str, int, str], list[Rate]] = field(default_factory=dict)
    cpu_ms: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def ratio(self, transport: str, clients: int) -> float:
        """Return the median over the rounds of pictures against raw."""
        raw, pictures = (self.rates[transport, clients, kind] for kind in KINDS)
        return median(b.per_s / a.per_s for a, b in zip(raw, pictures, strict=True))

    def ratios(self) -> str:
        """Return all of them in words."""
        each = (f"{way} x{n} {self.ratio(way, n):.2f}" for way, n in product(TRANSPORTS, CLIENTS))
        return f"{self.title}: {', '.join(each)}"


def main() -> None:
    """Measure and print, or be the client of :func:`in_namespace`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--skip-real", action="store_true", help="leave out the real model")
    parser.add_argument("--skip-link", action="store_true", help="leave out the 1 Gbit/s link")
    parser.add_argument(
        "--config", help="of the stages, beside the nearest model: gpu has more instances"
    )
    client = "only send one load and print its rate as JSON; what runs in the namespace"
    words = ("TRANSPORT", "URL", "KIND", "CLIENTS", "FRAMES")
    parser.add_argument("--client", nargs=5, metavar=words, help=client)
    arguments = parser.parse_args()
    for number in STOPPING:
        signal.signal(number, stop)
    if arguments.client:
        transport, url, kind, clients, frames = arguments.client
        print(json.dumps(send(url, Load(transport, kind, int(clients), int(frames)))))
    else:
        flags = [f"--model-config-name={arguments.config}"] if arguments.config else []
        places = (not arguments.skip_real, not arguments.skip_link)
        report(arguments.rounds, flags, real=places[0], link=places[1])


def stop(number: int, _: object) -> None:
    """End, and give back what ``with`` blocks hold: a second signal does not interrupt that."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def report(rounds: int, flags: list[str], *, real: bool, link: bool) -> None:
    """Print a table for each place, then all ratios; ``flags`` are tritonserver's."""
    places: list[Results] = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), nearest_config(SPEC, max_batch_size=2), nearest_graph(SPEC))
        add_endpoints(Path(folder), [SPEC.name])
        with TritonServer(folder, metrics_port=None, extra_args=flags) as server:
            answer_bytes = print_heading(server, rounds)
            places.append(measured("nearest, loopback", server, rounds, FRAMES))
        if real:
            with TritonServer(ROOT / "model_repository", models=[ENDPOINT]) as server:
                places.append(measured("real model, loopback", server, rounds, REAL_FRAMES))
        if link:
            places += over_link(folder, rounds, answer_bytes)
    print("\npictures against raw, frames/s; " + "; ".join(place.ratios() for place in places))


def print_heading(server: TritonServer, rounds: int) -> int:
    """Print the machine and the sizes of both files; return the answer's."""
    with open_transport(Connection(server.grpc_url, "grpc")) as transport:
        answer_bytes = len(asking(transport, "pictures")())
    print(f"{os.cpu_count()} cores, {cpu_model()}; medians of rounds: {rounds}")
    raw_mb = [source_frame().nbytes * factor / 1e6 for factor in (1, SPEC.scale**2)]
    print(f"raw frames: {raw_mb[0]:.1f} MB in, {raw_mb[1]:.1f} MB out")
    print(f"pictures: {len(source_file()) / 1e6:.2f} MB in, {answer_bytes / 1e6:.2f} MB out")
    return answer_bytes


def cpu_model() -> str:
    """Return the processor's name."""
    about = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    name = re.search(r"^model name\s*: (.+)$", about, re.MULTILINE)
    return name[1] if name else platform.machine()


@cache
def source_file() -> bytes:
    """Return the photograph as cameras and browsers write one: colours at half the resolution."""
    buffer = io.BytesIO()
    Image.open(SOURCE).save(buffer, "JPEG", quality=90, subsampling="4:2:0")
    return buffer.getvalue()


@cache
def source_frame() -> Frame:
    """Return the picture as a batch of one."""
    return np.asarray(Image.open(io.BytesIO(source_file())).convert("RGB"))[np.newaxis]


def send(url: str, load: Load) -> Rate:
    """Send a load from this process, after a frame of each client that does not count."""
    with ExitStack() as stack:
        # Transports close before the threads are waited for, so that Ctrl-C need not see them out.
        threads = stack.enter_context(ThreadPoolExecutor(load.clients))
        opened = [open_transport(Connection(url, load.transport)) for _ in range(load.clients)]
        asks = [asking(stack.enter_context(transport), load.kind) for transport in opened]
        list(threads.map(partial(times_s, 1), asks))
        begin_s = time.perf_counter()
        taken = list(threads.map(partial(times_s, load.each), asks))
        per_s = load.each * load.clients / (time.perf_counter() - begin_s)
    return Rate(per_s, median(one_s for client in taken for one_s in client) * 1e3)


def asking(transport: Transport, kind: str) -> Callable[[], Sized]:
    """Return what has one frame upscaled and returns the answer: an array, or a file's bytes."""
    if kind == "raw":
        model, frame = transport.served_model(SPEC.name, Call(TIMEOUT_S)), source_frame()
        return lambda: transport.upscale(model, (frame,), Call(TIMEOUT_S))
    request = InferRequest(
        ENDPOINT, [pictures_tensor([source_file()])], [RequestedOutput(UPSCALED_PICTURE_NAME)]
    )

    def ask() -> Sized:
        response = transport.infer(request, Call(TIMEOUT_S))
        return response.output(UPSCALED_PICTURE_NAME).content

    return ask


def times_s(count: int, ask: Callable[[], object]) -> list[float]:
    """Return what each of ``count`` calls took."""
    taken_s = []
    for _ in range(count):
        begin_s = time.perf_counter()
        ask()
        taken_s.append(time.perf_counter() - begin_s)
    return taken_s


def measured(
    title: str, server: TritonServer, rounds: int, frames: int, run: Run = send
) -> Results:
    """Measure one place and print its table."""
    results = Results(title)
    for _, transport, clients, kind in product(range(rounds), TRANSPORTS, CLIENTS, KINDS):
        load = Load(transport, kind, clients, frames)
        before_ms = cpu_ms(server.pid)
        rate = run(server.http_url if transport == "http" else server.grpc_url, load)
        sent = (load.each + 1) * clients
        spent_ms = {part: (ms - before_ms[part]) / sent for part, ms in cpu_ms(server.pid).items()}
        results.rates.setdefault((transport, clients, kind), []).append(rate)
        results.cpu_ms.setdefault(kind, []).append(spent_ms)
    print_results(results)
    return results


def cpu_ms(pid: int) -> dict[str, float]:
    """Return the CPU time so far of tritonserver and of each model's processes."""
    spent_ms = dict.fromkeys((*PARTS, ITSELF), 0.0)
    server = psutil.Process(pid)
    for process in (server, *server.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            words, times = " ".join(process.cmdline()), process.cpu_times()
            found = (part for part, model in PARTS.items() if f"/{model}/" in words)
            part = ITSELF if process == server else next(found, ITSELF)
            spent_ms[part] += (times.user + times.system) * 1e3
    return spent_ms


def print_results(results: Results) -> None:
    """Print rates, latencies and CPU times."""
    print(f"\n{results.title}")
    print(f"{'':10}{'raw/s':>8}{'p50 ms':>8}{'pictures/s':>12}{'p50 ms':>8}{'ratio':>8}")
    for transport, clients in product(TRANSPORTS, CLIENTS):
        of_kinds = (results.rates[transport, clients, kind] for kind in KINDS)
        raw, pictures = (np.median(rates, axis=0) for rates in of_kinds)
        print(
            f"{transport} x{clients:<4} {raw[0]:8.2f}{raw[1]:8.0f}{pictures[0]:12.2f}"
            f"{pictures[1]:8.0f}{results.ratio(transport, clients):8.2f}"
        )
    for kind, rounds in results.cpu_ms.items():
        spent_ms = {part: median(one[part] for one in rounds) for part in rounds[0]}
        parts = ", ".join(f"{part} {ms:.0f}" for part, ms in spent_ms.items())
        print(f"server's CPU ms a frame, {kind}: {parts}")
    if spent_ms["network"]:  # it is in tritonserver itself where the backend is NVIDIA's
        share = (spent_ms["decode"] + spent_ms["encode"]) / spent_ms["network"]
        print(f"decode and encode take {share:.0%} of the network's CPU time")


def over_link(folder: str, rounds: int, answer_bytes: int) -> list[Results]:
    """Measure over the simulated link, or only calculate where there can be none."""
    with ExitStack() as stack:
        try:
            host, namespace = stack.enter_context(gigabit_link())
        except OSError as exc:
            print(f"\nno network namespace is permitted here: {exc}")
            print_arithmetic(answer_bytes)
            return []
        server = stack.enter_context(TritonServer(folder, host=host, metrics_port=None))
        run = partial(in_namespace, namespace)
        results = measured("nearest, 1 Gbit/s", server, rounds, FRAMES, run)
    answer_mb, clients = source_frame().nbytes * SPEC.scale**2 / 1e6, max(CLIENTS)
    for transport in TRANSPORTS:
        per_s = median(rate.per_s for rate in results.rates[transport, clients, "raw"])
        print(f"raw frames came down at {per_s * answer_mb:.0f} MB/s, {transport} x{clients}")
    return [results]


def print_arithmetic(answer_bytes: int) -> None:
    """Print what a frame would be on the link, by its bytes."""
    raw_bytes = source_frame().nbytes
    both_ways = ((raw_bytes, raw_bytes * SPEC.scale**2), (len(source_file()), answer_bytes))
    print(f"arithmetic, not measured: the 1 Gbit/s link alone, bytes / {GIGABIT_MB_PER_S} MB/s")
    for kind, sizes in zip(KINDS, both_ways, strict=True):
        up_ms, down_ms = (size / GIGABIT_MB_PER_S / 1e3 for size in sizes)
        most_per_s = f"at most {1e3 / (up_ms + down_ms):.1f}/s one at a time"
        print(f"{kind:8} {up_ms:6.1f} ms up, {down_ms:6.1f} ms down: {most_per_s}")


@contextmanager
def gigabit_link() -> Iterator[tuple[str, str]]:
    """Yield this end's address of a 1 Gbit/s link, and the namespace at the other end.

    Raises :class:`OSError` where that is not permitted.
    """
    namespace, here, there = (f"{word}{os.getpid()}" for word in ("rt4ksr-", "rt4h", "rt4p"))
    subnet = f"10.77.{os.getpid() % 256}"
    with ExitStack() as undo:
        # Before what they undo, which an interrupt may find half done. The names are ours alone.
        undo.callback(system, "ip", f"netns delete {namespace}", check=False)
        system("ip", f"netns add {namespace}")
        undo.callback(system, "ip", f"link delete {here}", check=False)
        system("ip", f"link add {here} type veth peer name {there} netns {namespace}")
        ends = (("", here, f"{subnet}.1/30"), (f"-n {namespace} ", there, f"{subnet}.2/30"))
        for where, device, address in ends:
            system("ip", f"{where}address add {address} dev {device}")
            system("ip", f"{where}link set {device} up")
            system("tc", f"{where}qdisc add dev {device} root {SHAPED}")
        yield f"{subnet}.1", namespace


def system(program: str, words: str, *, check: bool = True) -> None:
    """Run ``ip`` or ``tc``, out of Ctrl-C's reach: they clean up too."""
    command = [program, *words.split()]
    done = subprocess.run(command, env=WITH_SBIN, capture_output=True, start_new_session=True)
    if check and done.returncode:
        raise OSError(done.stderr.decode().strip())


def in_namespace(namespace: str, url: str, load: Load) -> Rate:
    """Send a load as :func:`send` does, from the far end of the link."""
    words = [load.transport, url, load.kind, str(load.clients), str(load.frames)]
    command = ["ip", "netns", "exec", namespace, sys.executable, __file__, "--client", *words]
    answer = subprocess.check_output(
        command, env=WITH_SBIN, timeout=2 * TIMEOUT_S, start_new_session=True
    )
    return Rate(*json.loads(answer))


if __name__ == "__main__":
    main()
