"""``rt4ksr demo``: start a server, upscale a picture, show the time of each stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import click
from PIL import Image

from rt4ksr_client.cli.before_after import before_after
from rt4ksr_client.cli.options import SCALES, overwrite_option
from rt4ksr_client.cli.targets import check_target, default_target
from rt4ksr_client.contract import MODELS
from rt4ksr_client.files import open_picture, save_picture
from rt4ksr_client.upscaler import Upscaler
from rt4ksr_server import TritonServer, default_repository

__all__ = ["demo"]


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--scale", type=SCALES, default="2", show_default=True, help="Factor to upscale by.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="The folder to write two pictures to.",
)
@click.option(
    "--model-repository",
    type=click.Path(path_type=Path, file_okay=False),
    help="The models to serve.  [default: ./model_repository, otherwise the shipped one]",
)
@overwrite_option("Replace the two pictures if they exist.")
def demo(
    source: Path, scale: str, output: Path, model_repository: Path | None, overwrite: bool
) -> None:
    """Start a Triton server, upscale the picture SOURCE, stop the server and show the result.

    \b
    Example:
      rt4ksr demo holiday.jpg     writes demo/holiday_x2.png and demo/before_after.png
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    large = output / default_target(source, f"x{scale}", ".png").name
    comparison = output / "before_after.png"
    for target in (large, comparison):
        check_target(target, source, overwrite=overwrite)
    times = StageTimes()
    with times.stage("decode"):
        image = open_picture(source)
    output.mkdir(parents=True, exist_ok=True)
    repository = model_repository or default_repository()
    upscaled = _upscale_on_own_server(image, int(scale), repository, times)
    with times.stage("encode as PNG"):
        save_picture(upscaled, large)
    with times.stage("draw before and after"):
        save_picture(before_after(image, upscaled), comparison)

    click.echo(f"\n{image.width}x{image.height} -> {upscaled.width}x{upscaled.height}")
    click.echo(times.table())
    click.echo(f"\nthe picture:       {large}\nbefore and after:  {comparison}")


class StageTimes:
    """The time of each stage in milliseconds; a stage is announced on stderr when it starts."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, float]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage and take the block's time."""
        click.echo(f"{name} ...", err=True)
        start_s = perf_counter()
        yield
        self.add(name, (perf_counter() - start_s) * 1000)

    def add(self, name: str, duration_ms: float) -> None:
        """Add a time that was measured elsewhere."""
        self._rows.append((name, duration_ms))

    def table(self) -> str:
        """Return one line per stage."""
        return "\n".join(f"{duration_ms:9.0f} ms  {name}" for name, duration_ms in self._rows)


def _upscale_on_own_server(
    image: Image.Image, scale: int, model_repository: Path, times: StageTimes
) -> Image.Image:
    wanted = [s.name for s in MODELS.values() if s.scale == scale and s.colours == "rgb"]
    found = [name for name in wanted if (model_repository / name).is_dir()]
    server = TritonServer(model_repository, models=found or wanted)
    with times.stage("start tritonserver, load and warm up"):
        server.start()
    try:
        click.echo(f"device: {server.device}")
        with Upscaler(server.grpc_url, scale=scale, transport="grpc") as upscaler:
            with times.stage("choose a model"):
                choice = upscaler.choose_model(image)
            click.echo(f"  {choice}", err=True)
            warm_up_ms = _network_ms(upscaler, choice.model.name)
            with times.stage("upscale over gRPC"):
                upscaled = upscaler.upscale(image, model=choice.model.name)
            network_ms = _network_ms(upscaler, choice.model.name) - warm_up_ms
            times.add("  of which in the network", network_ms)
        return upscaled
    finally:
        with times.stage("stop tritonserver"):
            server.stop()


def _network_ms(upscaler: Upscaler, name: str) -> float:
    """Return the time spent in the network so far, warm-up included, by the server's statistics."""
    statistics = next(m.statistics for m in upscaler.status().models if m.name == name)
    return statistics.infer_ms * statistics.answered if statistics else 0.0
