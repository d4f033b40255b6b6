"""``rt4ksr compare``: a page with a slider between bicubic and ours."""

from __future__ import annotations

from pathlib import Path

import click

from rt4ksr_client.cli.options import (
    ServerChoice,
    say_warnings,
    scale_option,
    server_options,
    shown,
)
from rt4ksr_client.compare import compare_page
from rt4ksr_client.errors import PictureError
from rt4ksr_client.files import open_picture, writing, written_beside


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("compare.html"),
    show_default=True,
)
@scale_option
@server_options
def compare(source: Path, output: Path, scale: int | None, server: ServerChoice) -> None:
    """Upscale the picture SOURCE and write a page with a slider: bicubic and ours.

    \b
    rt4ksr compare in.jpg -o compare.html    one file, opens in any browser
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    say_warnings()
    if output.exists() and source.exists() and output.samefile(source):
        raise PictureError(f"{shown(output)}: this is the source itself: give another name with -o")
    image = open_picture(source)
    with server.upscaler(scale) as upscaler:
        page = compare_page(image, upscaler.upscale(image), shown(source.name))
    with writing(str(output)), written_beside(output) as beside:
        beside.write_text(page, encoding="utf-8")
    click.echo(f"{shown(output)}: open it in a browser")
