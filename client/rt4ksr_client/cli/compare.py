"""``rt4ksr compare``: a page with a slider between bicubic and ours."""

from __future__ import annotations

import base64
import html
from pathlib import Path

import click
from PIL import Image

from rt4ksr_client.cli.options import (
    ServerChoice,
    say_warnings,
    scale_option,
    server_options,
    shown,
)
from rt4ksr_client.errors import PictureError
from rt4ksr_client.files import atomic_write, encode, on_white, open_picture, write_errors

__all__ = ["bicubic_beside", "compare", "compare_page"]

_QUALITY = 92
_LARGEST_WEBP_PX = 16383
_PAGE = """<!doctype html>
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
    with write_errors(str(output)), atomic_write(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    click.echo(f"{shown(output)}: open it in a browser")


def compare_page(source: Image.Image, upscaled: Image.Image, title: str) -> str:
    """Return a page of HTML that needs nothing else: no file, no network.

    Args:
        source: the picture before upscaling, upright.
        upscaled: the same picture, larger.
        title: of the page.

    """
    bicubic, ours = bicubic_beside(source, upscaled)
    return _PAGE.format(
        title=html.escape(title),
        width=ours.width,
        height=ours.height,
        bicubic=_as_url(bicubic),
        ours=_as_url(ours),
    )


def bicubic_beside(source: Image.Image, upscaled: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Return ``source`` enlarged by Pillow's bicubic to the size of ``upscaled``, and that one.

    Both are RGB, on white where they are transparent.
    """
    ours = on_white(upscaled).convert("RGB")
    return on_white(source).convert("RGB").resize(ours.size, Image.Resampling.BICUBIC), ours


def _as_url(image: Image.Image) -> str:
    kind = "WEBP" if max(image.size) <= _LARGEST_WEBP_PX else "JPEG"
    # Pages are passed on: of the metadata only what colours need, not where it was taken.
    image.info = {key: value for key, value in image.info.items() if key == "icc_profile"}
    data = encode([image], kind, quality=_QUALITY)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"
