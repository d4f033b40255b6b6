"""What a picture says about itself: kept in Pillow's ``info``, read from and written to any format.

:func:`collect` leaves in ``info`` exactly what the enlarged picture may keep: ``icc_profile``,
``exif``, ``xmp``, ``iptc`` (raw IIM records), ``dpi``. :func:`save_options` turns that into what
Pillow's encoder of a format takes, and says what the format has no place for. Thumbnails and the
layout tags of TIFF are dropped: they describe the small picture.
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

__all__ = ["KEPT", "SUBSAMPLED", "collect", "save_options", "upright"]

KEPT: Final = ("icc_profile", "exif", "xmp", "iptc", "dpi")

SUBSAMPLED: Final = "chroma_subsampled"
"""In ``info`` of what was a JPEG with colours at half the resolution: twice as large, half the
resolution holds them again."""

_HALVED: Final = (1, 2)  # 4:2:2 and 4:2:0, as Pillow numbers them
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
    """Return the picture turned as its EXIF orientation says, without that tag."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image  # itself: a copy would not know its format
    turned = ImageOps.exif_transpose(image)
    turned.info[SUBSAMPLED] = _is_subsampled(image)
    return turned


def collect(image: Image.Image) -> dict[str, Any]:
    """Return what ``image`` says about itself, by :data:`KEPT` and :data:`SUBSAMPLED`."""
    found = {
        "icc_profile": image.info.get("icc_profile"),
        "exif": _exif(image),
        "xmp": _xmp(image),
        "iptc": _iptc(image),
        "dpi": _dpi(image),
        SUBSAMPLED: image.info.get(SUBSAMPLED) or _is_subsampled(image),
    }
    return {name: value for name, value in found.items() if value}


def save_options(info: Mapping[str, Any], format_name: str) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of ``Image.save`` that write ``info``, and what has no place there."""
    kept = {name: info[name] for name in KEPT if info.get(name)}
    format_ = _FORMATS.get(format_name, _Format(frozenset()))
    left_out = [name for name in kept if not format_.takes(name, kept[name])]
    for name in left_out:
        del kept[name]
    return format_.options(kept), left_out


@dataclass(frozen=True)
class _Format:
    """What a format has a place for, up to which size, and how Pillow's encoder is told."""

    places: frozenset[str]
    options: Callable[[dict[str, Any]], dict[str, Any]] = dict
    limit_bytes: int | None = None

    def takes(self, name: str, value: Any) -> bool:
        """Whether ``value`` can be written."""
        small = self.limit_bytes is None or name in ("dpi", "icc_profile")  # profiles are split
        return name in self.places and (small or len(value) <= (self.limit_bytes or 0))


def _is_subsampled(image: Image.Image) -> bool:
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return False
    return JpegImagePlugin.get_sampling(image) in _HALVED


def _exif(image: Image.Image) -> bytes:
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


def _xmp(image: Image.Image) -> bytes:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return xmp.encode() if isinstance(xmp, str) else bytes(xmp)


def _iptc(image: Image.Image) -> bytes:
    if "iptc" in image.info:
        return bytes(image.info["iptc"])
    photoshop = image.info.get("photoshop")
    if isinstance(photoshop, dict) and isinstance(photoshop.get(_PHOTOSHOP_IPTC), bytes):
        return bytes(photoshop[_PHOTOSHOP_IPTC])
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tag = image.tag_v2.get(_IPTC_TAG, b"")
        return tag if isinstance(tag, bytes) else b""
    return _from_raw_profile(image.info.get("Raw profile type iptc", ""))


def _from_raw_profile(text: str) -> bytes:
    """Decode the text that other programs put IPTC into in a PNG: name, length, hexadecimal."""
    try:
        return bytes.fromhex("".join(text.split()[2:]))
    except ValueError:
        return b""


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Pixels per inch, as the file says; in a WebP or AVIF only its EXIF can say so."""
    found = image.info.get("dpi")
    if found is None and (resolution := _resolution(image.getexif())):
        found = resolution
    try:
        across, down = (float(value) for value in found or ())
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def _resolution(exif: Image.Exif) -> tuple[float, float] | None:
    per_inch = {2: 1.0, 3: 2.54}.get(exif.get(ExifTags.Base.ResolutionUnit, 2))
    try:
        across, down = (float(exif[tag]) for tag in _RESOLUTION_TAGS)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return None if per_inch is None else (across * per_inch, down * per_inch)


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
        kept["extra"] = _photoshop_segment(iptc)
    return kept


def _photoshop_segment(iptc: bytes) -> bytes:
    """APP13 with one image resource, as Photoshop and every reader since has it."""
    padded = iptc + b"\0" * (len(iptc) % 2)
    resource = b"8BIM" + struct.pack(">HHI", _PHOTOSHOP_IPTC, 0, len(iptc)) + padded
    body = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


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


_EVERYTHING: Final = frozenset(KEPT)
_WITHOUT_IPTC: Final = _EVERYTHING - {"iptc"}
_FORMATS: Final = {
    "JPEG": _Format(_EVERYTHING, _jpeg, limit_bytes=65_000),  # a segment has 64 KiB
    "PNG": _Format(_EVERYTHING, _png),
    "TIFF": _Format(_EVERYTHING, _tiff),
    "WEBP": _Format(_WITHOUT_IPTC, _dpi_in_exif),
    "AVIF": _Format(_WITHOUT_IPTC, _dpi_in_exif),
    "BMP": _Format(frozenset({"dpi"})),
}
