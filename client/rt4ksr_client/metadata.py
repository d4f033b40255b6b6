"""Keep a picture's metadata: read it from any format, write it to any format that can store it.

:func:`collect` returns exactly what the upscaled picture may keep: ``icc_profile``, ``exif``,
``xmp``, ``iptc`` (raw IIM records) and ``dpi``. :func:`save_options` turns that into arguments of
Pillow's encoder for a format, and names what the format cannot store. Thumbnails and the layout
tags of TIFF are dropped: they describe the small picture.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from PIL import (
    ExifTags,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)

__all__ = [
    "KEPT",
    "SUBSAMPLED",
    "FormatSupport",
    "collect",
    "is_subsampled",
    "read_dpi",
    "read_exif",
    "read_iptc",
    "read_xmp",
    "save_options",
    "upright",
]

KEPT: Final = ("icc_profile", "exif", "xmp", "iptc", "dpi")

SUBSAMPLED: Final = "chroma_subsampled"
"""True in ``info`` if the source was a JPEG with subsampled chroma: at twice the size, chroma at
half the resolution holds the same detail."""

_SUBSAMPLINGS: Final = (1, 2)  # 4:2:2 and 4:2:0, as Pillow numbers them
_IPTC_TAG, _XMP_TAG, _PHOTOSHOP_IPTC = 33723, 700, 0x0404
_EXIF_TAGS: Final = frozenset(
    {
        ExifTags.Base.ImageDescription,
        ExifTags.Base.Make,
        ExifTags.Base.Model,
        ExifTags.Base.Software,
        ExifTags.Base.DateTime,
        ExifTags.Base.Artist,
        ExifTags.Base.HostComputer,
        ExifTags.Base.Rating,
        ExifTags.Base.Copyright,
        ExifTags.Base.XPTitle,
        ExifTags.Base.XPComment,
        ExifTags.Base.XPAuthor,
        ExifTags.Base.XPKeywords,
        ExifTags.Base.XPSubject,
    }
)
_RESOLUTION_TAGS: Final = (ExifTags.Base.XResolution, ExifTags.Base.YResolution)
_SIZE_TAGS: Final = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)


def upright(image: Image.Image) -> Image.Image:
    """Return the picture rotated as its EXIF orientation says, without that tag."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image  # itself: a copy would not know its format
    rotated = ImageOps.exif_transpose(image)
    rotated.info[SUBSAMPLED] = is_subsampled(image)
    return rotated


def collect(image: Image.Image) -> dict[str, Any]:
    """Return the metadata of ``image``, by :data:`KEPT` and :data:`SUBSAMPLED`; empty is left out.

    ``dpi`` is a pair of floats, pixels per inch across and down; the others but
    :data:`SUBSAMPLED` are bytes.
    """
    found = {
        "icc_profile": image.info.get("icc_profile"),
        "exif": read_exif(image),
        "xmp": read_xmp(image),
        "iptc": read_iptc(image),
        "dpi": read_dpi(image),
        SUBSAMPLED: image.info.get(SUBSAMPLED) or is_subsampled(image),
    }
    return {name: value for name, value in found.items() if value}


def save_options(info: Mapping[str, Any], format_name: str) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of ``Image.save`` that write ``info``, and the names it cannot store."""
    kept = {name: info[name] for name in KEPT if info.get(name)}
    support = _SUPPORT.get(format_name, FormatSupport(frozenset()))
    dropped = [name for name in kept if not support.can_store(name, kept[name])]
    for name in dropped:
        del kept[name]
    return support.to_options(kept), dropped


@dataclass(frozen=True)
class FormatSupport:
    """The metadata that a format can store, and the arguments of Pillow's encoder that write it."""

    names: frozenset[str]
    to_options: Callable[[dict[str, Any]], dict[str, Any]] = dict
    limit_bytes: int | None = None

    def can_store(self, name: str, value: Any) -> bool:
        """Whether the format stores metadata of this kind and size."""
        fits = (
            self.limit_bytes is None
            or name in ("dpi", "icc_profile")  # a profile is split into several segments
            or len(value) <= self.limit_bytes
        )
        return name in self.names and fits


def is_subsampled(image: Image.Image) -> bool:
    """Whether ``image`` is a JPEG file with chroma at half the resolution (4:2:2 or 4:2:0)."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return False
    return JpegImagePlugin.get_sampling(image) in _SUBSAMPLINGS


def read_exif(image: Image.Image) -> bytes:
    """Return the EXIF data that also describes the upscaled picture, encoded; or nothing."""
    source = image.getexif()
    exif = Image.Exif()
    for tag in _EXIF_TAGS & set(source):
        exif[tag] = source[tag]
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        values = {
            tag: value
            for tag, value in source.get_ifd(ifd).items()
            if tag not in _SIZE_TAGS and not isinstance(value, dict)
        }
        if values:
            exif.get_ifd(ifd).update(values)
            exif[ifd] = values
    return exif.tobytes() if len(exif) else b""


def read_xmp(image: Image.Image) -> bytes:
    """Return the XMP packet, or nothing."""
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return xmp.encode() if isinstance(xmp, str) else bytes(xmp)


def read_iptc(image: Image.Image) -> bytes:
    """Return the raw IPTC-IIM records, or nothing."""
    if "iptc" in image.info:
        return bytes(image.info["iptc"])
    photoshop = image.info.get("photoshop")
    if isinstance(photoshop, dict) and isinstance(photoshop.get(_PHOTOSHOP_IPTC), bytes):
        return bytes(photoshop[_PHOTOSHOP_IPTC])
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tag = image.tag_v2.get(_IPTC_TAG, b"")
        return tag if isinstance(tag, bytes) else b""
    # Other programs store IPTC in a PNG as text: a name, the length, hexadecimal digits.
    raw_profile = image.info.get("Raw profile type iptc", "")
    try:
        return bytes.fromhex("".join(raw_profile.split()[2:]))
    except ValueError:
        return b""


def read_dpi(image: Image.Image) -> tuple[float, float] | None:
    """Return pixels per inch across and down; WebP and AVIF have them in their EXIF only."""
    resolution, per_inch = image.info.get("dpi"), 1.0
    try:
        if resolution is None:
            exif = image.getexif()
            per_inch = {2: 1.0, 3: 2.54}[exif.get(ExifTags.Base.ResolutionUnit, 2)]
            resolution = [exif[tag] for tag in _RESOLUTION_TAGS]
        across, down = (float(value) * per_inch for value in resolution)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def _dpi_in_exif(kept: dict[str, Any]) -> dict[str, Any]:
    if dpi := kept.pop("dpi", None):
        exif = Image.Exif()
        exif.load(kept.get("exif", b""))
        for tag, value in zip(_RESOLUTION_TAGS, dpi, strict=True):
            exif[tag] = value
        exif[ExifTags.Base.ResolutionUnit] = 2
        kept["exif"] = exif.tobytes()
    return kept


def _jpeg(kept: dict[str, Any]) -> dict[str, Any]:
    if iptc := kept.pop("iptc", b""):
        # An APP13 segment with one image resource, as Photoshop writes it.
        padded = iptc + b"\0" * (len(iptc) % 2)
        resource = b"8BIM" + struct.pack(">HHI", _PHOTOSHOP_IPTC, 0, len(iptc)) + padded
        body = b"Photoshop 3.0\0" + resource
        kept["extra"] = b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
    return kept


def _png(kept: dict[str, Any]) -> dict[str, Any]:
    texts = PngImagePlugin.PngInfo()
    if xmp := kept.pop("xmp", b""):
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    if iptc := kept.pop("iptc", b""):
        profile = f"\niptc\n{len(iptc):8}\n{iptc.hex()}\n"
        texts.add_text("Raw profile type iptc", profile, zip=True)
    return {**kept, "pnginfo": texts}


def _tiff(kept: dict[str, Any]) -> dict[str, Any]:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, tag in (("xmp", _XMP_TAG), ("iptc", _IPTC_TAG)):
        if value := kept.pop(name, b""):
            directory.tagtype[tag] = 1 if name == "xmp" else 7
            directory[tag] = value
    if exif := kept.pop("exif", b""):
        source = Image.Exif()
        source.load(exif)
        for tag in set(source):
            nested = tag in tuple(ExifTags.IFD)
            directory[tag] = source.get_ifd(tag) if nested else source[tag]
            if nested:
                kept["compression"] = "raw"  # libtiff, which compresses, writes no nested tags
    return {**kept, "tiffinfo": directory}


_ALL: Final = frozenset(KEPT)
_WITHOUT_IPTC: Final = _ALL - {"iptc"}
_SUPPORT: Final = {
    "JPEG": FormatSupport(_ALL, _jpeg, limit_bytes=65_000),  # a segment has 64 KiB
    "PNG": FormatSupport(_ALL, _png),
    "TIFF": FormatSupport(_ALL, _tiff),
    "WEBP": FormatSupport(_WITHOUT_IPTC, _dpi_in_exif),
    "AVIF": FormatSupport(_WITHOUT_IPTC, _dpi_in_exif),
    "BMP": FormatSupport(frozenset({"dpi"})),
}
