"""The folder of a training: state, log, plot and preview; each file is complete or as it was.

``state.pt`` (network, average, optimizer, iteration, recipe), ``log.csv``, ``log.png``,
``preview.png``, ``weights.safetensors`` (the average of the weights so far).
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rt4ksr_client.errors import CheckpointError
from rt4ksr_client.files import atomic_write
from rt4ksr_export.training.recipe import Recipe

__all__ = ["FILE_NAMES", "LogRow", "Run"]

FILE_NAMES = ("state.pt", "log.csv", "log.png", "preview.png", "weights.safetensors")

_COLUMNS = ("iteration", "seconds", "learning_rate", "loss", "psnr_db", "bicubic_psnr_db")


@dataclass(frozen=True)
class LogRow:
    """One line of the log; PSNR in dB on the validation pictures, of the averaged weights."""

    iteration: int
    seconds: float
    learning_rate: float
    loss: float
    psnr_db: float
    bicubic_psnr_db: float

    def texts(self) -> list[str]:
        """Return the values as they are in the file."""
        return [
            str(self.iteration),
            f"{self.seconds:.1f}",
            f"{self.learning_rate:.3e}",
            f"{self.loss:.6f}",
            f"{self.psnr_db:.4f}",
            f"{self.bicubic_psnr_db:.4f}",
        ]


class Run:
    """The folder of one training.

    Raises:
        CheckpointError: it cannot be created or written (a full disk), or has the state of
            another training.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise CheckpointError(f"{folder}: cannot be created: {exc}") from exc

    def has_state(self) -> bool:
        """Whether there is a training to resume."""
        return (self.folder / "state.pt").exists()

    @property
    def weights_path(self) -> Path:
        """Path of the averaged weights."""
        return self.folder / "weights.safetensors"

    def load(self, recipe: Recipe) -> dict[str, Any] | None:
        """Return the saved state, or None at the start.

        Raises:
            CheckpointError: the state is unreadable, or of another recipe.

        """
        path = self.folder / "state.pt"
        if not self.has_state():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            saved = state["recipe"]
        except Exception as exc:  # a damaged file can fail anywhere in the unpickler
            raise CheckpointError(f"{path}: not a readable training state ({exc})") from exc
        if saved != recipe.as_dict():
            changed = [k for k, v in recipe.as_dict().items() if saved.get(k) != v]
            raise CheckpointError(
                f"{self.folder} has a training with another recipe ({', '.join(changed)} "
                "differ): choose another --run folder, or remove this one"
            )
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write the state; if it cannot be written, the last one is kept."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._write("state.pt", buffer.getvalue())

    def append(self, row: LogRow) -> None:
        """Add a line to the log and plot it."""
        rows = [*self.rows(), row]
        # A resumed training repeats the iterations since the last saved state.
        kept = {r.iteration: r for r in rows if r.iteration <= row.iteration}
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(kept[i].texts() for i in sorted(kept))
        self._write("log.csv", buffer.getvalue().encode())
        self._write("log.png", _plot_log([kept[i] for i in sorted(kept)]))

    def rows(self) -> list[LogRow]:
        """Return the log so far."""
        path = self.folder / "log.csv"
        if not path.exists():
            return []
        with path.open(encoding="utf-8", newline="") as file:
            return [
                LogRow(int(r["iteration"]), *(float(r[name]) for name in _COLUMNS[1:]))
                for r in csv.DictReader(file)
            ]

    def preview(self, image: Image.Image) -> None:
        """Write the preview."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        self._write("preview.png", buffer.getvalue())

    def _write(self, name: str, content: bytes) -> None:
        """Write a file of the folder.

        Raises:
            CheckpointError: it cannot be written; the last one is kept.

        """
        path = self.folder / name
        try:
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        except OSError as exc:
            raise CheckpointError(
                f"{path}: cannot be written, the last one is kept: {exc}"
            ) from exc


def _plot_log(rows: list[LogRow]) -> bytes:
    """Return a PNG with the loss and the validation PSNR over the iterations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    loss, psnr = figure.subplots(1, 2)
    iterations = [row.iteration for row in rows]
    loss.plot(iterations, [row.loss for row in rows])
    if all(row.loss > 0 for row in rows):  # the PSNR loss is negative
        loss.set_yscale("log")
    loss.set(title="loss", xlabel="iteration")
    psnr.plot(iterations, [row.psnr_db for row in rows], label="network")
    psnr.plot(iterations, [row.bicubic_psnr_db for row in rows], "--", label="bicubic")
    psnr.set(title="validation PSNR (dB)", xlabel="iteration")
    psnr.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
