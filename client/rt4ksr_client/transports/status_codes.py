"""Map status codes of gRPC and HTTP to this project's errors.

The text of a message decides only where Triton has no status of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from rt4ksr_client.errors import (
    AccessDeniedError,
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    ServerError,
    ServerUnreachableError,
    SharedMemoryError,
)

__all__ = ["GRPC_ERRORS", "HTTP_ERRORS", "error_for_grpc", "error_for_http"]

GRPC_ERRORS: Final[Mapping[str, type[ServerError]]] = MappingProxyType(
    {
        "DEADLINE_EXCEEDED": DeadlineExceededError,
        "FAILED_PRECONDITION": InvalidRequestError,
        "INVALID_ARGUMENT": InvalidRequestError,
        "NOT_FOUND": ModelNotReadyError,
        "OUT_OF_RANGE": InvalidRequestError,
        "PERMISSION_DENIED": AccessDeniedError,
        "RESOURCE_EXHAUSTED": OverloadedError,
        "UNAUTHENTICATED": AccessDeniedError,
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
        401: AccessDeniedError,
        403: AccessDeniedError,
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


_RESTRICTED: Final = "is restricted, expecting header"
"""What Triton says about an API that needs a key. Over gRPC, the status is that of a server that is
away, so that only this text tells."""

_FULL_POOL: Final = "Failed to increase the shared memory pool"
"""What Triton says if its Python backend cannot exchange a frame with a model; it has no status."""


def error_for_grpc(code: str, text: str, sent: Collection[str] = ()) -> ServerError:
    """Return the error for a status code's name, e.g. ``UNAVAILABLE``.

    Args:
        code: of the response.
        text: of the response.
        sent: names of the headers that the request had.

    """
    kind = AccessDeniedError if _RESTRICTED in text else GRPC_ERRORS.get(code)
    return _error(kind, code, text, sent)


def error_for_http(status: int, text: str, sent: Collection[str] = ()) -> ServerError:
    """Return the error for the status of an HTTP response; see :func:`error_for_grpc`."""
    return _error(HTTP_ERRORS.get(status), f"HTTP {status}", text, sent)


def _error(
    kind: type[ServerError] | None, code: str, text: str, sent: Collection[str]
) -> ServerError:
    if kind is None and _FULL_POOL in text:
        return SharedMemoryError(
            "the server's /dev/shm is full: give its container more, as with 'docker run "
            "--shm-size 1g', or send smaller pictures (max_request_px)"
        )
    if kind is None:
        return ServerError(f"{code}: {text}")
    if kind is not AccessDeniedError:
        return kind(text)
    what = f"access denied ({code}{f': {text}' if text else ''})"
    if sent:
        return kind(f"{what}: check the values of the headers sent: {', '.join(sorted(sent))}")
    return kind(f"{what}: no header was sent: give one with header_file (--header-file)")
