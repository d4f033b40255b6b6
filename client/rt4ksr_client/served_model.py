"""What a client has to know about a model before it can send frames to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rt4ksr_client.contract import (
    COLOUR_NAMES,
    INPUTS,
    MODELS,
    OUTPUTS,
    PICTURE_NAME,
    Colours,
    FrameTensor,
    Parameter,
)
from rt4ksr_client.errors import PictureError, ServerError

__all__ = ["ServedModel"]

FRAMES: Final[Mapping[Colours, str]] = {"rgb": "RGB pictures", "yuv420": "4:2:0 video frames"}


@dataclass(frozen=True)
class ServedModel:
    """One model of a server, described by the ``parameters`` of its configuration.

    ``size_multiple``: height and width of a frame must be multiples of it. ``halo_px``: input
    pixels around an output pixel that it depends on. ``max_batch_size``: frames in one request.
    ``max_side_px``: longest side of a frame; None if the model accepts any. ``colours`` and
    ``bits``: those of the values in its tensors. ``max_jpeg_quality`` and
    ``max_jpeg_quality_444``: see :class:`~rt4ksr_client.contract.ModelSpec`.

    Raises:
        ValueError: a scale or a multiple below 1, a negative halo, or no room between two halos.

    """

    name: str
    scale: int
    size_multiple: int
    halo_px: int
    max_batch_size: int
    weights_sha256: str
    project_version: str
    max_side_px: int | None = None
    colours: Colours = "rgb"
    bits: int = 8
    max_jpeg_quality: float = 0
    max_jpeg_quality_444: float = 0

    @property
    def inputs(self) -> tuple[FrameTensor, ...]:
        """The tensors that it takes."""
        return INPUTS[self.colours]

    @property
    def outputs(self) -> tuple[FrameTensor, ...]:
        """The tensors that it returns."""
        return OUTPUTS[self.colours]

    @property
    def datatype(self) -> str:
        """Of its tensors."""
        return f"UINT{self.bits}"

    @property
    def frame_format(self) -> str:
        """What it takes and returns, for display: ``RGB, 8 bits`` or ``4:2:0, 16 bits``."""
        return f"{COLOUR_NAMES[self.colours]}, {self.bits} bits"

    def __post_init__(self) -> None:
        """Reject a model no picture could be prepared for."""
        if self.scale < 1 or self.size_multiple < 1 or self.halo_px < 0:
            raise ValueError(f"scale, size_multiple or halo_px out of range: {self}")
        if self.max_side_px is not None and self.max_side_px < 2 * self.halo_px + 64:
            raise ValueError(f"max_side_px leaves no room between two halos: {self}")

    def check_takes(self, colours: Colours, bits: int | None = None) -> None:
        """Reject frames of other colours, or of other bits, than the model's.

        Raises:
            PictureError: the message names this project's models for such frames.

        """
        if self.colours == colours and bits in (None, self.bits):
            return
        of_bits = "" if bits is None else f" of {bits} bits"
        fitting = ", ".join(
            spec.name
            for spec in MODELS.values()
            if spec.colours == colours and bits in (None, spec.bits)
        )
        raise PictureError(
            f"model {self.name!r} takes {FRAMES[self.colours]} of {self.bits} bits, not "
            f"{FRAMES[colours]}{of_bits}: those are for {fitting}"
        )

    def violation(self, shapes: Sequence[tuple[int, ...]]) -> str | None:
        """Return the rule that tensors of these ``shapes`` break; None if none."""
        count, height, width, _ = shapes[0]
        if not count or not height or not width:
            return "a batch must not be empty"
        if height % self.size_multiple or width % self.size_multiple:
            return f"height and width must be multiples of {self.size_multiple}"
        if count > max(1, self.max_batch_size):
            return f"at most {max(1, self.max_batch_size)} frames fit in one request"
        if self.max_side_px is not None and max(height, width) > self.max_side_px:
            return f"a side must not exceed {self.max_side_px} pixels"
        expected = [tensor.shape(count, height, width) for tensor in self.inputs]
        if list(shapes) != expected:
            return f"the tensors must have the shapes {expected}"
        return None

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ServedModel:
        """Read a model configuration in its JSON form.

        Raises:
            ServerError: the configuration lacks this project's parameters.

        """
        name = str(config.get("name", "?"))
        if any(tensor.get("name") == PICTURE_NAME for tensor in config.get("input", ())):
            raise ServerError(
                f"model {name!r} takes encoded pictures: name the model itself, with "
                "wire='encoded' (--wire encoded)"
            )
        values = {k: v.get("string_value", "") for k, v in config.get("parameters", {}).items()}
        max_side_px = values.get(Parameter.MAX_SIDE)
        colours: Any = values.get(Parameter.COLOURS, "rgb")
        datatypes = {tensor.get("data_type", "") for tensor in config.get("input", ())}
        if colours not in INPUTS:
            raise ServerError(
                f"model {name!r} has colours this client does not know: {colours!r}; it knows "
                f"{', '.join(INPUTS)}"
            )
        try:
            return cls(
                name=name,
                scale=int(values[Parameter.SCALE]),
                size_multiple=int(values[Parameter.SIZE_MULTIPLE]),
                halo_px=int(values[Parameter.HALO]),
                max_batch_size=int(config.get("max_batch_size", 0)),
                weights_sha256=values.get(Parameter.WEIGHTS_SHA256, ""),
                project_version=values.get(Parameter.PROJECT_VERSION, ""),
                max_side_px=None if max_side_px is None else int(max_side_px),
                colours=colours,
                bits=16 if datatypes == {"TYPE_UINT16"} else 8,
                max_jpeg_quality=float(values.get(Parameter.MAX_JPEG_QUALITY, 0)),
                max_jpeg_quality_444=float(values.get(Parameter.MAX_JPEG_QUALITY_444, 0)),
            )
        except (KeyError, ValueError) as exc:
            raise ServerError(
                f"model {name!r} is not one of rt4ksr-triton's: its config has no valid "
                f"parameter {exc}"
            ) from exc
