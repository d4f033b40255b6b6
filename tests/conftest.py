from __future__ import annotations

import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A shell starts `make test &` with Ctrl-C ignored, and so would be every program of a test.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
