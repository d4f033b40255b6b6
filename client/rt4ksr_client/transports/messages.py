"""Inference requests and responses: any number of tensors in, any number out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rt4ksr_client.errors import ServerError

__all__ = [
    "DTYPES",
    "InferRequest",
    "InferResponse",
    "Parameters",
    "RequestedOutput",
    "Tensor",
]

DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {"UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2")}
)
"""NumPy's type of each KServe datatype that holds pixels."""

Parameters = Mapping[str, "str | int"]


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named tensor of a request or response.

    ``data`` holds its elements in row-major order, not necessarily contiguous. For datatype BYTES
    it is uint8, flat: each element preceded by its length, as on the wire.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any]

    @classmethod
    def from_array(cls, name: str, array: NDArray[Any]) -> Tensor:
        """Return ``array`` as a tensor, without a copy.

        Raises:
            ValueError: its type is not one of :data:`DTYPES`.

        """
        for datatype, dtype in DTYPES.items():
            if array.dtype == dtype:
                return cls(name, datatype, array.shape, array)
        raise ValueError(f"{name}: no pixel datatype for NumPy's {array.dtype}")

    @classmethod
    def from_content(
        cls, name: str, datatype: str, shape: Sequence[int], content: bytes | memoryview
    ) -> Tensor:
        """Return a tensor over the bytes ``content``, as they are on the wire; no copy."""
        data = np.frombuffer(content, np.uint8) if len(content) else np.empty(0, np.uint8)
        return cls(name, datatype, tuple(shape), data)

    @property
    def nbytes(self) -> int:
        """Length on the wire."""
        return self.data.nbytes

    @property
    def content(self) -> memoryview:
        """The bytes for the wire; a copy only if ``data`` is not contiguous."""
        return np.ascontiguousarray(self.data).reshape(-1).view(np.uint8).data

    def to_array(self) -> NDArray[Any]:
        """Return a view of :attr:`shape`.

        Raises:
            ServerError: its datatype is not one of :data:`DTYPES`, or its size is not that of
                its shape.

        """
        dtype = DTYPES.get(self.datatype)
        if (
            dtype is None
            or min(self.shape, default=0) < 0
            or prod(self.shape) * dtype.itemsize != self.nbytes
        ):
            raise ServerError(
                f"the server's response holds no picture: {self.name} has {self.nbytes} bytes, "
                f"datatype {self.datatype} and shape {list(self.shape)}"
            )
        return self.data.reshape(-1).view(dtype).reshape(self.shape)


@dataclass(frozen=True)
class RequestedOutput:
    """An output to return. ``shape`` and ``datatype``, if known, allow shared memory for it."""

    name: str
    datatype: str = ""
    shape: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int | None:
        """Its length in bytes; None if that is not known before the response."""
        if self.shape is None or self.datatype not in DTYPES:
            return None
        return prod(self.shape) * DTYPES[self.datatype].itemsize


@dataclass(frozen=True, eq=False)
class InferRequest:
    """What is sent to ``model``, and which of its outputs to return."""

    model: str
    inputs: Sequence[Tensor]
    outputs: Sequence[RequestedOutput]
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class InferResponse:
    """The outputs of a model; their data may be read-only views of the message."""

    outputs: Sequence[Tensor]

    def output(self, name: str) -> Tensor:
        """Return an output by name.

        Raises:
            ServerError: the server did not send it.

        """
        for tensor in self.outputs:
            if tensor.name == name:
                return tensor
        raise ServerError(f"the server's response holds no {name}")
