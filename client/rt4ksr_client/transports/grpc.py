"""gRPC: one channel, shared by all threads."""

from __future__ import annotations

import numpy as np
import tritonclient.grpc as triton
from google.protobuf.json_format import MessageToDict
from tritonclient.utils import InferenceServerException

from rt4ksr_client.contract import INPUT_NAME, OUTPUT_NAME, WIRE_DATATYPE
from rt4ksr_client.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
)
from rt4ksr_client.frames import Frame
from rt4ksr_client.transports.base import ServedModel

__all__ = ["GrpcTransport"]

_PROBE_TIMEOUT_S = 2.0


class GrpcTransport:
    """Frames as raw bytes in gRPC messages; ``address`` is ``host:port``.

    No ``channel_args`` are passed: they would replace tritonclient's message limits (2 GiB) by
    gRPC's own 4 MB.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = triton.InferenceServerClient(address)

    def served_model(self, model: str, *, timeout_s: float) -> ServedModel:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        try:
            reply = self._client.get_model_config(model, client_timeout=timeout_s)
        except InferenceServerException as exc:
            raise self._explained(exc, model, timeout_s) from exc
        return ServedModel.from_config(
            MessageToDict(reply.config, preserving_proto_field_name=True)
        )

    def infer(self, model: str, batch: Frame, *, timeout_s: float) -> Frame:
        """See :class:`~rt4ksr_client.transports.base.Transport`."""
        request = triton.InferInput(INPUT_NAME, list(batch.shape), WIRE_DATATYPE)
        request.set_data_from_numpy(np.ascontiguousarray(batch))
        try:
            reply = self._client.infer(
                model,
                [request],
                outputs=[triton.InferRequestedOutput(OUTPUT_NAME)],
                client_timeout=timeout_s,
            )
        except InferenceServerException as exc:
            raise self._explained(exc, model, timeout_s) from exc
        output: Frame = reply.as_numpy(OUTPUT_NAME)
        return output

    def close(self) -> None:
        """Close the channel."""
        self._client.close()

    def _explained(
        self, exc: InferenceServerException, model: str, timeout_s: float
    ) -> ServerError:
        status = str(exc.status()).removeprefix("StatusCode.")
        if status == "DEADLINE_EXCEEDED":
            return DeadlineExceededError(
                f"{self._address}: no answer from {model} within {timeout_s:g} s"
            )
        if status == "INVALID_ARGUMENT":
            return InvalidRequestError(f"{self._address}: {model}: {exc.message()}")
        if status in ("UNAVAILABLE", "NOT_FOUND"):
            return self._unavailable(model, exc)
        return ServerError(f"{self._address}: {model}: {status}: {exc.message()}")

    def _unavailable(self, model: str, exc: InferenceServerException) -> ServerError:
        """Tell apart what Triton answers with one status: ask what is alive."""
        try:
            self._client.is_server_live(client_timeout=_PROBE_TIMEOUT_S)
            ready = self._client.is_model_ready(model, client_timeout=_PROBE_TIMEOUT_S)
        except InferenceServerException:
            return ServerUnreachableError(
                f"no Triton server answers at {self._address}: start one with 'rt4ksr serve'"
            )
        if not ready:
            return ModelNotReadyError(
                f"{self._address}: model {model!r} is not ready: it is still loading, or the "
                "server does not have it"
            )
        return OverloadedError(f"{self._address}: {model}: {exc.message()}")
