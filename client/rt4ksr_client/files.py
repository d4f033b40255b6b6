"""Pictures from and to files: whole or not at all."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from rt4ksr_client.errors import PictureError

__all__ = ["PNG_COMPRESS_LEVEL", "open_picture", "save_picture", "written_beside"]

PNG_COMPRESS_LEVEL = 1
"""A quarter of the time of Pillow's default 6, for files a fifth larger (4K photograph)."""


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Read and decode a picture.

    Raises:
        PictureError: no such file, not a picture, truncated, or more pixels than Pillow's limit
            against decompression bombs.

    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
            image.load()
    except FileNotFoundError:
        raise PictureError(f"{path}: there is no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise PictureError(f"{path}: refused as too large: {exc}") from exc
    except UnidentifiedImageError as exc:
        empty = path.is_file() and path.stat().st_size == 0
        raise PictureError(f"{path}: {'an empty file' if empty else 'not a picture'}") from exc
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as exc:
        raise PictureError(f"{path}: cannot be read: {exc}") from exc
    return image


def save_picture(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Encode by the suffix of ``path``; the file is there whole, or as it was.

    Raises:
        PictureError: an unknown suffix, or a place that cannot be written.

    """
    path = Path(path)
    format_name = Image.registered_extensions().get(path.suffix.lower())
    if format_name is None or format_name not in Image.SAVE:
        raise PictureError(f"{path}: unknown picture format {path.suffix!r}: try .png or .jpg")
    options = {"compress_level": PNG_COMPRESS_LEVEL} if format_name == "PNG" else {"quality": 95}
    try:
        with written_beside(path) as beside:
            image.save(beside, format=format_name, **options)
    except (OSError, ValueError, KeyError) as exc:
        raise PictureError(f"{path}: cannot be written: {exc}") from exc


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yield a new file in the folder of ``path``; renamed to it at the end, removed on an error."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        beside.chmod(0o666 & ~_umask())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
