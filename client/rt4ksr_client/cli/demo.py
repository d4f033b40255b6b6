"""``rt4ksr demo``: the whole way, once: a real server, a picture, 4K."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import click
from PIL import Image

from rt4ksr_client.cli.before_after import before_after
from rt4ksr_client.cli.upscale import SCALES
from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_client.files import open_picture, save_picture
from rt4ksr_client.upscaler import Upscaler
from rt4ksr_server import TritonServer, default_repository


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--scale", type=SCALES, default="2", show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder for the two pictures.",
)
@click.option(
    "--model-repository",
    type=click.Path(path_type=Path, file_okay=False),
    help="Default: ./model_repository, else the one that came with this package.",
)
def demo(source: Path, scale: str, output: Path, model_repository: Path | None) -> None:
    """Start a real tritonserver, upscale SOURCE, stop the server, show the result.

    \b
    rt4ksr demo holiday.jpg
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    stages = _Stages()
    with stages.timed("decode"):
        image = open_picture(source)
    output.mkdir(parents=True, exist_ok=True)
    upscaled = _served(image, int(scale), model_repository or default_repository(), stages)
    large, comparison = output / f"{source.stem}_x{scale}.png", output / "before_after.png"
    with stages.timed("encode as PNG"):
        save_picture(upscaled, large)
    with stages.timed("draw before and after"):
        save_picture(before_after(image, upscaled), comparison)

    click.echo(f"\n{image.width}x{image.height} -> {upscaled.width}x{upscaled.height}")
    click.echo(stages.table())
    click.echo(f"\nthe picture:       {large}\nbefore and after:  {comparison}")


def _served(image: Image.Image, scale: int, model_repository: Path, stages: _Stages) -> Image.Image:
    server = TritonServer(model_repository, models=[DEFAULT_MODELS[scale].name])
    with stages.timed("start tritonserver, load and warm up"):
        server.start()
    try:
        with Upscaler(server.grpc_url, scale=scale, transport="grpc") as upscaler:
            before_ms = _network_ms(upscaler)
            with stages.timed("upscale over gRPC"):
                upscaled = upscaler.upscale(image)
            stages.add("  of which in the network", _network_ms(upscaler) - before_ms)
        return upscaled
    finally:
        with stages.timed("stop tritonserver"):
            server.stop()


def _network_ms(upscaler: Upscaler) -> float:
    """Milliseconds in the network so far, warm-up included, by the server's own statistics."""
    name = upscaler.served_model.name
    statistics = next(m.statistics for m in upscaler.status().models if m.name == name)
    return statistics.infer_ms * statistics.answered if statistics else 0.0


class _Stages:
    """Milliseconds by stage, said as they pass."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, float]] = []

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        click.echo(f"{name} ...", err=True)
        start_s = perf_counter()
        yield
        self.add(name, (perf_counter() - start_s) * 1000)

    def add(self, name: str, duration_ms: float) -> None:
        self._rows.append((name, duration_ms))

    def table(self) -> str:
        return "\n".join(f"{duration_ms:9.0f} ms  {name}" for name, duration_ms in self._rows)
