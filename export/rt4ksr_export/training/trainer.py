"""The training loop: expanded parameters, run in the fused form.

Each step fuses the expanded parameters (differentiably, see :mod:`rt4ksr_export.fusion`) and runs
the seven fused convolutions: the gradients are those of the expanded form, at a third of its cost.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from time import monotonic
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.func import functional_call

from rt4ksr_client.cli.before_after import before_after
from rt4ksr_client.errors import CheckpointError
from rt4ksr_export.checkpoint import save_network
from rt4ksr_export.colours import Codes, Samples, samples_to_codes, yuv420_to_rgb
from rt4ksr_export.degradations import Degradation, Pixels, VideoDegradation
from rt4ksr_export.evaluation import bicubic_rgb, bicubic_yuv420
from rt4ksr_export.fusion import fuse, fuse_parameters
from rt4ksr_export.network import (
    PACKED_CHANNELS,
    RT4KSR,
    UNSHUFFLE,
    FusedRT4KSR,
    upscale_samples,
)
from rt4ksr_export.pictures import PairSource
from rt4ksr_export.scores import psnr_db
from rt4ksr_export.training.recipe import Recipe
from rt4ksr_export.training.run import LogRow, Run
from rt4ksr_export.training.soap import Soap

__all__ = [
    "Listener",
    "Trainer",
    "Validation",
    "harm",
]

IDLE_PENALTY = 1e-3
"""Weight of :func:`_idle_penalty` in the loss: too small to be visible in the picture."""

VALIDATION_PX = 384
"""Largest side of the validated centre of a picture."""

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Follows a training."""

    def step(self, iteration: int, loss: float) -> None:
        """Called after each iteration."""

    def validated(self, row: LogRow) -> None:
        """Called after each validation."""


class Validation:
    """PSNR on the centres of a few pictures, and a preview. The pairs are made once.

    PSNR is that of the codes: of RGB, or of the six samples of a block of 4:2:0, of which luma has
    four.

    Args:
        pictures: uint8 ``(H, W, 3)`` each.
        degradation: makes the small pictures.
        scale: of the network.
        seed: of the degradation's random choices.

    """

    def __init__(
        self,
        pictures: Sequence[Pixels],
        degradation: Degradation | VideoDegradation,
        scale: int,
        seed: int,
    ) -> None:
        rng = np.random.default_rng(seed)
        self._scale, self._colours = scale, degradation.colours
        self._pairs: list[tuple[Samples, Samples]] = []
        for pixels in pictures:
            height, width = pixels.shape[:2]
            side = min(VALIDATION_PX, height, width) // (2 * scale) * 2 * scale
            top, left = (height - side) // 2, (width - side) // 2
            large = Image.fromarray(pixels[top : top + side, left : left + side])
            self._pairs.append(degradation.pair(large, scale, rng))
        cubic = bicubic_yuv420 if self._colours == "yuv420" else bicubic_rgb
        self.bicubic_psnr_db = self._mean_psnr_db(partial(cubic, scale=scale))

    def psnr_db(self, network: RT4KSR) -> float:
        """Mean PSNR over the pairs, in dB."""
        return self._mean_psnr_db(partial(upscale_samples, fuse(network)))

    def _mean_psnr_db(self, upscale: Callable[[Samples], Samples]) -> float:
        """Mean PSNR over the pairs, in dB, of what ``upscale`` makes of the small pictures."""
        border = 2 * self._scale
        return fmean(
            psnr_db(self._codes(large), self._codes(upscale(small)), border)
            for small, large in self._pairs
        )

    def _codes(self, samples: Samples) -> Codes:
        """Return codes, ``(H, W, C)``."""
        return np.moveaxis(samples_to_codes(samples, self._colours), 0, -1)

    def preview(self, network: RT4KSR) -> Image.Image:
        """Return the first pair: bicubic beside the network."""
        small, _ = self._pairs[0]
        upscaled = upscale_samples(fuse(network), small)
        return before_after(self._picture(small), self._picture(upscaled))

    def _picture(self, samples: Samples) -> Image.Image:
        """Return ``samples`` in mode RGB."""
        if self._colours == "yuv420":
            return Image.fromarray(yuv420_to_rgb(samples))
        return Image.fromarray(np.ascontiguousarray(self._codes(samples)))


@dataclass
class Trainer:
    """Trains ``network`` in place by ``recipe`` and keeps its state in ``run``.

    If ``run`` has a state, the training resumes exactly there. SIGINT (Ctrl-C) ends it after the
    current iteration, with its state saved; a second one ends it at once, with the last saved
    state.
    """

    network: RT4KSR
    recipe: Recipe
    source: PairSource
    validation: Validation
    run: Run
    device: torch.device
    save_every: int = 500

    def __post_init__(self) -> None:
        """Prepare the optimizer, the average of the weights and the fused form; resume."""
        self.network.to(self.device)
        fused = FusedRT4KSR(self.network.architecture).to(self.device)
        self._fused = fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._average = {k: v.detach().clone() for k, v in self.network.named_parameters()}
        self._optimizer = Soap(self.network.parameters(), lr=self.recipe.learning_rate)
        self._iteration = 0
        self._seconds = 0.0
        self._loss = 0.0
        state = self.run.load(self.recipe)
        if state is not None:
            self.network.load_state_dict(state["network"])
            self._average = {k: v.to(self.device) for k, v in state["average"].items()}
            self._optimizer.load_state_dict(state["optimizer"])
            self._iteration, self._seconds = state["iteration"], state["seconds"]
            self._loss = state["loss"]
            _log.info("resuming from iteration %d in %s", self._iteration, self.run.folder)

    @property
    def iteration(self) -> int:
        """Number of finished iterations."""
        return self._iteration

    def train(self, listener: Listener) -> bool:
        """Train until the recipe is finished; return False if Ctrl-C ended it before.

        Raises:
            CheckpointError: the loss became NaN or infinite (the last good state is kept), or a
                file could not be written.

        """
        with _sigint_as_event() as interrupted:
            while self._iteration < self.recipe.iterations and not interrupted.is_set():
                start_s = monotonic()
                loss = self.step()
                self._seconds += monotonic() - start_s
                listener.step(self._iteration, loss)
                if self._iteration % self.save_every == 0:
                    self.save(listener)
        if self._iteration % self.save_every:
            self.save(listener)
        return self._iteration >= self.recipe.iterations

    def averaged(self) -> RT4KSR:
        """Return a network with the averaged weights, on the CPU."""
        network = RT4KSR(self.network.architecture)
        network.load_state_dict({k: v.cpu() for k, v in self._average.items()})
        return network.eval()

    def step(self) -> float:
        """Run one iteration and return the smoothed loss.

        Raises:
            CheckpointError: the loss became NaN or infinite.

        """
        recipe, iteration = self.recipe, self._iteration
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(iteration)
        small, large = self.source.batch(
            iteration, recipe.batch_size, recipe.patch_px_at(iteration)
        )
        parameters = dict(self.network.named_parameters())
        fused = fuse_parameters(parameters)
        small_tensor, large_tensor = (torch.from_numpy(s).to(self.device) for s in (small, large))
        upscaled = functional_call(self._fused, fused, (small_tensor,))
        loss = self._loss_of(upscaled, large_tensor)
        if recipe.harm_weight:
            harmed = harm(small_tensor, upscaled, large_tensor, recipe.psnr_floor_db)
            loss = loss + recipe.harm_weight * harmed
        value = loss.item()
        if not np.isfinite(value):
            raise CheckpointError(
                f"the loss became {value} in iteration {iteration + 1}: stopped; the last good "
                f"state is in {self.run.folder}. A lower learning_rate in the recipe may help"
            )
        self._optimizer.zero_grad(set_to_none=True)
        total = loss + IDLE_PENALTY * _idle_penalty(fused)
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self._optimizer.step()
        self._iteration += 1
        self._loss += (1 - self._decay(0.99)) * (value - self._loss)
        weight_decay = self._decay(recipe.ema_decay)
        with torch.no_grad():
            for name, parameter in parameters.items():
                self._average[name].lerp_(parameter, 1 - weight_decay)
        return self._loss

    def _loss_of(self, upscaled: Tensor, true: Tensor) -> Tensor:
        """Return the loss of the current iteration, ``(N, C, H, W)`` each.

        Of the six samples of a block of 4:2:0, luma has four: planes count 4:1:1.
        """
        kind = self.recipe.loss_at(self._iteration)
        if kind == "psnr":
            return _negative_psnr(upscaled, true, self.recipe.psnr_floor_db)
        return F.l1_loss(upscaled, true) if kind == "l1" else F.mse_loss(upscaled, true)

    def _decay(self, final: float) -> float:
        """Decay of an average: small at first, so that the average soon forgets its start."""
        return min(final, (self._iteration - 1) / (self._iteration + 9))

    def save(self, listener: Listener) -> None:
        """Save the state and the averaged weights, validate, and log.

        Raises:
            CheckpointError: a file could not be written; the last one is kept.

        """
        averaged = self.averaged()
        state: dict[str, Any] = {
            "recipe": self.recipe.as_dict(),
            "iteration": self._iteration,
            "seconds": self._seconds,
            "loss": self._loss,
            "network": self.network.state_dict(),
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
        }
        self.run.save(state)
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


def _negative_psnr(upscaled: Tensor, true: Tensor, floor_db: float) -> Tensor:
    """Minus the mean PSNR of the patches, in bels, constant above ``floor_db``.

    RGB counts as one, the planes of 4:2:0 each: luma four times, U and V once.
    """
    floor: float = 10 ** (-floor_db / 10)
    error = (upscaled - true).square().mean(dim=(2, 3))
    if error.shape[1] != PACKED_CHANNELS:
        return error.mean(dim=1).add(floor).log10().mean()
    luma = error[:, : UNSHUFFLE**2].mean(dim=1, keepdim=True)
    planes = torch.cat([luma.expand(-1, UNSHUFFLE**2), error[:, UNSHUFFLE**2 :]], dim=1)
    return planes.add(floor).log10().mean()


def harm(small: Tensor, upscaled: Tensor, true: Tensor, floor_db: float) -> Tensor:
    """Return by how many bels of PSNR patches are below bicubic interpolation: the mean.

    Patches that are better count nothing.

    Args:
        small: RGB, float ``(N, 3, H, W)``, 0 to 1.
        upscaled: of ``small``.
        true: what it was made from.
        floor_db: PSNR above which it hardly matters.

    """
    # PyTorch's antialiased bicubic has Pillow's kernel (a = -0.5).
    cubic = F.interpolate(small, true.shape[2:], mode="bicubic", antialias=True).clamp(0, 1)
    floor: float = 10 ** (-floor_db / 10)
    ours, theirs = (
        (found - true).square().mean(dim=(1, 2, 3)).add(floor).log10()
        for found in (upscaled, cubic)
    )
    return F.relu(ours - theirs).mean()


def _idle_penalty(fused: Mapping[str, Tensor]) -> Tensor:
    """Mean square of the part of the weights after a norm that only costs precision.

    The output of a norm has no mean over the channels, so a constant added to a convolution's
    weights on it changes nothing (except at the border, if the norm has a shift). Training lets
    that constant drift far from zero, and then large terms cancel in every sum: in float32 that was
    most of the rounding error of an export.
    """
    norms = [name for name in fused if name.endswith("norm.weight")]
    means = [
        (fused[name.replace("norm.", "conv.")] * fused[name][:, None, None]).mean(dim=1)
        for name in norms
    ]
    return torch.stack([mean.square().mean() for mean in means]).sum()


@contextmanager
def _sigint_as_event() -> Iterator[threading.Event]:
    """Turn the first SIGINT into an event; the second is a KeyboardInterrupt as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.getsignal(signal.SIGINT)

    def set_event(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, set_event)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
