"""Picture files as containers: what they hold beside the picture, which Pillow does not read."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

from isal import isal_zlib
from PIL import Image, JpegImagePlugin, TiffImagePlugin

from rt4ksr_client.formats import xmp
from rt4ksr_client.formats.vp8 import base_quantizer

__all__ = [
    "ANIMATED",
    "PAGED",
    "PNG_SIGNATURE",
    "WEBP_QUANTIZER",
    "Contents",
    "png_chunk",
    "png_chunks",
    "read_contents",
    "unreadable_kind",
    "webp_quantizer",
]

ANIMATED: Final = frozenset({"GIF", "WEBP", "PNG", "AVIF", "FLI"})
"""Formats whose frames follow one another in time; Pillow's names, as below."""

PAGED: Final = frozenset({"TIFF", "DCX"})
"""Formats with several pages."""


WEBP_QUANTIZER: Final = "webp_quantizer"
"""Key of ``info``: :func:`webp_quantizer` of the file."""

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_COLOR: Final = frozenset({b"cICP", b"sRGB", b"gAMA", b"cHRM"})
_TEXTS: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_METADATA_TEXTS: Final = (b"XML:com.adobe.xmp\0", b"Raw profile type ", b"Comment\0")
_MOST_TEXT_BYTES: Final = 8 * 2**20
_NAMED_CHUNKS: Final = {
    b"caBX": "Content Credentials (C2PA)",
    b"mDCV": "mastering display (mDCV)",
    b"cLLI": "light level (cLLI)",
    b"oFFs": "page position (oFFs)",
    b"sTER": "stereo layout (sTER)",
    b"npTc": "nine-patch layout (npTc)",
}
_AUXILIARY: Final = {
    "hdrgainmap": "HDR gain map",
    "auxid:2": "depth map",
    "auxiliary:depth": "depth map",
    "disparity": "depth map",
    "matte": "portrait mattes",
    "semantic": "portrait mattes",
}
_C2PA_UUID: Final = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_LARGEST_HEADER_BYTES: Final = 16 * 2**20
_GEOREFERENCE: Final = frozenset({33550, 33922, 34264, 34735})
_PHOTOSHOP_LAYERS: Final = 37724
_SUBFILE_TYPE, _SUB_DIRECTORIES, _DNG_VERSION = 254, 330, 50706
_PHOTOSHOP_PATHS: Final = range(2000, 2998)
_SAMSUNG_MOTION_PHOTO: Final = 0x0A30
_VP8_HEADER_BYTES: Final = 200


@dataclass(frozen=True)
class Contents:
    """What a file holds beside what Pillow reads.

    Args:
        primaries: colour primaries and
        transfer: curve, as numbers of ISO/IEC 23091-2; None where the file has none.
        bits: of a channel, where Pillow reduces them to 8 without a warning.
        icc_profile: empty where Pillow reads it, or there is none.
        png_color: chunks of a PNG that state its colour space, as they are in the file.
        png_texts: likewise, its texts.
        left_out: names of what no upscaled picture has.
        is_raw: a camera's raw file, of which Pillow reads the small preview.
        is_truncated: a file whose end is missing, where Pillow's decoder does not say so.
        webp_quantizer: see :func:`webp_quantizer`.

    """

    primaries: int | None = None
    transfer: int | None = None
    bits: int = 8
    icc_profile: bytes = b""
    png_color: bytes = b""
    png_texts: bytes = b""
    left_out: tuple[str, ...] = ()
    is_raw: bool = False
    is_truncated: bool = False
    webp_quantizer: int | None = None


def read_contents(stream: IO[bytes], image: Image.Image) -> Contents:
    """Return what the file of ``image`` holds, before its pixels are loaded.

    ``stream`` is the file; its position changes. Of a broken file, what could be read.
    """
    read = _READERS.get(image.format or "")
    if read is None:
        return Contents(bits=_bits(image))
    stream.seek(0)
    try:
        return read(stream, image)
    except (struct.error, ValueError, LookupError):  # the decoder says what is broken
        return Contents()


def unreadable_kind(stream: IO[bytes]) -> str | None:
    """Say what a file is that Pillow does not know, with what to do, or None: not a picture."""
    start = stream.read(64)
    if start.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return "JPEG XL, which cannot be read: convert it to PNG first"
    if start.startswith(b"v/1\x01"):
        return "OpenEXR, which cannot be read: tone-map it to PNG first"
    if start.startswith((b"#?RADIANCE", b"#?RGBE")):
        return "Radiance HDR, which cannot be read: tone-map it to PNG first"
    if start[4:8] == b"ftyp" or start[:4] in (b"\x1aE\xdf\xa3", b"OggS"):
        return "not a picture that can be read; a video needs 'rt4ksr video'"
    if start.lstrip().startswith((b"<svg", b"<?xml")):
        return "not pixels: draw it at the size you want instead of upscaling it"
    if start.startswith(b"\xff\xd8\xff"):
        return "a JPEG of a kind that cannot be read: of 12 bits, lossless, or broken"
    return None


def png_chunks(stream: IO[bytes], *, pixels: bool = True) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each chunk, from the position of ``stream`` behind the signature.

    Ends where the file does; a chunk that is cut off is left out. Without ``pixels``, so are those
    of pixels.
    """
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if not pixels and kind in (b"IDAT", b"fdAT"):
            stream.seek(length + 4, os.SEEK_CUR)
            continue
        content = stream.read(length)
        if len(content) < length or len(stream.read(4)) < 4:
            return
        yield kind, content


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk as it is in a file, with its length and checksum."""
    checksum = isal_zlib.crc32(content, isal_zlib.crc32(kind))
    return b"".join([struct.pack(">I4s", len(content), kind), content, struct.pack(">I", checksum)])


def _bits(image: Image.Image) -> int:
    """Return the bits of a channel that Pillow's decoder reduces to 8."""
    if image.mode.startswith(("I", "F")):
        return 8  # it keeps them
    for tile in getattr(image, "tile", ()):
        arguments = tile[3]
        if ";16" in str(arguments) or tile[0] == "SGI16":
            return 16
        if tile[0] in ("ppm", "ppm_plain") and arguments[1] > 255:
            return 16
    return 8


def _read_png(stream: IO[bytes], image: Image.Image) -> Contents:
    stream.seek(len(PNG_SIGNATURE))
    primaries = transfer = None
    color, texts, left_out = bytearray(), bytearray(), list[str]()
    for kind, content in png_chunks(stream, pixels=False):
        if kind in _TEXTS and content.startswith(_METADATA_TEXTS):
            continue
        if kind == b"cICP" and len(content) == 4:
            primaries, transfer = content[0], content[1]
        if kind in _COLOR and len(content) <= 32:
            color += png_chunk(kind, content)
        elif kind in _TEXTS and len(texts) + len(content) < _MOST_TEXT_BYTES:
            texts += png_chunk(kind, content)
        elif kind in _TEXTS:
            left_out.append("text of more than 8 MB")
        elif kind == b"pHYs" and content[8:] == b"\0" and content[:4] != content[4:8]:
            left_out.append("shape of its pixels (pHYs)")
        elif kind in _NAMED_CHUNKS:
            left_out.append(_NAMED_CHUNKS[kind])
    return Contents(
        primaries,
        transfer,
        bits=_bits(image),
        png_color=bytes(color),
        png_texts=bytes(texts),
        left_out=tuple(left_out),
    )


def _read_jpeg(stream: IO[bytes], image: Image.Image) -> Contents:
    assert isinstance(image, JpegImagePlugin.JpegImageFile)  # noqa: S101 - its format is JPEG
    left_out = list[str]()
    for segment, content in image.applist:
        if segment == "APP2" and content.startswith(b"urn:iso:std:iso:ts:21496:-1"):
            left_out.append("HDR gain map")
        elif segment == "APP1" and content.startswith(b"http://ns.adobe.com/xmp/extension/"):
            left_out.append("extended XMP")
        elif segment == "APP1" and content.startswith(b"FLIR\0"):
            left_out.append("thermal data (FLIR)")
        elif segment == "APP11" and b"c2pa" in content[:200]:
            left_out.append("Content Credentials (C2PA)")
    if any(code in _PHOTOSHOP_PATHS for code in image.info.get("photoshop", {})):
        left_out.append("clipping paths")
    described = [*left_out, *xmp.names_of_left_out(image.info.get("xmp", b""))]
    left_out += _further_pictures(image, has_gain_map="HDR gain map" in described)
    if _has_samsung_video(stream):
        left_out.append("video of a motion photo")
    return Contents(left_out=tuple(left_out))


def _further_pictures(image: Image.Image, has_gain_map: bool) -> Iterator[str]:
    """Name what the Multi-Picture Format lists beside the picture, its previews and gain map."""
    entries = (getattr(image, "mpinfo", None) or {}).get(0xB002, ())[1:]
    kinds = [str(entry["Attribute"]["MPType"]) for entry in entries]
    others = [kind for kind in kinds if "Thumbnail" not in kind][has_gain_map:]
    if any("Disparity" in kind for kind in others):
        yield "second picture of a stereo pair"
    elif others:
        yield "second picture (MPF)" if len(others) == 1 else f"{len(others)} more pictures (MPF)"


def _has_samsung_video(stream: IO[bytes]) -> bool:
    """Whether a trailer, whose directory is at the file's end, has a video."""
    stream.seek(0, os.SEEK_END)
    end = stream.tell()
    if end < 8:
        return False
    stream.seek(end - 8)
    length, signature = struct.unpack("<I4s", stream.read(8))
    if signature != b"SEFT" or not 12 <= length <= min(end - 8, 2**16):
        return False
    stream.seek(end - 8 - length)
    directory = stream.read(length)
    kinds = [struct.unpack_from("<2xH", directory, at)[0] for at in range(12, length - 11, 12)]
    return directory[:4] == b"SEFH" and _SAMSUNG_MOTION_PHOTO in kinds


def _read_webp(stream: IO[bytes], image: Image.Image) -> Contents:
    chunks = dict(_webp_chunks(stream))
    left_out = ("Content Credentials (C2PA)",) if b"C2PA" in chunks else ()
    return Contents(left_out=left_out, webp_quantizer=_vp8_quantizer(chunks))


def webp_quantizer(stream: IO[bytes]) -> int | None:
    """Return the quantizer of a WebP, or of a frame of it; None if it is lossless, or no WebP.

    See :func:`rt4ksr_client.formats.vp8.base_quantizer`.
    """
    return _vp8_quantizer(dict(_webp_chunks(stream))) if stream.read(4) == b"RIFF" else None


def _vp8_quantizer(chunks: Mapping[bytes, bytes]) -> int | None:
    return base_quantizer(chunks[b"VP8 "]) if b"VP8 " in chunks else None


def _webp_chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and beginning of each chunk, those within the frames of an animation included."""
    stream.seek(12)
    while len(head := stream.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        # A frame is 16 bytes and then chunks of its own.
        length = 16 if kind == b"ANMF" else length + length % 2
        start = stream.read(min(length, _VP8_HEADER_BYTES))
        yield kind, start
        stream.seek(length - len(start), os.SEEK_CUR)


def _read_tiff(stream: IO[bytes], image: Image.Image) -> Contents:
    assert isinstance(image, TiffImagePlugin.TiffImageFile)  # noqa: S101 - its format is TIFF
    left_out = []
    if _GEOREFERENCE & set(image.tag_v2):
        left_out.append("georeference")
    if _PHOTOSHOP_LAYERS in image.tag_v2:
        left_out.append("layers (Photoshop)")
    is_raw = _DNG_VERSION in image.tag_v2 or (
        bool(image.tag_v2.get(_SUBFILE_TYPE, 0) & 1) and _SUB_DIRECTORIES in image.tag_v2
    )
    stream.seek(8)
    is_raw = is_raw or stream.read(2) == b"CR"
    return Contents(bits=_bits(image), left_out=tuple(left_out), is_raw=is_raw)


def _read_psd(stream: IO[bytes], image: Image.Image) -> Contents:
    return Contents(left_out=("layers",) if getattr(image, "n_frames", 1) > 1 else ())


def _read_gif(stream: IO[bytes], image: Image.Image) -> Contents:
    name, _ = image.info.get("extension", (b"", 0))
    return Contents(left_out=("XMP",) if name.startswith(b"XMP Data") else ())


def _read_bmp(stream: IO[bytes], image: Image.Image) -> Contents:
    """Read the colour profile that version 5 of the format may have."""
    header = stream.read(14 + 124)
    (length,) = struct.unpack_from("<I", header, 14)
    if length < 124 or header[14 + 56 : 14 + 60] != b"DEBM":  # 'MBED', little-endian
        return Contents()
    at, size = struct.unpack_from("<II", header, 14 + 112)
    stream.seek(14 + at)
    return Contents(icc_profile=stream.read(min(size, _LARGEST_HEADER_BYTES)))


def _read_jpeg2000(stream: IO[bytes], image: Image.Image) -> Contents:
    profile, bits, left_out = b"", 8, list[str]()
    for kind, content in _boxes(stream, {b"jp2h", b"uuid"}):
        if kind == b"uuid" and content.startswith(_C2PA_UUID):
            left_out.append("Content Credentials (C2PA)")
        if kind != b"jp2h":
            continue
        for inner, value in _boxes(io.BytesIO(content)):
            if inner == b"ihdr" and value[10] != 255:
                bits = (value[10] & 0x7F) + 1
            elif inner == b"colr" and value[0] == 2:
                profile = value[3:]
    return Contents(
        bits=8 if image.mode.startswith("I") else bits,
        icc_profile=profile,
        left_out=tuple(left_out),
        is_truncated=not _ends_jpeg2000(stream),
    )


def _ends_jpeg2000(stream: IO[bytes]) -> bool:
    """Whether the codestream has its end marker, in a box or alone."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if stream.read(4) != b"\xff\x4f\xff\x51":
        at = 0
        while at + 8 <= end:
            stream.seek(at)
            length, kind = struct.unpack(">I4s", stream.read(8))
            if length == 1:
                (length,) = struct.unpack(">Q", stream.read(8))
            box_end = at + length if length else end
            if kind == b"jp2c":
                end = min(end, box_end) if box_end <= end else 0
                break
            if length < 8 and length != 0:
                return False
            at = box_end
    stream.seek(max(0, end - 64))
    return stream.read(min(64, end)).rstrip(b"\0").endswith(b"\xff\xd9")


def _read_heif(stream: IO[bytes], image: Image.Image) -> Contents:
    """Read the properties of the primary item, and what other items there are (ISO 23008-12)."""
    left_out = dict[str, None]()
    meta: Mapping[bytes, bytes] = {}
    for kind, content in _boxes(stream, {b"meta", b"uuid"}):
        if kind == b"uuid" and content.startswith(_C2PA_UUID):
            left_out["Content Credentials (C2PA)"] = None
        elif kind == b"meta":
            meta = dict(_boxes(io.BytesIO(content[4:])))
    properties = dict(_boxes(io.BytesIO(meta[b"iprp"])))
    all_properties = list(_boxes(io.BytesIO(properties[b"ipco"])))
    if b"tmap" in meta.get(b"iinf", b""):
        left_out["HDR gain map"] = None
    for kind, content in all_properties:
        if kind == b"auxC":
            for word, name in _AUXILIARY.items():
                if word.encode() in content:
                    left_out[name] = None
    primaries = transfer = None
    bits = 8
    for index in _associations(properties[b"ipma"], _primary_item(meta[b"pitm"])):
        kind, content = all_properties[index - 1]
        if kind == b"colr" and content[:4] == b"nclx":
            primaries, transfer = struct.unpack_from(">HH", content, 4)
        elif kind == b"pixi":
            bits = max(content[5 : 5 + content[4]])
        elif kind == b"av1C" and content[2] & 0x40:
            bits = max(bits, 12 if content[2] & 0x20 else 10)
        elif kind == b"hvcC":
            bits = max(bits, (content[17] & 7) + 8)
    return Contents(primaries, transfer, bits, left_out=tuple(left_out))


def _primary_item(content: bytes) -> int:
    return int.from_bytes(content[4:8] if content[0] else content[4:6], "big")


def _associations(content: bytes, item: int) -> list[int]:
    """Return the numbers, from 1, of the properties of an item."""
    version, long_indices = content[0], content[3] & 1
    (count,) = struct.unpack_from(">I", content, 4)
    at = 8
    for _ in range(count):
        (found,) = struct.unpack_from(">H" if version < 1 else ">I", content, at)
        at += 2 if version < 1 else 4
        number, width = content[at], 1 + long_indices
        at += 1
        if found == item:
            mask = 0x7FFF if long_indices else 0x7F
            parts = [content[at + width * i : at + width * (i + 1)] for i in range(number)]
            return [int.from_bytes(part, "big") & mask for part in parts]
        at += width * number
    return []


def _boxes(
    stream: IO[bytes], wanted: frozenset[bytes] | set[bytes] | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each box at the position of ``stream``; of those wanted."""
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        header_bytes = 8
        if length == 1:
            (length,) = struct.unpack(">Q", stream.read(8))
            header_bytes = 16
        to_end = length == 0
        if not to_end and length < header_bytes:
            return
        body_bytes = length - header_bytes
        if wanted is None or kind in wanted:
            if to_end or body_bytes > _LARGEST_HEADER_BYTES:
                return
            yield kind, stream.read(body_bytes)
        elif to_end or body_bytes >= 2**62:
            return
        else:
            stream.seek(body_bytes, os.SEEK_CUR)


_READERS: Final[Mapping[str, Callable[[IO[bytes], Any], Contents]]] = {
    "PNG": _read_png,
    "JPEG": _read_jpeg,
    "MPO": _read_jpeg,
    "WEBP": _read_webp,
    "AVIF": _read_heif,
    "HEIF": _read_heif,
    "TIFF": _read_tiff,
    "PSD": _read_psd,
    "GIF": _read_gif,
    "BMP": _read_bmp,
    "JPEG2000": _read_jpeg2000,
}
