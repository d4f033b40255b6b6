"""Pictures from and to files and streams: whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from PIL import Image, UnidentifiedImageError

from rt4ksr_client import metadata
from rt4ksr_client.errors import PictureError
from rt4ksr_client.pictures import warn

__all__ = [
    "FORMATS",
    "PNG_COMPRESS_LEVEL",
    "decode",
    "encode",
    "format_of",
    "open_picture",
    "reading",
    "save_picture",
    "writing",
    "written_beside",
]

PNG_COMPRESS_LEVEL = 1
"""A quarter of the time of Pillow's default 6, for files a fifth larger (4K photograph)."""

FORMATS: Final[dict[str, dict[str, Any]]] = {
    "PNG": {"compress_level": PNG_COMPRESS_LEVEL},
    "JPEG": {"quality": 95},
    "WEBP": {"quality": 90, "method": 0},
    "AVIF": {"quality": 80, "speed": 9},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "BMP": {},
    "GIF": {},
}
"""Formats that are written, and their encoders' defaults: chosen so that encoding a 4K photograph
takes 0.03 (JPEG) to 0.6 (PNG) seconds."""

_WITH_QUALITY: Final = ("JPEG", "WEBP", "AVIF")
_WITHOUT_ALPHA: Final = ("JPEG", "BMP")
_opening = threading.Lock()


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Read and decode a picture, upright; of an animation the first frame.

    Raises:
        PictureError: no such file, not a picture, truncated, or more pixels than Pillow's limit
            ``Image.MAX_IMAGE_PIXELS`` against decompression bombs.

    """
    path = Path(path)
    image = decode(path, str(path))
    with reading(str(path)):
        return metadata.upright(image)


def decode(
    source: Path | IO[bytes],
    name: str,
    *,
    formats: tuple[str, ...] | None = None,
    max_px: int | None = None,
) -> Image.Image:
    """Read and decode the first frame, as it lies in the file; ``name`` is for messages.

    More than 8 bits a channel that Pillow would cut without a word are said as a warning. Only
    ``formats``, by their names in Pillow, are tried; by default all. More than ``max_px`` pixels
    are refused before they are decoded.

    Raises:
        PictureError: as :func:`open_picture`.

    """
    with reading(name):
        # Pillow warns above its limit and refuses above twice of it; here the limit is the limit.
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(source, formats=formats)
        if max_px is not None and image.width * image.height > max_px:
            image.close()
            raise PictureError(
                f"{name}: refused as too large: {image.width}x{image.height} is more than "
                f"{max_px} pixels"
            )
        deep = _is_cut_to_8_bits(image, source)
        image.load()
    if deep:
        warn(f"{name}: more than 8 bits a channel: upscaled and written with 8")
    return image


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises in the block into PictureError."""
    try:
        yield
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise PictureError(f"{name}: a folder, not a picture") from None
    except PermissionError:
        raise PictureError(f"{name}: may not be read by this user") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise PictureError(f"{name}: refused as too large: {exc}") from exc
    except UnidentifiedImageError as exc:
        raise PictureError(
            f"{name}: {'an empty file' if _is_empty(name) else 'not a picture'}"
        ) from exc
    except Exception as exc:  # decoders of broken files raise struct.error, IndexError, KeyError…
        raise PictureError(f"{name}: cannot be read: {exc or type(exc).__name__}") from exc


def format_of(path: Path) -> str:
    """Return the format that the suffix stands for.

    Raises:
        PictureError: none that is written here.

    """
    name = Image.registered_extensions().get(path.suffix.lower())
    if name not in FORMATS:
        known = ".png .jpg .webp .avif .tiff .bmp .gif"
        raise PictureError(f"{path}: unknown picture format {path.suffix!r}: try one of {known}")
    return name


def save_picture(
    image: Image.Image, path: str | os.PathLike[str], *, quality: int | None = None
) -> None:
    """Encode by the suffix of ``path``; the file is there whole, or as it was.

    Writes the metadata in ``image.info`` that the format has a place for.

    Raises:
        PictureError: an unknown suffix, or a place that cannot be written.

    """
    path = Path(path)
    format_name = format_of(path)
    with writing(str(path)), written_beside(path) as beside, beside.open("wb") as target:
        encode([image], target, format_name, quality=quality)


def encode(
    images: list[Image.Image],
    target: IO[bytes],
    format_name: str,
    *,
    quality: int | None = None,
    **animation: Any,
) -> None:
    """Write ``images``, several of them as an animation, in a format of :data:`FORMATS`.

    A JPEG of quality 90 or more has its colours at full resolution, unless what became it was a
    JPEG that had not: half the resolution of the larger picture then holds them as well, for two
    thirds of the time.
    """
    info = {str(key): value for key, value in images[0].info.items()}
    described, left_out = metadata.save_options(info, format_name)
    if left_out:
        warn(f"{format_name} has no place for the picture's {', '.join(left_out)}: left out")
    options = {**FORMATS[format_name], **described}
    if quality is not None and format_name in _WITH_QUALITY:
        options["quality"] = quality
    if format_name == "JPEG" and options["quality"] >= 90:
        options["subsampling"] = "4:2:0" if info.get(metadata.SUBSAMPLED) else "4:4:4"
    if format_name in _WITHOUT_ALPHA:
        images = [_flattened(image, format_name) for image in images]
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:], **animation}
    # Encoders seek, which standard output cannot.
    buffer = io.BytesIO()
    images[0].save(buffer, format=format_name, **options)
    target.write(buffer.getbuffer())


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turn what goes wrong while writing in the block into PictureError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        reason = _REASONS.get(exc.errno or 0, str(exc))
        raise PictureError(f"{name}: cannot be written: {reason}") from exc
    except (ValueError, KeyError, TypeError, OverflowError, SystemError) as exc:
        raise PictureError(f"{name}: cannot be written: {exc}") from exc


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yield a new file in the folder of ``path``; renamed to it at the end, removed on an error."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".rt4ksr-", suffix=path.suffix)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        beside.chmod(0o666 & ~_umask())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


_REASONS: Final = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.ENOENT: "there is no such folder",
    errno.ENOTDIR: "there is no such folder",
    errno.EISDIR: "a folder has this name",
    errno.ENAMETOOLONG: "the name is too long",
}


def _flattened(image: Image.Image, format_name: str) -> Image.Image:
    if "A" not in image.getbands():
        return image
    warn(f"{format_name} has no transparency: put on white")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("L" if image.mode == "LA" else "RGB")


def _is_cut_to_8_bits(image: Image.Image, source: Path | IO[bytes]) -> bool:
    """Whether Pillow drops bits without a word; known before the pixels are loaded."""
    if image.mode.startswith(("I", "F")):
        return False
    if image.format == "AVIF":
        header = _head(source)
        start = header.find(b"av1C")
        return 0 <= start < len(header) - 6 and bool(header[start + 6] & 0x40)
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _head(source: Path | IO[bytes], length_bytes: int = 4096) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return stream.read(length_bytes)
    place = source.tell()
    source.seek(0)
    header = source.read(length_bytes)
    source.seek(place)
    return header


def _is_empty(name: str) -> bool:
    return Path(name).is_file() and Path(name).stat().st_size == 0


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
