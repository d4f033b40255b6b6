from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from rt4ksr_export.checkpoint import architecture_of, load_network
from rt4ksr_export.fusion import BT709, fold_yuv420, fuse
from rt4ksr_export.network import (
    RT4KSR,
    Architecture,
    pack_yuv420,
    parameter_count,
    unpack_yuv420,
)

ARCHITECTURES = [
    Architecture(scale=2),
    Architecture(scale=3),
    Architecture(scale=4, features=16, blocks=2, expansion=3),
    Architecture(scale=1, features=5, blocks=1, expansion=1),
    Architecture(scale=2, colours="yuv420"),
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
    x = torch.rand(2, architecture.channels, 10, 14, dtype=torch.float64)

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


@pytest.mark.parametrize("scale", [2, 3])
def test_a_folded_network_does_what_conversions_around_it_do(scale: int) -> None:
    """The other way: to RGB with repeated chroma, the network, back with averaged chroma."""
    network = random_network(Architecture(scale)).double()
    luma = torch.rand(2, 1, 12, 20).double()
    chroma = torch.rand(2, 2, 6, 10).double() - 0.5
    yuv = torch.cat([luma, F.interpolate(chroma, scale_factor=2, mode="nearest")], dim=1)

    upscaled = network(torch.einsum("cm,nmhw->nchw", torch.linalg.inv(BT709), yuv))
    expected = torch.einsum("mc,nchw->nmhw", BT709, upscaled)
    folded = fold_yuv420(network).double()
    found_luma, found_chroma = unpack_yuv420(folded(pack_yuv420(luma, chroma)))

    assert folded.architecture == replace(network.architecture, colours="yuv420")
    assert (found_luma - expected[:, :1]).abs().max() < 1e-6
    assert (found_chroma - F.avg_pool2d(expected[:, 1:], 2)).abs().max() < 1e-6
    assert architecture_of(folded.state_dict()) == folded.architecture
    with pytest.raises(ValueError, match="cannot be folded again"):
        fold_yuv420(folded)


def test_packed_planes_are_unpacked_exactly() -> None:
    luma, chroma = torch.rand(1, 1, 8, 6), torch.rand(1, 2, 4, 3)

    packed = pack_yuv420(luma, chroma)

    assert packed.shape == (1, 6, 4, 3)
    assert torch.equal(packed[0, :4, 1, 2], luma[0, 0, 2:4, 4:6].flatten())
    for plane, same in zip((luma, chroma), unpack_yuv420(packed), strict=True):
        assert torch.equal(plane, same)


def test_the_authors_checkpoint_fuses_exactly(authors_checkpoint: Path) -> None:
    network = load_network(authors_checkpoint)
    x = torch.rand(1, 3, 32, 48)

    with torch.inference_mode():
        assert (network(x) - fuse(network)(x)).abs().max() < 5e-5


@pytest.mark.parametrize("field", ["scale", "features", "blocks", "expansion"])
def test_an_empty_architecture_is_rejected(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        replace(Architecture(2), **{field: 0})  # type: ignore[arg-type]
