"""A profile as one of Locust's load test shapes."""

from __future__ import annotations

from locust import LoadTestShape

from rt4ksr_loadtest.profiles import Course

__all__ = ["ProfileShape"]


class ProfileShape(LoadTestShape):
    """Has Locust follow ``course``."""

    use_common_options = True

    def __init__(self, course: Course) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._course = course

    def tick(self) -> tuple[int, float] | None:
        """Return users and spawn rate for now; None when it is over."""
        return self._course.tick()
