"""Thousands of broken pictures of every format: nothing but our own error comes out."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from rt4ksr_client import files
from rt4ksr_client.errors import PictureError
from rt4ksr_client.formats.color import ColorSpace
from rt4ksr_client.formats.container import png_chunk
from rt4ksr_client.formats.sequences import ANIMATED_FORMATS, FrameSequence, Shot, write_sequence
from rt4ksr_client.pictures import join, split

# Pillow warns about what it reads around; the warnings are not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore")

MUTANTS = 400
HEADER_BYTES = 200
KEEPING = ANIMATED_FORMATS | {"TIFF"}
READ_ONLY = ("JPEG2000", "MPO", "HEIF")
TARGETS = ("PNG", "JPEG", "WEBP", "TIFF")
XMP = b'<x xmlns:C="http://ns.google.com/photos/1.0/container/" C:a="1"><C:b>2</C:b></x>'


P3 = ColorSpace((0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329)).icc_profile()


def whole(format_name: str, *, frames: int = 1) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x013B] = "Somebody"
    exif.get_ifd(0x8769).update({0x927C: b"Maker\0note", 0xA002: 32})
    if frames == 1:  # Pillow 13 itself crashes on an animated AVIF with an orientation
        exif[0x0112] = 6
    shots = [Image.fromarray(frame) for frame in values]
    shots[0].info |= {"exif": exif.tobytes(), "xmp": XMP, "dpi": (72, 72)}
    shots[0].info |= {"comment": b"hello", "iptc": b"\x1c\x02\x78\0\1a", "icc_profile": P3}
    stream = io.BytesIO()
    if format_name in READ_ONLY:
        if format_name == "HEIF":
            pytest.importorskip("pillow_heif", reason="needs the heif extra").register_heif_opener()
        options = {"save_all": True, "append_images": shots[1:]} if frames > 1 else {}
        shots[0].save(stream, format_name, **options)
        return stream.getvalue()
    if format_name == "PNG":
        color = {b"cICP": b"\x0c\x0d\0\1", b"gAMA": b"\0\1\0\0"}
        shots[0].info["png_color"] = b"".join(png_chunk(*chunk) for chunk in color.items())
        shots[0].info["png_texts"] = png_chunk(b"tEXt", b"Title\0A")
    write_sequence(stream, iter(map(Shot, shots)), format_name, count=frames)
    return stream.getvalue()


def mutants(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    for index in range(count):
        broken = bytearray(data)
        reach = HEADER_BYTES if index % 2 else len(broken)
        for _ in range(chance.choice((1, 2, 8, 32))):
            broken[chance.randrange(min(reach, len(broken)))] = chance.randrange(256)
        yield bytes(broken[: chance.randrange(1, len(broken))] if index % 4 == 0 else broken)


def read_all(data: bytes) -> int:
    """Read as the command does; the number of pictures that came out."""
    image = files.decode(io.BytesIO(data), "fuzz")
    with files.read_errors("fuzz"):
        shots = FrameSequence(image, "fuzz", image.format if image.format in KEEPING else "PNG")
        pictures = [join(*split(shot.picture)) for shot in shots]
    with files.write_errors("fuzz"):
        for picture in pictures:
            for target in TARGETS:
                files.encode(picture, target)
    return getattr(image, "n_frames", 1) if image.format == "MPO" else len(shots)


@pytest.mark.parametrize(
    ("name", "frames"),
    [(name, 1) for name in (*files.FORMATS, *READ_ONLY)]
    + [(name, 3) for name in (*sorted(KEEPING), "MPO")],
)
def test_only_our_error_comes_out_of_broken_files(
    name: str,
    frames: int,
    broken_inputs: Callable[[int], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    data = whole(name, frames=frames)
    assert read_all(data) == frames
    count, refused = broken_inputs(MUTANTS), 0
    for broken in mutants(data, seed=frames, count=count):
        try:
            read_all(broken)
        except PictureError:
            refused += 1

    assert refused > count // 20


@pytest.mark.parametrize("name", [*files.FORMATS, *READ_ONLY])
def test_every_short_beginning_is_refused(name: str) -> None:
    data = whole(name)
    for length in range(min(len(data), 300)):
        with pytest.raises(PictureError):
            read_all(data[:length])
