"""Weights files to an :class:`~rt4ksr_export.network.RT4KSR`, and back.

Reads the authors' ``.pth`` files (with their ``module.`` prefix, optimizer state and unused
branch) and this project's ``.safetensors``. Code in a file is never executed. The weights that this
project ships are in ``weights/``, with a model card.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rt4ksr_client.contract import Colours
from rt4ksr_client.errors import CheckpointError
from rt4ksr_client.files import atomic_write
from rt4ksr_export.network import PACKED_CHANNELS, RT4KSR, Architecture

__all__ = [
    "architecture_of",
    "load_network",
    "network_from_state",
    "packaged_weights",
    "read_state",
    "resolve_weights",
    "save_network",
    "weights_sha256",
]

WEIGHTS: Final = Path(__file__).with_name("weights")

_UNUSED = re.compile(r"^(gamma$|hfb\.)")
"""The authors' high-frequency branch: computed, then discarded; absent from our form."""


def load_network(path: str | os.PathLike[str], *, scale: int | None = None) -> RT4KSR:
    """Read a ``.pth``, ``.pt`` or ``.safetensors`` file; float32, on the CPU, in eval mode.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, would run code, or its
            weights are not RT4KSR's, or not those for ``scale``.

    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        network = network_from_state(read_state(path))
    except CheckpointError as exc:
        raise CheckpointError(f"{path}: {exc}") from exc
    found = network.architecture.scale
    if scale not in (None, found):
        raise CheckpointError(f"{path}: these weights are for x{found}, not x{scale}")
    return network


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a weights file by name, as they are.

    Raises:
        CheckpointError: truncated, not a checkpoint, or it would run code.

    """
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as exc:
            raise CheckpointError(f"not a readable safetensors file ({exc})") from exc
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that are rejected anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise CheckpointError(
            "not a plain checkpoint: it is no PyTorch file, or has objects other than tensors, "
            "which could run code and are not loaded"
        ) from exc
    except Exception as exc:  # a malformed file can fail anywhere in the unpickler
        raise CheckpointError(f"not a readable PyTorch file, or truncated ({exc})") from exc
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not content:
        raise CheckpointError("has no state dict")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise CheckpointError("has no state dict, but a name without a tensor")
    return content


def network_from_state(state: Mapping[str, Tensor]) -> RT4KSR:
    """Build the network that ``state`` belongs to; its hyperparameters follow from the shapes.

    Raises:
        CheckpointError: names or shapes are not RT4KSR's, or a value is NaN or infinite.

    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    state = {name: value.float() for name, value in state.items() if not _UNUSED.match(name)}
    network = RT4KSR(architecture_of(state))
    expected = network.state_dict()
    differences = {"missing": expected.keys() - state.keys(), "unknown": state.keys() - expected}
    described = [
        f"{kind} {', '.join(sorted(names)[:4])}{' …' if len(names) > 4 else ''}"
        for kind, names in differences.items()
        if names
    ]
    if described:
        raise CheckpointError(f"not the weights of RT4KSR: {'; '.join(described)}")
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{name} has shape {tuple(value.shape)}, expected {tuple(expected[name].shape)}"
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{name} has NaN or infinite values")
    network.load_state_dict(state)
    return network.eval()


def architecture_of(state: Mapping[str, Tensor]) -> Architecture:
    """Return the hyperparameters of the network that ``state`` belongs to, in its training form.

    Raises:
        CheckpointError: they are not those of an RT4KSR.

    """
    try:
        features, unshuffled_channels = state["head.0.weight"].shape[:2]
        expansion = state["tail.1.expand_conv.weight"].shape[0] // features
        blocks = 1 + max(int(n.split(".")[1]) for n in state if re.match(r"body\.\d+\.", n))
        upsample_channels = state["upsample.0.weight"].shape[0]
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as exc:
        raise CheckpointError(
            "not the weights of RT4KSR in its training form (head, body, tail, upsample)"
        ) from exc
    colours: Colours = "yuv420" if unshuffled_channels == PACKED_CHANNELS else "rgb"
    pixel = Architecture(1, max(features, 1), blocks, max(expansion, 1), colours)
    scale = round((upsample_channels / pixel.upsample_channels) ** 0.5)
    architecture = replace(pixel, scale=max(scale, 1))
    if architecture.upsample_channels != upsample_channels:
        formula = "6*scale^2" if colours == "yuv420" else "3*(2*scale)^2"
        raise CheckpointError(
            f"upsample.0 has {upsample_channels} channels, which is {formula} for no scale"
        )
    return architecture


def save_network(
    network: RT4KSR, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the weights as ``.safetensors``; the file is complete or as it was before."""
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(safetensors.torch.save(state, dict(metadata or {})))


def weights_sha256(network: RT4KSR) -> str:
    """SHA-256 of the network's weights: names, shapes and little-endian float32 values, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def packaged_weights(model: str) -> Path:
    """Return the file with the training-form weights of ``model``, such as ``rt4ksr_x2``.

    Raises:
        CheckpointError: this project ships no weights of that name.

    """
    path = WEIGHTS / f"{model}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))) or "none"
        raise CheckpointError(f"no weights named {model!r} are shipped (there are: {known})")
    return path


def resolve_weights(file_or_name: str) -> Path:
    """Return the path of a weights file; a bare name that is not a file means shipped weights.

    Raises:
        CheckpointError: a bare name that is neither a file nor shipped.

    """
    path = Path(file_or_name)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    return packaged_weights(file_or_name)
