"""A page that shows what upscaling did: bicubic and ours on top of each other, with a slider."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

from rt4ksr_client.files import encode

__all__ = ["bicubic_beside", "compare_page"]

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
    ours = _opaque(upscaled)
    return _opaque(source).resize(ours.size, Image.Resampling.BICUBIC), ours


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")


def _as_url(image: Image.Image) -> str:
    kind = "WEBP" if max(image.size) <= _LARGEST_WEBP_PX else "JPEG"
    # Pages are passed on: of the metadata only what colours need, not where it was taken.
    image.info = {key: value for key, value in image.info.items() if key == "icc_profile"}
    buffer = io.BytesIO()
    encode([image], buffer, kind, quality=_QUALITY)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getbuffer()).decode()}"
