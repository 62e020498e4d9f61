"""The site: `python docs/build.py` writes artifacts/site/ from docs/, the twins and the records.

`./run_all.sh --site` calls it. Nothing is executed and nothing is downloaded. Every file keeps the
place it has in the repository, where its links work, too; what Sphinx reads is a copy, in which the
links lead to the pages that those files have become. Where GITHUB_REPOSITORY ("owner/name") is set,
what is no page is linked on GitHub, and badges and links that run a notebook appear; elsewhere they
are left out.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import sys
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
ARTIFACTS = ROOT / (os.environ.get("TGD_ARTIFACTS") or "artifacts")
GITHUB = os.environ.get("GITHUB_REPOSITORY")

# Files at the top of the repository that are pages of the site.
TOP = {
    "REPRODUCING.md": "reproducing.md",
    "DEVIATIONS.md": "deviations.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    # Who follows a link to the README comes to the landing page, which is made from docs/index.md.
    "README.md": "index.md",
}
# Files that a page may show or offer for download.
ASSETS = ("figures/", "benchmarks/recorded/", "LICENSE", "CITATION.cff")

# ---------------------------------------------------------------- what becomes a page


def pages() -> dict[str, str]:
    """Where each page comes from, as a path in the repository -> its place in the site's source."""
    places = dict(TOP)
    for path in sorted((ROOT / "docs").rglob("*.md")):
        places[path.relative_to(ROOT).as_posix()] = path.relative_to(ROOT / "docs").as_posix()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        places[f"notebooks/{path.name}"] = f"notebooks/{path.name}"
    for path in sorted((ROOT / "benchmarks" / "recorded").glob("*.md")):
        places[f"benchmarks/recorded/{path.name}"] = f"benchmarks/{path.name}"
    return places


def assemble(source: Path) -> None:
    """Write all that Sphinx reads to `source`: pages with their links, figures, the API's pages."""
    places = pages()
    # Afresh each time, for the same reason as the site itself (`build`).
    shutil.rmtree(source, ignore_errors=True)
    # Of a recorded run, what a page may show or link: no weights, and no page of its own.
    left_out = shutil.ignore_patterns("*.safetensors", "*.md")
    shutil.copytree(ROOT / "figures", source / "figures", ignore=left_out)
    shutil.copytree(
        ROOT / "benchmarks" / "recorded", source / "benchmarks" / "recorded", ignore=left_out
    )
    for name in ("LICENSE", "CITATION.cff", "examples/export.py"):
        shutil.copy(ROOT / name, source)
    for origin, place in places.items():
        if origin == "README.md":  # a target of links only
            continue
        text = (ROOT / origin).read_text(encoding="utf-8")
        make = notebook_page if origin.endswith(".ipynb") else markdown_page
        (source / place).parent.mkdir(parents=True, exist_ok=True)
        (source / place).write_text(make(text, origin, places), encoding="utf-8")
    for module in sum(rooms().values(), []):
        (source / "api" / f"{module}.md").write_text(module_page(module), encoding="utf-8")


# ---------------------------------------------------------------- links


def relinked(text: str, origin: str, places: dict[str, str]) -> str:
    """Markdown with each relative link leading to where its target is on the site.

    A target that is no page and no asset is linked on GitHub, or, where that is not known, is text.
    """

    # What is no relative link (an address, a place in the page) stays as it is.
    def new(match: re.Match) -> str:
        mark, label, target = match.groups()
        if re.match(r"[a-z]+:|#|<", target):
            return match[0]
        path, _, anchor = target.partition("#")
        # A link is relative to its file, or, with a slash in front, to the repository.
        folder = "" if path.startswith("/") else str(PurePosixPath(origin).parent)
        full = os.path.normpath(os.path.join(folder, path.lstrip("/")))
        found = places.get(full) or (
            full if full.startswith(ASSETS) and (ROOT / full).is_file() else None
        )
        if found:
            here = PurePosixPath(places[origin]).parent
            return (
                f"{mark}[{label}]({os.path.relpath(found, here)}{'#' + anchor if anchor else ''})"
            )
        if not (ROOT / full).exists():
            raise SystemExit(f"error: {origin}: link to {target!r}, which is not there")
        return f"[{label}](https://github.com/{GITHUB}/blob/main/{full})" if GITHUB else label

    return re.sub(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)", new, text)


# ---------------------------------------------------------------- pages in Markdown

# A recorded figure in a paragraph of its own, and the caption in italics that may follow it.
FIGURE = re.compile(
    r"^!\[(?P<alt>[^\]]+)\]\((?P<path>\S*figures/(?P<run>[\w.-]+)/figures/(?P<name>\w+)\.(?:png|svg))\)$"
    r"(?:\n\n\*(?P<caption>[^*\n].*)\*$)?",
    re.MULTILINE,
)


def markdown_page(text: str, origin: str, places: dict[str, str]) -> str:
    """A page: its links, its figures with caption and record, a run's other figures below."""
    text = text.replace("<!-- findings -->", findings())
    text = text.replace("<!-- badges -->", badges())
    text = text.replace("<!-- rooms -->", room_tables())
    # Every page needs a title to stand in a table of contents.
    if not re.search(r"^# ", text, re.MULTILINE):
        text = f"# {Path(origin).stem.capitalize()}\n\n{text}"
    shown = [m["name"] for m in FIGURE.finditer(text)]
    if origin.startswith("docs/results/"):
        text = unbroken(text) + other_figures(Path(origin).stem, shown)
    return relinked(FIGURE.sub(figure_block, text), origin, places)


def findings() -> str:
    """What the README says was found, between its marks: one text for both."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- findings -->\n(.*?)<!-- /findings -->", readme, re.DOTALL)
    if not match:
        return ""
    # Its links start from the top of the repository.
    return re.sub(r"\]\((?![a-z]+:|#|/)", "](/", match[1])


def figure_block(match: re.Match) -> str:
    """A recorded figure with its caption as text and a link to its record."""
    record = match["path"].rsplit(".", 1)[0] + ".json"
    caption = match["caption"] or caption_of(match["run"], match["name"])
    file = Path(match["path"]).name
    # With a slash in front, Sphinx looks from the top of its source: figures/ lies there, too.
    lines = [
        f":::{{figure}} /figures/{match['run']}/figures/{file}",
        f":alt: {match['alt']}",
        "",
        f"{caption} [Record]({record})",
        ":::",
    ]
    return "\n".join(lines)


def unbroken(text: str) -> str:
    """Tables in which a number stays on one line with its spread, n and interval."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if line.startswith("|"):
            lines[i] = re.sub(r"(?<=[\d)±,]) (?=[-+\d(\[±])", "\u00a0", line)
    return "\n".join(lines)


def other_figures(run: str, shown: list[str]) -> str:
    """The figures of a recorded run that its page does not show yet, notebook by notebook."""
    folder = ROOT / "figures" / run / "figures"
    names = [p.stem for p in sorted(folder.glob("*.png")) if p.stem not in shown]
    if not names:
        return ""
    blocks = ["\n## More figures of this run\n"]
    for name in names:
        blocks.append(f"![{alt_of(run, name)}](../../figures/{run}/figures/{name}.png)\n")
    return "\n".join(blocks)


def caption_of(run: str, name: str) -> str:
    """The caption that the figure's record holds."""
    return figure_record(run, name)["caption"]


def figure_record(run: str, name: str) -> dict:
    path = ROOT / "figures" / run / "figures" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def alt_of(run: str, name: str) -> str:
    """What the figure shows, in words: as its record or a page says it, else its caption."""
    record = figure_record(run, name)
    if record.get("alt"):
        return record["alt"]
    image = re.compile(rf"!\[([^\]]+)\]\(\S*figures/{re.escape(run)}/figures/{name}\.\w+\)")
    for page in (ROOT / "README.md", ROOT / "docs" / "results" / f"{run}.md"):
        match = page.is_file() and image.search(page.read_text(encoding="utf-8"))
        if match:
            return match[1]
    return record["caption"].replace("[", "(").replace("]", ")")


def badges() -> str:
    """Whether the tests pass, and links that run notebooks; nothing where no address is known."""
    if not GITHUB:
        return ""
    lines = [f"[The code](https://github.com/{GITHUB})"]
    for workflow in ("tests", "notebooks", "site"):
        page = f"https://github.com/{GITHUB}/actions/workflows/{workflow}.yml"
        lines.append(f"[![{workflow}]({page}/badge.svg)]({page})")
    for name in RUNNABLE:
        lines.append(run_it(name))
    return "\n".join(lines)


# ---------------------------------------------------------------- notebooks

RUNNABLE = ("00_start_here", "01_persistence_images")  # light enough for a borrowed machine


def run_it(name: str) -> str:
    """Links that open a notebook on Binder and on Colab, as Markdown."""
    binder = f"https://mybinder.org/v2/gh/{GITHUB}/main?urlpath=lab/tree/notebooks/{name}.ipynb"
    colab = f"https://colab.research.google.com/github/{GITHUB}/blob/main/notebooks/{name}.ipynb"
    return f"Run {name[:2]} on [Binder]({binder}) or [Colab]({colab})."


def notebook_page(text: str, origin: str, places: dict[str, str]) -> str:
    """A twin as the site shows it: folded where nobody reads, figures with caption and record."""
    notebook = json.loads(text)
    run = notebook["metadata"].get("recorded", {}).get("profile")
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = relinked(source, origin, places)
        elif cell["cell_type"] == "code":
            fold(cell, source)
            describe_figure(cell, source, run)
    name = Path(origin).stem
    if GITHUB and name in RUNNABLE:
        notebook["cells"][0]["source"] += f"\n\n{run_it(name)} {in_colab()}\n"
    return json.dumps(notebook, ensure_ascii=False, indent=1)


def in_colab() -> str:
    """What Colab needs beside the notebook, which is all that it opens."""
    folder = GITHUB.split("/")[1]
    clone = f"!git clone https://github.com/{GITHUB}"
    install = f"!cd {folder} && pip install -r requirements-light.txt"
    return f"In Colab, run `{clone}`, `{install}` and `%cd {folder}` first of all."


def fold(cell: dict, source: str) -> None:
    """Tag what a reader skips: the parameters, and the code that writes a figure."""
    tags = cell["metadata"].setdefault("tags", [])
    if "parameters" in tags:
        tags.append("hide-cell")
        cell["metadata"]["mystnb"] = {"code_prompt_show": "Show the parameters"}
    elif "figures.save(" in source:
        tags.append("hide-input")
        cell["metadata"]["mystnb"] = {"code_prompt_show": "Show how it is drawn and recorded"}


def describe_figure(cell: dict, source: str, run: str | None) -> None:
    """Give the picture that a cell shows its caption, alt text and record, if it has one."""
    # The name is the first string that `figures.save` is given.
    match = re.search(r'figures\.save\([^"]*"(\w+)"', source)
    pictures = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    if not match or not pictures or not run:
        return
    name = match[1]
    if not (ROOT / "figures" / run / "figures" / f"{name}.json").is_file():
        return
    caption = f"{caption_of(run, name)} [Record](../figures/{run}/figures/{name}.json)"
    shown = {"image": {"alt": alt_of(run, name)}, "figure": {"caption": caption, "name": name}}
    cell["metadata"].setdefault("mystnb", {}).update(shown)
    # The site writes the caption itself; the notebook's own, displayed beneath, would be a second.
    cell["outputs"] = [o for o in cell["outputs"] if "text/markdown" not in o.get("data", {})]


# ---------------------------------------------------------------- the API

# The method, in the order in which to read it; what else lies beside these modules follows them.
READING = ("diagrams", "topology", "networks", "losses", "bank", "training", "evaluation")
# Top to bottom of what is built on it.
WINGS = ("images", "lab", "study", "report", "companion")


def rooms() -> dict[str, list[str]]:
    """Each room and its modules by dotted name: the method first, then the wings that are there."""
    package = ROOT / "tgd_lib"
    # Modules with a name in underscores run something when they are imported.
    lying_there = [p.stem for p in sorted(package.glob("*.py")) if not p.stem.startswith("__")]
    rest = [name for name in lying_there if name not in READING]
    method = [name for name in READING if name in lying_there]
    found = {"The method": [f"tgd_lib.{name}" for name in (*method, *rest)]}
    for wing in WINGS:
        modules = [
            p.stem for p in sorted((package / wing).glob("*.py")) if not p.stem.startswith("__")
        ]
        if modules:
            found[wing.capitalize()] = [f"tgd_lib.{wing}.{name}" for name in modules]
    return found


def room_tables() -> str:
    """A table a room: its modules, and the first line of what each says of itself."""
    lines = []
    for room, modules in rooms().items():
        lines += [f"## {room}", "", "| module | |", "| --- | --- |"]
        for module in modules:
            title = module.removeprefix("tgd_lib.")
            lines.append(f"| {{doc}}`{title} <{module}>` | {first_line(module)} |")
        listed = "\n".join(modules)
        lines += ["", f":::{{toctree}}\n:hidden:\n\n{listed}\n:::", ""]
    return "\n".join(lines)


def module_page(module: str) -> str:
    """A page that autodoc fills."""
    title = module.removeprefix("tgd_lib.")
    return f"# {title}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```\n"


def first_line(module: str) -> str:
    """The first line of a module's docstring, read without importing it."""
    path = ROOT / (module.replace(".", "/") + ".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.sub(r"([*|\[\]_])", r"\\\1", text.split("\n")[0])


def as_rst(lines: list[str]) -> list[str]:
    """A docstring in plain English, with `code` in backticks, as reStructuredText that shows it so.

    An indented passage is kept as it stands, line by line.
    """
    # A literal block begins with "::" and ends where the indentation does.
    made, quoted = [], False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not quoted:
            made += ["", "::", ""]
        elif quoted and line.strip() and not indented:
            made.append("")
        quoted = indented or (quoted and not line.strip())
        made.append(line if quoted else _escaped(line))
    return made


def _escaped(line: str) -> str:
    """One line of prose: `code` to ``code``, and nothing in the rest of it read as markup."""
    # Every second part is code.
    parts = re.split(r"(``.+?``|`[^`]+`)", line)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"``{part.strip('`')}``"
        else:
            parts[i] = re.sub(r"([*|_\\])", r"\\\1", part)
    return "".join(parts)


# ---------------------------------------------------------------- the site


def build(*, source: Path, site: Path) -> int:
    """Assemble and build, a warning being an error; Sphinx's exit status."""
    from sphinx.cmd.build import build_main

    assemble(source)
    # A page that is gone must not stay; only what Sphinx itself has written is taken away.
    if (site / ".buildinfo").is_file():
        shutil.rmtree(site)
    # The doctrees lie beside the source, not in the site: they are nobody's reading.
    options = ["-q", "-W", "--keep-going", "-b", "html", "-c", str(ROOT / "docs")]
    folders = ["-d", str(source.with_name("site-doctrees")), str(source), str(site)]
    return build_main([*options, *folders])


def main() -> int:
    """Build the site where the command line says; 0 if all is well."""
    parser = argparse.ArgumentParser(
        description="Build the site; nothing is executed, nothing downloaded."
    )
    parser.add_argument(
        "--to", type=Path, default=ARTIFACTS / "site", help="folder (artifacts/site)"
    )
    site = parser.parse_args().to.resolve()
    status = build(source=ARTIFACTS / "site-source", site=site)
    if status == 0:
        print(f"site: {site / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
