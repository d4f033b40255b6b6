"""The errors that this project raises, all under one root.

    Rt4ksrError
    ├── PictureError              not a picture, truncated, too large, unsupported
    ├── VideoError                not a video, damaged, or of a kind that would come out wrong
    ├── ServerError               the server, or the connection to it, failed
    │   ├── ServerUnreachableError    no answer at the address, or a lost connection
    │   │   └── TlsError                  a certificate that is rejected, or a port without TLS
    │   ├── AccessDeniedError         the server, or a gateway, rejected the credentials
    │   ├── ModelNotReadyError        the server answers; the model is absent or still loading
    │   ├── WrongScaleError           the served model upscales by another factor
    │   ├── DeadlineExceededError     no answer within the deadline
    │   ├── OverloadedError           the server's queue is full
    │   ├── SharedMemoryError         the server's /dev/shm is full
    │   └── InvalidRequestError       the server rejected the request as malformed
    ├── CheckpointError           rt4ksr_export: weights that cannot be read or do not fit
    ├── ExportError               rt4ksr_export: a repository that could not be made
    │   └── VerificationError         the exported graph differs from the network
    ├── LoadTestError             rt4ksr_loadtest: a load test that cannot be run or read
    ├── ServerStartError          rt4ksr_server: tritonserver is missing or did not become ready
    └── MissingExtraError         a part of this distribution that is not installed

The command line prints the message and exits with 1; ``rt4ksr --debug`` shows the traceback too.
"""

from __future__ import annotations

__all__ = [
    "AccessDeniedError",
    "CheckpointError",
    "DeadlineExceededError",
    "ExportError",
    "InvalidRequestError",
    "LoadTestError",
    "MissingExtraError",
    "ModelNotReadyError",
    "OverloadedError",
    "PictureError",
    "Rt4ksrError",
    "ServerError",
    "ServerStartError",
    "ServerUnreachableError",
    "SharedMemoryError",
    "TlsError",
    "VerificationError",
    "VideoError",
    "WrongScaleError",
]


class Rt4ksrError(Exception):
    """Root of the errors that this project raises. The message says what to do next."""


class PictureError(Rt4ksrError):
    """The input is not a picture that can be upscaled."""


class VideoError(Rt4ksrError):
    """The input is not a video that can be upscaled, or the output cannot be written."""


class ServerError(Rt4ksrError):
    """The server, or the connection to it, failed."""


class ServerUnreachableError(ServerError):
    """Nothing answers at the address, or the connection ended before the answer."""


class TlsError(ServerUnreachableError):
    """No TLS connection: one side rejects the other's certificate, or one does not speak TLS."""


class AccessDeniedError(ServerError):
    """The server, or a gateway before it, rejected the credentials or asks for some."""


class ModelNotReadyError(ServerError):
    """The server answers, but the model is absent or still loading."""


class WrongScaleError(ServerError):
    """The served model upscales by another factor than the one asked for."""


class DeadlineExceededError(ServerError):
    """No answer within the deadline."""


class OverloadedError(ServerError):
    """The server's queue is full, so it rejected the request before working on it."""


class SharedMemoryError(ServerError):
    """The server's /dev/shm is full, so its models could not exchange the frame."""


class InvalidRequestError(ServerError):
    """The server rejected the request as malformed (shape, type or size)."""


class CheckpointError(Rt4ksrError):
    """A file with weights that cannot be read, or weights that do not fit RT4KSR."""


class ExportError(Rt4ksrError):
    """A model repository that could not be made; the old one is untouched."""


class VerificationError(ExportError):
    """The exported graph differs from the network by more than the tolerance."""


class LoadTestError(Rt4ksrError):
    """A load test cannot be run as asked, or its result cannot be read."""


class ServerStartError(Rt4ksrError):
    """Tritonserver is missing, or did not become ready."""


class MissingExtraError(Rt4ksrError):
    """A part of this distribution that is not installed."""
