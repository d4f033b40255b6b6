"""Draws ``architecture.svg``: python docs/pictures/architecture.py."""

from __future__ import annotations

from pathlib import Path

WIDTH, HEIGHT = 960, 470
INK, LINE, PAPER = "#1f2d3a", "#5c7080", "#ffffff"
CODE, SERVER, MODEL, BUILD = "#e3f2fd", "#f1f8f4", "#d7efe1", "#fff3e0"
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def text(x: float, y: float, words: str, *, size: int = 14, weight: int = 400) -> str:
    """Return a line of text centred on ``x``; ``y`` is its baseline."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="middle" fill="{INK}">{words}</text>'
    )


def box(x: float, y: float, width: float, height: float, fill: str, *lines: str) -> str:
    """Return a box whose first line is bold; its text is centred."""
    parts = [
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{fill}" '
        f'stroke="{LINE}" stroke-width="1.2"/>'
    ]
    top = y + height / 2 - 9 * (len(lines) - 1) + 5
    for index, line in enumerate(lines):
        size, weight = (14, 600) if index == 0 else (12, 400)
        parts.append(text(x + width / 2, top + 18 * index, line, size=size, weight=weight))
    return "".join(parts)


def arrow(*points: tuple[float, float], both: bool = False) -> str:
    """Return a line through ``points`` with a head at its end, or at both."""
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
    start = ' marker-start="url(#head)"' if both else ""
    return (
        f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.6"{start} '
        'marker-end="url(#head)"/>'
    )


def draw() -> str:
    """Return the drawing as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="{FONT}" role="img">',
        "<title>Architecture of rt4ksr-triton</title>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="{LINE}"/>'
        "</marker></defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
        text(120, 34, "Applications", size=15, weight=600),
        box(20, 50, 200, 52, CODE, "rt4ksr upscale, video", "pictures, folders, video files"),
        box(20, 114, 200, 52, CODE, "Your Python program", "NumPy arrays, Pillow images"),
        box(20, 178, 200, 52, CODE, "rt4ksr loadtest", "Locust users, checked answers"),
        box(20, 242, 200, 52, CODE, "curl, other languages", "JPEG, PNG and WebP files"),
        text(370, 34, "Client SDK", size=15, weight=600),
        box(290, 50, 160, 180, CODE, "Upscaler", "padding, tiles, alpha", "retries, deadline",
            "several servers", "choice of transport"),
        *(arrow((220, y), (290, y)) for y in (76, 140, 204)),
        box(560, 20, 380, 290, SERVER),
        text(750, 44, "tritonserver", size=15, weight=600),
        box(650, 60, 270, 76, MODEL, "rt4ksr_x2, rt4ksr_x3", "frames: uint8 (N, H, W, 3) RGB",
            "ONNX Runtime or TensorRT"),
        box(580, 224, 90, 60, MODEL, "decode"),
        box(705, 224, 90, 60, MODEL, "network"),
        box(830, 224, 90, 60, MODEL, "encode"),
        text(750, 208, "image endpoint: rt4ksr_x2_image", size=13, weight=600),
        arrow((670, 254), (705, 254)),
        arrow((795, 254), (830, 254)),
        arrow((450, 76), (650, 76), both=True),
        text(504, 68, "shared memory", size=12),
        arrow((450, 118), (650, 118), both=True),
        text(504, 110, "gRPC, HTTP", size=12),
        arrow((450, 210), (520, 210), (520, 240), (580, 240), both=True),
        text(500, 200, "encoded frames", size=12),
        arrow((220, 268), (580, 268), both=True),
        text(400, 260, "HTTP", size=12),
        text(120, 366, "Export", size=15, weight=600),
        box(20, 382, 150, 70, BUILD, "weights", ".safetensors, .pth", "rt4ksr train"),
        box(205, 382, 130, 70, BUILD, "fuse", "seven 3x3", "convolutions"),
        box(370, 382, 150, 70, BUILD, "ONNX", "FP32 and FP16,", "uint8 in and out"),
        box(555, 382, 170, 70, BUILD, "verify", "against the unfused", "network; or fail"),
        box(760, 382, 180, 70, BUILD, "model_repository/", "models, configurations,",
            "TensorRT plans"),
        *(arrow((x, 417), (x + 35, 417)) for x in (170, 335, 520, 725)),
        arrow((850, 382), (850, 310)),
        text(805, 350, "served by", size=12),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
