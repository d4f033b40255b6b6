"""Latencies are counted here: in HdrHistograms, whose size does not grow with their number."""

from __future__ import annotations

import binascii
import math
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from rt4ksr_client.errors import LoadTestError

__all__ = [
    "SIGNIFICANT_DIGITS",
    "Distribution",
    "LatencyHistogram",
    "PackedHistogram",
    "read_distribution",
]

SIGNIFICANT_DIGITS: Final = 3
"""A percentile is at most 0.1 % above the latency it stands for, and never below."""

LONGEST_US: Final = 3_600_000_000
"""Longer latencies count as one hour."""

UNREADABLE: Final = (
    HdrCookieException,
    HdrLengthException,
    IndexError,
    ValueError,
    binascii.Error,
    zlib.error,
)


class PackedHistogram(msgspec.Struct, frozen=True):
    """A :class:`LatencyHistogram` in a few hundred bytes, to keep and to send.

    ``encoded`` is HdrHistogram's V2 base64 form, or empty if nothing was recorded. Sum and maximum
    are exact.
    """

    encoded: str = ""
    sum_us: int = 0
    max_us: int = 0

    def __add__(self, other: PackedHistogram) -> PackedHistogram:
        """Return the histogram of the latencies of both."""
        if not (self.encoded and other.encoded):
            return self if self.encoded else other
        return LatencyHistogram(self, other).pack()

    def percentiles_ms(self, *percents: float) -> tuple[float, ...]:
        """See :meth:`LatencyHistogram.percentiles_ms`; those of recent histograms are cached."""
        return _percentiles_ms(self, percents)


class LatencyHistogram:
    """Counts latencies of 0 to :data:`LONGEST_US` microseconds, in 190 KB whatever their number.

    Args:
        packed: histograms to begin with, added up.

    """

    def __init__(self, *packed: PackedHistogram) -> None:
        encoded = [other.encoded for other in packed if other.encoded]
        if encoded:
            self._histogram = HdrHistogram.decode(encoded[0])
        else:
            self._histogram = HdrHistogram(1, LONGEST_US, SIGNIFICANT_DIGITS)
        for other in encoded[1:]:
            self._histogram.decode_and_add(other)
        self.sum_us = sum(other.sum_us for other in packed)
        self.max_us = max((other.max_us for other in packed), default=0)

    def record(self, latency_s: float) -> None:
        """Count one latency."""
        latency_us = min(max(0, round(latency_s * 1e6)), LONGEST_US)
        self._histogram.record_value(latency_us)
        self.sum_us += latency_us
        self.max_us = max(self.max_us, latency_us)

    @property
    def count(self) -> int:
        """Number of latencies."""
        return int(self._histogram.get_total_count())

    @property
    def mean_ms(self) -> float:
        """Mean of all latencies; 0 if there are none."""
        return self.sum_us / 1e3 / max(1, self.count)

    def percentiles_ms(self, *percents: float) -> tuple[float, ...]:
        """Return for each of ``percents`` the least latency that so many do not exceed.

        That is the nearest rank, to :data:`SIGNIFICANT_DIGITS`; 0 if there are no latencies.
        """
        if not self.count:
            return (0.0,) * len(percents)
        up_to = np.cumsum(_counts(self._histogram))
        ranks = [max(1, math.ceil(percent / 100 * self.count)) for percent in percents]
        found_us = [
            _value_us(self._histogram, index) for index in np.searchsorted(up_to, ranks).tolist()
        ]
        return tuple(min(value_us, self.max_us) / 1e3 for value_us in found_us)

    def pack(self) -> PackedHistogram:
        """Return a copy to keep or send."""
        if not self.count:
            return PackedHistogram()
        encoded: bytes = self._histogram.encode()
        return PackedHistogram(encoded.decode(), self.sum_us, self.max_us)


@lru_cache(maxsize=2048)
def _percentiles_ms(packed: PackedHistogram, percents: tuple[float, ...]) -> tuple[float, ...]:
    return LatencyHistogram(packed).percentiles_ms(*percents)


@dataclass(frozen=True)
class Distribution:
    """How many answers took how long: ``counts[i]`` of them took ``latencies_ms[i]``."""

    latencies_ms: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Number of answers."""
        return sum(self.counts)

    def slower_than(self) -> tuple[float, ...]:
        """Return the share of answers that took longer than each of ``latencies_ms``."""
        total = self.total
        return tuple(((total - np.cumsum(self.counts)) / total).tolist())


def read_distribution(encoded: str) -> Distribution:
    """Read :attr:`PackedHistogram.encoded`.

    Raises:
        LoadTestError: it is not HdrHistogram's V2 base64 form.

    """
    if not encoded:
        return Distribution((), ())
    try:
        histogram = HdrHistogram.decode(encoded)
    except UNREADABLE as exc:
        raise LoadTestError(f"the result's latency histogram cannot be read: {exc}") from exc
    counts = _counts(histogram)
    used = np.flatnonzero(counts)
    return Distribution(
        latencies_ms=tuple(_value_us(histogram, index) / 1e3 for index in used.tolist()),
        counts=tuple(counts[used].tolist()),
    )


def _counts(histogram: HdrHistogram) -> NDArray[np.int64]:
    """Return a view of the counts of all buckets, in the order of their latencies."""
    return np.frombuffer(histogram.counts, np.int64)


def _value_us(histogram: HdrHistogram, index: int) -> int:
    """Return the largest latency of a bucket."""
    return int(histogram.get_highest_equivalent_value(histogram.get_value_from_index(index)))
