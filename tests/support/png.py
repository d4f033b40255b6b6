"""A strict reader of PNG files: https://www.w3.org/TR/png-3, sections 5, 9 and 10."""

from __future__ import annotations

import struct
import zlib

__all__ = ["check_png"]

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_BEFORE_PALETTE = {b"cHRM", b"cICP", b"gAMA", b"iCCP", b"sRGB"}
_BEFORE_PIXELS = _BEFORE_PALETTE | {b"PLTE", b"tRNS", b"pHYs", b"acTL"}
_ONCE = _BEFORE_PIXELS | {b"IHDR", b"eXIf", b"IEND"}


def check_png(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return type and content of each chunk of a file without interlacing.

    Asserts that it has no byte too many, that every length, checksum and place is right, and that
    the pixels are one zlib stream of exactly the rows, each behind a valid filter.
    """
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = [], 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        assert kind.isalpha() and kind[2:3].isupper()
        assert checksum == zlib.crc32(kind + content), kind
        chunks.append((kind, content))
        at += 12 + length
    kinds = [kind for kind, _ in chunks]
    assert at == len(data) and kinds[0] == b"IHDR" and chunks[-1] == (b"IEND", b"")
    for kind in _ONCE:
        assert kinds.count(kind) <= 1, kind
    first = kinds.index(b"IDAT")
    count = kinds.count(b"IDAT")
    assert kinds[first : first + count] == [b"IDAT"] * count
    assert not _BEFORE_PIXELS & set(kinds[first:])
    assert not {b"iCCP", b"sRGB"} <= set(kinds)
    if b"PLTE" in kinds:
        assert not _BEFORE_PALETTE & set(kinds[kinds.index(b"PLTE") :])

    header = struct.unpack(">IIBBBBB", chunks[0][1])
    width, height, depth, color_type, compression, filtering, interlace = header
    assert (compression, filtering, interlace) == (0, 0, 0)
    row_bytes = 1 + (width * depth * _CHANNELS[color_type] + 7) // 8
    inflater = zlib.decompressobj()
    rows = inflater.decompress(b"".join(content for kind, content in chunks if kind == b"IDAT"))
    assert inflater.eof and not inflater.unused_data, "the zlib stream is cut off or goes on"
    assert len(rows) == height * row_bytes
    assert max(rows[::row_bytes]) <= 4
    return chunks
