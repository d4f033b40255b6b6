"""The weights this project ships, by model name; their story is in the README beside them."""

from __future__ import annotations

from pathlib import Path

from rt4ksr_client.errors import CheckpointError

__all__ = ["packaged_weights", "weights_file"]


def packaged_weights(model: str) -> Path:
    """Return the file with the training-form weights of ``model``, such as ``rt4ksr_x2``.

    Raises:
        CheckpointError: this project ships no weights of that name.

    """
    path = Path(__file__).with_name(f"{model}.safetensors")
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors"))) or "none"
        raise CheckpointError(f"no weights named {model!r} are shipped (there are: {known})")
    return path


def weights_file(given: str) -> Path:
    """Return the file that a user means: a path as it is; a bare name means shipped weights.

    Raises:
        CheckpointError: a bare name that is neither a file nor shipped.

    """
    path = Path(given)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    return packaged_weights(given)
