"""Thin client of a Triton server that runs RT4KSR: pictures in, 4K pictures out, no torch."""

__version__ = "0.1.0"
