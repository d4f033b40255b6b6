"""CUDA shared memory: tensors in GPU memory that this process and the server both map."""

from __future__ import annotations

import base64
import itertools
import os
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Endpoint
from rt4ksr_client.errors import MissingExtraError
from rt4ksr_client.transports.grpc import GrpcTransport
from rt4ksr_client.transports.regions import Region, offsets_bytes
from rt4ksr_client.transports.shared_memory import SharedMemoryTransport

__all__ = ["CudaRegion", "CudaSharedMemoryTransport"]

_DEVICE = 0


class CudaRegion(Region):
    """Memory of GPU 0, shared by CUDA's inter-process handles."""

    kind = "Cuda"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self._cuda = import_cuda_shared_memory()
        try:
            handle = self._cuda.create_shared_memory_region(self.name, size_bytes, _DEVICE)
        except self._cuda.CudaSharedMemoryException as exc:
            raise OSError(f"no CUDA shared memory: {exc}") from exc
        self._handle = handle
        weakref.finalize(self, self._destroy, self._cuda, handle, os.getpid())

    @classmethod
    def check_room(cls, size_bytes: int, leaving_bytes: int) -> None:
        """See :class:`~rt4ksr_client.transports.regions.Region`; CUDA itself says what is free."""

    def register(self, control: GrpcTransport, call: Call) -> None:
        """See :class:`~rt4ksr_client.transports.regions.Region`."""
        request = service_pb2.CudaSharedMemoryRegisterRequest(
            name=self.name,
            raw_handle=base64.b64decode(self._cuda.get_raw_handle(self._handle)),
            device_id=_DEVICE,
            byte_size=self.size_bytes,
        )
        control.control("CudaSharedMemoryRegister", request, call)

    def write(self, arrays: Sequence[NDArray[Any]]) -> None:
        """See :class:`~rt4ksr_client.transports.regions.Region`."""
        # tritonclient writes arrays one after the other: gaps have to be arrays, too.
        offsets, parts = offsets_bytes([array.nbytes for array in arrays]), []
        for array, (begin, end) in zip(arrays, itertools.pairwise(offsets), strict=True):
            parts += [array, np.zeros(end - begin - array.nbytes, np.uint8)]
        self._cuda.set_shared_memory_region(self._handle, [part for part in parts if part.nbytes])

    def read(self, size_bytes: int) -> NDArray[np.uint8]:
        """See :class:`~rt4ksr_client.transports.regions.Region`."""
        array: NDArray[np.uint8] = self._cuda.get_contents_as_numpy(
            self._handle, np.uint8, (size_bytes,)
        )
        return array

    @staticmethod
    def _destroy(cuda: Any, handle: Any, owner_pid: int) -> None:
        if os.getpid() == owner_pid:  # CUDA does not work in a forked process
            cuda.destroy_shared_memory_region(handle)


class CudaSharedMemoryTransport(SharedMemoryTransport):
    """CUDA shared memory with the server at a gRPC address on this host.

    Follows tritonclient's documentation and has never been run: none of the machines this project
    is developed on has a GPU. It is therefore never chosen automatically.

    Raises:
        MissingExtraError: the package ``cuda-python`` is not installed.

    """

    def __init__(self, endpoint: Endpoint) -> None:
        import_cuda_shared_memory()
        super().__init__(endpoint, kind=CudaRegion)


def import_cuda_shared_memory() -> Any:
    """Return tritonclient's module, which needs ``cuda-python``."""
    try:
        from tritonclient.utils import cuda_shared_memory
    except (ImportError, RuntimeError) as exc:  # tritonclient says RuntimeError
        raise MissingExtraError(
            "CUDA shared memory needs cuda-python: pip install 'tritonclient[cuda]'"
        ) from exc
    return cuda_shared_memory
