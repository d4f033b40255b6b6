"""Map status codes of gRPC and HTTP to this project's errors, never by the text of a message."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from rt4ksr_client.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
)

__all__ = ["GRPC_ERRORS", "HTTP_ERRORS", "error_for_grpc", "error_for_http"]

GRPC_ERRORS: Final[Mapping[str, type[ServerError]]] = MappingProxyType(
    {
        "DEADLINE_EXCEEDED": DeadlineExceededError,
        "FAILED_PRECONDITION": InvalidRequestError,
        "INVALID_ARGUMENT": InvalidRequestError,
        "NOT_FOUND": ModelNotReadyError,
        "OUT_OF_RANGE": InvalidRequestError,
        "RESOURCE_EXHAUSTED": OverloadedError,
        "UNAVAILABLE": ServerUnreachableError,
    }
)
"""By the name of gRPC's status code; all others are a plain :class:`ServerError`.

Triton also answers UNAVAILABLE for a full queue and for a model that is still loading; see
:func:`~rt4ksr_client.transports.base.explain`.
"""

HTTP_ERRORS: Final[Mapping[int, type[ServerError]]] = MappingProxyType(
    {
        400: InvalidRequestError,
        404: ModelNotReadyError,
        408: DeadlineExceededError,
        413: InvalidRequestError,
        429: OverloadedError,
        502: ServerUnreachableError,
        503: ServerUnreachableError,
        504: DeadlineExceededError,
    }
)
"""By HTTP status; all others are a plain :class:`ServerError`."""


def error_for_grpc(code: str, text: str) -> ServerError:
    """Return the error for a status code's name, e.g. ``UNAVAILABLE``."""
    kind = GRPC_ERRORS.get(code)
    return ServerError(f"{code}: {text}") if kind is None else kind(text)


def error_for_http(status: int, text: str) -> ServerError:
    """Return the error for the status of an HTTP response."""
    kind = HTTP_ERRORS.get(status)
    return ServerError(f"HTTP {status}: {text}") if kind is None else kind(text)
