"""The quantizer of a VP8 key frame, which is what a lossy WebP holds (RFC 6386)."""

from __future__ import annotations

__all__ = ["base_quantizer"]

_HEADER_BYTES = 10
"""Frame tag, start code and size; then the first partition begins."""


class _Booleans:
    """The decoder of section 7: bits, of which each has a probability of being 0."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:2], "big")
        self._data = data
        self._position, self._range, self._shifts = 2, 255, 0

    def bit(self) -> int:
        """Return a bit that is as likely 0 as 1."""
        split = 1 + ((self._range - 1) >> 1)
        bit = self._value >= split << 8
        if bit:
            self._range -= split
            self._value -= split << 8
        else:
            self._range = split
        while self._range < 128:
            self._value <<= 1
            self._range <<= 1
            self._shifts += 1
            if self._shifts == 8:
                self._shifts = 0
                if self._position < len(self._data):
                    self._value |= self._data[self._position]
                self._position += 1
        return int(bit)

    def number(self, bits: int) -> int:
        """Return a number, its highest bit first."""
        value = 0
        for _ in range(bits):
            value = value << 1 | self.bit()
        return value

    def skip_optional(self, count: int, bits: int) -> None:
        """Skip numbers of which each is preceded by a bit that says whether it is there."""
        for _ in range(count):
            if self.bit():
                self.number(bits)


def base_quantizer(frame: bytes) -> int:
    """Return the index of the quantizer, ``y_ac_qi`` of section 9.6: 0 to 127, higher is coarser.

    Args:
        frame: a key frame, at least the first 200 bytes.

    """
    booleans = _Booleans(frame[_HEADER_BYTES:])
    booleans.number(2)  # color space, clamping
    if booleans.bit():  # segments
        has_map, has_values = booleans.bit(), booleans.bit()
        if has_values:
            booleans.bit()
            booleans.skip_optional(4, 7 + 1)  # quantizers, with signs
            booleans.skip_optional(4, 6 + 1)  # loop filters
        if has_map:
            booleans.skip_optional(3, 8)
    booleans.number(1 + 6 + 3)  # loop filter
    if booleans.bit() and booleans.bit():
        booleans.skip_optional(8, 6 + 1)
    booleans.number(2)  # partitions
    return booleans.number(7)
