"""Benchmarks take minutes; here they are only imported, and those with options asked for help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
# `make bench` installs the first two; the third is for one comparison on a GPU.
OF_BENCHMARKS_ALONE = {"openvino", "onnxscript", "nvidia"}
IMPORT_ALL = """
import runpy, sys
for path in sys.argv[1:]:
    try:
        runpy.run_path(path, run_name="imported")
    except ModuleNotFoundError as error:
        print(error.name.partition(".")[0])
"""


@pytest.mark.extras
def test_every_benchmark_can_be_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *map(str, BENCHMARKS)],
        env={"PYTHONPATH": str(ROOT / "benchmarks"), "PATH": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= OF_BENCHMARKS_ALONE


@pytest.mark.extras
@pytest.mark.parametrize(
    "path",
    [path for path in BENCHMARKS if "ArgumentParser(" in path.read_text()],
    ids=lambda path: path.stem,
)
def test_a_benchmark_with_options_explains_them(path: Path) -> None:
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True)
    missing = any(f"No module named '{name}" in done.stderr for name in OF_BENCHMARKS_ALONE)
    assert (done.returncode == 0 and "usage:" in done.stdout) or missing, done.stderr


@pytest.mark.extras
def test_the_benchmark_for_gpus_measures_a_cpu_and_names_what_it_leaves_out() -> None:
    script = ROOT / "benchmarks" / "gpu.py"
    options = ["--only", "process,copies", "--size", "32x32", "--frames", "2"]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    table, _, left_out = done.stdout.partition("\nLeft out:")
    assert "| 2 |" in table
    measured_cpu = done.stdout.startswith("CPU")
    assert ("| ONNX Runtime CPU, fp32, 4:2:0 | 1 |" in table) == measured_cpu
    assert ("copies: no GPU" in left_out) == measured_cpu
