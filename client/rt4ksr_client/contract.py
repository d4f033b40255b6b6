"""The wire contract: names, inputs and outputs of a served RT4KSR model.

Everything derives from this module: the exporter's ``config.pbtxt``, the backend's checks, the
client and the tests. It needs nothing but the standard library.

A model takes and returns frames in its colours, tensors by :data:`INPUTS` and :data:`OUTPUTS`, H
and W multiples of :data:`SIZE_MULTIPLE_PX`:

* ``rgb``: request ``image``, UINT8, ``(N, H, W, 3)``; response ``upscaled``, ``(N, s*H, s*W, 3)``.
* ``yuv420``: request ``luma`` ``(N, H, W, 1)`` and ``chroma`` ``(N, H/2, W/2, 2)``, U before V, as
  NV12 holds them; response ``upscaled_luma`` ``(N, s*H, s*W, 1)`` and ``upscaled_chroma``
  ``(N, s*H/2, s*W/2, 2)``. UINT8 for video of 8 bits; UINT16 for any of 9 to 16 bits, with the
  value in the high bits, as P010 holds it. Whatever matrix, range and transfer the codes are for,
  the answer's are for the same.

All arithmetic between the two (scaling, clipping, rounding half to even) is the graph's.

The image endpoint of such a model, an ensemble named by :func:`image_endpoint`, takes and returns
encoded pictures. Request ``picture``: BYTES, shape ``(N, 1)``, each a whole file in one of
:data:`PICTURE_FORMATS`, all of the same size in pixels. Response ``upscaled_picture``: BYTES,
``(N, 1)``. The request parameters of :class:`PictureParameter` say how the answer is encoded. In
between are the stages :data:`DECODE_STAGE` and :data:`ENCODE_STAGE`. What bypasses the network
(alpha, metadata) goes from one to the other as :data:`SIDECAR_NAME`, one for each picture.
:func:`auto_endpoint` names the endpoint that sends each picture to that of the model for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

__all__ = [
    "CHANNELS",
    "COLOUR_NAMES",
    "DECODE_STAGE",
    "DEFAULT_MODELS",
    "DEFAULT_PICTURE_FORMAT",
    "ENCODE_STAGE",
    "INPUTS",
    "INPUT_NAME",
    "MAX_INPUT_PX",
    "MAX_PICTURE_BYTES",
    "MAX_SIDE_PX",
    "MODELS",
    "OUTPUTS",
    "OUTPUT_NAME",
    "PICTURE_DATATYPE",
    "PICTURE_FORMATS",
    "PICTURE_NAME",
    "PRIORITIES",
    "SIDECAR_NAME",
    "SIZE_MULTIPLE_PX",
    "UPSCALED_PICTURE_NAME",
    "WIRE_DATATYPE",
    "Colours",
    "Content",
    "FrameTensor",
    "ModelSpec",
    "Parameter",
    "PictureFormat",
    "PictureParameter",
    "Priority",
    "auto_endpoint",
    "image_endpoint",
    "models_for",
]

INPUT_NAME: Final = "image"
OUTPUT_NAME: Final = "upscaled"
WIRE_DATATYPE: Final = "UINT8"
CHANNELS: Final = 3

SIZE_MULTIPLE_PX: Final = 2
"""H and W must be multiples of this: the network starts with a pixel-unshuffle by 2."""

MAX_INPUT_PX: Final = 3840 * 3840
"""Most pixels (H times W) of one frame that a server accepts: a 4K picture in either orientation.
The client sends larger ones in tiles."""

MAX_SIDE_PX: Final = 2080
"""Longest side of a frame that every configuration of a model accepts: 2048 pixels and two halos.
The client sends larger pictures in tiles. GPU memory grows with the square of it."""


PICTURE_NAME: Final = "picture"
UPSCALED_PICTURE_NAME: Final = "upscaled_picture"
SIDECAR_NAME: Final = "sidecar"
PICTURE_DATATYPE: Final = "BYTES"

DECODE_STAGE: Final = "rt4ksr_decode"
"""The model ``picture`` -> ``image`` and ``sidecar``."""
ENCODE_STAGE: Final = "rt4ksr_encode"
"""The model ``upscaled`` and ``sidecar`` -> ``upscaled_picture``."""

PictureFormat = Literal["jpeg", "png", "webp"]
PICTURE_FORMATS: Final[tuple[PictureFormat, ...]] = get_args(PictureFormat)
"""Formats that the image endpoint reads and writes."""
DEFAULT_PICTURE_FORMAT: Final[PictureFormat] = "jpeg"

MAX_PICTURE_BYTES: Final = 32 * 1024 * 1024
"""Largest file the image endpoint takes, in bytes: a photograph of :data:`MAX_INPUT_PX` as PNG."""

Colours = Literal["rgb", "yuv420"]
"""``yuv420``: luma and chroma as in most video, one sample of chroma for 2x2 pixels."""

COLOUR_NAMES: Final[Mapping[Colours, str]] = MappingProxyType({"rgb": "RGB", "yuv420": "4:2:0"})
"""For display."""


@dataclass(frozen=True)
class FrameTensor:
    """A tensor with a part of each frame: ``(N, H/subsampling, W/subsampling, channels)``."""

    name: str
    channels: int
    subsampling: int = 1

    def shape(self, count: int, height_px: int, width_px: int) -> tuple[int, int, int, int]:
        """Return the shape of ``count`` frames."""
        step = self.subsampling
        return count, height_px // step, width_px // step, self.channels


INPUTS: Final[Mapping[Colours, tuple[FrameTensor, ...]]] = MappingProxyType(
    {
        "rgb": (FrameTensor(INPUT_NAME, CHANNELS),),
        "yuv420": (FrameTensor("luma", 1), FrameTensor("chroma", 2, subsampling=2)),
    }
)
OUTPUTS: Final[Mapping[Colours, tuple[FrameTensor, ...]]] = MappingProxyType(
    {
        "rgb": (FrameTensor(OUTPUT_NAME, CHANNELS),),
        "yuv420": (
            FrameTensor("upscaled_luma", 1),
            FrameTensor("upscaled_chroma", 2, subsampling=2),
        ),
    }
)

Content = Literal["any", "jpeg", "jpeg_low", "video"]
"""``jpeg``: pictures compressed lightly; ``jpeg_low``: strongly, or with all of their chroma;
``video``: frames of compressed video."""


Priority = Literal["high", "normal"]
PRIORITIES: Final[Mapping[Priority, int]] = MappingProxyType({"high": 1, "normal": 2})
"""Triton's levels of a request in a model's queue: those of ``high`` are all served first."""


class Parameter:
    """Keys of the model config's ``parameters``, which describe the model to clients."""

    SCALE: Final = "scale"
    COLOURS: Final = "colours"
    SIZE_MULTIPLE: Final = "size_multiple"
    HALO: Final = "halo_px"
    """Even margin of input pixels around a tile that makes tiling exact."""
    MAX_JPEG_QUALITY: Final = "max_jpeg_quality"
    MAX_JPEG_QUALITY_444: Final = "max_jpeg_quality_444"
    """See :class:`ModelSpec`; without them, clients choose the model by name or by default only.

    In the configuration of an endpoint that chooses, followed by ``:`` and a model's name."""
    CHOICES: Final = "choices"
    """Of an endpoint that chooses: the names of its models, the default one first."""
    MAX_INPUT_PX: Final = "max_input_px"
    MAX_SIDE: Final = "max_side_px"
    """Longest side of a frame, halos included; without it, any side is accepted."""
    WEIGHTS_SHA256: Final = "weights_sha256"
    PROJECT_VERSION: Final = "project_version"
    FILE_SHA256: Final = "sha256:"
    """Followed by the name of a file of the model: its SHA-256, in hexadecimal."""
    MAX_PICTURE_BYTES: Final = "max_picture_bytes"
    DEFAULT_FORMAT: Final = "default_format"
    DEFAULT_QUALITY: Final = "default_quality_"
    """Followed by the name of a format that has a quality."""


class PictureParameter:
    """Keys of a request's ``parameters`` (or HTTP headers, in any case) to the image endpoint."""

    FORMAT: Final = "format"
    """Format of the answer, one of :data:`PICTURE_FORMATS`."""
    QUALITY: Final = "quality"
    """Quality of a JPEG or WebP answer, 1 to 100."""
    HEADERS: Final = f"(?i)^({FORMAT}|{QUALITY})$"
    """tritonserver's ``--http-header-forward-pattern`` for these headers."""


@dataclass(frozen=True)
class ModelSpec:
    """One served model: a row of :data:`MODELS`.

    ``input_width_px`` x ``input_height_px`` is the frame the model is meant for: it is measured at
    this size, and a TensorRT engine is optimized for it. Any other size is served too. ``content``
    is what its weights are best at. Its tensors hold ``colours`` in ``bits`` each; ``weights`` are
    the shipped ones, if not those of its name.

    A client that chooses by picture takes the model for pictures that were compressed as JPEG, at
    ``max_jpeg_quality`` or lower (libjpeg's scale) with subsampled chroma, at
    ``max_jpeg_quality_444`` or lower with chroma at full resolution. Of several, it takes the one
    with the lowest limit; 0 is never.
    """

    name: str
    scale: int
    input_width_px: int
    input_height_px: int
    content: Content = "any"
    colours: Colours = "rgb"
    bits: Literal[8, 16] = 8
    weights: str = ""
    max_jpeg_quality: int = 0
    max_jpeg_quality_444: int = 0

    @property
    def datatype(self) -> str:
        """Of its tensors, as Triton's HTTP and gRPC protocols name it."""
        return f"UINT{self.bits}"

    @property
    def weights_name(self) -> str:
        """Of the shipped weights."""
        return self.weights or self.name

    def __post_init__(self) -> None:
        """Reject a row that contradicts the contract."""
        if self.scale < 1:
            raise ValueError(f"{self.name}: scale must be at least 1, got {self.scale}")
        if self.input_width_px % SIZE_MULTIPLE_PX or self.input_height_px % SIZE_MULTIPLE_PX:
            raise ValueError(f"{self.name}: the input size must be even")
        for limit in (self.max_jpeg_quality, self.max_jpeg_quality_444):
            if not 0 <= limit <= 100:
                raise ValueError(f"{self.name}: a JPEG quality is 0 to 100, got {limit}")


def _by_name(*specs: ModelSpec) -> Mapping[str, ModelSpec]:
    return MappingProxyType({spec.name: spec for spec in specs})


MODELS: Final[Mapping[str, ModelSpec]] = _by_name(
    ModelSpec("rt4ksr_x2", scale=2, input_width_px=1920, input_height_px=1080),
    ModelSpec("rt4ksr_x3", scale=3, input_width_px=1280, input_height_px=720),
    ModelSpec("rt4ksr_x2_jpeg", 2, 1920, 1080, "jpeg", max_jpeg_quality=98),
    ModelSpec(
        "rt4ksr_x2_jpeg_low",
        2,
        1920,
        1080,
        "jpeg_low",
        max_jpeg_quality=79,
        max_jpeg_quality_444=87,
    ),
    ModelSpec("rt4ksr_x3_jpeg", 3, 1280, 720, "jpeg", max_jpeg_quality=98),
    ModelSpec(
        "rt4ksr_x3_jpeg_low",
        3,
        1280,
        720,
        "jpeg_low",
        max_jpeg_quality=80,
        max_jpeg_quality_444=87,
    ),
    ModelSpec("rt4ksr_x2_video", 2, 1920, 1080, content="video", colours="yuv420"),
    ModelSpec("rt4ksr_x3_video", 3, 1280, 720, content="video", colours="yuv420"),
    ModelSpec(
        "rt4ksr_x2_video16", 2, 1920, 1080, "video", "yuv420", bits=16, weights="rt4ksr_x2_video"
    ),
    ModelSpec(
        "rt4ksr_x3_video16", 3, 1280, 720, "video", "yuv420", bits=16, weights="rt4ksr_x3_video"
    ),
)
"""Every model this project ships, by name."""


def image_endpoint(model: str) -> str:
    """Return the name of the ensemble that runs ``model`` on encoded pictures."""
    return f"{model}_image"


def auto_endpoint(scale: int) -> str:
    """Return the name of the image endpoint that chooses a model of that scale by picture."""
    return image_endpoint(f"{DEFAULT_MODELS[scale].name}_auto")


def models_for(content: Content, bits: int = 8) -> Mapping[int, ModelSpec]:
    """Return this project's models for that content, with tensors of ``bits``, by scale."""
    found = (s for s in MODELS.values() if s.content == content and s.bits == bits)
    return MappingProxyType({spec.scale: spec for spec in found})


DEFAULT_MODELS: Final[Mapping[int, ModelSpec]] = models_for("any")
"""The model for each scale, unless another one is requested."""
