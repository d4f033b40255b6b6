"""Shared memory on one host: tensors stay where both sides map them; gRPC carries the requests."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Endpoint
from rt4ksr_client.errors import (
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
)
from rt4ksr_client.transports.base import ForwardingTransport, Route, Transport, explain
from rt4ksr_client.transports.grpc import GrpcTransport
from rt4ksr_client.transports.messages import InferRequest, InferResponse, Tensor
from rt4ksr_client.transports.protobuf import request_message
from rt4ksr_client.transports.regions import (
    Region,
    RegionPool,
    SystemRegion,
    is_leftover,
    offsets_bytes,
    remove_leftover_names,
)

__all__ = ["SharedMemoryTransport"]

_SMALLEST_REGION_BYTES: Final = 4096
_CONTROL_TIMEOUT_S: Final = 2.0

logger = logging.getLogger(__name__)


class SharedMemoryTransport(ForwardingTransport):
    """System shared memory with the server at a gRPC address on this host.

    The inputs of a request share a region, and so do its outputs. A result is the shared memory
    itself: its region serves the next request once the last view of the result is gone, so keep a
    copy rather than a view of a few pixels. A request goes over gRPC if shared memory is used up,
    or if the sizes of its outputs are not known beforehand.
    """

    name = "shm"
    memory = "System"  # its name in Triton's messages

    def __init__(
        self, endpoint: Endpoint, *, make_region: Callable[[int], Region] = SystemRegion
    ) -> None:
        self.address = endpoint.address
        self.route = Route(self.name, endpoint.reason, "raw", "nothing is sent: shared memory")
        self._control = GrpcTransport(endpoint)
        self._pool = RegionPool(self._control, make_region)
        # At the interpreter's end too, for programs that forget to close.
        self._release = weakref.finalize(self, _release, self._pool, self._control)

    def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        sizes_bytes = [output.nbytes for output in request.outputs if output.nbytes is not None]
        if len(sizes_bytes) < len(request.outputs):
            return self._control.infer(request, call)
        sources = offsets_bytes([tensor.nbytes for tensor in request.inputs])
        targets = offsets_bytes(sizes_bytes)
        try:
            with self._regions(sources[-1], targets[-1], call=call) as regions:
                source, target = regions
                source.write([tensor.data for tensor in request.inputs])
                message = request_message(request)
                sent = [tensor.nbytes for tensor in request.inputs]
                _place(message.inputs, source, sources, sent)
                _place(message.outputs, target, targets, sizes_bytes)
                response = self._send(message.SerializeToString(), request.model, regions, call)
                regions.remove(target)
                content = self._pool.lend(target, targets[-1])
        except OSError as exc:
            logger.warning(
                "%s: no shared memory for a request, which goes over gRPC: %s", self.address, exc
            )
            return self._control.infer(request, call)
        places = {
            output.name: content[begin : begin + size_bytes]
            for output, begin, size_bytes in zip(
                request.outputs, targets, sizes_bytes, strict=False
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
            OSError: there is no shared memory on this host.

        """
        remove_leftover_names()
        region = self._pool.take(_SMALLEST_REGION_BYTES, call)
        self._pool.give_back(region)
        self._unregister_leftovers(call)

    def close(self) -> None:
        """Have the server unmap every region, then close the connection."""
        self._release()

    @contextlib.contextmanager
    def _regions(self, *sizes_bytes: int, call: Call) -> Iterator[list[Region]]:
        """Lend regions; those that the server may still use afterwards are never reused."""
        regions: list[Region] = []
        keep = self._pool.retire
        try:
            for size_bytes in sizes_bytes:
                try:
                    regions.append(self._pool.take(size_bytes, call))
                except ServerError as exc:
                    raise explain(exc, self, "", call) from exc
            yield regions
            keep = self._pool.give_back
        except (OSError, InvalidRequestError, ModelNotReadyError, OverloadedError):
            keep = self._pool.give_back
            raise
        finally:
            for region in regions:
                keep(region)

    def _send(self, message: bytes, model: str, regions: Iterable[Region], call: Call) -> Any:
        try:
            return service_pb2.ModelInferResponse.FromString(self._control.send(message, call))
        except DecodeError as exc:
            raise ServerError(f"{self.address}: {model}: the response is malformed") from exc
        except ServerError as exc:
            if isinstance(exc, ModelNotReadyError) and self._lost(regions, call):
                raise ServerUnreachableError(f"{self.address}: the server was restarted") from exc
            raise explain(exc, self, model, call) from exc

    def _lost(self, regions: Iterable[Region], call: Call) -> bool:
        """Return whether the server does not know all of ``regions``, as after a restart."""
        try:
            registered = self._registered(call)
        except ServerError:
            return False
        self._pool.forget_all_but(registered)
        return not registered.issuperset(region.name for region in regions)

    def _registered(self, call: Call) -> set[str]:
        """Return the names of all regions that the server knows, of any client."""
        method = f"{self.memory}SharedMemoryStatus"
        request = getattr(service_pb2, f"{method}Request")()
        reply = self._control.control(method, request, call.probe(_CONTROL_TIMEOUT_S))
        return set(reply.regions)

    def _unregister_leftovers(self, call: Call) -> None:
        method = f"{self.memory}SharedMemoryUnregister"
        for name in filter(is_leftover, self._registered(call)):
            request = getattr(service_pb2, f"{method}Request")(name=name)
            with contextlib.suppress(ServerError):
                self._control.control(method, request, call.probe(_CONTROL_TIMEOUT_S))


def _place(
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
