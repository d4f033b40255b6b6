"""What a release publishes beside the package: entries of OpenModelDB, a Hugging Face folder.

OpenModelDB's rules are those of its src/lib/schema.ts and src/lib/model-props.ts.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MODEL_ID = re.compile(r"\d+x-[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*")
REQUIRED = {
    "name": str,
    "tags": list,
    "description": str,
    "date": str,
    "architecture": str,
    "scale": int,
    "inputChannels": int,
    "outputChannels": int,
    "resources": list,
    "images": list,
}
OPTIONAL = {"author", "license", "size"}
KNOWN_TAGS = {"general-upscaler", "photo", "jpeg", "restoration"}  # of its data/tags.json

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("publish")
    options = ["--repository", "owner/name", "--tag", "v1.2.3", "--author", "someone"]
    script = ROOT / "deploy" / "publish.py"
    subprocess.run([sys.executable, script, *options, "--output", folder], check=True)
    return folder


def entries(published: Path) -> dict[str, dict[str, Any]]:
    paths = (published / "openmodeldb" / "data" / "models").glob("*.json")
    return {path.stem: json.loads(path.read_text()) for path in paths}


def test_every_entry_keeps_the_rules_of_openmodeldb(published: Path) -> None:
    found = entries(published)
    assert set(found) == {f"{n}x-RT4KSR{end}" for n in (2, 3) for end in ("", "-JPEG", "-JPEG-Low")}
    architectures = json.loads((published / "openmodeldb/data/architectures.json").read_text())
    for name, entry in found.items():
        assert MODEL_ID.fullmatch(name)
        assert name.startswith(f"{entry['scale']}x-")
        assert set(entry) == set(REQUIRED) | OPTIONAL
        assert all(isinstance(entry[key], kind) for key, kind in REQUIRED.items())
        assert entry["architecture"] in architectures
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"])
        assert entry["description"] == entry["description"].strip()
        assert entry["tags"] and set(entry["tags"]) <= KNOWN_TAGS


def test_the_files_of_an_entry_are_those_of_the_release(published: Path) -> None:
    prefix = "https://github.com/owner/name/releases/download/v1.2.3/"
    for entry in entries(published).values():
        assert {r["platform"] for r in entry["resources"]} == {"pytorch", "onnx"}
        for resource in entry["resources"]:
            (url,) = resource["urls"]
            assert url.startswith(prefix) and url.endswith(resource["type"])
            data = (published / "release" / url.removeprefix(prefix)).read_bytes()
            assert resource["size"] == len(data)
            assert resource["sha256"] == hashlib.sha256(data).hexdigest()


def test_the_model_card_has_a_header_and_links_that_work_elsewhere(published: Path) -> None:
    card = (published / "huggingface" / "README.md").read_text()
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "apache-2.0"
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        assert link.startswith(("https://", "http://", "#")), link
        if "/v1.2.3/" in link:
            assert (ROOT / link.split("/v1.2.3/")[1].partition("#")[0]).exists(), link
    assert len(list((published / "huggingface").glob("*.safetensors"))) == 8
