"""Keep a picture's metadata: read it from any format, write it to any format that can store it.

:func:`collect` returns what the upscaled picture may keep, :func:`save_options` the arguments of
Pillow's encoder that write it, and the names of what a format cannot store. What describes the
small picture only (thumbnails, sizes, layout) is dropped.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
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

from rt4ksr_client.formats import exif, xmp
from rt4ksr_client.formats.color import ColorSpace
from rt4ksr_client.formats.container import png_chunks

__all__ = [
    "KEPT",
    "LEFT_OUT",
    "SUBSAMPLED",
    "FormatSupport",
    "collect",
    "has_readable_exif",
    "is_subsampled",
    "read_dpi",
    "read_exif",
    "read_iptc",
    "read_xmp",
    "save_options",
    "upright",
]

KEPT: Final = ("icc_profile", "exif", "xmp", "iptc", "dpi", "comment", "png_color", "png_texts")
"""Keys of ``info``. ``dpi`` is a pair of floats, pixels per inch across and down; the others are
bytes: ``iptc`` raw IIM records; ``png_color`` and ``png_texts`` chunks of a PNG, of which the first
also stand for the colour space that an AVIF or HEIF states in numbers."""

LEFT_OUT: Final = "left_out"
"""In ``info``, names of what the source has and no upscaled picture can have."""

SUBSAMPLED: Final = "chroma_subsampled"
"""True in ``info`` if the source was a JPEG with subsampled chroma: at twice the size, chroma at
half the resolution holds the same detail."""

_NAMES: Final = {
    "icc_profile": "ICC profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "iptc": "IPTC",
    "dpi": "resolution",
    "comment": "comment",
}
_MOST_NAMES: Final = 8
_SUBSAMPLINGS: Final = (1, 2)  # 4:2:2 and 4:2:0, as Pillow numbers them
_IPTC_TAG, _XMP_TAG = 33723, 700
_PHOTOSHOP_IPTC, _PHOTOSHOP_XMP, _PHOTOSHOP_EXIF = 0x0404, 0x0424, 0x0422
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
_NOT_COPIED: Final = exif.SIZE_TAGS | {ExifTags.IFD.Interop, ExifTags.IFD.MakerNote}
"""Tags of the EXIF directory that do not survive being written anew."""


def upright(image: Image.Image) -> Image.Image:
    """Return the picture rotated as its EXIF orientation says, without that tag."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image  # itself: a copy would not know its format
    kept = collect(image)
    rotated = ImageOps.exif_transpose(image)
    for key in ("exif", "xmp", "XML:com.adobe.xmp"):
        rotated.info.pop(key, None)
    rotated.info.update(kept)
    rotated.getexif().load(kept.get("exif", b""))
    return rotated


def collect(image: Image.Image) -> dict[str, Any]:
    """Return the metadata of ``image`` by :data:`KEPT`, :data:`LEFT_OUT` and :data:`SUBSAMPLED`.

    What is empty is left out.
    """
    packet = read_xmp(image)
    left_out = [*image.info.get(LEFT_OUT, ()), *xmp.names_of_left_out(packet)]
    found = {
        "icc_profile": image.info.get("icc_profile"),
        "exif": read_exif(image),
        "xmp": xmp.of_upscaled(packet),
        "iptc": read_iptc(image),
        "dpi": read_dpi(image),
        "comment": _as_bytes(image.info.get("comment") or image.info.get("Comment")),
        "png_color": image.info.get("png_color"),
        "png_texts": image.info.get("png_texts"),
        LEFT_OUT: list(dict.fromkeys(left_out)),
        SUBSAMPLED: image.info.get(SUBSAMPLED) or is_subsampled(image),
    }
    return {name: value for name, value in found.items() if value}


def save_options(image: Image.Image, format_name: str) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of ``Image.save`` that write the metadata in ``image.info``.

    Also returns the names of what ``format_name`` cannot store, in plain English.
    """
    kept = {name: image.info[name] for name in KEPT if image.info.get(name)}
    dropped: list[str] = []
    support = _SUPPORT.get(format_name, FormatSupport(frozenset()))
    if "png_color" in kept and "png_color" not in support.names:
        try:
            _color_as_profile(kept, gray=image.mode in support.gray_modes)
        except ValueError:
            dropped.append("colour space")
    if "png_texts" in kept and "png_texts" not in support.names:
        dropped.append(_name_of_texts(kept.pop("png_texts")))
    if "xmp" in kept:
        kept["xmp"] = xmp.scale_panorama(kept["xmp"], image.width)
    if not support.can_store_profile(kept.get("icc_profile", b""), image.mode):
        del kept["icc_profile"]
        dropped.append("ICC profile of gray")
    for name in [name for name in kept if not support.can_store(name, kept[name])]:
        del kept[name]
        dropped.append(_NAMES[name])
    if format_name == "TIFF" and exif.has_maker_note(kept.get("exif", b"")):
        dropped.append("the camera maker's note")
    options = support.to_options(kept)
    if options.pop(_NO_ROOM_FOR_DPI, False):
        dropped.append(_NAMES["dpi"])
    return options, dropped


@dataclass(frozen=True)
class FormatSupport:
    """The metadata that a format can store, and the arguments of Pillow's encoder that write it.

    Args:
        names: keys of ``info``.
        to_options: makes the arguments of what is kept.
        limit_bytes: of each, but a profile, which is split.
        gray_modes: Pillow's modes that are written as gray; the others become RGB.

    """

    names: frozenset[str]
    to_options: Callable[[dict[str, Any]], dict[str, Any]] = dict
    limit_bytes: int | None = None
    gray_modes: tuple[str, ...] = ("L", "LA")

    def can_store(self, name: str, value: Any) -> bool:
        """Whether the format stores metadata of this kind and size."""
        fits = (
            self.limit_bytes is None
            or name in ("dpi", "icc_profile")
            or len(value) <= self.limit_bytes
        )
        return name in self.names and fits

    def can_store_profile(self, profile: bytes, mode: str) -> bool:
        """Whether the profile describes the channels that are written; an empty one does."""
        is_gray = profile[16:20] == b"GRAY"
        return not is_gray or "icc_profile" not in self.names or mode in self.gray_modes


def is_subsampled(image: Image.Image) -> bool:
    """Whether ``image`` is a JPEG file with chroma at half the resolution (4:2:2 or 4:2:0)."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return False
    return JpegImagePlugin.get_sampling(image) in _SUBSAMPLINGS


def read_exif(image: Image.Image) -> bytes:
    """Return the EXIF data that is true of the upscaled picture, encoded; or nothing.

    The file's own is edited in place; a TIFF's, or one that was changed in memory, written anew.
    """
    encoded = image.info.get("exif") or _photoshop_resource(image, _PHOTOSHOP_EXIF)
    source = image.getexif()
    if isinstance(encoded, bytes) and not isinstance(image, TiffImagePlugin.TiffImageFile):
        of_file = Image.Exif()
        of_file.load(encoded)
        if not source or _as_text(source) == _as_text(of_file):
            with suppress(ValueError):  # Pillow may understand more of it
                return exif.of_upscaled(encoded)
    written = Image.Exif()
    for tag in _EXIF_TAGS & set(source):
        written[tag] = source[tag]
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        values = {
            tag: value
            for tag, value in source.get_ifd(ifd).items()
            if tag not in _NOT_COPIED and not isinstance(value, dict)
        }
        if values:
            written.get_ifd(ifd).update(values)
            written[ifd] = values
    return written.tobytes() if len(written) else b""


def has_readable_exif(image: Image.Image) -> bool:
    """Whether the EXIF data of ``image`` can be read, if there is any."""
    try:
        encoded = image.info.get("exif") or b""
        of_file = Image.Exif()
        of_file.load(encoded)
        return bool(_as_text(of_file))
    except Exception:  # struct.error, SyntaxError, ValueError and more
        return False


def read_xmp(image: Image.Image) -> bytes:
    """Return the XMP packet as it is, or nothing."""
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return _as_bytes(packet) or _photoshop_resource(image, _PHOTOSHOP_XMP)


def read_iptc(image: Image.Image) -> bytes:
    """Return the raw IPTC-IIM records, or nothing."""
    if "iptc" in image.info:
        return bytes(image.info["iptc"])
    if resource := _photoshop_resource(image, _PHOTOSHOP_IPTC):
        return resource
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


def _as_text(encoded: Image.Exif) -> str:
    # As text, for a rational without value does not equal itself; a tag may be an enum's member.
    return repr([(int(tag), encoded[tag]) for tag in sorted(encoded)])


def _as_bytes(text: Any) -> bytes:
    if isinstance(text, str):
        return text.encode("utf-8", "replace")
    return bytes(text) if isinstance(text, (bytes, bytearray)) else b""


def _photoshop_resource(image: Image.Image, code: int) -> bytes:
    """Return one of Photoshop's resources in a JPEG or a PSD, or nothing."""
    resources = image.info.get("photoshop")
    if not isinstance(resources, dict):
        resources = {number: data for number, _, data in getattr(image, "resources", ())}
    found = resources.get(code)
    return found if isinstance(found, bytes) else b""


def _color_as_profile(kept: dict[str, Any], *, gray: bool) -> None:
    """Replace the colour space of a PNG by an ICC profile, unless the picture has one or is sRGB.

    Raises:
        ValueError: no profile describes it.

    """
    space = ColorSpace.from_png(png_chunks(io.BytesIO(kept.pop("png_color"))))
    if not space.is_srgb and "icc_profile" not in kept:
        kept["icc_profile"] = space.icc_profile(gray=gray)


def _name_of_texts(chunks: bytes) -> str:
    keys = [content[:79].partition(b"\0")[0] for _, content in png_chunks(io.BytesIO(chunks))]
    names = list(dict.fromkeys(key.decode("latin-1") for key in keys))
    more = [f"{len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
    return f"text ({', '.join(names[:_MOST_NAMES] + more)})"


_NO_ROOM_FOR_DPI: Final = "no_room_for_dpi"


def _dpi_in_exif(kept: dict[str, Any]) -> dict[str, Any]:
    dpi = kept.pop("dpi", None)
    if dpi is None:
        return kept
    encoded = Image.Exif()
    encoded.load(kept.get("exif", b""))
    if all(tag in encoded for tag in _RESOLUTION_TAGS):
        return kept
    if exif.has_maker_note(kept.get("exif", b"")):
        return {**kept, _NO_ROOM_FOR_DPI: True}
    for tag, value in zip(_RESOLUTION_TAGS, dpi, strict=True):
        encoded[tag] = value
    encoded[ExifTags.Base.ResolutionUnit] = 2
    return {**kept, "exif": encoded.tobytes()}


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
    chunks = kept.pop("png_color", b"") + kept.pop("png_texts", b"")
    for kind, content in png_chunks(io.BytesIO(chunks)):
        texts.add(kind, content)
    if packet := kept.pop("xmp", b""):
        texts.add_itxt("XML:com.adobe.xmp", packet.decode("utf-8", "replace"))
    if comment := kept.pop("comment", b""):
        texts.add_text("Comment", comment.decode("utf-8", "replace"))
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
    source = Image.Exif()
    source.load(kept.pop("exif", b""))
    for tag in _EXIF_TAGS & set(source):
        directory[tag] = source[tag]
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        values = source.get_ifd(ifd)
        if values := {tag: values[tag] for tag in values if tag not in _NOT_COPIED}:
            directory[ifd] = values
            kept["compression"] = "raw"  # libtiff, which compresses, writes no nested tags
    return {**kept, "tiffinfo": directory}


_COMMON: Final = frozenset({"icc_profile", "exif", "xmp", "dpi"})
_SUPPORT: Final = {
    "JPEG": FormatSupport(_COMMON | {"iptc", "comment"}, _jpeg, limit_bytes=65_000),  # a segment
    "PNG": FormatSupport(frozenset(KEPT), _png),
    "TIFF": FormatSupport(_COMMON | {"iptc"}, _tiff),
    "WEBP": FormatSupport(_COMMON, _dpi_in_exif, gray_modes=()),
    "AVIF": FormatSupport(_COMMON, _dpi_in_exif, gray_modes=("L",)),
    "GIF": FormatSupport(frozenset({"comment"})),
    "BMP": FormatSupport(frozenset({"dpi"})),
}
