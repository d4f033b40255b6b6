"""Between Triton's Python backend and the stages: configuration, parameters, answers, errors."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from rt4ksr_client.errors import PictureError
from rt4ksr_server.supervisor import DISPOSABLE_STUB

__all__ = [
    "announce_disposable",
    "answer",
    "bytes_tensor",
    "config_parameters",
    "input_array",
    "request_parameters",
]


def announce_disposable() -> None:
    """Tell the supervisor that this process has nothing to finalize: it may be killed when idle.

    Does nothing if the process is traced: then coverage or a debugger has something to save.
    """
    if sys.gettrace() is None:
        Path("/proc/self/comm").write_text(DISPOSABLE_STUB)


def config_parameters(args: dict[str, str]) -> dict[str, str]:
    """Return the parameters in the configuration that ``initialize`` gets."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    return {key: str(value.get("string_value", "")) for key, value in parameters.items()}


def request_parameters(request: Any) -> dict[str, Any]:
    """Return a request's parameters; headers that tritonserver forwards are among them."""
    found = json.loads(request.parameters() or "{}")
    return found if isinstance(found, dict) else {}


def input_array(request: Any, name: str) -> Any:
    """Return an input as a numpy array: objects of bytes where it is BYTES."""
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def bytes_tensor(name: str, values: Sequence[bytes]) -> Any:
    """Return a BYTES tensor of shape ``(N, 1)``."""
    array = np.empty((len(values), 1), dtype=np.object_)
    array[:, 0] = values
    return pb_utils.Tensor(name, array)


def answer(request: Any, work: Callable[[Any], Sequence[Any]]) -> None:
    """Send what ``work`` makes of ``request``, tensors or an error, as soon as it is there."""
    sender = request.get_response_sender()
    try:
        response = pb_utils.InferenceResponse(list(work(request)))
    except PictureError as refused:
        response = _error(str(refused), pb_utils.TritonError.INVALID_ARG)
    except Exception as broken:  # whatever it is, the next request must find this model alive
        traceback.print_exc()
        response = _error(f"{type(broken).__name__}: {broken}", pb_utils.TritonError.INTERNAL)
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _error(text: str, code: Any) -> Any:
    return pb_utils.InferenceResponse([], pb_utils.TritonError(text, code))
