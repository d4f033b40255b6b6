"""Writes what the shipped weights are published with: a Hugging Face folder, OpenModelDB entries.

python deploy/publish.py --repository OWNER/NAME --tag v1.2.3 --author USER [--output build/publish]

``huggingface/`` is uploaded with ``hf upload OWNER/rt4ksr-triton build/publish/huggingface``.
``openmodeldb/data/`` has the files to add to https://github.com/OpenModelDB/open-model-database;
``author`` is a user there. Their links lead to the files of the GitHub release, which the release
workflow uploads from ``release/``. Nothing is sent from here.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rt4ksr_client.contract import MODELS, ModelSpec
from rt4ksr_export.checkpoint import packaged_weights
from rt4ksr_export.config import GRAPHS, VERSION
from rt4ksr_export.graph import Precision

ROOT: Final = Path(__file__).parents[1]
CARD: Final = ROOT / "export" / "rt4ksr_export" / "weights" / "README.md"
CARD_HEADER: Final = """---
license: apache-2.0
pipeline_tag: image-to-image
tags:
  - super-resolution
  - image-upscaling
  - onnx
  - real-time
---
"""
PURPOSES: Final = {
    "any": "Pictures without compression.",
    "jpeg": "Pictures with light JPEG compression, up to quality 98.",
    "jpeg_low": "Pictures with strong JPEG compression, and JPEGs with all of their chroma.",
}
TAGS: Final = {
    "any": ["general-upscaler", "photo"],
    "jpeg": ["jpeg", "photo", "restoration"],
    "jpeg_low": ["jpeg", "photo", "restoration"],
}
NAME_ENDS: Final = {"any": "", "jpeg": "-JPEG", "jpeg_low": "-JPEG-Low"}
ARCHITECTURE: Final = {
    "rt4ksr": {
        "name": "RT4KSR",
        "input": "image",
        "compatiblePlatforms": ["pytorch", "onnx"],
    }
}


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repository", required=True, help="OWNER/NAME on GitHub")
    parser.add_argument("--tag", required=True, help="of the release, such as v1.2.3")
    parser.add_argument("--author", required=True, help="user ID on OpenModelDB")
    parser.add_argument("--date", type=datetime.date.fromisoformat, default=datetime.date.today())
    parser.add_argument("--output", type=Path, default=Path("build/publish"))
    options = parser.parse_args()
    url = f"https://github.com/{options.repository}"
    for name in ("release", "huggingface"):
        (options.output / name).mkdir(parents=True, exist_ok=True)
    for spec in MODELS.values():
        for name, path in files_of(spec).items():
            for folder in ("release", "huggingface"):
                shutil.copyfile(path, options.output / folder / name)
    card = CARD_HEADER + with_absolute_links(CARD.read_text(), f"{url}/blob/{options.tag}")
    (options.output / "huggingface" / "README.md").write_text(card)
    write_json(options.output / "openmodeldb" / "data" / "architectures.json", ARCHITECTURE)
    for spec in MODELS.values():
        if spec.colours == "rgb":
            entry = openmodeldb_entry(spec, url, options.tag, options.author, options.date)
            name = f"{model_id(spec)}.json"
            write_json(options.output / "openmodeldb" / "data" / "models" / name, entry)


def files_of(spec: ModelSpec) -> Mapping[str, Path]:
    """Return the published files of a model by their names: weights, if its own, and graphs."""
    files = {
        f"{spec.name}{'_fp16' if precision is Precision.FP16 else ''}.onnx": ROOT
        / "model_repository"
        / spec.name
        / VERSION
        / file
        for precision, file in GRAPHS.items()
    }
    weights = packaged_weights(spec.weights_name)
    return {**files, weights.name: weights}


def with_absolute_links(text: str, base: str) -> str:
    """Return the model card with links to files of this project, wherever it is read."""
    folder = CARD.parent

    def absolute(found: re.Match[str]) -> str:
        target, _, anchor = found[1].partition("#")
        if not target or "://" in target:
            return found[0]
        path = Path(os.path.normpath(folder / target)).relative_to(ROOT)
        raw = base.replace("/blob/", "/raw/") if path.suffix in (".png", ".jpg") else base
        return f"]({raw}/{path.as_posix()}{'#' + anchor if anchor else ''})"

    return re.sub(r"\]\(([^)\s]+)\)", absolute, text)


def model_id(spec: ModelSpec) -> str:
    """Return OpenModelDB's ID: the scale, then words with hyphens in between."""
    return f"{spec.scale}x-RT4KSR{NAME_ENDS[spec.content]}"


def openmodeldb_entry(
    spec: ModelSpec, url: str, tag: str, author: str, date: datetime.date
) -> dict[str, Any]:
    """Return the entry of a model, by the schema of OpenModelDB's ``src/lib/schema.ts``."""
    weights = packaged_weights(spec.weights_name)
    graph = f"{spec.name}.onnx"
    resources = [
        resource(f"{url}/releases/download/{tag}/{name}", files_of(spec)[name], platform, kind)
        for name, platform, kind in (
            (weights.name, "pytorch", "safetensors"),
            (graph, "onnx", "onnx"),
        )
    ]
    return {
        "name": model_id(spec).replace("-", "_").replace("x_", "x"),
        "author": author,
        "license": "Apache-2.0",
        "tags": TAGS[spec.content],
        "description": (
            f"{PURPOSES[spec.content]} RT4KSR (Zamfir, Conde, Timofte, CVPRW 2023) is a network of "
            f"40 to 52 thousand parameters for {spec.input_width_px}x{spec.input_height_px} to 4K "
            f"in real time. The weights were trained from scratch by [rt4ksr-triton]({url}). The "
            "ONNX file takes and returns uint8 in NHWC, sides of even length."
        ),
        "date": date.isoformat(),
        "architecture": "rt4ksr",
        "size": ["24nf", "4nb"],
        "scale": spec.scale,
        "inputChannels": 3,
        "outputChannels": 3,
        "resources": resources,
        "images": [],
    }


def resource(url: str, path: Path, platform: str, kind: str) -> dict[str, Any]:
    """Return a downloadable file of an entry."""
    data = path.read_bytes()
    return {
        "platform": platform,
        "type": kind,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "urls": [url],
    }


def write_json(path: Path, content: object) -> None:
    """Write JSON as OpenModelDB indents it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4) + "\n")


if __name__ == "__main__":
    main()
