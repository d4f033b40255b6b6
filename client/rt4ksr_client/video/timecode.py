"""Time codes of SMPTE ST 12, which number a camera's frames by the time of day."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

__all__ = ["later_timecode"]

TIMECODE: Final = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d+)")


def later_timecode(timecode: str, frames: int, rate: Fraction) -> str:
    """Return the time code ``frames`` later, at ``rate`` frames a second.

    With a semicolon, it is a drop-frame code: each minute but every tenth lacks its first numbers.
    What is no time code is returned as it is.
    """
    found = TIMECODE.fullmatch(timecode)
    per_second = round(rate)
    if not found or not frames or not per_second:
        return timecode
    hours, minutes, seconds, _, frame = found.groups()
    mark = found[4]
    total_minutes = int(hours) * 60 + int(minutes)
    dropped = per_second // 15 if mark in ";." else 0
    number = (total_minutes * 60 + int(seconds)) * per_second + int(frame) + frames
    number -= dropped * (total_minutes - total_minutes // 10)

    tens, rest = divmod(number, 600 * per_second - 9 * dropped)
    number += 9 * dropped * tens
    if rest >= dropped:
        number += dropped * ((rest - dropped) // (60 * per_second - dropped))
    seconds_of_day, number = divmod(number, per_second)
    hour, second = divmod(seconds_of_day % 86_400, 3600)
    return f"{hour:02}:{second // 60:02}:{second % 60:02}{mark}{number:02}"
