from __future__ import annotations

import torch
from torch.nn import Parameter

from rt4ksr_export.training.soap import Soap


def badly_conditioned() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs whose directions differ a thousandfold in strength and are mixed, and targets."""
    generator = torch.Generator().manual_seed(3)
    mixing = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    inputs = torch.randn(256, 16, generator=generator) * torch.logspace(0, -3, 16) @ mixing
    return inputs, inputs @ torch.randn(16, 8, generator=generator)


def error_after(optimizer: torch.optim.Optimizer, weight: Parameter, steps: int) -> float:
    inputs, targets = badly_conditioned()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (inputs @ weight.flatten(1).T - targets).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
    return float(loss.detach())


def test_soap_beats_adam_on_a_badly_conditioned_problem() -> None:
    ours, adams = (Parameter(torch.zeros(8, 16, 1, 1)) for _ in range(2))

    error = error_after(Soap([ours], lr=0.03), ours, 200)

    assert error < 0.2 * error_after(torch.optim.Adam([adams], lr=0.03), adams, 200)


def test_a_vector_is_optimized_as_by_adam() -> None:
    ours, adams = (Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    soap = Soap([ours], lr=0.1, decay=0.9)
    adam = torch.optim.Adam([adams], lr=0.1, betas=(0.9, 0.9))

    for optimizer, values in ((soap, ours), (adam, adams)):
        for _ in range(20):
            optimizer.zero_grad()
            torch.autograd.backward((values**4).sum())
            optimizer.step()

    torch.testing.assert_close(ours, adams)


def test_a_saved_state_resumes_exactly() -> None:
    whole = Parameter(torch.zeros(8, 16, 1, 1))
    error_after(Soap([whole], lr=0.03), whole, 30)

    parts = Parameter(torch.zeros(8, 16, 1, 1))
    first = Soap([parts], lr=0.03)
    error_after(first, parts, 17)
    second = Soap([parts], lr=0.03)
    second.load_state_dict(first.state_dict())
    error_after(second, parts, 13)

    assert torch.equal(whole, parts)


def test_a_parameter_without_gradient_is_not_changed() -> None:
    parameter = Parameter(torch.ones(2, 2))

    Soap([parameter], lr=1.0).step()

    assert torch.equal(parameter, torch.ones(2, 2))
