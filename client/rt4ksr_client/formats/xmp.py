"""XMP packets: what in them is not true of the upscaled picture is removed, the rest untouched.

They are edited as text, not parsed: programs read packets that are not quite XML, and one written
anew has other prefixes, which simple readers search for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["names_of_left_out", "of_upscaled", "scale_panorama"]

_GOOGLE: Final = b"http://ns.google.com/photos/1.0/"
_PANORAMA: Final = _GOOGLE + b"panorama/"
_ALL: Final = rb"[\w.-]+"
_REMOVED: Final = {
    b"http://ns.adobe.com/hdr-gain-map/1.0/": _ALL,
    b"http://ns.apple.com/HDRGainMap/1.0/": _ALL,
    b"http://ns.apple.com/pixeldatainfo/1.0/": _ALL,
    _GOOGLE + b"container/": _ALL,
    _GOOGLE + b"container/item/": _ALL,
    _GOOGLE + b"depthmap/": _ALL,
    _GOOGLE + b"image/": _ALL,
    _GOOGLE + b"audio/": _ALL,
    _GOOGLE + b"camera/": rb"(?:MotionPhoto|MicroVideo)\w*",
    b"http://ns.adobe.com/xmp/note/": rb"HasExtendedXMP",
    b"http://ns.adobe.com/xap/1.0/": rb"Thumbnails",
    b"http://ns.adobe.com/tiff/1.0/": rb"(?:Orientation|ImageWidth|ImageLength)",
    b"http://ns.adobe.com/exif/1.0/": rb"Pixel[XY]Dimension",
}
"""By namespace, the properties that belong to other parts of the file, or to its size."""

_NAMES: Final = {
    "HDR gain map": (b"http://ns.adobe.com/hdr-gain-map/1.0/", b"http://ns.apple.com/HDRGainMap/"),
    "depth map": (_GOOGLE + b"depthmap/",),
}
_MOST_PREFIXES: Final = 4
_MOTION_PHOTO: Final = re.compile(rb"""(?:MotionPhoto|MicroVideo)\s*(?:=\s*["']|>\s*)1""")
_PANORAMA_PX: Final = re.compile(
    rb"((?:CroppedArea(?:ImageWidth|ImageHeight|Left|Top)|FullPano(?:Width|Height))Pixels"
    rb"""\s*(?:=\s*["']|>))(\d{1,7})"""
)
_PANORAMA_WIDTH: Final = re.compile(rb"""CroppedAreaImageWidthPixels\s*(?:=\s*["']|>)(\d{1,7})""")


def of_upscaled(xmp: bytes) -> bytes:
    """Return the packet without what describes other parts of the file, or the picture's size.

    Takes time proportional to its length, whatever is in it.
    """
    for namespace, names in _REMOVED.items():
        if namespace not in xmp:
            continue
        for prefix in _prefixes(xmp, namespace):
            name = re.escape(prefix) + b":" + names
            xmp = _without_elements(xmp, name)
            xmp = _without_attributes(xmp, name)
    return xmp


def names_of_left_out(xmp: bytes) -> Iterator[str]:
    """Name the parts of the file, beside the picture, that the packet describes."""
    for name, namespaces in _NAMES.items():
        if any(namespace in xmp for namespace in namespaces):
            yield name
    if _MOTION_PHOTO.search(xmp):
        yield "video of a motion photo"


def scale_panorama(xmp: bytes, width_px: int) -> bytes:
    """Multiply the sizes that a panorama states in pixels, which viewers compare to its own."""
    found = _PANORAMA_WIDTH.search(xmp) if _PANORAMA in xmp else None
    if found is None or int(found[1]) == 0:
        return xmp
    before_px = int(found[1])

    def scaled(match: re.Match[bytes]) -> bytes:
        return match[1] + b"%d" % round(int(match[2]) * width_px / before_px)

    return _PANORAMA_PX.sub(scaled, xmp)


def _prefixes(xmp: bytes, namespace: bytes) -> list[bytes]:
    declaration = rb"""xmlns:([\w.-]+)\s*=\s*["']""" + re.escape(namespace) + rb"""["']"""
    found = dict.fromkeys(match[1] for match in re.finditer(declaration, xmp))
    return list(found)[:_MOST_PREFIXES]


def _without_elements(xmp: bytes, name: bytes) -> bytes:
    """Remove elements with all that is in them; one without an end ends the search."""
    start = re.compile(b"<(" + name + rb")(?=[\s/>])")
    kept, at = bytearray(), 0
    while found := start.search(xmp, at):
        end = xmp.find(b">", found.end()) + 1
        if end and xmp[end - 2 : end - 1] != b"/":
            closing = xmp.find(b"</" + found[1], end)
            end = xmp.find(b">", closing) + 1 if closing >= 0 else 0
        if not end:
            break
        kept += xmp[at : found.start()]
        at = end
    return bytes(kept + xmp[at:])


def _without_attributes(xmp: bytes, name: bytes) -> bytes:
    start = re.compile(rb"\s" + name + rb"""\s*=\s*(["'])""")
    kept, at = bytearray(), 0
    while found := start.search(xmp, at):
        end = xmp.find(found[1], found.end()) + 1
        if not end:
            break
        kept += xmp[at : found.start()]
        at = end
    return bytes(kept + xmp[at:])
