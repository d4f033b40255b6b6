"""A transport that settles at its first call which other one it is."""

from __future__ import annotations

import abc
import threading
from typing import Any

from rt4ksr_client.call import Cancellation, Deadline
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports.base import MessageTransport, Question, Transport

__all__ = ["DecidingTransport"]


class DecidingTransport(Transport):
    """Decides once, then does everything by what it chose."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._chosen: Transport | None = None

    @abc.abstractmethod
    def _choice(self, timeout_s: float) -> Transport:
        """Return what to use from now on."""

    @property
    def name(self) -> str:  # type: ignore[override]
        """``auto`` until it is decided."""
        return "auto" if self._chosen is None else self._chosen.name

    @property
    def reason(self) -> str:  # type: ignore[override]
        """Why."""
        return "not decided yet" if self._chosen is None else self._chosen.reason

    @property
    def wire(self) -> str:  # type: ignore[override]
        """``auto`` until it is decided."""
        return "auto" if self._chosen is None else self._chosen.wire

    @property
    def wire_reason(self) -> str:  # type: ignore[override]
        """Why."""
        return "not decided yet" if self._chosen is None else self._chosen.wire_reason

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
        transport = self._way_of(model, deadline)
        left_s = deadline.required_s(self.address)
        return transport.infer(model, batch, timeout_s=left_s, cancellation=cancellation)

    def ask(self, question: Question, model: str = "", *, timeout_s: float) -> Any:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        deadline = Deadline(timeout_s)
        transport = self._choose(deadline)
        return transport.ask(question, model, timeout_s=deadline.required_s(self.address))

    def decide(self, *, timeout_s: float) -> None:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        self._choose(Deadline(timeout_s))

    def messages(self) -> MessageTransport | None:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        return None if self._chosen is None else self._chosen.messages()

    def close(self) -> None:
        """Close what was chosen."""
        if self._chosen is not None:
            self._chosen.close()

    def _way_of(self, model: str, deadline: Deadline) -> Transport:
        """Return what frames for ``model`` go by."""
        return self._choose(deadline)

    def _choose(self, deadline: Deadline) -> Transport:
        with self._lock:
            if self._chosen is None:
                self._chosen = self._choice(deadline.required_s(self.address))
            return self._chosen
