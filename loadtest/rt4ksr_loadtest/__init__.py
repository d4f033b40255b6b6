"""Load test of a Triton server: frames per second, latency, and whether the answers are right."""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())
