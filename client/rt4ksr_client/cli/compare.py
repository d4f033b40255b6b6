"""``rt4ksr compare``: a web page with a slider between bicubic interpolation and RT4KSR."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Final

import click
from PIL import Image

from rt4ksr_client.cli.console import printable, show_picture_warnings
from rt4ksr_client.cli.options import overwrite_option, scale_option, server_options
from rt4ksr_client.cli.server import ServerChoice
from rt4ksr_client.cli.targets import check_target
from rt4ksr_client.files import atomic_write, encode, on_white, open_picture, write_errors
from rt4ksr_client.upscaler import DEFAULT_SCALE

__all__ = ["bicubic_beside", "compare", "compare_page"]

QUALITY: Final = 92
LARGEST_WEBP_PX: Final = 16383
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  body {{ margin: 0; font: 16px system-ui, sans-serif; background: #222; color: #eee; }}
  header {{ padding: .6em 1em; display: flex; gap: 1.5em; align-items: center; }}
  input[type=range] {{ flex: 1; }}
  main {{ overflow: auto; height: calc(100vh - 3.5em); }}
  .stack {{ position: relative; width: {width}px; aspect-ratio: {width} / {height}; }}
  .stack.fitted {{ width: 100%; }}
  .stack img {{ position: absolute; inset: 0; width: 100%; height: 100%; }}
  #ours {{ clip-path: inset(0 0 0 var(--cut, 50%)); }}
  .line {{ position: absolute; top: 0; bottom: 0; left: var(--cut, 50%); width: 2px;
    background: #fff8; pointer-events: none; }}
</style>
<header>
  <span>bicubic</span>
  <input id="slider" type="range" min="0" max="100" step="0.1" value="50"
    aria-label="Where bicubic ends and RT4KSR begins">
  <span>RT4KSR, {width}x{height}</span>
  <label><input id="fit" type="checkbox" checked> fit</label>
</header>
<main><div class="stack fitted" id="stack">
  <img src="{bicubic}" alt="bicubic">
  <img id="ours" src="{ours}" alt="RT4KSR">
  <div class="line"></div>
</div></main>
<script>
  const stack = document.getElementById("stack"), slider = document.getElementById("slider");
  const cut = (percent) => stack.style.setProperty("--cut", percent + "%");
  slider.oninput = () => cut(slider.value);
  document.getElementById("fit").onchange = (e) =>
    stack.classList.toggle("fitted", e.target.checked);
  stack.onpointermove = (e) => {{
    const box = stack.getBoundingClientRect();
    slider.value = (e.clientX - box.left) / box.width * 100;
    cut(slider.value);
  }};
</script>
</html>
"""


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("compare.html"),
    show_default=True,
    help="The page to write.",
)
@scale_option
@overwrite_option("Replace the page if it exists.")
@server_options
def compare(
    source: Path, output: Path, scale: int | None, overwrite: bool, server: ServerChoice
) -> None:
    """Upscale the picture SOURCE and write a web page that compares it with bicubic interpolation.

    \b
    Examples:
      rt4ksr compare in.jpg                          writes compare.html
      rt4ksr compare in.jpg -o in.html --scale 3

    The page is one file, with a slider between both pictures, and opens in any browser. Without a
    server at the default address, and with the server extra installed, the command starts one for
    the call.
    """  # noqa: D301 - click's mark of unwrapped lines is a real backspace
    show_picture_warnings()
    check_target(output, source, overwrite=overwrite)
    image = open_picture(source)
    with server.picture_models([scale or DEFAULT_SCALE], scale) as models:
        page = compare_page(image, models.first.upscale(image), printable(source.name))
    with write_errors(str(output)), atomic_write(output, replace=overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8")
    click.echo(f"{printable(output)}: open it in a browser")


def compare_page(source: Image.Image, upscaled: Image.Image, title: str) -> str:
    """Return an HTML page with a slider between both pictures; it needs no other file, no network.

    Args:
        source: the picture before upscaling, upright.
        upscaled: the same picture, larger.
        title: of the page, as plain text.

    """
    bicubic, ours = bicubic_beside(source, upscaled)
    return PAGE.format(
        title=html.escape(title),
        width=ours.width,
        height=ours.height,
        bicubic=_data_url(bicubic),
        ours=_data_url(ours),
    )


def bicubic_beside(source: Image.Image, upscaled: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Return ``source`` resized to ``upscaled`` by Pillow's bicubic, and ``upscaled`` itself.

    Both are RGB, on white where they are transparent.
    """
    ours = on_white(upscaled).convert("RGB")
    small = on_white(source).convert("RGB")
    return small.resize(ours.size, Image.Resampling.BICUBIC), ours


def _data_url(image: Image.Image) -> str:
    format_name = "WEBP" if max(image.size) <= LARGEST_WEBP_PX else "JPEG"
    # Pages are passed on: keep the colour space, but not who took the picture and where.
    color = ("icc_profile", "png_color")
    image.info = {key: value for key, value in image.info.items() if key in color}
    data = base64.b64encode(encode(image, format_name, quality=QUALITY)).decode()
    return f"data:image/{format_name.lower()};base64,{data}"
