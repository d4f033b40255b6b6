"""The load test for Locust: ``locust -f loadtest/locustfile.py --host 127.0.0.1:8001``.

Its options are those that ``rt4ksr loadtest --help`` lists, with ``--load-profile`` for
``--profile``.
"""

from rt4ksr_loadtest.locustfile import FrameUser

__all__ = ["FrameUser"]
