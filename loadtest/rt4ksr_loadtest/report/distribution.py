"""The latency histogram of a result, opened."""

from __future__ import annotations

import binascii
import zlib
from dataclasses import dataclass

from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram

from rt4ksr_client.errors import LoadTestError
from rt4ksr_loadtest.result import Latency

__all__ = ["Distribution", "distribution_of"]

_UNREADABLE = (
    HdrCookieException,
    HdrLengthException,
    IndexError,
    ValueError,
    binascii.Error,
    zlib.error,
)


@dataclass(frozen=True)
class Distribution:
    """How many right answers took how long: ``counts[i]`` of them took ``latencies_ms[i]``."""

    latencies_ms: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Number of right answers."""
        return sum(self.counts)

    def slower_than(self) -> tuple[float, ...]:
        """Return the share of answers that took longer than each of ``latencies_ms``."""
        total, left, shares = self.total, self.total, []
        for count in self.counts:
            left -= count
            shares.append(left / total)
        return tuple(shares)


def distribution_of(latency: Latency) -> Distribution:
    """Open the histogram of ``latency``; an empty text is a histogram of nothing.

    Raises:
        LoadTestError: it is not HdrHistogram's V2 base64 form.

    """
    if not latency.histogram:
        return Distribution((), ())
    try:
        histogram = HdrHistogram.decode(latency.histogram)
        items = [
            (item.value_iterated_to / 1000, item.count_added_in_this_iter_step)
            for item in histogram.get_recorded_iterator()
        ]
    except _UNREADABLE as exc:
        raise LoadTestError(f"the result's latency histogram cannot be read: {exc}") from exc
    return Distribution(tuple(ms for ms, _ in items), tuple(count for _, count in items))
