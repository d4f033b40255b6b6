"""Finds a tritonserver and makes what it needs to run.

A tritonserver of its own installation (NVIDIA's container, a build) is left as it is. The one in
the ``nvidia-pytriton`` wheel needs a backend directory and an environment, assembled here: the
wheel's Python backend with the stub of this very Python version, and this project's Python-based
backend ``onnxruntime``, which serves the folders that the native ``onnxruntime`` backend serves.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from rt4ksr_client.errors import ServerStartError

__all__ = ["Installation", "find_installation"]

_OWN_BACKENDS = Path(__file__).parent / "backends"
_ignore_caches = shutil.ignore_patterns("__pycache__")
_STUB = "triton_python_backend_stub"
# Keep the memory of one frame for the next, in huge pages. By default glibc gives blocks of that
# size back, and the kernel maps and clears the 25 MB of every 4K answer anew: some 10 ms.
_KEEP_MEMORY = ":".join(
    f"glibc.malloc.{setting}"
    for setting in ("hugetlb=1", "mmap_threshold=268435456", "trim_threshold=1073741824")
)
# Else each model starts a Python process to be asked what its config leaves out, which for the
# backend of ours is nothing, and takes a third of a server's start.
_COMPLETE_CONFIGS_ONLY = "--disable-auto-complete-config"
_HOW_TO_GET_ONE = "install rt4ksr-triton[server] (Linux, Python 3.10 to 3.12) or name a binary"


@dataclass(frozen=True)
class Installation:
    """A tritonserver binary; ``wheel`` is its ``tritonserver`` folder if a wheel brought it."""

    binary: Path
    wheel: Path | None = None

    def prepare(self, directory: Path) -> tuple[list[str], dict[str, str]]:
        """Fill the empty ``directory`` with backends; return further flags and the environment.

        Raises :class:`ServerStartError` where this Python cannot run the wheel's Python backend.
        """
        if self.wheel is None:
            return [], dict(os.environ)
        _copy_backends(self.wheel, directory)
        flags = [f"--backend-directory={directory}", _COMPLETE_CONFIGS_ONLY]
        return flags, _stub_environment(self.wheel, directory)


def find_installation(binary: str | os.PathLike[str] | None = None) -> Installation:
    """Return ``binary``, else ``tritonserver`` on PATH, else the one in the wheel.

    Raises :class:`ServerStartError` if there is none, or ``binary`` is not a program.
    """
    wheel = _wheel()
    in_wheel = wheel / "bin" / "tritonserver" if wheel else None
    if binary is None:
        found = shutil.which("tritonserver") or in_wheel
        if found is None:
            raise ServerStartError(f"no tritonserver found: {_HOW_TO_GET_ONE}")
    else:
        found = shutil.which(binary)
        if found is None:
            raise ServerStartError(f"{os.fspath(binary)} is not a program that can be run")
    path = Path(found).resolve()
    return Installation(path, wheel if in_wheel and path == in_wheel.resolve() else None)


def _wheel() -> Path | None:
    package = importlib.util.find_spec("pytriton")
    if package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent / "tritonserver"
    return folder if (folder / "bin" / "tritonserver").is_file() else None


def _copy_backends(wheel: Path, directory: Path) -> None:
    # Copies, for tritonserver refuses a library that a link leads out of the backend directory.
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel / "python_backend_stubs" / version / _STUB
    if not stub.is_file():
        raise ServerStartError(f"the nvidia-pytriton wheel has no backend for Python {version}")
    shutil.copytree(wheel / "backends" / "python", directory / "python")
    shutil.copy(stub, directory / "python")
    (directory / "python" / _STUB).chmod(0o755)  # not every installer keeps the execute bit
    shutil.copytree(_OWN_BACKENDS, directory, dirs_exist_ok=True, ignore=_ignore_caches)


def _stub_environment(wheel: Path, directory: Path) -> dict[str, str]:
    libraries = [str(wheel.parent.parent / "nvidia_pytriton.libs"), *_libpython_folders()]
    # The interpreter embedded in the stub ignores PYTHONPATH and PYTHONHOME. It believes to be the
    # first python3 on PATH, and so finds the packages of this environment.
    return {
        "GLIBC_TUNABLES": _KEEP_MEMORY,
        **os.environ,
        "LD_LIBRARY_PATH": _path_list(*libraries, os.environ.get("LD_LIBRARY_PATH")),
        "PATH": _path_list(str(Path(sys.executable).parent), os.environ.get("PATH")),
        # Its backends are for the CPU; with a GPU in sight, KIND_AUTO would become KIND_GPU.
        "CUDA_VISIBLE_DEVICES": "",
        "TMPDIR": str(directory),  # ONNX Runtime leaves a file there
    }


def _path_list(*entries: str | None) -> str:
    return os.pathsep.join(entry for entry in entries if entry)


def _libpython_folders() -> list[str]:
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR"), str(Path(sys.base_prefix, "lib"))]
    found = [folder for folder in folders if folder and Path(folder, name).is_file()]
    if not found:
        try:
            ctypes.CDLL(name)
        except OSError:
            raise ServerStartError(
                f"the Python backend needs {name}, which this Python ({sys.base_prefix}) was built "
                "without: install your system's libpython package, or use uv's Python"
            ) from None
    return found[:1]
