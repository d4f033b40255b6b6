from __future__ import annotations

import ast
import email
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rt4ksr_client

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "locust",
    "av",
    "rt4ksr_server",
    "rt4ksr_export",
    "rt4ksr_loadtest",
)


OF_AN_EXTRA = (
    "rt4ksr_client.video",
    "rt4ksr_client.live",
    "rt4ksr_client.cli.video",
    "rt4ksr_client.cli.live",
    "rt4ksr_client.cli.demo",
)


def test_no_client_module_loads_what_the_thin_client_does_without() -> None:
    modules = [
        info.name
        for info in pkgutil.walk_packages(rt4ksr_client.__path__, "rt4ksr_client.")
        if not info.name.startswith(OF_AN_EXTRA)
    ]
    program = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert printed.strip() == "[]"


def test_no_module_imports_a_private_name_of_another_one(root: Path) -> None:
    folders = ("benchmarks", "client", "docs", "examples", "export", "loadtest", "server", "tests")
    private = [
        f"{path.relative_to(root)}: {alias.name}"
        for folder in folders
        for path in (root / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]

    assert not private


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", folder, root),
        ],
        check=True,
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.extras
def test_the_wheel_holds_every_package_and_the_models(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())

    assert {
        "rt4ksr_client/py.typed",
        "rt4ksr_export/weights/rt4ksr_x2.safetensors",
        "rt4ksr_loadtest/locustfile.py",
        "rt4ksr_loadtest/report/templates/run.html",
        "rt4ksr_server/backends/onnxruntime/execution.py",
        "rt4ksr_server/backends/onnxruntime/model.py",
        "rt4ksr_server/model_repository/rt4ksr_decode/1/model.py",
        "rt4ksr_server/model_repository/rt4ksr_x2_image/1/.gitkeep",
        "rt4ksr_server/model_repository/rt4ksr_x3/1/model.onnx",
        "rt4ksr_server/stages/decode.py",
    } <= names
    assert not [name for name in names if name.endswith(".pth")]


@pytest.mark.extras
def test_the_base_install_is_the_thin_client(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    base = {
        line.split(">")[0].split("[")[0]
        for line in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in line
    }

    assert base == {
        "click",
        "grpcio",
        "isal",
        "numpy",
        "pillow",
        "protobuf",
        "rich",
        "tritonclient",
        "urllib3",
    }
