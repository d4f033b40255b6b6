"""Thin client of a Triton server that runs RT4KSR: pictures in, 4K pictures out, no torch."""

import logging

from rt4ksr_client.async_upscaler import AsyncUpscaler
from rt4ksr_client.call import Cancellation
from rt4ksr_client.connection import Connection
from rt4ksr_client.errors import Rt4ksrError
from rt4ksr_client.frames import Yuv420
from rt4ksr_client.security import Security, UnencryptedWarning
from rt4ksr_client.served_model import ServedModel
from rt4ksr_client.upscaler import Upscaler

__version__ = "0.1.0"

__all__ = [
    "AsyncUpscaler",
    "Cancellation",
    "Connection",
    "Rt4ksrError",
    "Security",
    "ServedModel",
    "UnencryptedWarning",
    "Upscaler",
    "Yuv420",
    "__version__",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
