"""Finds a tritonserver and prepares what it needs to run.

A tritonserver of its own installation (NVIDIA's container, a build) is left as it is. The one in
the ``nvidia-pytriton`` wheel needs a backend directory and an environment, assembled here: the
wheel's Python backend with the stub of this very Python version, and this project's Python-based
backend ``onnxruntime``, which serves the folders that the native ``onnxruntime`` backend serves.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rt4ksr_client.errors import ServerStartError

__all__ = ["Installation", "libpython_folder", "wheel_folder"]

OWN_BACKENDS: Final = Path(__file__).parent / "backends"
STUB: Final = "triton_python_backend_stub"
PYTHON_VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
HELP_TIMEOUT_S: Final = 60.0
# Keep the memory of one frame for the next, in huge pages. By default glibc gives blocks of that
# size back, and the kernel maps and clears the 25 MB of every 4K answer anew: some 10 ms. Blocks of
# more than 32 MB do go back: those of large frames, which few servers see often.
KEEP_MEMORY: Final = ":".join(
    f"glibc.malloc.{setting}"
    for setting in ("hugetlb=1", "mmap_threshold=33554432", "trim_threshold=536870912")
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Installation:
    """A tritonserver binary; ``wheel`` is its ``tritonserver`` folder if a wheel brought it."""

    binary: Path
    wheel: Path | None = None

    @classmethod
    def find(cls, binary: str | os.PathLike[str] | None = None) -> Installation:
        """Return ``binary``, otherwise ``tritonserver`` on PATH, otherwise the one in the wheel.

        Raises:
            ServerStartError: there is none, or ``binary`` is not a program.

        """
        wheel = wheel_folder()
        in_wheel = wheel / "bin" / "tritonserver" if wheel else None
        if binary is None:
            found = shutil.which("tritonserver") or in_wheel
            if found is None:
                raise ServerStartError(
                    "no tritonserver found: install rt4ksr-triton[server] (Linux, Python 3.10 to "
                    "3.12) or name a binary"
                )
        else:
            found = shutil.which(binary)
            if found is None:
                raise ServerStartError(
                    f"{os.fspath(binary)} is not a program: name an executable tritonserver"
                )
        path = Path(found).resolve()
        is_wheels = in_wheel is not None and path == in_wheel.resolve()
        logger.info("Using %s%s", path, " of the nvidia-pytriton wheel" if is_wheels else "")
        return cls(path, wheel if is_wheels else None)

    def prepare(self, directory: Path) -> list[str]:
        """Fill the empty ``directory`` with backends; return the flags that they need.

        Raises:
            ServerStartError: this Python cannot run the wheel's Python backend.

        """
        if self.wheel is None:
            return []
        stub = self.wheel / "python_backend_stubs" / PYTHON_VERSION / STUB
        if not stub.is_file():
            raise ServerStartError(
                f"the nvidia-pytriton wheel has no backend for Python {PYTHON_VERSION}: use Python "
                "3.10 to 3.12"
            )
        # Copies, because tritonserver refuses a library that a link leads out of the directory.
        shutil.copytree(self.wheel / "backends" / "python", directory / "python")
        shutil.copy(stub, directory / "python")
        (directory / "python" / STUB).chmod(0o755)  # not every installer keeps the execute bit
        no_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(OWN_BACKENDS, directory, dirs_exist_ok=True, ignore=no_caches)
        return [
            f"--backend-directory={directory}",
            # Otherwise each model starts a Python process that is asked what its config leaves
            # out. Our backend has nothing to add, and it takes a third of a server's start.
            "--disable-auto-complete-config",
        ]

    def known_flags(self) -> frozenset[str]:
        """Return the names of the flags in its ``--help``, without dashes.

        Flags come with releases, and tritonserver does not start with one that it does not know.

        Raises:
            ServerStartError: it cannot be run.

        """
        try:
            # Its exit status after --help is 1.
            shown = subprocess.run(
                [self.binary, "--help"],
                env=self.environment(Path(tempfile.gettempdir())),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=HELP_TIMEOUT_S,
                check=False,
            )
        except OSError as error:
            raise ServerStartError(f"cannot run {self.binary}: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise ServerStartError(
                f"{self.binary} --help does not end: name an executable tritonserver"
            ) from error
        return frozenset(re.findall(r"^\s*--([\w-]+)", shown.stdout + shown.stderr, re.MULTILINE))

    def environment(self, directory: Path) -> dict[str, str]:
        """Return the environment to run it in; its temporary files go to ``directory``.

        Raises:
            ServerStartError: this Python has no shared library.

        """
        common = {"GLIBC_TUNABLES": KEEP_MEMORY, **os.environ}
        if self.wheel is None:
            return common
        libraries = [self.wheel.parent.parent / "nvidia_pytriton.libs", libpython_folder()]

        def prepended(name: str, *folders: Path | None) -> str:
            entries = [*(str(folder) for folder in folders if folder), os.environ.get(name, "")]
            return os.pathsep.join(entry for entry in entries if entry)

        return {
            **common,
            "LD_LIBRARY_PATH": prepended("LD_LIBRARY_PATH", *libraries),
            # The interpreter embedded in the stub ignores PYTHONPATH and PYTHONHOME. It takes
            # itself for the first python3 on PATH, and so finds this environment's packages.
            "PATH": prepended("PATH", Path(sys.executable).parent),
            "TMPDIR": str(directory),  # ONNX Runtime leaves a file there
        }


def wheel_folder() -> Path | None:
    """Return the ``tritonserver`` folder of the ``nvidia-pytriton`` wheel, if it is installed."""
    package = importlib.util.find_spec("pytriton")
    if package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent / "tritonserver"
    return folder if (folder / "bin" / "tritonserver").is_file() else None


def libpython_folder() -> Path | None:
    """Return the folder of this Python's shared library, None where the system finds it.

    Raises:
        ServerStartError: this Python was built without one.

    """
    name = f"libpython{PYTHON_VERSION}.so.1.0"
    for folder in (sysconfig.get_config_var("LIBDIR"), str(Path(sys.base_prefix, "lib"))):
        if folder and Path(folder, name).is_file():
            return Path(folder)
    try:
        ctypes.CDLL(name)
    except OSError:
        raise ServerStartError(
            f"the Python backend needs {name}, which this Python ({sys.base_prefix}) was built "
            "without: install your system's libpython package, or use uv's Python"
        ) from None
    return None
