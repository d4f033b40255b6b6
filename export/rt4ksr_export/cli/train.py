"""``rt4ksr train``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import get_args

import click
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from rt4ksr_client.cli.options import overwrite_option
from rt4ksr_client.cli.targets import check_target
from rt4ksr_client.contract import DEFAULT_MODELS, Colours
from rt4ksr_client.errors import CheckpointError
from rt4ksr_export.checkpoint import load_network, resolve_weights, save_network
from rt4ksr_export.degradations import PRESETS
from rt4ksr_export.fusion import fold_yuv420
from rt4ksr_export.network import RT4KSR, Architecture
from rt4ksr_export.pictures import (
    PairSource,
    find_pictures,
    load_pictures,
    sizes_to_train_on,
    smallest_side_px,
)
from rt4ksr_export.training.initialization import initial_network
from rt4ksr_export.training.recipe import Recipe, load_recipe
from rt4ksr_export.training.run import FILE_NAMES, LogRow, Run
from rt4ksr_export.training.trainer import Trainer, Validation

VALIDATION_PICTURES = 8
PRINT_EVERY_S = 30.0

_folders = click.Path(path_type=Path)


@click.command()
@click.option(
    "--data",
    multiple=True,
    required=True,
    type=_folders,
    help="A folder of pictures of any size, or one picture. May be given several times.",
)
@click.option(
    "--validation",
    multiple=True,
    type=_folders,
    help="Pictures to validate on.  [default: every tenth of --data, which is then left out of "
    "training]",
)
@click.option(
    "--scale",
    type=click.Choice([str(s) for s in sorted(DEFAULT_MODELS)]),
    help="Factor to upscale by. Required, here or in the recipe.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file for the finished weights.  [default: my_x2.safetensors]",
)
@click.option(
    "--init",
    metavar="FILE|NAME",
    help="Fine-tune these weights: .safetensors, .pth, or the name of shipped ones.",
)
@click.option(
    "--colours",
    type=click.Choice(get_args(Colours)),
    help="Colours of the network: RGB, or 4:2:0 as in video.  [default: those of --degrade]",
)
@click.option(
    "--degrade",
    type=click.Choice(list(PRESETS)),
    help="How the small pictures are made from the large ones. video, h264, h265 and av1 are for "
    "4:2:0.  [default: by recipe; with --colours yuv420, video]",
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A TOML file with settings; options take precedence.",
)
@click.option(
    "--iterations", type=click.IntRange(min=1), help="Length of the training.  [default: by recipe]"
)
@click.option("--seed", type=int, help="Seed of all random choices.  [default: by recipe]")
@click.option(
    "--run",
    "run_folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for state, log, plot and preview, from which a training is resumed.  [default: "
    "beside the output]",
)
@overwrite_option("Replace the output, and files in a folder of --run without a training.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
def train(
    data: tuple[Path, ...],
    validation: tuple[Path, ...],
    scale: str | None,
    output: Path | None,
    init: str | None,
    colours: Colours | None,
    degrade: str | None,
    recipe: Path | None,
    iterations: int | None,
    seed: int | None,
    run_folder: Path | None,
    overwrite: bool,
    threads: int | None,
) -> None:
    """Train or fine-tune weights on a folder of pictures.

    \b
    Examples:
      rt4ksr train --data photos/ --scale 2 -o my_x2.safetensors
      rt4ksr train --data photos/ --scale 2 --init rt4ksr_x2 --degrade webp -o my_x2.safetensors
      rt4ksr train --data frames/ --scale 2 --colours yuv420 --init rt4ksr_x2_video
      rt4ksr export --weights my_x2.safetensors -o my_repository

    Ctrl-C saves the state and stops; the same command resumes exactly there. A GPU is used if there
    is one.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    if threads:
        torch.set_num_threads(threads)
    if recipe is None and scale is None:
        raise click.UsageError("give --scale, or a --recipe that has one")
    if colours == "yuv420" and degrade is None and recipe is None:
        degrade = "video"
    settings = load_recipe(
        recipe,
        scale=None if scale is None else int(scale),
        degrade=degrade,
        iterations=iterations,
        seed=seed,
    )
    if colours not in (None, settings.colours):
        raise click.UsageError(
            f"--degrade {settings.degrade} is for {settings.colours}, not for {colours}"
        )
    output = output or Path(f"my_x{settings.scale}.safetensors")
    check_target(output, overwrite=overwrite)
    run = Run(run_folder or output.with_suffix(".run"))
    if not run.has_state():
        for name in FILE_NAMES:
            check_target(run.folder / name, overwrite=overwrite, option="--run")
    console = Console(stderr=True)
    if init is None:
        network = initial_network(Architecture(settings.scale), settings.seed)
    else:
        network = load_network(resolve_weights(init), scale=settings.scale)
    network = with_colours(network, settings.colours).train()
    trainer = _open_trainer(network, settings, data, validation, run, console)
    if trainer.iteration:
        console.print(f"resuming from iteration {trainer.iteration} in {run.folder}")
    with TrainingProgress(console, settings, trainer.iteration) as progress:
        finished = trainer.train(progress)
    if not finished:
        console.print(f"stopped; the same command resumes from {run.folder}")
        raise click.exceptions.Exit(130)
    save_network(trainer.averaged(), output, {"scale": str(settings.scale)})
    click.echo(f"{output}: the log is {run.folder / 'log.csv'}, its plot log.png")


def with_colours(network: RT4KSR, colours: Colours) -> RT4KSR:
    """Return ``network``, folded if it is for RGB and one for 4:2:0 is wanted.

    Raises:
        CheckpointError: it is for 4:2:0, and one for RGB is wanted.

    """
    found = network.architecture.colours
    if found == colours:
        return network
    if found == "yuv420":
        raise CheckpointError("weights for 4:2:0 video cannot be trained for RGB")
    return fold_yuv420(network)


def _open_trainer(
    network: RT4KSR,
    recipe: Recipe,
    data: tuple[Path, ...],
    validation: tuple[Path, ...],
    run: Run,
    console: Console,
) -> Trainer:
    """Load the pictures and return the trainer, which resumes the run if there is one."""
    paths = find_pictures(data)
    held_out = find_pictures(validation) if validation else paths[:: max(2, len(paths) // 10)]
    if len(paths) > 1:
        paths = [path for path in paths if path not in set(held_out)]
    smallest_px = smallest_side_px(recipe.scale, recipe.largest_patch_px)

    def report(path: Path, reason: str) -> None:
        console.print(f"skipped: {reason}", style="yellow", highlight=False)

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("decoding", total=len(paths))
        pictures = load_pictures(
            paths, smallest_px, report, lambda: progress.advance(task), sizes_to_train_on
        )
    shown = load_pictures(held_out[:VALIDATION_PICTURES], smallest_px, report)
    degradation = PRESETS[recipe.degrade]
    return Trainer(
        network=network,
        recipe=recipe,
        source=PairSource(pictures, degradation, recipe.scale, recipe.seed, recipe.crops),
        validation=Validation(shown, degradation, recipe.scale, recipe.seed),
        run=run,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )


class TrainingProgress:
    """A progress bar on a terminal; elsewhere a line every half minute."""

    def __init__(self, console: Console, recipe: Recipe, done: int) -> None:
        self._console = console
        self._recipe = recipe
        self._printed_s = time.monotonic()
        self._psnr = ""
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=recipe.iterations, completed=done)

    def __enter__(self) -> TrainingProgress:
        """Show it."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self._progress.stop()

    def step(self, iteration: int, loss: float) -> None:
        """Show the loss."""
        text = f"loss {loss:.5f}{self._psnr}"
        self._progress.update(self._task, completed=iteration, description=text)
        if not self._console.is_terminal and time.monotonic() - self._printed_s > PRINT_EVERY_S:
            self._printed_s = time.monotonic()
            self._console.print(f"{iteration}/{self._recipe.iterations} {text}", highlight=False)

    def validated(self, row: LogRow) -> None:
        """Show the validation."""
        gain_db = row.psnr_db - row.bicubic_psnr_db
        self._psnr = f", {row.psnr_db:.2f} dB ({gain_db:+.2f} over bicubic)"
