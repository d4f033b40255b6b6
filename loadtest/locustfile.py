"""``locust -f loadtest/locustfile.py --host 127.0.0.1:8001``; ``--help`` tells the options."""

from rt4ksr_loadtest.locustfile import FrameUser

__all__ = ["FrameUser"]
