"""How to reach a server: one value for what every client, command and load test needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rt4ksr_client.contract import DEFAULT_PICTURE_FORMAT, PictureFormat

__all__ = [
    "DEFAULT_MAX_REQUEST_PX",
    "DEFAULT_TIMEOUT_S",
    "DEFAULT_URL",
    "Connection",
    "TransportName",
    "WireName",
]

TransportName = Literal["auto", "grpc", "http", "shm", "cuda_shm"]
"""How requests reach the server; ``auto`` is decided at the first call."""

WireName = Literal["auto", "raw", "encoded"]
"""How frames travel: as raw pixels or as encoded pictures; ``auto`` is decided at the first
call."""

DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 60.0

DEFAULT_MAX_REQUEST_PX = 2048 * 2048
"""Largest request, in pixels before upscaling: 12.6 MB, and 113 MB back at x3. Halos then cost 3 %
more pixels."""


@dataclass(frozen=True)
class Connection:
    """The address of one or several servers, and how to talk to them. Nothing is sent yet.

    Args:
        url: ``host:port`` of the server's gRPC port, ``http://host:port`` of its HTTP port,
            ``dns:///name:port`` for all servers behind a name, or several separated by commas.
        transport: ``auto`` (shared memory where the server can map it, otherwise the address's
            protocol), ``grpc``, ``http``, ``shm`` or ``cuda_shm``.
        wire: ``raw`` sends pixels, ``encoded`` sends pictures both ways, over gRPC or HTTP.
            ``auto`` sends pixels through shared memory; elsewhere it measures the link at the
            first call and encodes where that is faster.
        wire_format: format of encoded frames: ``jpeg`` (quality 95) and ``webp`` (90) are lossy,
            ``png`` is exact and slow.
        timeout_s: deadline per request in seconds, including retries.
        max_request_px: largest picture sent in one piece, in pixels before upscaling.

    Raises:
        ValueError: a malformed address, a number that is not positive, or a transport or wire
            that is unknown or does not fit the address.

    """

    url: str = DEFAULT_URL
    transport: TransportName = "auto"
    wire: WireName = "raw"
    wire_format: PictureFormat = DEFAULT_PICTURE_FORMAT
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_request_px: int = DEFAULT_MAX_REQUEST_PX

    def __post_init__(self) -> None:
        """Reject settings that cannot work."""
        for name in ("timeout_s", "max_request_px"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        choices = {"transport": TransportName, "wire": WireName, "wire_format": PictureFormat}
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(allowed))}, "
                    f"got {getattr(self, name)!r}"
                )
