from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from PIL import Image

from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_client.errors import VerificationError
from rt4ksr_export.checkpoint import load_network, packaged_weights
from rt4ksr_export.fusion import REMAINDER, fuse, recentre
from rt4ksr_export.graph import Precision, build_graph
from rt4ksr_export.network import NORM_EPS, RT4KSR, Architecture, FusedRT4KSR
from rt4ksr_export.verification import (
    HalfTolerance,
    expose_half_values,
    open_session,
    verify_half,
)


@pytest.fixture(scope="module", params=[2, 3], ids=["x2", "x3"])
def fused(request: pytest.FixtureRequest) -> FusedRT4KSR:
    return fuse(load_network(packaged_weights(DEFAULT_MODELS[request.param].name)))


@pytest.fixture(scope="module")
def full(fused: FusedRT4KSR) -> onnx.ModelProto:
    return build_graph(fused)


@pytest.fixture(scope="module")
def half(fused: FusedRT4KSR) -> onnx.ModelProto:
    return build_graph(fused, precision=Precision.FP16)


def picture(photograph: Path, height: int, width: int) -> torch.Tensor:
    pixels: NDArray[np.uint8] = np.asarray(Image.open(photograph))[:height, :width]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255.0


def test_recentring_changes_the_numbers_and_not_the_result_borders_included(
    fused: FusedRT4KSR, photograph: Path
) -> None:
    other = recentre(fused)
    x = picture(photograph, 48, 64)
    with torch.inference_mode():
        difference = fused.double()(x.double()) - other.double()(x.double())

    assert difference.abs().max() < 2e-5
    name = "body.0.conv.weight"
    assert not torch.allclose(fused.get_parameter(name), other.get_parameter(name))
    fused.float()


def test_recentring_removes_the_constants_from_the_inputs_of_convolutions(
    fused: FusedRT4KSR, photograph: Path
) -> None:
    seen: list[torch.Tensor] = []
    other = recentre(fused)
    for network in (fused, other):
        norm = network.tail.norm
        hook = norm.register_forward_hook(lambda _, __, out: seen.append(out.mean((0, 2, 3))))
        with torch.inference_mode():
            network(picture(photograph, 128, 128))
        hook.remove()
    before, after = seen

    assert before.abs().max() > 2
    assert (after - REMAINDER * other.tail.norm.weight).abs().max() < before.abs().max() / 5


def test_a_norm_with_a_zero_weight_is_not_recentred() -> None:
    torch.manual_seed(4)
    network = fuse(RT4KSR(Architecture(2, features=8, blocks=2)))
    with torch.no_grad():
        network.get_parameter("body.1.norm.weight")[3] = 0.0
    other = recentre(network)

    name = "body.1.conv.weight"
    assert torch.equal(other.get_parameter(name), network.get_parameter(name))
    x = torch.rand(1, 3, 16, 12)
    with torch.inference_mode():
        assert torch.allclose(network(x), other(x), atol=1e-4)


def test_only_inputs_and_outputs_of_convolutions_are_half(half: onnx.ModelProto) -> None:
    types = {v.name: v.type.tensor_type.elem_type for v in _inferred(half).graph.value_info}
    types |= {w.name: w.data_type for w in half.graph.initializer}

    for node in half.graph.node:
        read = {types[name] for name in node.input if name in types}
        if node.op_type == "Conv":
            assert read == {TensorProto.FLOAT16}
        elif node.op_type in ("LayerNormalization", "Gelu", "Add", "Clip", "Round"):
            assert read == {TensorProto.FLOAT}


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def test_the_first_and_the_last_operator_are_casts_in_half_precision_too(
    half: onnx.ModelProto,
) -> None:
    nodes = half.graph.node
    assert [n.op_type for n in nodes if "image" in n.input] == ["Cast"]
    assert [n.op_type for n in nodes if "upscaled" in n.output] == ["Cast"]


def test_no_weight_exceeds_the_range_of_half_precision(half: onnx.ModelProto) -> None:
    for weight in half.graph.initializer:
        assert np.isfinite(numpy_helper.to_array(weight)).all()


def test_half_precision_agrees_with_full_precision(
    half: onnx.ModelProto, full: onnx.ModelProto
) -> None:
    agreement = verify_half(half, full)

    assert -0.01 < agreement.cost_db <= 0.005
    assert agreement.psnr_db >= 50
    assert 1 <= agreement.levels <= 8


def test_without_recentring_half_precision_would_be_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fused = fuse(load_network(packaged_weights("rt4ksr_x2_jpeg")))
    full = build_graph(fused)
    monkeypatch.setattr("rt4ksr_export.graph.recentre", lambda network: network)
    monkeypatch.setattr("rt4ksr_export.graph.REMAINDER", 0.0)
    half = build_graph(fused, precision=Precision.FP16)

    with pytest.raises(
        VerificationError, match=r"FP16 costs 0\.\d+ dB .* off by at most \d+ levels"
    ):
        verify_half(half, full)


@pytest.mark.parametrize("fused", [2, pytest.param(3, marks=pytest.mark.slow)], indirect=True)
def test_an_overflow_inside_the_graph_is_rejected_even_if_the_output_is_right(
    half: onnx.ModelProto, full: onnx.ModelProto
) -> None:
    overflowing = onnx.ModelProto()
    overflowing.CopyFrom(half)
    bias = next(w for w in overflowing.graph.initializer if w.name == "body.0.conv.bias")
    values = numpy_helper.to_array(bias).copy()
    values[2] = np.inf
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))

    with pytest.raises(VerificationError, match="NaN or infinite"):
        verify_half(overflowing, full, HalfTolerance(cost_db=99, levels=255))


def test_the_verification_rounds_the_outputs_of_convolutions(half: onnx.ModelProto) -> None:
    """ONNX Runtime on a CPU leaves that out where it can: the first norm must have seen it."""
    frame = np.random.default_rng(7).integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)
    _, written, normed, *_ = open_session(expose_half_values(half), optimized=False).run(
        None, {"image": frame}
    )
    values = {w.name: numpy_helper.to_array(w) for w in half.graph.initializer}
    read = torch.from_numpy(written.astype(np.float32) + values["head.rest"]).permute(0, 2, 3, 1)
    scale, shift = (torch.tensor(values[f"body.0.norm.{k}"]) for k in ("weight", "bias"))

    expected = torch.nn.functional.layer_norm(read, scale.shape, scale, shift, NORM_EPS)
    assert written.dtype == np.float16
    np.testing.assert_allclose(normed, expected.numpy(), atol=2e-5)
