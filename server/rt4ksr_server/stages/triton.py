"""Between Triton's Python backend and the stages: configuration, parameters, answers, errors."""

from __future__ import annotations

import abc
import json
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from rt4ksr_client.errors import PictureError
from rt4ksr_client.pictures import PictureWarning
from rt4ksr_server.supervisor import DISPOSABLE_STUB

__all__ = ["ModelError", "Stage", "bytes_tensor", "input_array", "request_parameters"]


class ModelError(Exception):
    """Another model answered with ``error``, Triton's own, which is passed on."""

    def __init__(self, error: Any) -> None:
        super().__init__(error.message())
        self.error = error


class Stage(abc.ABC):
    """One instance of a stage, as Triton's Python backend calls it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Configure the stage; an exception fails the load of the model."""
        # Tells the supervisor that there is nothing to finalize, unless this process is traced:
        # then coverage or a debugger has something to save at the end.
        if sys.gettrace() is None:
            Path("/proc/self/comm").write_text(DISPOSABLE_STUB)
        warnings.simplefilter("ignore", PictureWarning)  # an answer has no place for them
        parameters = json.loads(args["model_config"]).get("parameters", {})
        self.configure({key: str(v.get("string_value", "")) for key, v in parameters.items()})

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer every request as soon as it is done; a bad one gets an error of its own."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                response = pb_utils.InferenceResponse(self.run(request))
            except ModelError as exc:
                response = pb_utils.InferenceResponse([], exc.error)
            except PictureError as exc:
                error = pb_utils.TritonError(str(exc), pb_utils.TritonError.INVALID_ARG)
                response = pb_utils.InferenceResponse([], error)
            except Exception as exc:  # whatever it is, the next request must find this model alive
                traceback.print_exc()
                reason = f"{type(exc).__name__}: {exc}"
                error = pb_utils.TritonError(reason, pb_utils.TritonError.INTERNAL)
                response = pb_utils.InferenceResponse([], error)
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    @abc.abstractmethod
    def configure(self, parameters: Mapping[str, str]) -> None:
        """Read the parameters of the model's configuration.

        Raises:
            ValueError, PictureError: they contradict each other.

        """

    @abc.abstractmethod
    def run(self, request: Any) -> list[Any]:
        """Return the output tensors for ``request``.

        Raises:
            PictureError: the request is at fault.
            ModelError: another model failed.

        """


def request_parameters(request: Any) -> dict[str, Any]:
    """Return a request's parameters; headers that tritonserver forwards are among them."""
    found = json.loads(request.parameters() or "{}")
    return found if isinstance(found, dict) else {}


def input_array(request: Any, name: str) -> Any:
    """Return an input as a NumPy array; BYTES become an array of ``bytes`` objects."""
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def bytes_tensor(name: str, values: Sequence[bytes]) -> Any:
    """Return a BYTES tensor of shape ``(N, 1)``."""
    array = np.empty((len(values), 1), dtype=np.object_)
    array[:, 0] = values
    return pb_utils.Tensor(name, array)
