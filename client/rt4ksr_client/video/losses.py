"""Tags, flags and chapters of a source that its output cannot hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from av.container import InputContainer
from av.stream import Disposition, Stream

from rt4ksr_client.video.containers import is_cover, kept_metadata

__all__ = ["losses"]

NAMED: Final = 8
"""How many tags are named."""
NOT_OF_STREAMS: Final = {"creation_time", "timecode"}
"""Tags that the whole file has, too, or that are looked after elsewhere."""


def losses(source: InputContainer, kept: Iterable[int], output: InputContainer) -> Iterator[str]:
    """Yield what ``output`` has lost; ``kept`` are the indices of the streams that are in it."""
    if lost := missing(source.metadata, output.metadata):
        yield f"the tags {listed(lost)}"
    if len(output.chapters()) < len(source.chapters()):
        yield "chapters"
    copies: dict[str, list[Stream]] = {}
    for copy in output.streams:
        if not is_cover(copy):
            copies.setdefault(copy.type, []).append(copy)
    for index in kept:
        stream = source.streams[index]
        if is_cover(stream) or not copies.get(stream.type):
            continue
        copy = copies[stream.type].pop(0)
        lost = missing(stream.metadata, copy.metadata) - NOT_OF_STREAMS
        flags = stream.disposition & ~copy.disposition & ~Disposition.default
        lost |= {str(flag.name) for flag in Disposition if flag & flags}
        if lost:
            yield f"{listed(lost)} of {stream.type} stream {index}"


def missing(original: Mapping[str, str], copy: Mapping[str, str]) -> set[str]:
    """Return the tags that ``copy`` has not got, in any spelling of Matroska's or of MP4's."""
    found = {key.lower() for key in kept_metadata(copy)}
    return {
        key
        for key, value in kept_metadata(original).items()
        if not {key.lower(), re.sub("-[a-z]{3}$", "", key.lower())} & found and value != "und"
    }


def listed(names: set[str]) -> str:
    """Return ``names`` in a line."""
    first = sorted(names)[:NAMED]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(first) + more
