from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rt4ksr_export.checkpoint import load_network
from rt4ksr_export.fusion import fuse
from rt4ksr_export.network import RT4KSR, Architecture, parameter_count

ARCHITECTURES = [
    Architecture(scale=2),
    Architecture(scale=3),
    Architecture(scale=4, features=16, blocks=2, expansion=3),
    Architecture(scale=1, features=5, blocks=1, expansion=1),
]


def random_network(architecture: Architecture, seed: int = 0) -> RT4KSR:
    """Weights large enough, norms and biases included, that a slip anywhere shows."""
    torch.manual_seed(seed)
    network = RT4KSR(architecture)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_fused_form_computes_the_trained_form_borders_included(
    architecture: Architecture,
) -> None:
    network = random_network(architecture).double()
    fused = fuse(network).double()
    x = torch.rand(2, 3, 10, 14, dtype=torch.float64)

    with torch.inference_mode():
        difference = (network(x) - fused(x)).abs().max()

    # The fused weights are stored as float32, so agreement ends there.
    assert difference < 1e-5


@pytest.mark.parametrize("scale", [2, 3])
def test_the_output_is_scale_times_as_large(scale: int) -> None:
    with torch.inference_mode():
        assert random_network(Architecture(scale))(torch.rand(1, 3, 6, 8)).shape == (
            1,
            3,
            6 * scale,
            8 * scale,
        )


def test_fusing_leaves_the_network_as_it_was() -> None:
    network = random_network(Architecture(2))
    before = {name: value.clone() for name, value in network.state_dict().items()}

    fuse(network)

    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("scale", "live_parameters"), [(2, 39_312), (3, 52_332)])
def test_the_fused_form_has_the_published_number_of_parameters(
    scale: int, live_parameters: int
) -> None:
    assert parameter_count(fuse(random_network(Architecture(scale)))) == live_parameters


def test_an_output_pixel_depends_on_no_input_pixel_beyond_the_halo() -> None:
    architecture = Architecture(2)
    network = random_network(architecture)
    image = torch.rand(1, 3, 64, 64, requires_grad=True)

    network(image)[0, :, 64:66, 64:66].sum().backward()

    assert image.grad is not None
    reached = image.grad.abs().sum(dim=(0, 1)).nonzero()
    distance_px = max(32 - int(reached.min()), int(reached.max()) - 32)
    assert 0 < distance_px <= architecture.halo_px


def test_the_authors_checkpoint_fuses_exactly(authors_checkpoint: Path) -> None:
    network = load_network(authors_checkpoint)
    x = torch.rand(1, 3, 32, 48)

    with torch.inference_mode():
        assert (network(x) - fuse(network)(x)).abs().max() < 5e-5


@pytest.mark.parametrize("field", ["scale", "features", "blocks", "expansion"])
def test_an_empty_architecture_is_rejected(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Architecture(**{"scale": 2, field: 0})
