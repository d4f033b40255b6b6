"""Thin client of a Triton server that runs RT4KSR: pictures in, 4K pictures out, no torch."""

from rt4ksr_client.aio import AsyncUpscaler
from rt4ksr_client.errors import Rt4ksrError
from rt4ksr_client.transports import ServedModel
from rt4ksr_client.upscaler import Upscaler

__version__ = "0.1.0"

__all__ = ["AsyncUpscaler", "Rt4ksrError", "ServedModel", "Upscaler", "__version__"]
