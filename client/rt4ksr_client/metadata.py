"""What a picture says about itself: kept in Pillow's ``info``, read from and written to any format.

:func:`collect` leaves in ``info`` exactly what the enlarged picture may keep: ``icc_profile``,
``exif``, ``xmp``, ``iptc`` (raw IIM records), ``dpi``. :func:`save_options` turns that into what
Pillow's encoder of a format takes. Thumbnails and the layout tags of TIFF are dropped: they
describe the small picture.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from PIL import ExifTags, Image, ImageOps, PngImagePlugin, TiffImagePlugin

__all__ = ["KEPT", "collect", "save_options", "upright"]

KEPT: Final = ("icc_profile", "exif", "xmp", "iptc", "dpi")

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
_SIZE_TAGS: Final = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)


def upright(image: Image.Image) -> Image.Image:
    """Return the picture turned as its EXIF orientation says, without that tag."""
    turned = ImageOps.exif_transpose(image)
    return image if turned is None else turned


def collect(image: Image.Image) -> dict[str, Any]:
    """Return what ``image`` says about itself, by the names of :data:`KEPT`."""
    found = {
        "icc_profile": image.info.get("icc_profile"),
        "exif": _exif(image),
        "xmp": _xmp(image),
        "iptc": _iptc(image),
        "dpi": _dpi(image),
    }
    return {name: value for name, value in found.items() if value}


def save_options(info: Mapping[str, Any], format_name: str) -> dict[str, Any]:
    """Return the arguments of ``Image.save`` that write ``info``; what has no place is dropped."""
    kept = {name: info[name] for name in KEPT if info.get(name)}
    writer = _WRITERS.get(format_name)
    return {} if writer is None else writer(kept)


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
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def _jpeg(kept: dict[str, Any]) -> dict[str, Any]:
    iptc = kept.pop("iptc", b"")
    if 0 < len(iptc) < 65000:
        kept["extra"] = _photoshop_segment(iptc)
    if len(kept.get("xmp", b"")) > 65000:
        del kept["xmp"]
    if len(kept.get("exif", b"")) > 65000:
        del kept["exif"]
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


def _only(*names: str) -> Any:
    return lambda kept: {name: value for name, value in kept.items() if name in names}


_WRITERS: Final = {
    "JPEG": _jpeg,
    "PNG": _png,
    "TIFF": _tiff,
    "WEBP": _only("icc_profile", "exif", "xmp"),
    "AVIF": _only("icc_profile", "exif", "xmp"),
    "BMP": _only("dpi"),
}
