"""Runs a real tritonserver: yours, or the one of the ``nvidia-pytriton`` wheel.

>>> from rt4ksr_server import TritonServer
>>> with TritonServer("model_repository") as server:  # doctest: +SKIP
...     print(server.grpc_url)

:mod:`rt4ksr_server.stages` runs inside a tritonserver and needs none of the rest, so the rest is
imported when it is first used.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rt4ksr_server.options import default_repository
    from rt4ksr_server.triton_server import TritonServer

__all__ = ["TritonServer", "default_repository"]

_HOMES = {"TritonServer": "triton_server", "default_repository": "options"}


def __getattr__(name: str) -> Any:
    """Import what :data:`__all__` names when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


logging.getLogger(__name__).addHandler(logging.NullHandler())
