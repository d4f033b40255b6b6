from __future__ import annotations

import ast
import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# The same examples every time, and no time limit: the machine may be busy.
settings.register_profile("rt4ksr", deadline=None, derandomize=True, database=None)
settings.load_profile("rt4ksr")

# Tests run in several processes; a pool of threads in each would only fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts `make test &` with Ctrl-C ignored, and so would be every program of a test.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What an import of this project's other packages needs besides the base dependencies.
EXTRAS = {
    "rt4ksr_client.video": "av",
    "rt4ksr_export": "torch",
    "rt4ksr_loadtest": "locust",
    "rt4ksr_server": "pytriton",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests and all broken inputs")
    parser.addoption(
        "--client", action="store_true", help="leave out the tests that need more than the client"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``--client``, leave out the files with an import that is not installed."""
    if not config.getoption("--client") or collection_path.suffix != ".py":
        return None
    imported = {
        name
        for node in ast.walk(ast.parse(collection_path.read_text()))
        for name in imported_modules(node)
    }
    return True if any(not is_installed(name) for name in imported) else None


def imported_modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


def is_installed(module: str) -> bool:
    needed = next((name for package, name in EXTRAS.items() if module.startswith(package)), module)
    return importlib.util.find_spec(needed.partition(".")[0]) is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "server"):
            item.add_marker("server")
    unwanted = {"slow"} if not config.getoption("--slow") else set()
    unwanted |= {"extras"} if config.getoption("--client") else set()
    deselected = [item for item in items if unwanted & {mark.name for mark in item.iter_markers()}]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]


@pytest.fixture(scope="session")
def broken_inputs(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """How many of a test's broken inputs to try: a tenth, or all with ``--slow``."""
    share = 1 if request.config.getoption("--slow") else 10
    return lambda total: total // share


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def photograph(root: Path) -> Path:
    """A real photograph of 1280x720."""
    return root / "docs" / "pictures" / "nuthatch_720p.jpg"


@pytest.fixture(scope="session", params=[2, 3], ids=["x2", "x3"])
def authors_checkpoint(request: pytest.FixtureRequest, root: Path) -> Path:
    """A checkpoint of RT4KSR's authors; users bring their own, so it is not in the project."""
    path = root.parent / "shared" / "checkpoints" / f"rt4ksr_x{request.param}.pth"
    if not path.is_file():
        pytest.skip(f"the authors' checkpoint is not at {path}")
    return path
