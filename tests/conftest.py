from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Tests run in several processes; a pool of threads in each would only fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts `make test &` with Ctrl-C ignored, and so would be every program of a test.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests and all broken inputs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "server"):
            item.add_marker("server")
    if config.getoption("--slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


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
