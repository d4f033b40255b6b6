"""The training loop: expanded parameters, run in the fused form.

Each step fuses the expanded parameters (differentiably, see :mod:`rt4ksr_export.fusion`) and runs
the seven fused convolutions: the gradients are those of the expanded form, at a third of its cost.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from rt4ksr_client.errors import CheckpointError
from rt4ksr_export.checkpoint import save_network
from rt4ksr_export.fusion import fuse_parameters
from rt4ksr_export.network import RT4KSR, FusedRT4KSR
from rt4ksr_export.training.pictures import PairSource
from rt4ksr_export.training.recipe import Recipe
from rt4ksr_export.training.run import LogRow, Run
from rt4ksr_export.training.soap import Soap
from rt4ksr_export.training.validation import Validation

__all__ = ["Listener", "Trainer"]

IDLE_PENALTY = 1e-3
"""Weight of :func:`_idle` in the loss: too small to show in the picture."""


class Listener(Protocol):
    """Hears how a training goes."""

    def step(self, iteration: int, loss: float) -> None:
        """After each iteration."""

    def validated(self, row: LogRow) -> None:
        """After each validation."""


@dataclass
class Trainer:
    """Trains ``network`` in place by ``recipe``, keeping everything in ``run``.

    It goes on from the state in ``run``, if there is one, exactly where that was saved. SIGINT
    (Ctrl-C) ends it after the current iteration with its state saved; a second one at once, with
    the state of the last save.
    """

    network: RT4KSR
    recipe: Recipe
    source: PairSource
    validation: Validation
    run: Run
    device: torch.device
    save_every: int = 500

    def __post_init__(self) -> None:
        """Prepare the optimizer, the average of the weights and the fused form."""
        self.network.to(self.device)
        fused = FusedRT4KSR(self.network.architecture).to(self.device)
        self._fused = fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._average = {k: v.detach().clone() for k, v in self.network.named_parameters()}
        self._optimizer = Soap(self.network.parameters(), lr=self.recipe.learning_rate)
        self._iteration = 0
        self._seconds = 0.0
        self._loss = 0.0
        self._resume()

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self._iteration

    def train(self, listener: Listener) -> bool:
        """Train until the recipe is done; return False if Ctrl-C ended it before.

        Raises:
            CheckpointError: the loss became NaN or infinite (the last good state is kept), or a
                file could not be written.

        """
        with _interruption() as interrupted:
            while self._iteration < self.recipe.iterations and not interrupted.is_set():
                start_s = monotonic()
                loss = self._step()
                self._seconds += monotonic() - start_s
                listener.step(self._iteration, loss)
                if self._iteration % self.save_every == 0:
                    self._keep(listener)
        if self._iteration % self.save_every:
            self._keep(listener)
        return self._iteration >= self.recipe.iterations

    def averaged(self) -> RT4KSR:
        """Return a network with the averaged weights, on the CPU."""
        network = RT4KSR(self.network.architecture)
        network.load_state_dict({k: v.cpu() for k, v in self._average.items()})
        return network.eval()

    def _step(self) -> float:
        recipe, iteration = self.recipe, self._iteration
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(iteration)
        small, large = self.source.batch(
            iteration, recipe.batch_size, recipe.patch_px_at(iteration)
        )
        parameters = dict(self.network.named_parameters())
        fused = fuse_parameters(parameters)
        upscaled = functional_call(self._fused, fused, (self._to_device(small),))
        loss = self._loss_of(upscaled, self._to_device(large))
        value = loss.item()
        if not np.isfinite(value):
            raise CheckpointError(
                f"the loss became {value} in iteration {iteration + 1}: stopped; the last good "
                f"state is in {self.run.folder}. A lower learning_rate in the recipe may help"
            )
        self._optimizer.zero_grad(set_to_none=True)
        total = loss + IDLE_PENALTY * _idle(fused)
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self._optimizer.step()
        self._iteration += 1
        self._loss += (1 - self._decay(0.99)) * (value - self._loss)
        self._update_average(parameters)
        return self._loss

    def _loss_of(self, upscaled: Tensor, true: Tensor) -> Tensor:
        kind = self.recipe.loss_at(self._iteration)
        if kind == "psnr":
            return _minus_psnr(upscaled, true, self.recipe.psnr_floor_db)
        return F.l1_loss(upscaled, true) if kind == "l1" else F.mse_loss(upscaled, true)

    def _to_device(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Turn uint8 ``(N, H, W, 3)`` into float ``(N, 3, H, W)`` in [0, 1]."""
        tensor = torch.from_numpy(pixels).to(self.device)
        return tensor.permute(0, 3, 1, 2).float() / 255

    @torch.no_grad()
    def _update_average(self, parameters: Mapping[str, Tensor]) -> None:
        decay = self._decay(self.recipe.ema_decay)
        for name, value in parameters.items():
            self._average[name].lerp_(value, 1 - decay)

    def _decay(self, final: float) -> float:
        """Decay of an average: a young one follows fast, so that it soon forgets its start."""
        return min(final, (self._iteration - 1) / (self._iteration + 9))

    def _keep(self, listener: Listener) -> None:
        averaged = self.averaged()
        self.run.save(self._state())
        save_network(averaged, self.run.weights_path)
        row = LogRow(
            iteration=self._iteration,
            seconds=self._seconds,
            learning_rate=self.recipe.learning_rate_at(self._iteration),
            loss=self._loss,
            psnr_db=self.validation.psnr_db(averaged),
            bicubic_psnr_db=self.validation.bicubic_psnr_db,
        )
        self.run.append(row)
        self.run.preview(self.validation.preview(averaged))
        listener.validated(row)

    def _state(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.as_dict(),
            "iteration": self._iteration,
            "seconds": self._seconds,
            "loss": self._loss,
            "network": self.network.state_dict(),
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
        }

    def _resume(self) -> None:
        state = self.run.load(self.recipe)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self._average = {k: v.to(self.device) for k, v in state["average"].items()}
        self._optimizer.load_state_dict(state["optimizer"])
        self._iteration, self._seconds = state["iteration"], state["seconds"]
        self._loss = state["loss"]


def _minus_psnr(upscaled: Tensor, true: Tensor, floor_db: float) -> Tensor:
    """In bels: the logarithm of each patch's mean square error, flat beyond ``floor_db``."""
    floor: float = 10 ** (-floor_db / 10)
    return (upscaled - true).square().mean(dim=(1, 2, 3)).add(floor).log10().mean()


def _idle(fused: Mapping[str, Tensor]) -> Tensor:
    """Mean square of the part of the weights after a norm that only costs precision.

    What a norm gives has no mean over the channels, so a constant added to a convolution's
    weights on it changes nothing (but the border, if the norm has a shift). Training lets that
    constant drift far from zero, and then large terms cancel in every sum: in float32 that was
    most of an export's rounding error.
    """
    norms = [name for name in fused if name.endswith("norm.weight")]
    means = [
        (fused[name.replace("norm.", "conv.")] * fused[name][:, None, None]).mean(dim=1)
        for name in norms
    ]
    return torch.stack([mean.square().mean() for mean in means]).sum()


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Turn the first SIGINT into an event; the second is a KeyboardInterrupt as ever."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.getsignal(signal.SIGINT)

    def first(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, first)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
