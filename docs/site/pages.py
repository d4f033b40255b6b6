"""MkDocs hook: pages that live outside ``docs/``, and links between them and the rest.

The README is the home page. Links in the repository are relative, as GitHub shows them; on the
site they lead to the page made from that file, or to the repository where there is no such page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples.md",
    "export/rt4ksr_export/weights/README.md": "model_card.md",
    "model_repository/README.md": "model_repository.md",
}
"""File in the repository: its place on the site."""

_LINK = re.compile(r"(!?)\[((?:[^][]|\[[^][]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside ``docs/``."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at the site's own pages, as far as these exist."""
    place = page.file.src_uri
    source = next((path for path, at in PAGES.items() if at == place), f"docs/{place}")
    kept = 0
    parts = []
    for fence in _FENCE.finditer(markdown):
        parts.append(_relinked(markdown[kept : fence.start()], source, place, config))
        parts.append(fence.group())
        kept = fence.end()
    parts.append(_relinked(markdown[kept:], source, place, config))
    return "".join(parts)


def _relinked(text: str, source: str, place: str, config: Any) -> str:
    def replace(link: re.Match[str]) -> str:
        mark, words, target = link.groups()
        url = urlsplit(target)
        if url.scheme or url.netloc or not url.path:
            return link.group()
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), url.path))
        if not (ROOT / file).exists():
            raise FileNotFoundError(f"{source} links to {target}, which is not in the repository")
        on_site = PAGES.get(file) or (file[len("docs/") :] if file.startswith("docs/") else None)
        if on_site is None or (ROOT / file).is_dir() or file.endswith(".py"):
            if config.repo_url:
                return f"[{words}]({config.repo_url}/blob/main/{file})"
            return f"`{file}`" if file.endswith(words.strip("`/")) else words
        path = posixpath.relpath(on_site, posixpath.dirname(place) or ".")
        return f"{mark}[{words}]({path}{'#' + url.fragment if url.fragment else ''})"

    return _LINK.sub(replace, text)
