"""The load test as Locust loads it: ``locust -f locustfile.py --host 127.0.0.1:8001``."""

from rt4ksr_loadtest.plugin import connect
from rt4ksr_loadtest.users import FrameUser

__all__ = ["FrameUser"]

connect()
