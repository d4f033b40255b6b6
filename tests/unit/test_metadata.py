"""What surrounds a picture: kept where the format can store it and it stays true, or named."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin

from rt4ksr_client import files
from rt4ksr_client.errors import PictureError
from rt4ksr_client.formats import metadata
from rt4ksr_client.formats.color import ColorSpace
from rt4ksr_client.formats.container import png_chunk, png_chunks, read_contents
from rt4ksr_client.pictures import PictureWarning, join, split

NAMES = {
    "icc_profile": "ICC profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "iptc": "IPTC",
    "dpi": "resolution",
    "comment": "comment",
}


def noise(mode: str, size: tuple[int, int] = (12, 10)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def upscaled(data: bytes, name: str = "a.pic") -> Image.Image:
    """Read a file and upscale it as everything that uses the network does."""
    frame, side_data = split(files.decode(io.BytesIO(data), name))
    return join(frame.repeat(2, axis=0).repeat(2, axis=1), side_data)


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def chunks_of(data: bytes) -> dict[bytes, bytes]:
    return dict(png_chunks(io.BytesIO(data[8:]), pixels=False))


IPTC = b"\x1c\x02\x78\x00\x05Hello"
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a/></x:xmpmeta>'


def described() -> Image.Image:
    image = noise("RGBA", (64, 48)).convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Somebody"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    image.info |= {
        "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "exif": exif.tobytes(),
        "xmp": XMP,
        "iptc": IPTC,
        "dpi": (300.0, 300.0),
        "comment": b"A comment",
    }
    return image


KEPT_BY = {
    "JPEG": {"icc_profile", "exif", "xmp", "iptc", "dpi", "comment"},
    "PNG": {"icc_profile", "exif", "xmp", "iptc", "dpi", "comment"},
    "TIFF": {"icc_profile", "exif", "xmp", "iptc", "dpi"},
    "WEBP": {"icc_profile", "exif", "xmp", "dpi"},
    "AVIF": {"icc_profile", "exif", "xmp", "dpi"},
    "BMP": {"dpi"},
    "GIF": {"comment"},
}


@pytest.mark.parametrize("name", KEPT_BY)
def test_metadata_survives_each_format_or_its_loss_is_a_warning(name: str) -> None:
    image = described()
    lost = [english for one, english in NAMES.items() if one not in KEPT_BY[name]]
    words = f"^a.pic: left out: {', '.join(lost)} \\({name} cannot store that\\)$"
    with pytest.warns(PictureWarning, match=words) if lost else nullcontext():
        data = files.encode(image, name, name="a.pic")

    found = metadata.collect(files.decode(io.BytesIO(data), name))

    assert set(found) == KEPT_BY[name]
    assert found.get("xmp", XMP) == XMP
    assert found.get("iptc", IPTC) == IPTC
    assert found.get("comment", b"A comment") == b"A comment"
    assert found.get("icc_profile", image.info["icc_profile"]) == image.info["icc_profile"]
    assert found.get("dpi", (300, 300)) == pytest.approx((300, 300), abs=0.1)
    if "exif" in found:
        exif = Image.Exif()
        exif.load(found["exif"])
        assert exif[ExifTags.Base.Artist] == "Somebody"
        assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 400


P3 = bytes([12, 13, 0, 1])
DARK = struct.pack(">I", 100_000)  # a gamma of 1
CHRM = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


def png(*chunks: tuple[bytes, bytes], mode: str = "RGB") -> bytes:
    """A PNG with further chunks, also those that Pillow would not write."""
    data = encoded(noise("RGB").convert(mode), "PNG")
    return data[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + data[33:]


@pytest.mark.parametrize(
    "chunk",
    [
        (b"cICP", P3),
        (b"cICP", bytes([1, 13, 0, 1])),
        (b"gAMA", DARK),
        (b"cHRM", CHRM),
        (b"sRGB", b"\2"),
        (b"tEXt", b"parameters\0a bird, Steps: 20, Seed: 7"),
        (b"zTXt", b"workflow\0\0" + zlib.compress(b"{}")),
        (b"iTXt", "Title\0\0\0de\0\0Ein Vogel ü".encode()),
        (b"tEXt", b"Title\0A bird"),
    ],
    ids=lambda chunk: chunk[0].decode(),
)
def test_colour_space_and_texts_of_a_png_are_kept_byte_for_byte(chunk: tuple[bytes, bytes]) -> None:
    large = files.encode(upscaled(png(chunk)), "PNG")

    assert chunks_of(large)[chunk[0]] == chunk[1]


def test_several_texts_of_a_png_are_kept_in_order() -> None:
    texts = [(b"tEXt", b"Author\0A"), (b"tEXt", b"Author\0B"), (b"tEXt", b"Comment\0C")]

    large = files.encode(upscaled(png(*texts)), "PNG")

    found = list(png_chunks(io.BytesIO(large[8:]), pixels=False))
    assert [chunk for chunk in found if chunk[0] == b"tEXt"] == texts


def shown(data: bytes) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Pixels as a colour-managed program shows them on an sRGB display."""
    image: Image.Image = Image.open(io.BytesIO(data))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    if image.info["icc_profile"][16:20] == b"GRAY":
        image = image.convert("L")  # Pillow before 12 opens a gray AVIF as RGB
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    assert converted is not None
    return np.asarray(converted).astype(np.int64)


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF", "WEBP", "AVIF"])
def test_a_colour_space_stated_in_numbers_becomes_a_profile(format_name: str) -> None:
    flat = np.full((16, 16, 3), (200, 120, 90), np.uint8)
    data = encoded(Image.fromarray(flat), "PNG")
    source = data[:33] + png_chunk(b"cICP", P3) + data[33:]

    found = shown(files.encode(upscaled(source), format_name))

    # Display P3's (200, 120, 90) is sRGB's (213, 117, 83): CSS Color 4's matrices and curve.
    assert np.abs(found.mean(axis=(0, 1)) - (213, 117, 83)).max() < 3


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_gamma_becomes_a_profile(format_name: str, mode: str) -> None:
    data = encoded(Image.new("RGB", (16, 16), (64, 64, 64)).convert(mode), "PNG")
    source = data[:33] + png_chunk(b"gAMA", DARK) + data[33:]

    found = shown(files.encode(upscaled(source), format_name))

    assert np.abs(found - 137).max() < 4  # the light of 64 of 255, by sRGB's curve


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"gAMA", struct.pack(">I", 45455))],
        [(b"sRGB", b"\0"), (b"gAMA", DARK)],
        [(b"cICP", bytes([1, 13, 0, 1])), (b"gAMA", DARK)],
    ],
    ids=str,
)
def test_what_is_srgb_needs_no_profile(chunks: list[tuple[bytes, bytes]]) -> None:
    large = files.encode(upscaled(png(*chunks)), "JPEG")

    assert "icc_profile" not in Image.open(io.BytesIO(large)).info


@pytest.mark.parametrize(
    ("chunks", "format_name", "words"),
    [
        ([(b"cICP", P3)], "BMP", r"ICC profile \(BMP cannot"),
        ([(b"cICP", bytes([12, 13, 0, 0]))], "JPEG", r"colour space \(JPEG cannot"),
        ([(b"cICP", bytes([10, 17, 0, 1]))], "JPEG", r"colour space \(JPEG cannot"),
        ([(b"gAMA", bytes(4))], "JPEG", r"colour space \(JPEG cannot"),
        ([(b"cHRM", bytes(32)), (b"gAMA", DARK)], "JPEG", r"colour space \(JPEG cannot"),
        (
            [(b"tEXt", b"Title\0A"), (b"tEXt", b"Author\0B")],
            "JPEG",
            r"text \(Title, Author\) \(JPEG",
        ),
        ([(b"tEXt", b"Comment\0A")], "WEBP", r"comment \(WEBP cannot"),
        ([(b"tEXt", b"k%d\0" % index) for index in range(99)], "JPEG", r"text \(k0, .*, 91 more\)"),
        ([(b"tEXt", b"k\0" + bytes(2**22))] * 3, "PNG", "text of more than 8 MB"),
        ([(b"pHYs", struct.pack(">IIB", 2, 1, 0))], "PNG", "shape of its pixels"),
        ([(b"caBX", b"c2pa")], "PNG", "Content Credentials"),
        ([(b"cLLI", bytes(8)), (b"mDCV", bytes(24))], "PNG", r"light level .*, mastering display"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_png_has_and_the_target_cannot_is_named(
    chunks: list[tuple[bytes, bytes]], format_name: str, words: str
) -> None:
    image = upscaled(png(*chunks))

    with pytest.warns(PictureWarning, match=f"^left out: {words}"):
        files.encode(image, format_name)


def nclx(data: bytes, primaries: int, transfer: int) -> bytes:
    """Change the numbers of the colour space in an AVIF."""
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def profile(*, cicp: bytes = b"", name: bytes = b"") -> bytes:
    tags = [(b"desc", name)] + ([(b"cicp", b"cicp\0\0\0\0" + cicp)] if cicp else [])
    at = 132 + 12 * len(tags)
    table, content = b"", b""
    for tag, value in tags:
        table += struct.pack(">4sII", tag, at + len(content), len(value))
        content += value
    head = b"\0\0\0\0lcms\x04\x40\0\0mntrRGB XYZ ".ljust(128, b"\0")
    return head + struct.pack(">I", len(tags)) + table + content


def text_of_version_2(text: str) -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text.encode() + bytes(80)


def text_of_version_4(text: str) -> bytes:
    words = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(words), 28) + words


def heif(primaries: int, transfer: int) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the heif extra")
    stream = io.BytesIO()
    pillow_heif.from_pillow(noise("RGB", (64, 64))).save(
        stream,
        color_primaries=primaries,
        transfer_characteristics=transfer,
        matrix_coefficients=9,
        full_range_flag=1,
    )
    return stream.getvalue()


HDR: dict[str, Callable[[], bytes]] = {
    "png, PQ": lambda: png((b"cICP", bytes([9, 16, 0, 1]))),
    "png, HLG": lambda: png((b"cICP", bytes([9, 18, 0, 1]))),
    "png, PQ by its profile's numbers": lambda: encoded(
        noise("RGB"), "PNG", icc_profile=profile(cicp=bytes([9, 16, 0, 1]))
    ),
    "jpeg, HLG by its profile's numbers": lambda: encoded(
        noise("RGB"), "JPEG", icc_profile=profile(cicp=bytes([9, 18, 0, 1]))
    ),
    "png, PQ by its profile's name": lambda: encoded(
        noise("RGB"), "PNG", icc_profile=profile(name=text_of_version_2("ITUR_2100_PQ_FULL"))
    ),
    "tiff, HLG by its profile's name": lambda: encoded(
        noise("RGB"), "TIFF", icc_profile=profile(name=text_of_version_4("Rec. ITU-R BT.2100 HLG"))
    ),
    "avif, PQ": lambda: nclx(encoded(noise("RGB"), "AVIF"), 9, 16),
    "avif, HLG": lambda: nclx(encoded(noise("RGB"), "AVIF"), 9, 18),
    "heif, PQ": lambda: heif(9, 16),
    "heif, HLG": lambda: heif(9, 18),
}


@pytest.mark.parametrize("kind", HDR)
def test_hdr_is_refused_with_what_to_do(kind: str) -> None:
    transfer = "HLG" if "HLG" in kind else r"PQ \(HDR10\)"

    with pytest.raises(
        PictureError, match=rf"^a\.pic: {transfer} picture needs tone mapping.*tin="
    ):
        files.decode(io.BytesIO(HDR[kind]()), "a.pic")


def test_hdr_opened_by_pillow_is_refused_by_its_profile() -> None:
    image = noise("RGB")
    image.info["icc_profile"] = profile(cicp=bytes([9, 16, 0, 1]))

    with pytest.raises(PictureError, match="PQ"):
        split(image)


@pytest.mark.parametrize("name", ["PQR Inc. monitor", "sRGB IEC61966-2.1", "EPQ", "HLGT"])
def test_other_profiles_are_not_taken_for_hdr(name: str) -> None:
    data = encoded(noise("RGB"), "PNG", icc_profile=profile(name=text_of_version_2(name)))

    assert upscaled(data).size == (24, 20)


def test_wide_gamut_of_an_avif_is_kept() -> None:
    source = nclx(encoded(Image.new("RGB", (64, 64), (200, 120, 90)), "AVIF"), 12, 13)

    assert chunks_of(files.encode(upscaled(source), "PNG"))[b"cICP"] == P3
    assert (
        np.abs(shown(files.encode(upscaled(source), "AVIF")).mean((0, 1)) - (213, 117, 83)).max()
        < 4
    )


def test_the_usual_colours_of_an_avif_need_no_words() -> None:
    for transfer in (1, 2, 6, 13):
        large = upscaled(nclx(encoded(noise("RGB"), "AVIF"), 1, transfer))
        assert "icc_profile" not in large.info and "png_color" not in large.info


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_profiles_made_from_numbers_are_valid(mode: str) -> None:
    for codes in [(9, 14), (11, 4), (12, 13), (22, 1), (5, 5), (4, 8)]:
        space = ColorSpace.from_codes(*codes)
        assert space is not None
        made = ImageCms.ImageCmsProfile(io.BytesIO(space.icc_profile(gray=mode == "L")))
        white = Image.new(mode, (1, 1), "white")
        converted = ImageCms.profileToProfile(
            white, made, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert converted is not None
        assert converted.getpixel((0, 0)) == (255, 255, 255)


def test_a_profile_of_gray_is_named_where_gray_becomes_rgb() -> None:
    gray = noise("L")
    gray.info["icc_profile"] = ColorSpace.from_codes(1, 4).icc_profile(gray=True)  # type: ignore[union-attr]

    for format_name in ("JPEG", "PNG", "TIFF", "AVIF"):
        assert "icc_profile" in Image.open(io.BytesIO(files.encode(gray, format_name))).info
    with pytest.warns(PictureWarning, match="ICC profile of gray"):
        large = files.encode(gray, "WEBP")
    assert "icc_profile" not in Image.open(io.BytesIO(large)).info


def with_segments(*segments: bytes, trailer: bytes = b"", **options: Any) -> bytes:
    """A JPEG with further segments, marker and content each."""
    data = encoded(noise("RGB", (64, 48)), "JPEG", **options)
    parts = [one[:2] + struct.pack(">H", len(one)) + one[2:] for one in segments]
    return data[:2] + b"".join(parts) + data[2:] + trailer


GAIN_MAP_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '
    b'hdrgm:Version="1.0" b="kept"/></x:xmpmeta>'
)


def multi_picture(number: int, **options: Any) -> bytes:
    pictures = [noise("RGB", (64, 48)) for _ in range(number)]
    return encoded(pictures[0], "MPO", save_all=True, append_images=pictures[1:], **options)


def samsung_trailer(kind: int) -> bytes:
    content = b"\0\0" + struct.pack("<H", kind) + struct.pack("<I", 16) + b"MotionPhoto_Data"
    entry = struct.pack("<HHII", 0, kind, len(content), len(content))
    directory = b"SEFH" + struct.pack("<II", 107, 1) + entry
    return content + directory + struct.pack("<I", len(directory)) + b"SEFT"


JPEGS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a gain map (Adobe, Android)": (
        lambda: multi_picture(2, xmp=GAIN_MAP_XMP),
        "HDR gain map",
    ),
    "a gain map (ISO 21496-1)": (
        lambda: with_segments(b"\xff\xe2urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"),
        "HDR gain map",
    ),
    "a second picture": (lambda: multi_picture(2), r"second picture \(MPF\)"),
    "three more": (lambda: multi_picture(4), r"3 more pictures \(MPF\)"),
    "a motion photo": (
        lambda: encoded(
            noise("RGB"),
            "JPEG",
            xmp=b'<a xmlns:G="http://ns.google.com/photos/1.0/camera/" G:MotionPhoto="1"/>',
        ),
        "video of a motion photo",
    ),
    "a motion photo by Samsung": (
        lambda: with_segments(trailer=samsung_trailer(0x0A30)),
        "video of a motion photo",
    ),
    "Content Credentials": (
        lambda: with_segments(b"\xff\xebJP\0\1\0\0\0\1\0\0\0\x80jumb\0\0\0\x1ejumdc2pa"),
        r"Content Credentials \(C2PA\)",
    ),
    "a thermal camera's data": (lambda: with_segments(b"\xff\xe1FLIR\0\1\0\0"), "thermal data"),
    "extended XMP": (
        lambda: with_segments(b"\xff\xe1http://ns.adobe.com/xmp/extension/\0" + bytes(40)),
        "extended XMP",
    ),
    "clipping paths": (
        lambda: with_segments(
            b"\xff\xedPhotoshop 3.0\x008BIM\x07\xd0\0\0" + struct.pack(">I", 26) + bytes(26)
        ),
        "clipping paths",
    ),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_what_a_jpeg_has_beside_the_picture_is_named_in_one_line(kind: str) -> None:
    make, words = JPEGS[kind]
    image = upscaled(make())

    with pytest.warns(PictureWarning, match=f"^b.jpg: left out: {words}[^,;]*$") as caught:
        large = files.encode(image, "JPEG", name="b.jpg")

    assert len(caught) == 1
    again = Image.open(io.BytesIO(large))
    assert again.format == "JPEG"
    assert b"hdrgm:" not in again.info.get("xmp", b"")


def test_samsungs_other_trailers_need_no_words() -> None:
    files.encode(upscaled(with_segments(trailer=samsung_trailer(0x0A01))), "JPEG")


def test_all_that_is_left_out_is_one_line() -> None:
    data = multi_picture(2, xmp=GAIN_MAP_XMP, comment=b"hello", dpi=(300, 300))

    with pytest.warns(PictureWarning) as caught:
        files.encode(upscaled(data), "BMP", name="b.bmp")

    assert [str(warning.message) for warning in caught] == [
        "b.bmp: left out: HDR gain map; XMP, comment (BMP cannot store that)"
    ]


def with_maker_note() -> bytes:
    """EXIF whose maker note is at a position that Pillow would not choose."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif[ExifTags.Base.XResolution] = exif[ExifTags.Base.YResolution] = 72.0
    exif.get_ifd(ExifTags.IFD.Exif).update({0x927C: b"Maker\0note", 0xA002: 64, 0x9000: b"0232"})
    return exif.tobytes() + b"at the end"


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_makers_note_is_kept_where_it_was(format_name: str, orientation: int) -> None:
    exif = with_maker_note()
    if orientation != 1:
        changed = Image.Exif()
        changed.load(exif)
        changed[ExifTags.Base.Orientation] = orientation
        exif = changed.tobytes()
    source = encoded(noise("RGB", (64, 48)), "JPEG", exif=exif)

    large = files.encode(upscaled(source), format_name)

    found = Image.open(io.BytesIO(large))
    assert found.info["exif"].removeprefix(b"Exif\0\0").index(b"Maker\0note") == exif.index(
        b"Maker\0note"
    ) - len(b"Exif\0\0")
    nested = found.getexif().get_ifd(ExifTags.IFD.Exif)
    assert nested[0x9000] == b"0232" and 0xA002 not in nested
    assert ExifTags.Base.Orientation not in found.getexif()


def test_a_tiff_cannot_keep_a_makers_note_and_says_so() -> None:
    source = encoded(noise("RGB", (64, 48)), "JPEG", exif=with_maker_note())

    with pytest.warns(PictureWarning, match="the camera maker's note"):
        large = files.encode(upscaled(source), "TIFF")

    nested = Image.open(io.BytesIO(large)).getexif().get_ifd(ExifTags.IFD.Exif)
    assert nested[0x9000] == b"0232" and 0x927C not in nested


def test_tags_that_a_caller_changed_are_kept_as_changed() -> None:
    image = files.decode(io.BytesIO(encoded(noise("RGB"), "JPEG", exif=with_maker_note())), "a")
    image.getexif()[ExifTags.Base.Artist] = "Somebody"

    _, side_data = split(image)

    kept = Image.Exif()
    kept.load(side_data.info["exif"])
    assert kept[ExifTags.Base.Artist] == "Somebody"


def test_malformed_exif_does_not_cost_the_picture() -> None:
    image = upscaled(with_segments(b"\xff\xe1Exif\0\0no TIFF file"))

    with pytest.warns(PictureWarning, match=r"left out: EXIF \(malformed\)"):
        files.encode(image, "JPEG")


def test_a_resolution_without_room_is_named() -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[0x927C] = b"Maker\0note"
    source = encoded(noise("RGB"), "JPEG", exif=exif.tobytes(), dpi=(300, 300))

    with pytest.warns(PictureWarning, match="resolution"):
        large = files.encode(upscaled(source), "WEBP")

    assert b"Maker\0note" in Image.open(io.BytesIO(large)).info["exif"]


def test_a_panorama_states_the_size_it_has() -> None:
    name = "CroppedAreaImageWidthPixels"
    packet = f'<a xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" GPano:{name}="%d"/>'
    source = encoded(noise("RGB", (64, 48)), "JPEG", xmp=(packet % 64).encode())

    large = Image.open(io.BytesIO(files.encode(upscaled(source), "JPEG")))

    assert large.info["xmp"] == (packet % 128).encode()


@pytest.mark.parametrize("target", ["JPEG", "PNG", "GIF"])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "GIF"])
def test_a_comment_is_kept(source: str, target: str) -> None:
    words = b"made in 1998"
    options: dict[str, Any] = {"comment": words}
    if source == "PNG":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_text("Comment", words.decode())

    large = files.encode(upscaled(encoded(noise("RGB", (64, 48)), source, **options)), target)

    found = Image.open(io.BytesIO(large)).info
    assert found.get("comment", found.get("Comment", "").encode()) == words


def test_the_profile_of_a_bmp_is_read() -> None:
    made = ColorSpace.from_codes(12, 13)
    assert made is not None
    data = encoded(Image.new("RGB", (4, 4), (200, 120, 90)), "BMP")
    pixels = data[54:]
    header = bytearray(data[14:54].ljust(124, b"\0"))
    header[0:4] = struct.pack("<I", 124)
    header[56:60] = b"DEBM"
    profile_ = made.icc_profile()
    header[112:120] = struct.pack("<II", 124 + len(pixels), len(profile_))
    file_header = b"BM" + struct.pack("<IHHI", 138 + len(pixels) + len(profile_), 0, 0, 138)

    large = upscaled(file_header + bytes(header) + pixels + profile_)

    assert large.info["icc_profile"] == profile_
    assert large.getpixel((0, 0)) == (200, 120, 90)


def jpeg2000(color: bytes = b"", bits: int = 8) -> bytes:
    data = encoded(noise("RGB", (32, 32)), "JPEG2000")
    at = data.index(b"jp2h") - 4
    (length,) = struct.unpack_from(">I", data, at)
    size = bytearray(data[at + 8 : at + 8 + 22])
    size[8 + 10] = bits - 1
    colr = color or data[at + 30 : at + length]
    content = bytes(size) + colr
    return (
        data[:at] + struct.pack(">I4s", 8 + len(content), b"jp2h") + content + data[at + length :]
    )


def test_the_profile_of_a_jpeg_2000_is_read() -> None:
    made = ColorSpace.from_codes(12, 13)
    assert made is not None
    content = b"\2\0\0" + made.icc_profile()
    colr = struct.pack(">I4s", 8 + len(content), b"colr") + content

    assert upscaled(jpeg2000(colr)).info["icc_profile"] == made.icc_profile()


def ppm(maximum: int) -> bytes:
    values = np.zeros((4, 4, 3), ">u2" if maximum > 255 else np.uint8)
    return b"P6 4 4 %d\n" % maximum + values.tobytes()


@pytest.mark.parametrize(
    ("make", "bits"),
    [
        (lambda: jpeg2000(bits=16), 16),
        (lambda: jpeg2000(bits=12), 12),
        (lambda: ppm(65535), 16),
        (lambda: heif_of_12_bits(), 12),
    ],
    ids=["jp2, 16", "jp2, 12", "ppm", "heif"],
)
def test_depth_that_a_decoder_reduces_is_named(make: Any, bits: int) -> None:
    with pytest.warns(PictureWarning, match=f"a: {bits} bits per channel"):
        files.decode(io.BytesIO(make()), "a")


def heif_of_12_bits() -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the heif extra")
    values = np.zeros((64, 64, 3), np.uint16)
    stream = io.BytesIO()
    saved: Any = pillow_heif.from_bytes("RGB;16", (64, 64), values.tobytes())
    pillow_heif.options.SAVE_HDR_TO_12_BIT = True
    try:
        saved.save(stream)
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = False
    return stream.getvalue()


def test_8_bits_need_no_words() -> None:
    for data in (jpeg2000(), ppm(255)):
        files.decode(io.BytesIO(data), "a")


def test_georeference_and_layers_of_a_tiff_are_named() -> None:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[33550] = (1.0, 1.0, 0.0)
    directory.tagtype[33550] = 12
    directory.tagtype[37724] = 7
    directory[37724] = b"Adobe Photoshop Document Data Block\0"

    with pytest.warns(PictureWarning, match=r"left out: georeference, layers \(Photoshop\)"):
        files.encode(upscaled(encoded(noise("RGB"), "TIFF", tiffinfo=directory)), "TIFF")


def test_content_credentials_of_a_webp_are_named() -> None:
    data = encoded(noise("RGB"), "WEBP", xmp=b"<x/>")
    data += b"C2PA\4\0\0\0jumb"
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]

    with pytest.warns(PictureWarning, match="Content Credentials"):
        files.encode(upscaled(data), "WEBP")


def test_a_jpeg_of_12_bits_is_named() -> None:
    data = encoded(noise("RGB"), "JPEG")
    at = data.index(b"\xff\xc0") + 4

    with pytest.raises(PictureError, match=r"a\.jpg: a JPEG of a kind .* 12 bits"):
        files.decode(io.BytesIO(data[:at] + b"\x0c" + data[at + 1 :]), "a.jpg")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "JPEG XL"),
        (b"v/1\x01\2\0\0\0", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "'rt4ksr video'"),
        (b"\x1aE\xdf\xa3\x01\0\0\0", "'rt4ksr video'"),
        (b'<?xml version="1.0"?>\n<svg/>', "draw it at the size"),
        (b"text", "not a picture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_cannot_be_read_are_named(start: bytes, words: str) -> None:
    with pytest.raises(PictureError, match=words):
        files.decode(io.BytesIO(start + bytes(40)), "a")


@pytest.mark.parametrize("kind", ["NEF, ARW", "DNG", "CR2"])
def test_the_preview_of_a_raw_photograph_is_not_taken_for_it(kind: str) -> None:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    if kind == "DNG":
        directory.tagtype[50706] = 1
        directory[50706] = b"\1\4\0\0"
    elif kind == "NEF, ARW":
        directory[254] = 1
        directory.tagtype[330] = 4
        directory[330] = (8, 8)
    data = encoded(noise("RGB"), "TIFF", tiffinfo=directory)
    if kind == "CR2":
        at = len(data)
        (first,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, first)
        table = data[first : first + 2 + 12 * count + 4]
        data = data[:4] + struct.pack("<I", at) + b"CR\2\0" + data[12:] + table

    with pytest.raises(PictureError, match=r"a\.raw: a raw photograph"):
        files.decode(io.BytesIO(data), "a.raw")


def boxes(*content: tuple[bytes, bytes]) -> bytes:
    return b"".join(struct.pack(">I4s", 8 + len(body), kind) + body for kind, body in content)


def heif_container(primary: list[int], *, long_numbers: bool = False) -> bytes:
    """Items 1, which is another rendition, and 2, the primary one, whose properties are given."""
    colr_sdr = b"nclx" + struct.pack(">HHHB", 12, 13, 6, 0x80)
    colr_hdr = b"nclx" + struct.pack(">HHHB", 9, 16, 9, 0x80)
    properties = boxes(
        (b"colr", colr_hdr),
        (b"colr", colr_sdr),
        (b"pixi", b"\0\0\0\0\3\x0a\x0a\x0a"),
        (b"auxC", b"\0\0\0\0urn:com:apple:photo:2020:aux:hdrgainmap\0"),
        (b"auxC", b"\0\0\0\0urn:com:apple:photo:2018:aux:portraiteffectsmatte\0"),
        (b"av1C", b"\x81\0\x4c\0"),
    )
    width = 2 if long_numbers else 1
    numbers = b"".join(number.to_bytes(width, "big") for number in primary)
    association = b"\0\0\0" + bytes([long_numbers]) + struct.pack(">I", 2)
    association += struct.pack(">HB", 1, 1) + (1).to_bytes(width, "big")
    association += struct.pack(">HB", 2, len(primary)) + numbers
    meta = boxes(
        (b"pitm", b"\0\0\0\0\0\2"),
        (b"iinf", b"\0\0\0\0\0\0"),
        (b"iprp", boxes((b"ipco", properties), (b"ipma", association))),
    )
    filler = (b"free", bytes(9000))
    return boxes((b"ftyp", b"avif\0\0\0\0"), filler, (b"meta", b"\0\0\0\0" + meta))


@pytest.mark.parametrize("long_numbers", [False, True])
def test_of_a_heif_or_avif_the_primary_pictures_properties_count(long_numbers: bool) -> None:
    image = noise("RGB")
    image.format = "AVIF"

    found = read_contents(io.BytesIO(heif_container([2, 3], long_numbers=long_numbers)), image)

    assert (found.primaries, found.transfer, found.bits) == (12, 13, 10)
    assert found.left_out == ("HDR gain map", "portrait mattes")
    hdr = read_contents(io.BytesIO(heif_container([1, 6], long_numbers=long_numbers)), image)
    assert (hdr.transfer, hdr.bits) == (16, 10)


def test_open_picture_names_the_frames_it_did_not_read(tmp_path: Path) -> None:
    for name, words in {"a.tif": "pages 2 to 3", "a.gif": "frames 2 to 3"}.items():
        frames = [noise("RGB", (64 + index, 48)) for index in range(3)]
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])

        with pytest.warns(PictureWarning, match=f"b.png: left out: {words}$"):
            files.save_picture(files.open_picture(tmp_path / name), tmp_path / "b.png")
