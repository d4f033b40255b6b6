"""Colour spaces: those that files name by numbers, as ICC profiles; and HDR, which is refused.

Numbers are those of ISO/IEC 23091-2 (ITU-T H.273), which AVIF, HEIF, PNG (cICP) and video use.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rt4ksr_client.errors import PictureError

__all__ = ["SRGB", "ColorSpace", "hdr_of_profile", "refuse_hdr"]

_D65: Final = (0.3127, 0.3290)
_PRIMARIES: Final[Mapping[int, tuple[float, ...]]] = {
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *_D65),
    2: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *_D65),  # unspecified
    4: (0.670, 0.330, 0.210, 0.710, 0.140, 0.080, 0.310, 0.316),
    5: (0.640, 0.330, 0.290, 0.600, 0.150, 0.060, *_D65),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65),
    7: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *_D65),
    22: (0.630, 0.340, 0.295, 0.605, 0.155, 0.077, *_D65),
}
"""x and y of red, green, blue and white."""
_NAMES: Final = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
_GAMMAS: Final[Mapping[int, float | None]] = {
    # None is sRGB's curve, by which players and browsers show what is tagged as BT.709 or BT.601.
    **dict.fromkeys((1, 2, 6, 13, 14, 15)),
    4: 2.2,
    5: 2.8,
    8: 1.0,
}
_HDR: Final = {16: ("PQ (HDR10)", "smpte2084"), 18: ("HLG", "arib-std-b67")}
_HDR_IN_NAME: Final = re.compile(rb"(?<![A-Za-z])(?:(PQ|ST ?2084)|HLG)(?![A-Za-z])")

_SRGB_CHRM: Final = struct.pack(">8I", *(round(v * 1e5) for v in (*_D65, *_PRIMARIES[1][:6])))
# To the white of ICC's connection space (D50), by Bradford's cones.
_D50_XYZ: Final = np.array([0.9642, 1.0, 0.8249])
_CONES: Final = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


@dataclass(frozen=True)
class ColorSpace:
    """RGB primaries and a transfer curve.

    Args:
        chromaticities: x and y of red, green, blue and white.
        gamma: exponent from values to light; None for sRGB's curve.

    """

    chromaticities: tuple[float, ...]
    gamma: float | None = None
    name: str = "RGB"

    @classmethod
    def from_codes(cls, primaries: int, transfer: int) -> ColorSpace | None:
        """Return the space of two of the standard's numbers, or None: not one of SDR RGB."""
        if primaries not in _PRIMARIES or transfer not in _GAMMAS:
            return None
        name = _NAMES.get(primaries, "RGB")
        return cls(_PRIMARIES[primaries], _GAMMAS[transfer], name)

    @classmethod
    def from_png(cls, chunks: Iterable[tuple[bytes, bytes]]) -> ColorSpace:
        """Return the space that a PNG states, by type and content of its chunks; else sRGB.

        Raises:
            ValueError: one that no ICC profile of :meth:`icc_profile` describes.

        """
        found = dict(chunks)
        try:
            if cicp := found.get(b"cICP"):
                space = cls.from_codes(cicp[0], cicp[1])
                if space is None or cicp[3] != 1:
                    raise ValueError("neither SDR nor full range")
                return space
            if b"sRGB" in found or b"gAMA" not in found:
                return SRGB
            (gamma,) = struct.unpack_from(">I", found[b"gAMA"])
            corners = struct.unpack_from(">8I", found.get(b"cHRM", b"") or _SRGB_CHRM)
        except (struct.error, IndexError) as exc:
            raise ValueError("malformed colour space") from exc
        if gamma == 0:
            raise ValueError("a gamma of zero")
        x_of_white, y_of_white, *colors = (number / 1e5 for number in corners)
        return cls((*colors, x_of_white, y_of_white), 1e5 / gamma)

    @property
    def is_srgb(self) -> bool:
        """Whether it is sRGB, as far as an eye can tell."""
        near = np.allclose(self.chromaticities, _PRIMARIES[1], atol=0.002)
        return near and (self.gamma is None or abs(self.gamma - 2.2) < 0.03)

    def icc_profile(self, *, gray: bool = False) -> bytes:
        """Return an ICC profile (version 2.4), which every program understands.

        Args:
            gray: a profile of the curve only, for pictures of one channel.

        Raises:
            ValueError: the chromaticities are those of no colour space.

        """
        columns = _to_d50(self.chromaticities)
        curve = _curve(self.gamma)
        text = (f"Gray of {self.name}" if gray else self.name).encode("ascii")
        tags = {
            b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + bytes(79),
            b"cprt": b"text\0\0\0\0Public domain\0",
            b"wtpt": _xyz(_D50_XYZ),
        }
        if gray:
            return _profile(b"GRAY", {**tags, b"kTRC": curve})
        tags |= {name: _xyz(columns[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        return _profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


SRGB: Final = ColorSpace(_PRIMARIES[1], None, "sRGB")


def refuse_hdr(transfer: int | None, icc_profile: bytes | None, name: str) -> None:
    """Reject pictures whose values are PQ or HLG, which the models were not trained on.

    Args:
        transfer: the standard's number, where the file has one.
        icc_profile: the picture's.
        name: what the message calls the picture.

    Raises:
        PictureError: it is one.

    """
    code = transfer if transfer in _HDR else hdr_of_profile(icc_profile or b"")
    if code is not None:
        kind, curve = _HDR[code]
        raise PictureError(
            f"{name}: {kind} picture needs tone mapping first: export it as SDR, or ffmpeg -i IN "
            f"-vf format=gbrp12,zscale=tin={curve}:pin=bt2020:min=gbr:t=linear:p=bt709:m=gbr:"
            "npl=203,tonemap=hable,zscale=tin=linear:pin=bt709:min=gbr:t=iec61966-2-1:p=bt709:"
            "m=gbr,format=rgb24 OUT.png"
        )


def hdr_of_profile(profile: bytes) -> int | None:
    """Return the number of the HDR transfer of an ICC profile, by its ``cicp`` tag or its name."""
    tags = _tags(profile)
    cicp = tags.get(b"cicp", b"")
    if len(cicp) >= 10 and cicp[9] in _HDR:
        return cicp[9]
    # ASCII in version 2, UTF-16 in version 4.
    found = _HDR_IN_NAME.search(tags.get(b"desc", b"").replace(b"\0", b""))
    return None if found is None else 16 if found[1] else 18


def _tags(profile: bytes) -> dict[bytes, bytes]:
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        table = [struct.unpack_from(">4sII", profile, 132 + 12 * i) for i in range(min(count, 200))]
    except struct.error:
        return {}
    return {name: profile[at : at + length] for name, at, length in table}


def _to_d50(chromaticities: Sequence[float]) -> NDArray[np.float64]:
    """Return XYZ of red, green and blue in columns, their sum adapted to D50."""
    points = np.array(chromaticities, np.float64).reshape(4, 2)
    if not np.isfinite(points).all() or (points[:, 1] <= 0).any():
        raise ValueError("chromaticities without luminance")
    xyz = np.stack([points[:, 0], points[:, 1], 1 - points.sum(axis=1)]) / points[:, 1]
    primaries, white = xyz[:, :3], xyz[:, 3]
    try:
        columns = primaries * np.linalg.solve(primaries, white)
        adapted = np.linalg.solve(_CONES, np.diag((_CONES @ _D50_XYZ) / (_CONES @ white)) @ _CONES)
    except np.linalg.LinAlgError as exc:
        raise ValueError("chromaticities on a line") from exc
    result: NDArray[np.float64] = adapted @ columns
    if not np.isfinite(result).all() or np.abs(result).max() > 4:
        raise ValueError("chromaticities far from any display")
    return result


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(min(gamma, 255) * 256))
    values = np.linspace(0, 1, 1024)
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    table: bytes = np.rint(light * 65535).astype(">u2").tobytes()
    return b"curv\0\0\0\0" + struct.pack(">I", values.size) + table


def _xyz(values: NDArray[np.float64]) -> bytes:
    fixed: bytes = np.rint(values * 65536).astype(">i4").tobytes()
    return b"XYZ \0\0\0\0" + fixed


def _profile(space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    at = 132 + 12 * len(tags)
    table, content, places = b"", b"", dict[bytes, int]()
    for name, data in tags.items():
        if data not in places:  # the three curves are one
            places[data] = at + len(content)
            content += data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, places[data], len(data))
    size = at + len(content)
    head = struct.pack(">I4xI4s4s4s", size, 0x02400000, b"mntr", space, b"XYZ ")
    date = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    head += date + b"acsp" + bytes(28) + _xyz(_D50_XYZ)[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content
