"""Picture files as containers: what is in them beside the picture, which Pillow does not read."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import IO, Final

__all__ = ["PNG_SIGNATURE", "png_chunk", "png_chunks"]

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def png_chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each chunk, from the position of ``stream`` behind the signature.

    Ends where the file does; a chunk that is cut off is left out.
    """
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        content = stream.read(length)
        if len(content) < length or len(stream.read(4)) < 4:
            return
        yield kind, content


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk as it is in a file, with its length and checksum."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
