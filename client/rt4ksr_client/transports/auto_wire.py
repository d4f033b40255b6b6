"""Raw frames where memory is shared or the link is fast, encoded pictures where it is slow."""

from __future__ import annotations

from rt4ksr_client.call import Deadline
from rt4ksr_client.contract import DECODE_STAGE, PictureFormat, image_endpoint
from rt4ksr_client.transports.base import MessageTransport, Question, Transport
from rt4ksr_client.transports.deciding import DecidingTransport
from rt4ksr_client.transports.encoded import EncodedTransport
from rt4ksr_client.transports.link import measured

__all__ = ["AutoWireTransport"]


class AutoWireTransport(DecidingTransport):
    """Decides at the first call how frames travel over ``way``, by measuring the link."""

    def __init__(self, way: Transport, format_: PictureFormat) -> None:
        super().__init__(way.address)
        self._way = way
        self._format = format_
        self._has_endpoint: dict[str, bool] = {}

    def close(self) -> None:
        """Close the way."""
        self._way.close()

    def _choice(self, timeout_s: float) -> Transport:
        deadline = Deadline(timeout_s)
        self._way.decide(timeout_s=timeout_s)
        plain = self._way.messages()
        if plain is None:
            return self._way
        if not self._is_ready(plain, DECODE_STAGE, deadline):
            plain.wire_reason = "the server has no image endpoint"
            return plain
        verdict = measured(plain, self._format, deadline)
        if verdict.encode:
            return EncodedTransport(plain, self._format, str(verdict))
        plain.wire_reason = str(verdict)
        return plain

    def _way_of(self, model: str, deadline: Deadline) -> Transport:
        chosen = self._choose(deadline)
        if chosen.wire == "encoded" and not self._endpoint(model, deadline):
            return self._way
        return chosen

    def _endpoint(self, model: str, deadline: Deadline) -> bool:
        """Whether this very model has an endpoint; asked once."""
        plain = self._way.messages()
        if model not in self._has_endpoint and plain is not None:
            ready = self._is_ready(plain, image_endpoint(model), deadline)
            self._has_endpoint[model] = ready
        return self._has_endpoint[model]

    def _is_ready(self, way: MessageTransport, model: str, deadline: Deadline) -> bool:
        left_s = deadline.required_s(self.address)
        return bool(way.ask(Question.MODEL_READY, model, timeout_s=left_s)["ready"])
