"""The documentation: its site builds without a warning, and its links lead somewhere."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

from rt4ksr_client.cli import cli

pytestmark = pytest.mark.extras

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        ROOT / "deploy" / "README.md",
        ROOT / "examples" / "README.md",
        ROOT / "export" / "rt4ksr_export" / "weights" / "README.md",
        ROOT / "model_repository" / "README.md",
        *ROOT.glob("model_repository/*.md"),
    ]
)


class References(HTMLParser):
    """What a page loads by itself, and what its links lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.classes |= set(values.get("class", "").split())
        if "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") != "canonical":
            self.loaded.append(values.get("href", ""))


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` does."""
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize(
    "package",
    [
        "rt4ksr_client",
        "rt4ksr_client.contract",
        "rt4ksr_client.errors",
        "rt4ksr_client.video",
        "rt4ksr_export",
        "rt4ksr_server",
    ],
)
def test_the_api_reference_has_every_public_name(site: Path, package: str) -> None:
    reference = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    documented = set(re.findall(r'id="([\w.]+)"', reference))
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        home = f"{getattr(value, '__module__', package)}.{getattr(value, '__qualname__', name)}"
        assert name == "__version__" or {f"{package}.{name}", home} & documented, name


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        references = References()
        references.feed(page.read_text())
        assert not [url for url in references.loaded if re.match(r"(https?:)?//", url)], page
        # Material fetches Mermaid from a CDN as soon as a page has a diagram.
        assert "mermaid" not in references.classes, page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )['\"]?(https?:)?//", sheet.read_text()), sheet


def test_docstrings_show_no_markup_of_another_tool(site: Path) -> None:
    for page in (site / "api").glob("*.html"):
        assert not re.search(r":(class|meth|attr|data|func|mod|exc):", page.read_text()), page


def test_the_drawing_of_the_architecture_is_what_its_script_draws(root: Path) -> None:
    script = root / "docs" / "pictures" / "architecture.py"
    assert runpy.run_path(str(script))["draw"]() == script.with_suffix(".svg").read_text()


def slug(heading: str) -> str:
    """Return GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def documented_commands() -> list[str]:
    """Return every ``rt4ksr ...`` in the shell blocks and the inline code of the pages."""
    found = set()
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        inline = re.findall(
            r"`(rt4ksr [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        )
        for code in [*blocks, *inline]:
            for line in code.replace("\\\n", " ").splitlines():
                found |= set(re.findall(r"(?:^|\| )(rt4ksr [a-z].*?)(?= [>|#;] ?|$)", line.strip()))
    return sorted({command.strip() for command in found})


@pytest.mark.parametrize("line", documented_commands())
def test_every_documented_command_has_the_options_it_is_shown_with(line: str) -> None:
    _, name, *arguments = shlex.split(line.replace(" ...", ""), comments=True)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    if isinstance(command, click.Group) and arguments and arguments[0] in command.commands:
        command = command.commands[arguments.pop(0)]
    values, _, _ = command.make_parser(click.Context(command)).parse_args(arguments)
    choices = {p.name: p.type.choices for p in command.params if isinstance(p.type, click.Choice)}
    for option, value in values.items():
        assert option not in choices or value is None or str(value) in choices[option], option


def test_every_documented_target_of_make_exists(root: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        targets = re.findall(r"(?:^|`|&& )make ([a-z-]+)", page.read_text(), re.MULTILINE)
        assert set(targets) <= known, page


def test_the_readme_is_a_page(root: Path) -> None:
    text = (root / "README.md").read_text()
    assert len(text.split()) < 1200
    assert "Two commands do everything on a fresh machine" in text
    assert "make demo" in text
    assert "make test" in text


def test_the_curl_of_the_readme_is_the_one_that_is_tested(root: Path) -> None:
    (command,) = re.findall(r"^curl .*?\n```", (root / "README.md").read_text(), re.M | re.S)
    assert command.removesuffix("\n```") in (root / "docs" / "protocol.md").read_text()
