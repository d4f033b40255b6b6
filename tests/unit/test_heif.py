"""HEIC and HEIF, which phones write: read with the extra, named with the remedy without it."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from rt4ksr_client import files
from rt4ksr_client.cli.folders import FolderScan
from rt4ksr_client.errors import PictureError
from rt4ksr_client.formats import metadata
from rt4ksr_client.pictures import PictureWarning, split


def photograph() -> Image.Image:
    return Image.linear_gradient("L").resize((96, 64)).convert("RGB")


def heic(image: Image.Image, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the heif extra")
    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, quality=90, **options)
    return stream.getvalue()


def test_a_heic_file_is_read_upright_with_its_metadata(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "Somebody"
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(heic(photograph(), exif=exif.tobytes(), xmp=b"<x:xmpmeta/>"))

    image = files.open_picture(path)
    frame, surroundings = split(image)

    assert frame.shape == (96, 64, 3)
    turned = np.asarray(photograph().transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(frame - turned).mean() < 4
    assert surroundings.info["xmp"] == b"<x:xmpmeta/>"
    kept = Image.Exif()
    kept.load(surroundings.info["exif"])
    assert dict(kept) == {ExifTags.Base.Artist: "Somebody"}


def test_a_transparent_heic_file_keeps_its_alpha() -> None:
    image = photograph()
    image.putalpha(Image.linear_gradient("L").resize(image.size))

    found = files.decode(io.BytesIO(heic(image)), "a.heic")

    assert found.mode == "RGBA"
    assert np.abs(np.asarray(found)[:, :, 3].astype(int) - np.asarray(image)[:, :, 3]).mean() < 4


def test_a_heic_file_of_10_bits_is_read_with_8_and_says_so() -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the heif extra")
    values = np.asarray(photograph()).astype(np.uint16) * 257
    stream = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (96, 64), values.tobytes()).save(stream)

    with pytest.warns(PictureWarning, match="10 bits per channel"):
        assert files.decode(stream, "a.heic").mode == "RGB"


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for table in (Image.OPEN, Image.MIME):
        monkeypatch.delitem(table, "HEIF", raising=False)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])


# The beginning of a file as an iPhone writes it.
BEGINNING = b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEMiPrmiafheictmap\0\0\0\x20meta" + bytes(24)


@pytest.mark.usefixtures("without_extra")
@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1"])
def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, brand: bytes) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(BEGINNING.replace(b"heic", brand, 1))

    with pytest.raises(PictureError, match=r"a\.heic: .* pip install 'rt4ksr-triton\[heif\]'"):
        files.open_picture(path)


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_files_of_a_folder_are_still_found(tmp_path: Path) -> None:
    for name in ("a.heic", "b.HEIF", "c.hif", "d.txt", "e.h5"):
        (tmp_path / name).touch()

    found = [path.name for path in FolderScan(tmp_path).pictures]

    assert found == ["a.heic", "b.HEIF", "c.hif"]


@pytest.mark.usefixtures("without_extra")
def test_an_avif_with_a_brand_of_heif_needs_no_extra() -> None:
    data = bytearray(files.encode(photograph(), "AVIF"))
    data[8:12] = b"mif1"

    assert files.decode(io.BytesIO(data), "a.avif").size == (96, 64)


def test_a_broken_heic_file_is_our_error() -> None:
    data = heic(photograph())
    for length in range(12, len(data), 97):
        with pytest.raises(PictureError):
            metadata.upright(files.decode(io.BytesIO(data[:length]), "a.heic"))


def test_heic_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"'\.heic' cannot be written: use one of \.png"):
        files.save_picture(photograph(), tmp_path / "a.heic")
