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
from rt4ksr_client.pictures import join, split
from rt4ksr_client.sequences import ANIMATED_FORMATS, FrameSequence, Shot, write_sequence

# Pillow warns about what it reads around; the warnings are not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore")

MUTANTS = 400
HEADER_BYTES = 200
KEEPING = ANIMATED_FORMATS | {"TIFF"}


def whole(format_name: str, *, frames: int = 1) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x013B] = "Somebody"
    if frames == 1:  # Pillow 13 itself crashes on an animated AVIF with an orientation
        exif[0x0112] = 6
    shots = [Image.fromarray(frame) for frame in values]
    shots[0].info |= {"exif": exif.tobytes(), "xmp": b"<x/>", "dpi": (72, 72)}
    stream = io.BytesIO()
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
        for shot in shots:
            files.encode(join(*split(shot.picture)), "PNG")
    return len(shots)


@pytest.mark.parametrize(
    ("name", "frames"),
    [(name, 1) for name in files.FORMATS] + [(name, 3) for name in sorted(KEEPING)],
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


@pytest.mark.parametrize("name", list(files.FORMATS))
def test_every_short_beginning_is_refused(name: str) -> None:
    data = whole(name)
    for length in range(min(len(data), 300)):
        with pytest.raises(PictureError):
            read_all(data[:length])
