"""Read, write and encode picture files. A file is written whole or not at all."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from PIL import Image, UnidentifiedImageError

from rt4ksr_client.atomic_write import atomic_write, is_stream, write_errors
from rt4ksr_client.errors import PictureError
from rt4ksr_client.formats import metadata, png
from rt4ksr_client.formats.color import ColorSpace, refuse_hdr
from rt4ksr_client.formats.container import (
    ANIMATED,
    PAGED,
    WEBP_QUANTIZER,
    Contents,
    png_chunk,
    read_contents,
    unreadable_kind,
)
from rt4ksr_client.pictures import warn

__all__ = [
    "FORMATS",
    "LONGEST_SIDE_PX",
    "atomic_write",
    "check_size",
    "decode",
    "encode",
    "encoder_options",
    "format_of",
    "is_stream",
    "on_white",
    "open_picture",
    "read_errors",
    "read_stream",
    "readable_suffixes",
    "save_picture",
    "write_errors",
]

FORMATS: Final[dict[str, dict[str, Any]]] = {
    "PNG": {"compress_level": 1},  # of 1 bit, 16 bits or a palette: see formats.png
    "JPEG": {"quality": 95},
    "WEBP": {"quality": 90, "method": 0},
    "AVIF": {"quality": 80, "speed": 9},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "BMP": {},
    "GIF": {},
}
"""Formats that can be written and the defaults of their encoders. With them, encoding a 4K
photograph takes 0.04 s (JPEG) to 0.4 s (AVIF), and 0.1 s as PNG on one core."""

LONGEST_SIDE_PX: Final = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768, "GIF": 65_535}
"""By format, what its programs can write and read; the other formats have no limit to speak of."""

_WITH_QUALITY: Final = ("JPEG", "WEBP", "AVIF")
_WITHOUT_ALPHA: Final = ("JPEG", "BMP")
_HEIF_BRANDS: Final = b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split()
_HEIF_SUFFIXES: Final = frozenset({".heic", ".heif", ".hif"})
_NOT_PICTURES: Final = frozenset(
    {"MPEG", "PDF", "EPS", "WMF", "PS", "BUFR", "GRIB", "HDF5", "IPTC"}
)
_STREAM_BLOCK_BYTES: Final = 1 << 20
_LARGEST_STREAM_BYTES: Final = 2 * 10**9
_opening = threading.Lock()


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Read and decode a picture, upright; of an animation or several pages, the first.

    Raises:
        PictureError: no such file, not a picture, truncated, or more pixels than Pillow's limit
            against decompression bombs, ``Image.MAX_IMAGE_PIXELS``.

    """
    path = Path(path)
    image = decode(path, str(path))
    with read_errors(str(path)):
        count = getattr(image, "n_frames", 1) if image.format in ANIMATED | PAGED else 1
        if count == 1:
            return metadata.upright(image)
        with image:  # it would stay open for the other frames
            first = metadata.upright(image).copy()
            first.info.update(metadata.collect(image))
    kind = "pages" if image.format in PAGED else "frames"
    first.info.setdefault(metadata.LEFT_OUT, []).append(f"{kind} 2 to {count}")
    return first


def decode(
    source: Path | IO[bytes],
    name: str,
    *,
    formats: tuple[str, ...] | None = None,
    max_px: int | None = None,
) -> Image.Image:
    """Read and decode the first frame as stored, without applying its orientation.

    Warns with :class:`~rt4ksr_client.pictures.PictureWarning` when Pillow reduces more than 8 bits
    per channel to 8.

    Args:
        source: a file, or a stream that can seek.
        name: what messages call the picture.
        formats: Pillow's names of the formats to try. Default: all.
        max_px: reject larger pictures before decoding them.

    Raises:
        PictureError: as :func:`open_picture`, or more than ``max_px`` pixels.

    """
    with read_errors(name):
        if isinstance(source, Path) and is_stream(source):
            if source.is_char_device() or source.is_block_device():  # perhaps without an end
                raise PictureError(f"{name}: a device, not a picture")
            with source.open("rb") as opened:
                source = read_stream(opened, name)
        with _opened(source) as stream:
            start = stream.read(12)
        is_heif = formats is None and start[4:8] == b"ftyp" and start[8:] in _HEIF_BRANDS
        # Pillow warns above its limit and raises above twice the limit; here the limit is strict.
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if is_heif:
                _register_heif()
            try:
                image = Image.open(source, formats=formats)
            except UnidentifiedImageError:
                if is_heif and "HEIF" not in Image.OPEN:
                    remedy = "to read HEIC and HEIF, pip install 'rt4ksr-triton[heif]'"
                    raise PictureError(f"{name}: {remedy}") from None
                with _opened(source) as stream:
                    if kind := unreadable_kind(stream):
                        raise PictureError(f"{name}: {kind}") from None
                raise
        try:
            if max_px is not None and image.width * image.height > max_px:
                raise PictureError(
                    f"{name}: rejected as too large: {image.width}x{image.height} is more than "
                    f"{max_px} pixels"
                )
            with _opened(source) as stream:
                contents = read_contents(stream, image)
            _add(contents, image, name)
            image.load()
        except BaseException:
            image.close()
            raise
    if contents.bits > 8:
        warn(f"{name}: {contents.bits} bits per channel: upscaled and written with 8")
    return image


def read_stream(stream: IO[bytes], name: str) -> io.BytesIO:
    """Return the rest of ``stream``, for example a pipe, as a file that can seek.

    Raises:
        PictureError: more than 2 GB, which no picture has.

    """
    content = io.BytesIO()
    while block := stream.read(_STREAM_BLOCK_BYTES):
        content.write(block)
        if content.tell() > _LARGEST_STREAM_BYTES:
            raise PictureError(
                f"{name}: more than {_LARGEST_STREAM_BYTES // 10**9} GB, and not at its end: not a "
                "picture"
            )
    content.seek(0)
    return content


def readable_suffixes() -> frozenset[str]:
    """Return the suffixes, in small letters, of the files that :func:`decode` reads.

    Those of HEIF are among them without the ``heif`` extra, too: the error says what to install.
    """
    return _HEIF_SUFFIXES | {
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in _NOT_PICTURES
    }


def format_of(path: Path) -> str:
    """Return the format (a key of :data:`FORMATS`) that the file name's suffix stands for.

    Raises:
        PictureError: no format that can be written.

    """
    name = Image.registered_extensions().get(path.suffix.lower())
    if name not in FORMATS:
        known = ".png .jpg .webp .avif .tiff .bmp .gif"
        raise PictureError(f"{path}: {path.suffix!r} cannot be written: use one of {known}")
    return name


def check_size(format_name: str, width_px: int, height_px: int) -> None:
    """Check, before it is made, that a format can store a picture of this size.

    Raises:
        PictureError: it cannot.

    """
    longest = LONGEST_SIDE_PX.get(format_name)
    if longest is not None and max(width_px, height_px) > longest:
        raise PictureError(
            f"{width_px}x{height_px} exceeds {format_name}'s limit of {longest} pixels per side: "
            "choose another format, such as png"
        )


def save_picture(
    image: Image.Image, path: str | os.PathLike[str], *, quality: int | None = None
) -> None:
    """Write ``image`` in the format of the suffix of ``path``; on an error the old file stays.

    Writes the metadata in ``image.info`` that the format supports. ``quality`` is 1 to 100, for
    JPEG, WebP and AVIF.

    Raises:
        PictureError: an unknown suffix, or the file cannot be written.

    """
    path = Path(path)
    format_name = format_of(path)
    with write_errors(str(path)), atomic_write(path) as temporary:
        temporary.write_bytes(encode(image, format_name, quality=quality, name=str(path)))


def encode(
    image: Image.Image, format_name: str, *, quality: int | None = None, name: str = ""
) -> bytes:
    """Return ``image`` as a file of the format ``format_name``, with the metadata in its ``info``.

    A JPEG of quality 90 or more keeps its colours at full resolution, except when its source was a
    JPEG with subsampled chroma: at twice the size, half the resolution holds the same detail, for
    two thirds of the time.

    Args:
        image: the picture.
        format_name: a key of :data:`FORMATS`.
        quality: 1 to 100, for JPEG, WebP and AVIF.
        name: what warnings call the file.

    """
    options = encoder_options(image, format_name, quality, name)
    if format_name in _WITHOUT_ALPHA:
        if image.has_transparency_data:
            warn(f"{_prefix(name)}{format_name} has no transparency: put on white")
        image = on_white(image)
    if format_name == "PNG":
        return png.encoded_file(image, options)
    buffer = io.BytesIO()
    image.save(buffer, format=format_name, **options)
    return buffer.getvalue()


def encoder_options(
    image: Image.Image, format_name: str, quality: int | None, name: str = ""
) -> dict[str, Any]:
    """Return what Pillow's ``save`` takes for the format, with the metadata in ``info``.

    Warns once, with :class:`~rt4ksr_client.pictures.PictureWarning`, about all that is left out:
    what no upscaled picture can have, and metadata that the format cannot store.
    """
    described, dropped = metadata.save_options(image, format_name)
    left_out = [", ".join(image.info.get(metadata.LEFT_OUT, ()))]
    if dropped:
        left_out.append(f"{', '.join(dropped)} ({format_name} cannot store that)")
    if text := "; ".join(filter(None, left_out)):
        warn(f"{_prefix(name)}left out: {text}")
    options = {**FORMATS[format_name], **described}
    if quality is not None and format_name in _WITH_QUALITY:
        options["quality"] = quality
    if format_name == "JPEG" and options["quality"] >= 90:
        options["subsampling"] = "4:2:0" if image.info.get(metadata.SUBSAMPLED) else "4:4:4"
    return options


def _prefix(name: str) -> str:
    return f"{name}: " if name else ""


def on_white(image: Image.Image) -> Image.Image:
    """Return a picture with transparency as ``RGB`` or ``L`` on white; an opaque one unchanged."""
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("L" if image.mode == "LA" else "RGB")


@contextmanager
def read_errors(name: str) -> Iterator[None]:
    """Raise :class:`PictureError` about ``name`` for any error of a decoder in the block."""
    try:
        yield
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise PictureError(f"{name}: a folder, not a picture") from None
    except PermissionError:
        raise PictureError(f"{name}: you may not read this file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise PictureError(f"{name}: rejected as too large: {exc}") from exc
    except UnidentifiedImageError as exc:
        is_empty = Path(name).is_file() and Path(name).stat().st_size == 0
        raise PictureError(f"{name}: {'an empty file' if is_empty else 'not a picture'}") from exc
    except Exception as exc:  # decoders of broken files raise struct.error, IndexError, KeyError…
        raise PictureError(f"{name}: cannot be read: {exc or type(exc).__name__}") from exc


def _register_heif() -> None:
    """Teach Pillow HEIF, where the extra is installed; AVIF may have the same brands."""
    if "HEIF" in Image.OPEN:
        return
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)


def _add(contents: Contents, image: Image.Image, name: str) -> None:
    """Add what Pillow did not read to ``info``; reject HDR."""
    info = image.info
    if contents.icc_profile and not info.get("icc_profile"):
        info["icc_profile"] = contents.icc_profile
    refuse_hdr(contents.transfer, info.get("icc_profile"), name)
    if contents.is_truncated:
        raise PictureError(f"{name}: truncated: its end is missing")
    if contents.is_raw:
        raise PictureError(
            f"{name}: a raw photograph, of which only a preview can be read: develop it to TIFF or "
            "JPEG first"
        )
    left_out = list(contents.left_out)
    if not metadata.has_readable_exif(image):
        del info["exif"]
        left_out.append("EXIF (malformed)")
    if left_out:
        info[metadata.LEFT_OUT] = left_out
    if image.format == "WEBP":
        info[WEBP_QUANTIZER] = contents.webp_quantizer
    if contents.png_texts:
        info["png_texts"] = contents.png_texts
    if contents.png_color:
        info["png_color"] = contents.png_color
    elif contents.primaries and contents.transfer and not info.get("icc_profile"):
        # Decoded to RGB of full range, whatever the file's own matrix and range.
        space = ColorSpace.from_codes(contents.primaries, contents.transfer)
        if space is None or not space.is_srgb:
            codes = bytes([contents.primaries & 255, contents.transfer & 255, 0, 1])
            info["png_color"] = png_chunk(b"cICP", codes)


@contextmanager
def _opened(source: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield a file's bytes from the beginning; a stream is back at its position in the end."""
    if isinstance(source, Path):
        with source.open("rb") as stream:
            yield stream
        return
    position = source.tell()
    source.seek(0)
    yield source
    source.seek(position)
