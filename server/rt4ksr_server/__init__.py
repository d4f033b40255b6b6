"""Runs a real tritonserver, from the ``nvidia-pytriton`` wheel where there is no other.

>>> from rt4ksr_server import TritonServer
>>> with TritonServer("model_repository") as server:  # doctest: +SKIP
...     print(server.grpc_url)
"""

from rt4ksr_server.options import default_repository
from rt4ksr_server.triton_server import TritonServer

__all__ = ["TritonServer", "default_repository"]
