"""CUDA shared memory: frames in GPU memory that this process and the server both map."""

from __future__ import annotations

import base64
import weakref
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from rt4ksr_client.errors import MissingExtraError
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports.grpc import GrpcTransport
from rt4ksr_client.transports.regions import Region
from rt4ksr_client.transports.shm import ShmTransport

__all__ = ["CudaRegion", "CudaShmTransport"]

_DEVICE = 0


class CudaRegion(Region):
    """Memory of GPU 0, shared by CUDA's inter-process handles."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self._cuda = _cuda_shared_memory()
        try:
            handle = self._cuda.create_shared_memory_region(self.name, size_bytes, _DEVICE)
        except self._cuda.CudaSharedMemoryException as exc:
            raise OSError(f"no CUDA shared memory: {exc}") from exc
        self._handle = handle
        weakref.finalize(self, self._cuda.destroy_shared_memory_region, handle)

    def register(self, control: GrpcTransport, *, timeout_s: float) -> None:
        """See :class:`~rt4ksr_client.transports.regions.Region`."""
        request = service_pb2.CudaSharedMemoryRegisterRequest(
            name=self.name,
            raw_handle=base64.b64decode(self._cuda.get_raw_handle(self._handle)),
            device_id=_DEVICE,
            byte_size=self.size_bytes,
        )
        control.control("CudaSharedMemoryRegister", request, timeout_s=timeout_s)

    def unregister(self, control: GrpcTransport, *, timeout_s: float) -> None:
        """See :class:`~rt4ksr_client.transports.regions.Region`."""
        request = service_pb2.CudaSharedMemoryUnregisterRequest(name=self.name)
        control.control("CudaSharedMemoryUnregister", request, timeout_s=timeout_s)

    def write(self, batch: Frame) -> None:
        """See :class:`~rt4ksr_client.transports.regions.Region`."""
        self._cuda.set_shared_memory_region(self._handle, [batch])

    def read(self, shape: tuple[int, ...]) -> Frame:
        """See :class:`~rt4ksr_client.transports.regions.Region`."""
        array: Frame = self._cuda.get_contents_as_numpy(self._handle, np.uint8, shape)
        return array


class CudaShmTransport(ShmTransport):
    """CUDA shared memory; ``address`` is the server's gRPC ``host:port`` on this host.

    Written by tritonclient's documentation and never run: none of the machines this project is
    developed on has a GPU. It is therefore never chosen by itself.

    Raises:
        MissingExtraError: the package ``cuda-python`` is not installed.

    """

    name = "cuda_shm"
    memory = "Cuda"

    def __init__(self, address: str) -> None:
        _cuda_shared_memory()
        super().__init__(address, make_region=CudaRegion)


def _cuda_shared_memory() -> Any:
    try:
        from tritonclient.utils import cuda_shared_memory
    except (ImportError, RuntimeError) as exc:  # tritonclient says RuntimeError
        raise MissingExtraError(
            "CUDA shared memory needs cuda-python: pip install 'tritonclient[cuda]'"
        ) from exc
    return cuda_shared_memory
