"""Shared memory on one host: frames stay where both sides see them, gRPC only carries the words."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tritonclient.grpc import service_pb2

from rt4ksr_client.call import Cancellation, Deadline
from rt4ksr_client.contract import INPUT_NAME, OUTPUT_NAME, WIRE_DATATYPE
from rt4ksr_client.errors import (
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
)
from rt4ksr_client.frames import Frame
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports import wire
from rt4ksr_client.transports.base import Question, Tensor, Transport
from rt4ksr_client.transports.grpc import GrpcTransport
from rt4ksr_client.transports.region_pool import RegionPool
from rt4ksr_client.transports.regions import (
    Region,
    SystemRegion,
    is_leftover,
    remove_leftover_names,
)

__all__ = ["ShmTransport"]

_SMALLEST_REGION_BYTES = 4096
_CONTROL_TIMEOUT_S = 2.0


class ShmTransport(Transport):
    """System shared memory; ``address`` is the server's gRPC ``host:port`` on this host.

    A result is the shared memory itself. Its region serves the next frame once the last view of
    the result is gone, so keep a copy rather than a view where one pixel matters. Where shared
    memory is used up, a frame goes over gRPC instead.
    """

    name = "shm"
    reason = "asked for"
    wire_reason = "nothing is sent: shared memory"
    memory = "System"  # as it is called in the names of Triton's messages

    def __init__(
        self, address: str, *, make_region: Callable[[int], Region] = SystemRegion
    ) -> None:
        self.address = address
        self._control = GrpcTransport(address)
        self._pool = RegionPool(self._control, make_region)
        self._models: dict[str, ServedModel] = {}
        # At the interpreter's end too, for programs that forget to close.
        self._release = weakref.finalize(self, _release, self._pool, self._control)

    def infer(
        self,
        model: str,
        batch: Frame,
        *,
        timeout_s: float,
        cancellation: Cancellation | None = None,
    ) -> Frame:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        deadline = Deadline(timeout_s)
        shape = self._shape(model, batch, deadline)
        try:
            with self._regions(batch.nbytes, math.prod(shape), deadline=deadline) as regions:
                source, target = regions
                source.write(batch)
                request = _request(model, batch, source, target, math.prod(shape))
                self._send(request, model, deadline, regions, cancellation)
                regions.remove(target)
                return self._pool.lend(target, shape)
        except OSError:
            left_s = deadline.required_s(self.address)
            return self._control.infer(model, batch, timeout_s=left_s, cancellation=cancellation)

    def ask(self, question: Question, model: str = "", *, timeout_s: float) -> Any:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        return self._control.ask(question, model, timeout_s=timeout_s)

    def prove(self, *, timeout_s: float) -> None:
        """Have the server map a small region: proof that it is on this host and allows it.

        What clients that were killed have left is removed on this occasion.

        Raises:
            ServerError: it does not; or it cannot be reached.
            OSError: there is no shared memory on this host.

        """
        remove_leftover_names()
        region = self._pool.take(_SMALLEST_REGION_BYTES, timeout_s=timeout_s)
        self._pool.give_back(region)
        self._unregister_leftovers()

    def close(self) -> None:
        """Have the server unmap every region, then close the connection."""
        self._release()

    def _shape(self, model: str, batch: Frame, deadline: Deadline) -> tuple[int, ...]:
        if model not in self._models:
            left_s = deadline.required_s(self.address)
            self._models[model] = self.served_model(model, timeout_s=left_s)
        scale = self._models[model].scale
        count, height, width, channels = batch.shape
        return count, height * scale, width * scale, channels

    @contextlib.contextmanager
    def _regions(self, *sizes_bytes: int, deadline: Deadline) -> Iterator[list[Region]]:
        """Lend regions; those that the server may still use afterwards are never reused."""
        regions: list[Region] = []
        keep = self._pool.retire
        try:
            for size_bytes in sizes_bytes:
                regions.append(self._take(size_bytes, deadline))
            yield regions
            keep = self._pool.give_back
        except (OSError, InvalidRequestError, ModelNotReadyError, OverloadedError):
            keep = self._pool.give_back
            raise
        finally:
            for region in regions:
                keep(region)

    def _take(self, size_bytes: int, deadline: Deadline) -> Region:
        try:
            return self._pool.take(size_bytes, timeout_s=deadline.required_s())
        except ServerError as exc:
            raise self._explained(exc, "") from exc

    def _send(
        self,
        request: bytes,
        model: str,
        deadline: Deadline,
        regions: Iterable[Region],
        cancellation: Cancellation | None,
    ) -> None:
        try:
            self._control.send(request, deadline.required_s(), cancellation)
        except ServerError as exc:
            if isinstance(exc, ModelNotReadyError) and self._lost(regions):
                raise ServerUnreachableError(f"{self.address}: the server was restarted") from exc
            raise self._explained(exc, model) from exc

    def _lost(self, regions: Iterable[Region]) -> bool:
        """Whether the server does not know all of ``regions``, as after a restart."""
        try:
            registered = self._registered()
        except ServerError:
            return False
        self._pool.forget_all_but(registered)
        return not registered.issuperset(region.name for region in regions)

    def _registered(self) -> set[str]:
        """Return the names of all regions that the server knows, of any client."""
        method = f"{self.memory}SharedMemoryStatus"
        request = getattr(service_pb2, f"{method}Request")()
        reply = self._control.control(method, request, timeout_s=_CONTROL_TIMEOUT_S)
        return set(reply.regions)

    def _unregister_leftovers(self) -> None:
        method = f"{self.memory}SharedMemoryUnregister"
        for name in filter(is_leftover, self._registered()):
            request = getattr(service_pb2, f"{method}Request")(name=name)
            with contextlib.suppress(ServerError):
                self._control.control(method, request, timeout_s=_CONTROL_TIMEOUT_S)


def _request(model: str, batch: Frame, source: Region, target: Region, result_bytes: int) -> bytes:
    tensor = Tensor(INPUT_NAME, WIRE_DATATYPE, batch.shape, b"")  # its content is in `source`
    header = wire.request_header(model, tensor, OUTPUT_NAME)
    places = ((header.inputs[0], source, batch.nbytes), (header.outputs[0], target, result_bytes))
    for tensor, region, size_bytes in places:
        tensor.parameters["shared_memory_region"].string_param = region.name
        tensor.parameters["shared_memory_byte_size"].int64_param = size_bytes
    serialised: bytes = header.SerializeToString()
    return serialised


def _release(pool: RegionPool, control: GrpcTransport) -> None:
    pool.close()
    control.close()
