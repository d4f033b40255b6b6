"""``rt4ksr upscale``: a picture file in, a larger picture file out."""

from __future__ import annotations

from pathlib import Path

import click

from rt4ksr_client.contract import DEFAULT_MODELS
from rt4ksr_client.files import open_picture, save_picture
from rt4ksr_client.upscaler import DEFAULT_SCALE, DEFAULT_TIMEOUT_S, DEFAULT_URL, Upscaler

SCALES = click.Choice([str(scale) for scale in sorted(DEFAULT_MODELS)])


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--scale", type=SCALES, default=str(DEFAULT_SCALE), show_default=True)
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The server's gRPC address.")
@click.option(
    "--timeout",
    "timeout_s",
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    help="Seconds to wait for the server's answer.",
)
def upscale(source: Path, target: Path, scale: str, url: str, timeout_s: float) -> None:
    """Upscale the picture SOURCE on a server and write TARGET.

    \b
    rt4ksr upscale in.jpg out.png              x2: 1080p becomes 4K
    rt4ksr upscale in.jpg out.jpg --scale 3    x3: 720p becomes 4K

    TARGET's suffix chooses the format. A running server is needed: 'rt4ksr serve'.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    image = open_picture(source)
    with Upscaler(url, scale=int(scale), timeout_s=timeout_s) as upscaler:
        upscaled = upscaler.upscale(image)
    save_picture(upscaled, target)
    click.echo(f"{target}: {image.width}x{image.height} -> {upscaled.width}x{upscaled.height}")
