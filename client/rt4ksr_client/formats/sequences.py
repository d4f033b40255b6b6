"""Files of several frames or pages: read, and written, one at a time.

Pillow collects the frames of an animation before it encodes them: 12 GB for 500 frames of 4K. Here
each is encoded as it comes. Peak memory, the encoder's included, does not grow with their number:

=========  ==================================================================  ============
format     in memory                                                           at 3840x2160
=========  ==================================================================  ============
GIF        two frames; written to the file at once                             0.2 GB
APNG       two frames; written to the file at once                             0.2 GB
TIFF       one page; written to the file at once                               0.1 GB
WebP       one frame, the encoder's, and the encoded ones (0.4 MB each)        0.4 GB
AVIF       one frame, those the encoder looks ahead at, and the encoded ones   0.5 GB
=========  ==================================================================  ============
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import IO, Any, Final, NamedTuple

from PIL import Image, ImageChops, TiffImagePlugin

from rt4ksr_client import files
from rt4ksr_client.formats import metadata, png
from rt4ksr_client.formats.container import ANIMATED, PAGED, PNG_SIGNATURE, png_chunk
from rt4ksr_client.pictures import warn

__all__ = ["ANIMATED_FORMATS", "FrameSequence", "Shot", "write_sequence"]

ANIMATED_FORMATS: Final = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
"""Formats whose animations can be written."""

_DEFAULT_DURATION_MS: Final = 100
"""How long browsers show a frame whose duration is 0."""
_LONGEST_DURATION_MS: Final = 60_000
"""A picture that stays for longer is written again: formats count in 16 bits."""
_TIFF_LIMIT_BYTES: Final = 4 * 10**9
_SUBFILE_TYPE: Final = 254
_REDUCED_OR_MASK: Final = 0b101


class Shot(NamedTuple):
    """A frame of an animation, or a page, which has no duration."""

    picture: Image.Image
    duration_ms: float = 0.0


class FrameSequence:
    """The frames, or pages, of an opened file that another format can store; at least the first.

    Iterating reads them in order and yields a :class:`Shot` each, upright and as a viewer shows it:
    partial frames are on top of those before them. ``has_alpha`` says whether any may be
    transparent, ``is_animation`` whether they have durations.

    Args:
        image: an opened file.
        name: what messages call it.
        format_name: the format to write, a key of :data:`rt4ksr_client.files.FORMATS`. Warns with
            :class:`~rt4ksr_client.pictures.PictureWarning` where it cannot store the rest.

    Raises:
        PictureError: the file is broken; also while iterating.

    """

    def __init__(self, image: Image.Image, name: str, format_name: str) -> None:
        self._image = image
        self._name = name
        self.has_alpha = image.has_transparency_data  # if one frame has, Pillow gives it to all
        with files.read_errors(name):
            self._indices = self._all_indices()
        self.is_animation = image.format in ANIMATED and len(self._indices) > 1
        if len(self._indices) > 1 and not self._fits(format_name):
            first = f"only the first of {len(self._indices)}"
            if self.is_animation:
                warn(f"{name}: {format_name} has no animation: {first} frames is kept")
            else:
                warn(f"{name}: {format_name} has one page: {first} is kept (TIFF has several)")
            self._indices = self._indices[:1]
            self.is_animation = False

    def __len__(self) -> int:
        """How many frames or pages there are."""
        return len(self._indices)

    def __iter__(self) -> Iterator[Shot]:
        """Read them."""
        with files.read_errors(self._name):
            if len(self) == 1:
                yield Shot(metadata.upright(self._image))
                return
            for index in self._indices:
                self._image.seek(index)
                self._image.load()
                picture = metadata.upright(self._image)
                if picture is self._image:
                    picture = picture.copy()
                picture.info.update(metadata.collect(self._image))  # while it knows its format
                yield Shot(picture, self._duration_ms())

    @property
    def loop(self) -> int | None:
        """How often the animation plays; 0 is forever, None once."""
        loop = self._image.info.get("loop")
        return loop if isinstance(loop, int) else None

    def _fits(self, format_name: str) -> bool:
        return format_name in ANIMATED_FORMATS if self.is_animation else format_name == "TIFF"

    def _all_indices(self) -> list[int]:
        image = self._image
        count = getattr(image, "n_frames", 1)
        if image.format in ANIMATED:
            # The default image of an APNG is not always part of the animation.
            return list(range(1 if image.info.get("default_image") and count > 1 else 0, count))
        if not isinstance(image, TiffImagePlugin.TiffImageFile):
            return list(range(count if image.format in PAGED else 1))
        indices = [0]
        for index in range(1, count):
            image.seek(index)
            if not image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK:
                indices.append(index)
        image.seek(0)
        return indices

    def _duration_ms(self) -> float:
        if not self.is_animation:
            return 0.0
        return float(self._image.info.get("duration") or _DEFAULT_DURATION_MS)


def write_sequence(
    stream: IO[bytes],
    shots: Iterable[Shot],
    format_name: str,
    *,
    count: int,
    has_alpha: bool = True,
    quality: int | None = None,
    loop: int | None = None,
    name: str = "",
) -> None:
    """Write an animation, the pages of a TIFF, or a single picture, consuming ``shots`` as it goes.

    A JPEG of quality 90 or more, and metadata: as :func:`rt4ksr_client.files.encode`.

    Args:
        stream: an empty file, which can seek.
        shots: what to write. The metadata of an animation is that in ``info`` of the first.
        format_name: a key of :data:`rt4ksr_client.files.FORMATS`.
        count: how many ``shots`` there are.
        has_alpha: False where no frame of an animation has transparency: smaller files.
        quality: 1 to 100, for JPEG, WebP and AVIF.
        loop: how often an animation plays; 0 is forever, None once.
        name: what warnings call the file.

    Raises:
        OSError, ValueError: the stream cannot be written, or the format cannot store a picture.

    """
    shots = iter(shots)
    first = next(shots)
    if count == 1:
        stream.write(files.encode(first.picture, format_name, quality=quality, name=name))
        return
    shots = itertools.chain([first], shots)
    if format_name == "TIFF":
        _write_tiff(stream, shots, count, name)
        return
    options = files.encoder_options(first.picture, format_name, quality, name)
    plays = 1 if loop is None else loop
    mode = "RGBA" if has_alpha else "RGB"
    if format_name == "GIF":
        _write_gif(stream, shots, options, loop)
    elif format_name == "PNG":
        _write_png(stream, shots, options, plays, mode)
    else:
        frames = _Frames(shots, count, mode)
        durations = frames.durations_ms
        frames.save(stream, format_name, save_all=True, duration=durations, loop=plays, **options)


class _Frames(Image.Image):
    """An animation whose frames come from an iterator: Pillow's encoders seek from one to the next.

    Those of WebP and AVIF encode each frame before they ask for another one.
    """

    def __init__(self, shots: Iterator[Shot], count: int, mode: str) -> None:
        super().__init__()
        self.n_frames = count
        self.is_animated = True
        self.durations_ms: list[int] = []
        self._shots = _in_units(shots, 1)
        self._in_mode = mode
        self.seek(0)

    def seek(self, frame: int) -> None:
        """Take the next frame; back to the first one, where encoders end, nothing happens."""
        if frame < len(self.durations_ms):
            return
        shot = next(self._shots, None)
        if shot is None:
            raise EOFError
        picture = shot.picture.convert(self._in_mode)
        self.im, self._size, self._mode = picture.im, picture.size, picture.mode
        self.durations_ms.append(int(shot.duration_ms))

    def tell(self) -> int:
        """Return the number of the current frame."""
        return len(self.durations_ms) - 1


def _write_tiff(stream: IO[bytes], pages: Iterable[Shot], count: int, name: str) -> None:
    writer: TiffImagePlugin.AppendingTiffWriter | None = None
    for page in pages:
        options = files.encoder_options(page.picture, "TIFF", None, name)
        if writer is None:
            writer = TiffImagePlugin.AppendingTiffWriter(stream)
            width, height = page.picture.size
            big_tiff = width * height * 4 * count > _TIFF_LIMIT_BYTES
        page.picture.save(writer, "TIFF", big_tiff=big_tiff, **options)
        writer.newFrame()
    if writer is not None:
        writer.close()


def _write_png(
    stream: IO[bytes], shots: Iterator[Shot], options: dict[str, Any], plays: int, mode: str
) -> None:
    """Write an APNG: the chunks of the first frame's PNG, then of each frame what is not there."""
    control_at = sequence = count = 0
    for shot in _merged(shots):
        chunks = list(png.encoded_chunks(shot.picture.convert(mode), options))
        data = [content for kind, content in chunks if kind == b"IDAT"]
        if count == 0:
            stream.write(PNG_SIGNATURE)
            for kind, content in itertools.takewhile(lambda chunk: chunk[0] != b"IDAT", chunks):
                stream.write(png_chunk(kind, content))
            control_at = stream.tell()
            stream.write(png_chunk(b"acTL", bytes(8)))
            options = {"compress_level": options["compress_level"]}
        stream.write(png_chunk(b"fcTL", _frame_control(sequence, shot)))
        sequence += 1
        for content in data:
            if count == 0:
                stream.write(png_chunk(b"IDAT", content))
            else:
                stream.write(png_chunk(b"fdAT", struct.pack(">I", sequence) + content))
                sequence += 1
        count += 1
    stream.write(png_chunk(b"IEND", b""))
    stream.seek(control_at)
    stream.write(png_chunk(b"acTL", struct.pack(">II", count, plays)))


def _frame_control(sequence: int, shot: Shot) -> bytes:
    seconds = shot.duration_ms / 1000
    delay = Fraction(seconds).limit_denominator(int(65535 / max(1, seconds)))
    width, height = shot.picture.size
    return struct.pack(
        ">IIIIIHHBB", sequence, width, height, 0, 0, delay.numerator, delay.denominator, 0, 0
    )


def _write_gif(
    stream: IO[bytes], shots: Iterator[Shot], options: dict[str, Any], loop: int | None
) -> None:
    """Write each frame as Pillow writes a picture, with a palette of its own."""
    for index, shot in enumerate(_in_units(_merged(shots), 10)):
        encoded = io.BytesIO()
        shot.picture.save(encoded, "GIF", interlace=0, **options)
        palette, transparent, picture = _gif_parts(encoded.getvalue())
        if index == 0:
            stream.write(b"GIF89a" + struct.pack("<HHBBB", *shot.picture.size, 0, 0, 0))
            if loop is not None:
                stream.write(b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<HB", loop, 0))
        # Disposal 2: cleared before the next one, which may be transparent where this is not.
        flags = 2 << 2 | (transparent is not None)
        control = struct.pack("<BHBB", flags, int(shot.duration_ms), transparent or 0, 0)
        size = len(palette).bit_length() - 3  # 3 * 2**(size + 1) bytes
        descriptor = picture[:9] + bytes([0x80 | size])
        stream.write(b"!\xf9\x04" + control + descriptor + palette + picture[10:])
    stream.write(b";")


def _gif_parts(data: bytes) -> tuple[bytes, int | None, bytes]:
    """Return palette, index of the transparent colour, and descriptor and data of the picture."""
    palette_bytes = 3 * 2 ** ((data[10] & 7) + 1)
    palette = data[13 : 13 + palette_bytes]
    at, transparent = 13 + palette_bytes, None
    while data[at : at + 1] == b"!":
        if data[at + 1] == 0xF9 and data[at + 3] & 1:
            transparent = data[at + 6]
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    return palette, transparent, data[at:-1]


def _merged(shots: Iterator[Shot]) -> Iterator[Shot]:
    """Join a frame with those that follow and are the same."""
    previous = next(shots)
    for shot in shots:
        duration_ms = previous.duration_ms + shot.duration_ms
        if duration_ms <= _LONGEST_DURATION_MS and _equal(previous.picture, shot.picture):
            previous = Shot(previous.picture, duration_ms)
            continue
        yield previous
        previous = shot
    yield previous


def _equal(one: Image.Image, other: Image.Image) -> bool:
    if one.mode != other.mode or one.size != other.size:
        return False
    return ImageChops.difference(one, other).getbbox(alpha_only=False) is None


def _in_units(shots: Iterator[Shot], unit_ms: int) -> Iterator[Shot]:
    """Give each shot its duration in whole units, so that the errors do not add up."""
    end_ms, end = 0.0, 0
    for picture, duration_ms in shots:
        end_ms += duration_ms
        units = round(end_ms / unit_ms) - end
        end += units
        yield Shot(picture, units)
