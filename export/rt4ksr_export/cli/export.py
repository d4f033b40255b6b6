"""``rt4ksr export``."""

from __future__ import annotations

from pathlib import Path

import click

from rt4ksr_client.cli.options import overwrite_option
from rt4ksr_client.contract import DEFAULT_MODELS, MODELS, ModelSpec
from rt4ksr_client.errors import CheckpointError
from rt4ksr_export.checkpoint import load_network, packaged_weights, resolve_weights
from rt4ksr_export.network import RT4KSR
from rt4ksr_export.plans import build_plan, trtexec_command
from rt4ksr_export.repository import export_model
from rt4ksr_export.tensorrt import Target


@click.command()
@click.option(
    "--weights",
    "--checkpoint",
    "--checkpoint-id",
    "weights",
    metavar="FILE|NAME",
    help="A .pth of RT4KSR's authors, a .safetensors, or the name of shipped weights.  [default: "
    "all shipped models]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("model_repository"),
    show_default=True,
    help="The Triton model repository to write. Models of other names in it are not touched.",
)
@click.option(
    "--scale",
    type=click.Choice([str(s) for s in sorted(DEFAULT_MODELS)]),
    help="Export this scale only; with --weights, reject weights of another scale.",
)
@click.option(
    "--model", type=click.Choice(list(MODELS)), help="Publish under the name of this model."
)
@click.option(
    "--target",
    type=click.Choice(["onnx", *(target.value for target in Target)]),
    default="onnx",
    show_default=True,
    help="Build a plan too: TensorRT for this machine's GPU, or TensorRT for RTX.",
)
@overwrite_option("Replace models whose files differ, with all that is in their folders.")
@click.option("--force", is_flag=True, help="Build the plan even if there is one.")
@click.option("--trtexec", is_flag=True, help="Print the command that builds the plan instead.")
def export(
    weights: str | None,
    output: Path,
    scale: str | None,
    model: str | None,
    target: str,
    overwrite: bool,
    force: bool,
    trtexec: bool,
) -> None:
    """Export weights as a model repository that tritonserver serves.

    \b
    Examples:
      rt4ksr export                                               all shipped models
      rt4ksr export --weights my_x2.safetensors -o my_repository  your own weights
      rt4ksr export --target tensorrt -o my_repository            plans for the models in there
      tritonserver --model-repository my_repository

    Fuses the network, writes it as ONNX in full and in half precision (uint8 frames in, uint8
    frames out) and compares both with the original network. Nothing is published unless it agrees.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    wanted_scale = None if scale is None else int(scale)
    if target == "onnx" and (force or trtexec):
        raise click.UsageError("--force and --trtexec go with --target tensorrt or rtx")
    if weights is not None:
        specs = _export_weights(weights, wanted_scale, model, output, overwrite=overwrite)
    else:
        specs = [
            spec
            for spec in MODELS.values()
            if model in (None, spec.name) and wanted_scale in (None, spec.scale)
        ]
        if not specs:
            raise click.UsageError(f"{model} is not a model for --scale {scale}")
        published = [spec for spec in specs if (output / spec.name).is_dir()]
        if target == "onnx" or not published:
            for spec in specs:
                network = load_network(packaged_weights(spec.weights_name))
                _publish(network, spec, output, overwrite=overwrite)
        else:
            specs = published
    if target == "onnx":
        return
    for spec in specs:
        if trtexec:
            click.echo(trtexec_command(spec, output, Target(target)))
        else:
            click.echo(build_plan(spec, output, Target(target), force=force))


def _export_weights(
    weights: str, scale: int | None, model: str | None, output: Path, *, overwrite: bool
) -> list[ModelSpec]:
    """Publish ``weights``, a file or a name, as ``model`` or the models for their scale.

    Those are the default model, or for weights of 4:2:0 the video models of 8 and 16 bits.

    Raises:
        CheckpointError: weights of another scale, or of one that has no model.

    """
    network = load_network(resolve_weights(weights), scale=scale)
    found, colours = network.architecture.scale, network.architecture.colours
    content = "any" if colours == "rgb" else "video"
    specs = [
        spec
        for spec in MODELS.values()
        if spec.name == model or (not model and (spec.scale, spec.content) == (found, content))
    ]
    if not specs:
        raise CheckpointError(f"{weights}: there is no model for scale {found}")
    for spec in specs:
        _publish(network, spec, output, overwrite=overwrite)
    return specs


def _publish(network: RT4KSR, spec: ModelSpec, output: Path, *, overwrite: bool) -> None:
    """Export ``network`` and print its figures, and the plans that it made outdated."""
    exported = export_model(network, spec, output, overwrite=overwrite)
    click.echo(f"{output / spec.name}: {exported}")
    for name in exported.dropped_plans:
        click.echo(
            f"{output / spec.name}: removed {name}, which was built from another graph; build it "
            "again with --target",
            err=True,
        )
