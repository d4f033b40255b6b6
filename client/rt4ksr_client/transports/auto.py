"""Shared memory where the server can map it, gRPC where it cannot."""

from __future__ import annotations

from rt4ksr_client.call import Deadline
from rt4ksr_client.errors import DeadlineExceededError, ServerError, ServerUnreachableError
from rt4ksr_client.transports.base import Question, Transport
from rt4ksr_client.transports.deciding import DecidingTransport
from rt4ksr_client.transports.grpc import GrpcTransport
from rt4ksr_client.transports.shm import ShmTransport

__all__ = ["AutoTransport"]


class AutoTransport(DecidingTransport):
    """Decides at the first call: a server that maps a region of ours shares our memory.

    That is proof enough, and no guess by address: a server in a container on this host may not,
    one behind a tunnel to this host may.
    """

    def _choice(self, timeout_s: float) -> Transport:
        deadline = Deadline(timeout_s)
        shared = ShmTransport(self.address)
        try:
            shared.prove(timeout_s=timeout_s)
        except DeadlineExceededError as exc:
            shared.close()
            raise self._explained(exc, "") from exc
        except (ServerError, OSError) as exc:
            shared.close()
            return self._plain(exc, deadline)
        shared.reason = "the server maps this process's memory"
        return shared

    def _plain(self, reason: Exception, deadline: Deadline) -> Transport:
        plain = GrpcTransport(self.address)
        plain.reason = f"the server cannot map this process's memory: {reason}"
        if isinstance(reason, ServerUnreachableError):
            # A server that forbids shared memory says UNAVAILABLE too, but then answers this.
            try:
                plain.ask(Question.SERVER, timeout_s=deadline.required_s(self.address))
            except ServerError:
                plain.close()
                raise
        return plain
