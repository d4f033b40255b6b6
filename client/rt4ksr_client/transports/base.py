"""The interface of a transport, and what all transports share."""

from __future__ import annotations

import abc
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rt4ksr_client.call import Call
from rt4ksr_client.errors import (
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
    TlsError,
)
from rt4ksr_client.frames import Planes
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.transports.messages import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    Tensor,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ForwardingTransport", "Route", "Transport", "closed", "explain", "unreachable"]

_PROBE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True)
class Route:
    """Transport and wire of a client, each with the reason for it as a phrase.

    ``transport`` is ``grpc``, ``http``, ``shm`` or ``cuda_shm``, or ``auto`` before it is decided;
    ``wire`` is ``raw`` or ``encoded``. With several servers, all that are in use: ``shm+grpc``.
    """

    transport: str
    transport_reason: str
    wire: str = "raw"
    wire_reason: str = "raw pixels, exact"

    @property
    def shares_memory(self) -> bool:
        """Whether frames are not sent at all, but shared with a server on this host."""
        return self.transport in ("shm", "cuda_shm")


class Transport(abc.ABC):
    """A connection to one server, or several, which may be shared between threads.

    It tries once; retries are for :class:`~rt4ksr_client.retry.Retries`. Every method that takes a
    :class:`~rt4ksr_client.call.Call` keeps its deadline, ends at its cancellation, and raises a
    subclass of :class:`~rt4ksr_client.errors.ServerError`. The dictionaries that describe a server
    are those of Triton's HTTP protocol, whose int64 values gRPC gives as strings.
    """

    address: str
    """The server's address, for errors and logs."""

    route: Route
    """How requests reach it."""

    proxy: str = ""
    """The HTTP proxy of the environment in between, and the variable that names it."""

    @abc.abstractmethod
    def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """Run a model. The outputs may be read-only views of the response."""

    @abc.abstractmethod
    def server_metadata(self, call: Call) -> dict[str, Any]:
        """Return ``name``, ``version`` and ``extensions`` of the server."""

    @abc.abstractmethod
    def repository_index(self, call: Call) -> list[dict[str, Any]]:
        """Return ``name``, ``version``, ``state`` and ``reason`` of every model."""

    @abc.abstractmethod
    def model_config(self, model: str, call: Call) -> dict[str, Any]:
        """Return a model's configuration."""

    @abc.abstractmethod
    def model_statistics(self, call: Call, *, model: str = "") -> list[dict[str, Any]]:
        """Return the statistics of one model, or of all."""

    def model_names(self, call: Call) -> set[str]:
        """Return the names of the models that are loaded, on each of several servers."""
        return {str(model["name"]) for model in self.model_statistics(call)}

    @abc.abstractmethod
    def model_ready(self, model: str, call: Call) -> bool:
        """Return whether the server has the model, loaded."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release connections and memory. Calling it twice is harmless."""

    def negotiate(self, call: Call) -> Route:
        """Decide on the route, which may take questions to the server, and return it."""
        return self.route

    def served_model(self, model: str, call: Call) -> ServedModel:
        """Ask the server about ``model``."""
        return ServedModel.from_config(self.model_config(model, call))

    def upscale(self, model: ServedModel, batch: Planes, call: Call) -> Planes:
        """Upscale frames: ``(N, H, W, C)`` to ``(N, s*H, s*W, C)`` of each of the model's tensors.

        The result may be read-only views of the response.

        Raises:
            InvalidRequestError: the batch breaks a rule of ``model``; the client's
                :class:`~rt4ksr_client.Upscaler` sends no such batch.

        """
        count, height, width, _ = batch[0].shape
        outputs = [
            RequestedOutput(
                tensor.name,
                model.datatype,
                tensor.shape(count, height * model.scale, width * model.scale),
            )
            for tensor in model.outputs
        ]
        pairs = zip(model.inputs, batch, strict=True)
        inputs = [Tensor.from_array(tensor.name, plane) for tensor, plane in pairs]
        try:
            response = self.infer(
                InferRequest(model.name, inputs, outputs, call.parameters()), call
            )
        except ServerError as exc:
            # Triton's native backends report a frame that the graph cannot take as INTERNAL.
            violation = model.violation([plane.shape for plane in batch])
            if type(exc) is not ServerError or violation is None or self.route.wire != "raw":
                raise
            shapes = ", ".join(str(list(plane.shape)) for plane in batch)
            raise InvalidRequestError(f"{exc}: {violation}, got {shapes}") from exc
        planes = []
        for output in outputs:
            tensor = response.output(output.name)
            plane = tensor.to_array()
            if plane.shape != output.shape or tensor.datatype != output.datatype:
                raise ServerError(
                    f"{self.address}: model {model.name!r} answered with {tensor.datatype} "
                    f"{plane.shape} instead of {output.datatype} {output.shape}"
                )
            planes.append(plane)
        return tuple(planes)

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()


class ForwardingTransport(Transport):
    """A transport that leaves what it does not do itself to another one."""

    @abc.abstractmethod
    def target(self, call: Call) -> AbstractContextManager[Transport]:
        """Lend the transport to use for ``call`` during a block."""

    def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """See :class:`Transport`."""
        with self.target(call) as transport:
            return transport.infer(request, call)

    def server_metadata(self, call: Call) -> dict[str, Any]:
        """See :class:`Transport`."""
        with self.target(call) as transport:
            return transport.server_metadata(call)

    def repository_index(self, call: Call) -> list[dict[str, Any]]:
        """See :class:`Transport`."""
        with self.target(call) as transport:
            return transport.repository_index(call)

    def model_config(self, model: str, call: Call) -> dict[str, Any]:
        """See :class:`Transport`."""
        with self.target(call) as transport:
            return transport.model_config(model, call)

    def model_statistics(self, call: Call, *, model: str = "") -> list[dict[str, Any]]:
        """See :class:`Transport`."""
        with self.target(call) as transport:
            return transport.model_statistics(call, model=model)

    def model_names(self, call: Call) -> set[str]:
        """See :class:`Transport`."""
        with self.target(call) as transport:
            return transport.model_names(call)

    def model_ready(self, model: str, call: Call) -> bool:
        """See :class:`Transport`."""
        with self.target(call) as transport:
            return transport.model_ready(model, call)


def closed() -> ServerError:
    """Return the error for using a client after it was closed."""
    return ServerError("this client is closed: open another one")


def unreachable(address: str, proxy: str = "") -> ServerUnreachableError:
    """Return the error for an address where nothing answers, asked through ``proxy`` if any."""
    if proxy:
        return ServerUnreachableError(
            f"no Triton server answers at {address} through the proxy {proxy}: name the host in "
            "no_proxy to reach it directly"
        )
    what = "check the address" if "://" in address else "start one with 'rt4ksr serve'"
    return ServerUnreachableError(f"no Triton server answers at {address}: {what}")


def explain(error: ServerError, transport: Transport, model: str, call: Call) -> ServerError:
    """Return ``error`` with the server's address, and what is really wrong.

    Triton uses one status for a full queue, a model that is still loading and a model it does not
    have; gRPC uses it for a server that is gone, too. Ask the server whether the model is ready.

    Args:
        error: what the status code says.
        transport: asks the server.
        model: what the request was for; empty for a question about the server.
        call: its cancellation also ends this question.

    """
    if isinstance(error, TlsError):
        return error
    if not isinstance(error, (ServerUnreachableError, ModelNotReadyError)):
        about = f"{transport.address}: {model}" if model else transport.address
        return type(error)(f"{about}: {error}")
    if not model:
        return unreachable(transport.address, transport.proxy)
    try:
        ready = transport.model_ready(model, call.probe(_PROBE_TIMEOUT_S))
    except ServerError:
        return unreachable(transport.address, transport.proxy)
    if ready:
        return OverloadedError(f"{transport.address}: {model}: {error}")
    return ModelNotReadyError(
        f"{transport.address}: model {model!r} is not ready: it is still loading, or the server "
        "does not have it"
    )
