"""The site: built with warnings as errors, and then read as a browser would."""

import importlib.util
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest

from tgd_lib.config import ROOT


def module(name: str):
    """docs/NAME.py, imported without docs/ being a package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


build = module("build")

# ---------------------------------------------------------------- the pieces, fast


def test_a_link_leads_to_the_page_that_its_file_has_become(monkeypatch):
    places = build.pages()
    here = "docs/results/index.md"
    assert (
        build.relinked("[a](../../REPRODUCING.md#data)", here, places)
        == "[a](../reproducing.md#data)"
    )
    assert build.relinked("[a](../../README.md)", here, places) == "[a](../index.md)"
    assert build.relinked("[a](/notebooks/07_results.ipynb)", here, places) == (
        "[a](../notebooks/07_results.ipynb)"
    )
    kept = "[a](https://example.org) [b](#here) `x`"
    assert build.relinked(kept, here, places) == kept


def test_what_is_no_page_is_linked_on_github_or_not_at_all(monkeypatch):
    places, text = build.pages(), "[the table](../tgd_lib/config.py)"
    monkeypatch.setattr(build, "GITHUB", None)
    assert build.relinked(text, "docs/index.md", places) == "the table"
    assert build.badges() == ""
    monkeypatch.setattr(build, "GITHUB", "someone/tgd")
    on_github = "[the table](https://github.com/someone/tgd/blob/main/tgd_lib/config.py)"
    assert build.relinked(text, "docs/index.md", places) == on_github
    assert "someone/tgd/actions/workflows/tests.yml/badge.svg" in build.badges()
    assert "mybinder.org/v2/gh/someone/tgd/main" in build.badges()


def test_a_link_that_leads_nowhere_stops_the_build():
    with pytest.raises(SystemExit, match="nowhere.md"):
        build.relinked("[a](nowhere.md)", "docs/index.md", build.pages())


def test_parameters_and_saving_are_folded():
    cells = [{"metadata": {"tags": ["parameters"]}}, {"metadata": {}}, {"metadata": {}}]
    sources = ['profile: str = "quick"', 'figures.save(figure, settings, "x")', "figure"]
    for cell, source in zip(cells, sources, strict=True):
        build.fold(cell, source)
    tags = [cell["metadata"]["tags"] for cell in cells]
    assert tags == [["parameters", "hide-cell"], ["hide-input"], []]


def test_docstrings_are_shown_as_they_are():
    written = ["`x` is (H * W,), |y| <= z_", "", "    kept *as* it stands", "", "after"]
    made = build.as_rst(written)
    assert made[0] == r"``x`` is (H \* W,), \|y\| <= z\_"
    assert "::" in made and "    kept *as* it stands" in made and made[-1] == "after"


def test_every_module_has_its_page_and_nothing_that_runs_has():
    modules = sum(build.rooms().values(), [])
    files = [p for p in (ROOT / "tgd_lib").rglob("*.py") if not p.stem.startswith("__")]
    assert len(modules) == len(set(modules)) == len(files)
    assert modules[: len(build.READING)] == [f"tgd_lib.{name}" for name in build.READING]


def test_the_schematic_stands_alone():
    root = ElementTree.parse(ROOT / "figures" / "schematic.svg").getroot()
    assert root.tag.endswith("svg")
    links = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
    assert links and all(link.startswith(("#", "data:")) for link in links)


# ---------------------------------------------------------------- the whole


class Page(HTMLParser):
    """What a page links, loads and shows."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loaded, self.images, self.ids, self.math = [], [], [], set(), 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id"))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "script" and given.get("src"):
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") == "stylesheet":
            self.loaded.append(given["href"])
        if tag == "img":
            self.images.append(given)
        self.math += "math" in (given.get("class") or "").split()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Page]:
    """The site, page by page, built as `./run_all.sh --site` does where there is no GitHub."""
    for package in ("sphinx", "myst_nb", "furo", "sphinx_copybutton", "sphinx-mathjax-offline"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install -r requirements-docs.txt")
    to = tmp_path_factory.mktemp("site") / "html"
    kept = {k: v for k, v in os.environ.items() if k != "GITHUB_REPOSITORY"}
    command = [sys.executable, str(ROOT / "docs" / "build.py"), "--to", str(to)]
    done = subprocess.run(command, env=kept, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: Page(path) for path in to.rglob("*.html") if "_static" not in path.parts}


def broken(site: dict[Path, Page], path: Path, link: str) -> bool:
    """Whether a local link leads to no file, or to no such place in its page."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return True
    return (
        bool(parts.fragment) and target in site and unquote(parts.fragment) not in site[target].ids
    )


@pytest.mark.slow
def test_every_local_link_leads_somewhere(site):
    names = {path.name for path in site}
    assert {
        "00_start_here.html",
        "your-images.html",
        "glossary.html",
        "tgd_lib.losses.html",
    } <= names
    found = [(p.name, x) for p, page in site.items() for x in page.links if broken(site, p, x)]
    assert not found


@pytest.mark.slow
def test_every_picture_is_there_and_says_what_it_shows(site):
    pictures = [(path, image) for path, page in site.items() for image in page.images]
    assert len(pictures) > 20
    for path, image in pictures:
        assert (path.parent / unquote(image["src"])).is_file(), (path.name, image["src"])
        assert len(image.get("alt") or "") >= 30, (path.name, image["src"])


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
    """Mathematics included: the page that has some loads a MathJax that lies in the site."""
    for path, page in site.items():
        assert not [x for x in page.loaded if broken(site, path, x.partition("?")[0]) or "//" in x]
        if page.math:
            assert any("tex-svg.js" in x for x in page.loaded), path.name
    assert sum(page.math for page in site.values()) > 20
