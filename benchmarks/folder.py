"""A folder of 1080p JPEGs to 4K PNG files with ``rt4ksr upscale``, by pictures per second.

The model is nearest neighbour, which costs next to nothing: what is left is files and transport.
With ``--against CHECKOUT``, the command of another checkout takes turns with this one's, against
the same server; a ratio is the median of the rounds' own. Rates are those of the whole command,
its start included, and from the first picture to the last. The time of a stage is its wall-clock
time in one of several threads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

from PIL import Image, ImageChops

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_server import TritonServer
from support.nearest_models import nearest_config, nearest_graph, write_model

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docs" / "pictures" / "nuthatch_1080p.jpg"
SPEC = DEFAULT_MODELS[2]
COMMAND = "import sys; from rt4ksr_client.cli import main; sys.exit(main())"


class Run(NamedTuple):
    """Pictures/s of the whole command and from its first picture to its last; medians of stages."""

    whole_rate: float
    steady_rate: float
    stages_ms: dict[str, float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    checkouts = [ROOT, *filter(None, [arguments.against])]
    runs: dict[Path, list[Run]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        repository, album = Path(folder, "models"), Path(folder, "album")
        write_model(repository, nearest_config(SPEC), nearest_graph(SPEC))
        write_album(album, arguments.pictures)
        with TritonServer(repository) as server:
            for _ in range(arguments.rounds):
                for checkout in checkouts:
                    runs[checkout].append(upscale(checkout, album, server.grpc_url))
    for checkout in checkouts:
        whole = median(run.whole_rate for run in runs[checkout])
        steady = median(run.steady_rate for run in runs[checkout])
        print(f"{checkout}: {whole:.2f} pictures/s, from the first to the last {steady:.2f}")
        for stage in runs[checkout][0].stages_ms:
            print(f"  {stage} {median(run.stages_ms[stage] for run in runs[checkout]):.0f} ms")
    for checkout in checkouts[1:]:
        pairs = list(zip(runs[ROOT], runs[checkout], strict=True))
        for name, ratios in (
            ("whole command", [ours.whole_rate / other.whole_rate for ours, other in pairs]),
            ("first to last", [ours.steady_rate / other.steady_rate for ours, other in pairs]),
        ):
            print(f"{name}: ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def write_album(album: Path, count: int) -> None:
    """Write ``count`` pictures, each shifted by some pixels."""
    album.mkdir()
    image = Image.open(SOURCE)
    for index in range(count):
        shifted = ImageChops.offset(image, 7 * index, 5 * index)
        shifted.save(album / f"{index:02}.jpg", quality=90, subsampling="4:2:0")


def upscale(checkout: Path, album: Path, url: str) -> Run:
    """Run the command once."""
    ended_s, stages_ms = [], defaultdict(list)
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-c", COMMAND, "upscale", str(album), "-o", f"{results}/large"]
        start_s = perf_counter()
        with subprocess.Popen(
            [*command, "--json", "--url", url],
            env={**os.environ, "PYTHONPATH": str(checkout / "client")},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                found = json.loads(line)
                if "stages_ms" in found:
                    ended_s.append(perf_counter())
                    for name, value in found["stages_ms"].items():
                        stages_ms[name].append(value)
        whole_s = perf_counter() - start_s
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Run(
        len(ended_s) / whole_s,
        (len(ended_s) - 1) / (ended_s[-1] - ended_s[0]),
        {name: median(values) for name, values in stages_ms.items()},
    )


if __name__ == "__main__":
    main()
