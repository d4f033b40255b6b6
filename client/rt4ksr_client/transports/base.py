"""What every transport offers, and what a client learns from the server through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from rt4ksr_client.contract import Parameter
from rt4ksr_client.errors import ServerError
from rt4ksr_client.frames import Frame

__all__ = ["ServedModel", "Transport"]


@dataclass(frozen=True)
class ServedModel:
    """What the server says about one of its models (the ``parameters`` of its config)."""

    name: str
    scale: int
    size_multiple: int
    halo_px: int
    max_batch_size: int
    weights_sha256: str
    project_version: str

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ServedModel:
        """Read a model configuration in its JSON form.

        Raises:
            ServerError: the model does not carry this project's parameters.

        """
        name = str(config.get("name", "?"))
        values = {k: v.get("string_value", "") for k, v in config.get("parameters", {}).items()}
        try:
            return cls(
                name=name,
                scale=int(values[Parameter.SCALE]),
                size_multiple=int(values[Parameter.SIZE_MULTIPLE]),
                halo_px=int(values[Parameter.HALO]),
                max_batch_size=int(config.get("max_batch_size", 0)),
                weights_sha256=values.get(Parameter.WEIGHTS_SHA256, ""),
                project_version=values.get(Parameter.PROJECT_VERSION, ""),
            )
        except (KeyError, ValueError) as exc:
            raise ServerError(
                f"model {name!r} is not one of rt4ksr-triton's: its config has no valid "
                f"parameter {exc}"
            ) from exc


class Transport(Protocol):
    """A way to one server. Safe to share between threads unless it says otherwise.

    Every method raises a subclass of :class:`~rt4ksr_client.errors.ServerError`.
    """

    def served_model(self, model: str, *, timeout_s: float) -> ServedModel:
        """Ask the server what ``model`` is."""

    def infer(self, model: str, batch: Frame, *, timeout_s: float) -> Frame:
        """Upscale ``(N, H, W, 3)`` uint8 to ``(N, s*H, s*W, 3)`` uint8.

        The result may be a read-only view of the response.
        """

    def close(self) -> None:
        """Release connections and memory. Calling it twice is harmless."""
