"""Weights on disk to an :class:`~rt4ksr_export.network.RT4KSR`, and back.

Reads the authors' ``.pth`` files (with their ``module.`` prefix, optimizer state and unused
branch) and this project's ``.safetensors``. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Mapping, Set
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rt4ksr_client.errors import CheckpointError
from rt4ksr_client.files import atomic_write
from rt4ksr_export.network import RT4KSR, UNSHUFFLE, Architecture

__all__ = ["load_network", "network_from_state", "save_network", "weights_sha256"]

_UNUSED = re.compile(r"^(gamma$|hfb\.)")
"""The authors' high-frequency branch: computed, then thrown away; absent from our form."""


def load_network(path: str | os.PathLike[str]) -> RT4KSR:
    """Read a ``.pth``, ``.pt`` or ``.safetensors`` file; float32, on the CPU, in eval mode.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, would run code, or holds
            weights that are not RT4KSR's.

    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
    try:
        return network_from_state(read(path))
    except CheckpointError as exc:
        raise CheckpointError(f"{path}: {exc}") from exc


def network_from_state(state: Mapping[str, Tensor]) -> RT4KSR:
    """Build the network that ``state`` belongs to; its hyperparameters are read off the shapes.

    Raises:
        CheckpointError: names or shapes are not RT4KSR's, or a value is NaN or infinite.

    """
    state = {_plain_name(name): value for name, value in state.items()}
    state = {name: value.float() for name, value in state.items() if not _UNUSED.match(name)}
    network = RT4KSR(_architecture(state))
    expected = network.state_dict()
    _check_names(expected.keys(), state.keys())
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{name} has shape {tuple(value.shape)}, expected {tuple(expected[name].shape)}"
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{name} holds NaN or infinite values")
    network.load_state_dict(state)
    return network.eval()


def save_network(
    network: RT4KSR, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the weights as ``.safetensors``; the file is there whole, or as it was."""
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


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as exc:
        raise CheckpointError(f"not a readable safetensors file ({exc})") from exc


def _read_pickle(path: Path) -> Mapping[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise CheckpointError(
            "not a plain checkpoint: it is no PyTorch file, or holds objects other than tensors, "
            "which could run code and are not loaded"
        ) from exc
    except Exception as exc:  # a malformed file can fail anywhere in the unpickler
        raise CheckpointError(f"not a readable PyTorch file, or truncated ({exc})") from exc
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not content:
        raise CheckpointError("holds no state dict")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise CheckpointError("holds no state dict: a name without a tensor in it")
    return content


def _plain_name(name: str) -> str:
    return name.removeprefix("module.")


def _check_names(expected: Set[str], found: Set[str]) -> None:
    wrong = {"missing": sorted(expected - found), "unknown": sorted(found - expected)}
    said = [
        f"{label} {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
        for label, names in wrong.items()
        if names
    ]
    if said:
        raise CheckpointError(f"not the weights of RT4KSR: {'; '.join(said)}")


def _architecture(state: Mapping[str, Tensor]) -> Architecture:
    try:
        features = state["head.0.weight"].shape[0]
        expansion = state["tail.1.expand_conv.weight"].shape[0] // features
        blocks = 1 + max(int(n.split(".")[1]) for n in state if re.match(r"body\.\d+\.", n))
        upsample_channels = state["upsample.0.weight"].shape[0]
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as exc:
        raise CheckpointError(
            "not the weights of RT4KSR in its training form (head, body, tail, upsample)"
        ) from exc
    scale = round((upsample_channels / 3) ** 0.5) // UNSHUFFLE
    architecture = Architecture(max(scale, 1), max(features, 1), blocks, max(expansion, 1))
    if architecture.upsample_channels != upsample_channels:
        raise CheckpointError(
            f"upsample.0 has {upsample_channels} channels, which is 3*(2*scale)^2 for no scale"
        )
    return architecture
