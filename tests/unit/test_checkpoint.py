from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rt4ksr_client.errors import CheckpointError
from rt4ksr_export.checkpoint import load_network, save_network, weights_sha256
from rt4ksr_export.network import RT4KSR, Architecture

State = dict[str, Tensor]


@pytest.fixture
def network() -> RT4KSR:
    torch.manual_seed(1)
    return RT4KSR(Architecture(scale=3, features=8, blocks=2, expansion=3))


@pytest.fixture
def state(network: RT4KSR) -> State:
    return dict(network.state_dict())


def as_the_authors_save(state: State, path: Path) -> Path:
    wrapped = {f"module.{name}": value for name, value in state.items()}
    wrapped |= {"module.gamma": torch.zeros(1), "module.hfb.0.fea_conv.weight": torch.zeros(3, 3)}
    torch.save({"epoch": 7, "state_dict": wrapped, "optimizer": {"lr": 1e-4}}, path)
    return path


def assert_same_weights(one: RT4KSR, other: RT4KSR) -> None:
    assert one.architecture == other.architecture
    expected = other.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_an_authors_file_is_read_whatever_its_hyperparameters(
    network: RT4KSR, state: State, tmp_path: Path
) -> None:
    loaded = load_network(as_the_authors_save(state, tmp_path / "theirs.pth"))

    assert_same_weights(loaded, network)


def test_a_bare_state_dict_is_read(network: RT4KSR, state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "bare.pth")

    assert_same_weights(load_network(tmp_path / "bare.pth"), network)


def test_safetensors_round_trip(network: RT4KSR, tmp_path: Path) -> None:
    save_network(network, tmp_path / "ours.safetensors")

    assert_same_weights(load_network(tmp_path / "ours.safetensors"), network)
    assert [path.name for path in tmp_path.iterdir()] == ["ours.safetensors"]


def test_the_hash_is_the_weights_and_not_the_file(
    network: RT4KSR, state: State, tmp_path: Path
) -> None:
    loaded = load_network(as_the_authors_save(state, tmp_path / "theirs.pth"))
    assert weights_sha256(loaded) == weights_sha256(network)

    with torch.no_grad():
        network.get_parameter("head.0.bias")[0] += 1e-6
    assert weights_sha256(loaded) != weights_sha256(network)


def test_the_authors_checkpoints_are_read(authors_checkpoint: Path) -> None:
    scale = int(authors_checkpoint.stem[-1])

    assert load_network(authors_checkpoint).architecture == Architecture(scale)


@dataclass
class _Bomb:
    touched: Path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.touched,)


def test_a_pickle_that_contains_code_is_rejected_and_not_run(state: State, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    code_was_run = tmp_path / "code_was_run"
    torch.save({"state_dict": {**state, "extra": _Bomb(code_was_run)}}, path)

    with pytest.raises(CheckpointError, match=r"bomb\.pth.*could run code"):
        load_network(path)
    assert not code_was_run.exists()


def _without(state: State) -> object:
    del state["body.0.conv1.fea_conv.bias"]
    return state


def _with_unknown(state: State) -> object:
    return {**state, "attention.weight": torch.zeros(2)}


def _with_nan(state: State) -> object:
    state["upsample.0.bias"] = torch.full_like(state["upsample.0.bias"], torch.nan)
    return state


def _with_wrong_shape(state: State) -> object:
    state["body.1.conv1.reduce_conv.weight"] = torch.zeros(8, 5, 1, 1)
    return state


def _with_odd_upsampler(state: State) -> object:
    state["upsample.0.weight"] = torch.zeros(50, 8, 3, 3)
    return state


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without, r"missing body\.0\.conv1\.fea_conv\.bias"),
        (_with_unknown, r"unknown attention\.weight"),
        (_with_nan, r"upsample\.0\.bias has NaN"),
        (_with_wrong_shape, r"reduce_conv\.weight has shape \(8, 5, 1, 1\)"),
        (_with_odd_upsampler, "50 channels"),
        (lambda state: {"conv.weight": torch.zeros(3)}, "training form"),
        (lambda state: {}, "no state dict"),
        (lambda state: [1, 2], "no state dict"),
        (lambda state: {"state_dict": {"epoch": 3}}, "a name without a tensor"),
    ],
)
def test_weights_that_do_not_fit_are_rejected_by_name(
    damage: Callable[[State], object], message: str, state: State, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.pth"
    torch.save(damage(state), path)

    with pytest.raises(CheckpointError, match=message) as caught:
        load_network(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_rejected(
    keep: float, suffix: str, network: RT4KSR, state: State, tmp_path: Path
) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        as_the_authors_save(state, path)
    else:
        save_network(network, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])

    with pytest.raises(CheckpointError, match="cut"):
        load_network(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files_are_rejected(suffix: str, tmp_path: Path) -> None:
    for content in (b"# a text\n" * 50, pickle.dumps(["list"]), b"PK\x03\x04" + bytes(100)):
        path = tmp_path / f"other{suffix}"
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_network(path)


def test_the_error_names_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_network(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        load_network(tmp_path)
