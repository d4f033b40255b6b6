"""Shared memory on one host: tensors stay where both sides map them; gRPC carries the requests."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Endpoint
from rt4ksr_client.errors import (
    ModelNotReadyError,
    ServerError,
    ServerUnreachableError,
    SharedMemoryError,
)
from rt4ksr_client.transports.base import ForwardingTransport, Route, Transport, explain
from rt4ksr_client.transports.forking import ProcessBound
from rt4ksr_client.transports.grpc import GrpcTransport
from rt4ksr_client.transports.messages import InferRequest, InferResponse, Tensor
from rt4ksr_client.transports.protobuf import request_message
from rt4ksr_client.transports.region_pool import RegionPool
from rt4ksr_client.transports.regions import (
    Region,
    SystemRegion,
    offsets_bytes,
    remove_leftover_names,
)

__all__ = ["SharedMemoryTransport"]

_SMALLEST_REGION_BYTES: Final = 4096
_USUAL_FRAME_BYTES: Final = 32 << 20
"""A 1080p frame and its 4K answer."""

logger = logging.getLogger(__name__)


class SharedMemoryTransport(ForwardingTransport, ProcessBound):
    """System shared memory with the server at a gRPC address on this host.

    The inputs of a request share a region, and so do its outputs. A result is the shared memory
    itself: its region serves the next request once the last view of the result is gone, so keep a
    copy rather than a view of a few pixels. A request goes over gRPC if shared memory is used up
    (the server needs some, too), or if the sizes of its outputs are not known beforehand. A forked
    process has its own regions.
    """

    def __init__(self, endpoint: Endpoint, *, kind: type[Region] = SystemRegion) -> None:
        name = "shm" if kind is SystemRegion else "cuda_shm"
        self.address = str(endpoint)
        self.route = Route(name, endpoint.reason, "raw", "nothing is sent: shared memory")
        self._control = GrpcTransport(endpoint)
        self._kind = kind
        self._open_pool()
        self.watch_forks()

    def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        if any(output.nbytes is None for output in request.outputs):
            return self._control.infer(request, call)
        try:
            return self._infer_shared(request, call)
        except (OSError, SharedMemoryError) as exc:
            logger.warning(
                "%s: no shared memory for a request, which goes over gRPC: %s", self.address, exc
            )
        # Not before the exception is gone, which holds the regions of this request.
        self._pool.release_idle()
        return self._control.infer(request, call)

    def _infer_shared(self, request: InferRequest, call: Call) -> InferResponse:
        input_sizes = [tensor.nbytes for tensor in request.inputs]
        output_sizes = [output.nbytes for output in request.outputs if output.nbytes is not None]
        sources, targets = offsets_bytes(input_sizes), offsets_bytes(output_sizes)
        with self._pool.borrow(sources[-1], targets[-1], call=call) as regions:
            source, target = regions
            source.write([tensor.data for tensor in request.inputs])
            message = request_message(request)
            place_tensors(message.inputs, source, sources, input_sizes)
            place_tensors(message.outputs, target, targets, output_sizes)
            response = self._send(message.SerializeToString(), request.model, regions, call)
            regions.remove(target)
            content = self._pool.lend(target, targets[-1])
        places = {
            output.name: content[begin : begin + size_bytes]
            for output, begin, size_bytes in zip(
                request.outputs, targets, output_sizes, strict=False
            )
        }
        return InferResponse(
            [
                Tensor(output.name, output.datatype, tuple(output.shape), places[output.name])
                for output in response.outputs
                if output.name in places
            ]
        )

    def target(self, call: Call) -> AbstractContextManager[Transport]:
        """See :class:`~rt4ksr_client.transports.base.ForwardingTransport`."""
        return contextlib.nullcontext(self._control)

    def check(self, call: Call) -> None:
        """Have the server map a small region: proof that it is on this host and allows it.

        Removes what killed clients have left on this occasion.

        Raises:
            ServerError: it does not, or it cannot be reached.
            OSError: there is not enough shared memory on this host for 4K frames.

        """
        remove_leftover_names()
        room_bytes = 2 * _USUAL_FRAME_BYTES  # the client's, and a copy that the server makes
        region = self._pool.take(_SMALLEST_REGION_BYTES, call, leaving_bytes=room_bytes)
        self._pool.give_back(region)
        self._pool.unregister_leftovers(call)

    def close(self) -> None:
        """Have the server unmap every region, then close the connection."""
        self._release()

    def start_afresh(self) -> None:
        """See :class:`~rt4ksr_client.transports.forking.ProcessBound`."""
        self._release.detach()
        self._open_pool()

    def _open_pool(self) -> None:
        self._pool = RegionPool(self._control, self._kind)
        # At the interpreter's end too, for programs that forget to close.
        self._release = weakref.finalize(self, _release, self._pool, self._control)

    def _send(self, message: bytes, model: str, regions: Sequence[Region], call: Call) -> Any:
        try:
            return service_pb2.ModelInferResponse.FromString(self._control.send(message, call))
        except DecodeError as exc:
            raise ServerError(f"{self.address}: {model}: the response is malformed") from exc
        except ServerError as exc:
            # A server that was restarted does not know the regions; that has the same status.
            if isinstance(exc, ModelNotReadyError) and self._pool.has_lost(regions, call):
                raise ServerUnreachableError(f"{self.address}: the server was restarted") from exc
            raise explain(exc, self, model, call) from exc


def place_tensors(
    tensors: Iterable[Any], region: Region, offsets: list[int], sizes_bytes: list[int]
) -> None:
    """Say where in ``region`` each tensor of a request is."""
    for tensor, offset, size_bytes in zip(tensors, offsets, sizes_bytes, strict=False):
        tensor.parameters["shared_memory_region"].string_param = region.name
        tensor.parameters["shared_memory_offset"].int64_param = offset
        tensor.parameters["shared_memory_byte_size"].int64_param = size_bytes


def _release(pool: RegionPool, control: GrpcTransport) -> None:
    pool.close()
    control.close()
