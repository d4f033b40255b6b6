"""Transports that decide at their first call which other one to use."""

from __future__ import annotations

import abc
import dataclasses
import logging
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from rt4ksr_client.call import Call
from rt4ksr_client.connection import Endpoint
from rt4ksr_client.contract import DECODE_STAGE, PictureFormat, image_endpoint
from rt4ksr_client.errors import DeadlineExceededError, ServerError, ServerUnreachableError
from rt4ksr_client.transports.base import ForwardingTransport, Route, Transport, closed, explain
from rt4ksr_client.transports.encoded import EncodedTransport
from rt4ksr_client.transports.forking import ProcessBound
from rt4ksr_client.transports.grpc import GrpcTransport
from rt4ksr_client.transports.link_speed import measure_link
from rt4ksr_client.transports.messages import InferRequest, InferResponse
from rt4ksr_client.transports.shared_memory import SharedMemoryTransport

__all__ = ["AutoTransport", "AutoWireTransport", "NegotiatedTransport"]

_UNDECIDED: Final = Route("auto", "not decided yet", "auto", "not decided yet")

logger = logging.getLogger(__name__)


class NegotiatedTransport(ForwardingTransport, ProcessBound):
    """Chooses a transport once, then does everything with it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._chosen: Transport | None = None
        self._closed = False
        self.watch_forks()

    def start_afresh(self) -> None:
        """See :class:`~rt4ksr_client.transports.forking.ProcessBound`; the choice stays."""
        self._lock = threading.Lock()

    @abc.abstractmethod
    def choose(self, call: Call) -> Transport:
        """Return the transport to use from now on; called once."""

    @property
    def route(self) -> Route:  # type: ignore[override]
        """The route of the chosen transport."""
        return _UNDECIDED if self._chosen is None else self._chosen.route

    def negotiate(self, call: Call) -> Route:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        self.decide(call)
        return self.route

    def target(self, call: Call) -> AbstractContextManager[Transport]:
        """See :class:`~rt4ksr_client.transports.base.ForwardingTransport`."""
        return nullcontext(self.decide(call))

    def close(self) -> None:
        """Close the chosen transport; a call that is choosing one closes that itself."""
        self._closed = True
        if self._chosen is not None:
            self._chosen.close()

    def decide(self, call: Call) -> Transport:
        """Return the chosen transport, after choosing it if no call did so before."""
        if self._chosen is None:
            with call.holding(self._lock, self.address):
                if self._chosen is None and not self._closed:
                    self._chosen = self.choose(call)
                    if self._closed:
                        self._chosen.close()
        if self._closed or self._chosen is None:
            raise closed()
        return self._chosen


class AutoTransport(NegotiatedTransport):
    """Shared memory where the server can map it, gRPC where it cannot.

    The proof is that the server maps a region of this process. The address would be no proof: a
    server in a container on this host may not share memory, one behind a tunnel to it may.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(str(endpoint))
        self._endpoint = endpoint

    def choose(self, call: Call) -> Transport:
        """See :class:`NegotiatedTransport`."""
        reason = "the server maps this process's memory"
        shared = SharedMemoryTransport(
            dataclasses.replace(self._endpoint, transport="shm", reason=reason)
        )
        try:
            shared.check(call)
        except DeadlineExceededError as exc:
            shared.close()
            raise explain(exc, self, "", call) from exc
        except (ServerError, OSError) as exc:
            shared.close()
            return self._choose_grpc(exc, call)
        except BaseException:
            shared.close()
            raise
        logger.info("%s: transport shm: %s", self.address, reason)
        return shared

    def _choose_grpc(self, obstacle: Exception, call: Call) -> Transport:
        reason = f"the server cannot map this process's memory: {obstacle}"
        if isinstance(obstacle, OSError):
            reason = f"too little shared memory: {obstacle}"
        transport = GrpcTransport(
            dataclasses.replace(self._endpoint, transport="grpc", reason=reason)
        )
        if isinstance(obstacle, ServerUnreachableError):
            # A server that forbids shared memory says UNAVAILABLE too, but then answers this.
            try:
                transport.server_metadata(call)
            except BaseException:
                transport.close()
                raise
        logger.info("%s: transport grpc: %s", self.address, reason)
        return transport


class AutoWireTransport(NegotiatedTransport):
    """Raw frames where memory is shared or the link is fast, encoded pictures where it is slow."""

    def __init__(self, transport: Transport, format_: PictureFormat) -> None:
        super().__init__(transport.address)
        self._transport = transport
        self._format = format_
        self._wire_reason: str | None = None
        self._has_endpoint: dict[str, bool] = {}

    @property
    def route(self) -> Route:  # type: ignore[override]
        """The route of the chosen transport, with the reason for the wire."""
        route, reason = super().route, self._wire_reason
        return route if reason is None else dataclasses.replace(route, wire_reason=reason)

    def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        chosen, model = self.decide(call), request.model
        if chosen is not self._transport:
            if model not in self._has_endpoint:
                ready = self._transport.model_ready(image_endpoint(model), call)
                self._has_endpoint[model] = ready
            if not self._has_endpoint[model]:
                chosen = self._transport
        return chosen.infer(request, call)

    def close(self) -> None:
        """Close the transport."""
        super().close()
        self._transport.close()

    def choose(self, call: Call) -> Transport:
        """See :class:`NegotiatedTransport`."""
        chosen = self._transport
        route = chosen.negotiate(call)
        if route.shares_memory:
            self._wire_reason = route.wire_reason
        elif not chosen.model_ready(DECODE_STAGE, call):
            self._wire_reason = "the server has no image endpoint"
        else:
            times = measure_link(chosen, self._format, call)
            self._wire_reason = str(times)
            if times.encoded_is_faster:
                chosen = EncodedTransport(chosen, self._format)
                self._wire_reason = f"{self._format}, {times}"
        logger.info("%s: wire %s: %s", self.address, chosen.route.wire, self._wire_reason)
        return chosen
