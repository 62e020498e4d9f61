"""The rendered twin of a notebook: the `.ipynb` beside its `.py` source, fit to be kept.

People edit the source; the runner alone writes the twin, with the outputs of a recorded run. A twin
holds nothing that differs from machine to machine: no path, no progress line, no injected
parameters, and cell ids that follow from the cells' text, so that an unchanged cell never shows up
in a diff.

jupytext can pair files, too (`combine_inputs_with_outputs`), but lets a changed cell keep the
output of the one that stood in its place; here an output is that of its very code, or gone.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from tgd_lib.config import ROOT, InputError, artifacts_dir
from tgd_lib.files import write_text

NOTEBOOKS = ROOT / "notebooks"
INJECTED = "injected-parameters"
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
_CELL_METADATA = ("tags", "jupyter")  # all else is of one run or one machine
_AGAIN = "run ./run_all.sh --twins"

# A path to an installed package; from a word's start, or the search takes quadratic time.
_INSTALLED = r"(?<![^\s\"'(<])[^\s\"'(<]*site-packages\b"
_PLACES = "tmp|home|root|Users|var|private|mnt|opt|srv|work|workspace"
_PATH = rf"(?<![\w.~])/(?:{_PLACES})\b[\w./-]*|{_INSTALLED}"


# ---------------------------------------------------------------- files


def read(path: Path):
    """The notebook in `path`, a py:percent source or an .ipynb; InputError where it is neither."""
    import jupytext
    import nbformat

    if path.suffix == ".py":
        return jupytext.read(path, fmt="py:percent")
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError):
        raise InputError(
            f"{path.name}: no notebook (conflict marks of a merge?); remove it, and {_AGAIN}"
        ) from None


def write(notebook, path: Path) -> bool:
    """Writes `path`, whole or not at all, unless it holds just that; whether it wrote."""
    import nbformat

    text = nbformat.writes(notebook, version=4) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True


# ---------------------------------------------------------------- without machine and moment


def scrub(notebook, profile: str | None = None):
    """An executed notebook without what belongs to one machine or one moment (changed in place).

    `profile`, if given, is written down as the one whose outputs the twin shows.
    """
    notebook.cells = [c for c in notebook.cells if INJECTED not in c.metadata.get("tags", [])]
    notebook.metadata = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    if profile:
        notebook.metadata["recorded"] = {"profile": profile}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    executed = 0
    for cell, identity in zip(notebook.cells, _identities(notebook.cells), strict=True):
        cell.id = identity
        cell.metadata = {k: v for k, v in cell.metadata.items() if v and k in _CELL_METADATA}
        if cell.cell_type != "code":
            continue
        if cell.execution_count is not None:  # counted anew: other cells were injected
            executed += 1
            cell.execution_count = executed
        _scrub_outputs(cell)
        if profile and "parameters" in cell.metadata.get("tags", []):
            cell.outputs = [_whose(profile)]
    return notebook


def _whose(profile: str):
    """What a reader is told at the top of a twin: which run its outputs are of."""
    from nbformat import v4

    said = (
        f"All outputs here are of the recorded run of profile {profile!r}.\n"
        "Run again, the notebook shows the profile that is named above.\n"
    )
    return v4.new_output("stream", name="stdout", text=said)


def _scrub_outputs(cell) -> None:
    """Drops what went to stderr, numbers the rest as the cell, takes the paths out of its text."""
    cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    for output in cell.outputs:
        if "execution_count" in output:
            output.execution_count = cell.execution_count
        output.pop("transient", None)
        if "metadata" in output:
            output.metadata = {}
        if "text" in output:
            output.text = scrub_text(output.text)
        for kind, content in output.get("data", {}).items():
            if isinstance(content, str) and not _binary(kind):
                output.data[kind] = scrub_text(content)


def scrub_text(text: str) -> str:
    """`text` with the paths of this machine made relative, or replaced by what they stand for."""
    text = re.sub(f"{_INSTALLED}/", "", text)
    text = _without(text, artifacts_dir(), "artifacts")
    text = _without(text, ROOT, ".")
    text = _without(text, Path(tempfile.gettempdir()), "<tmp>")
    home = _home()
    return _without(text, home, "~") if home else text


def _home() -> Path | None:
    """The user's folder; None where there is none, or it is all of the machine (a container's)."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without a name
        return None
    return None if home == Path(home.anchor) else home


def _without(text: str, folder: Path, name: str) -> str:
    """`text` with `name` for `folder`, however that is written; what lies in the root loses it."""
    inside = "" if folder == ROOT else f"{name}/"
    for path in sorted({str(folder), str(folder.resolve())}, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.]){re.escape(path)}/", inside, text)
        text = re.sub(rf"(?<![\w.]){re.escape(path)}(?![\w.-])", name, text)
    return text


# ---------------------------------------------------------------- source and twin


def update(source: Path, twin: Path) -> bool:
    """Brings a changed source into its twin; whether anything changed.

    Cells whose text is the same keep their outputs, all others have none.
    """
    fresh = read(source)
    profile = None
    if twin.exists():
        old = read(twin)
        profile = old.metadata.get("recorded", {}).get("profile")
        kept = dict(zip(_identities(old.cells), old.cells, strict=True))
        for cell, identity in zip(fresh.cells, _identities(fresh.cells), strict=True):
            if cell.cell_type == "code" and identity in kept:
                cell.outputs = kept[identity].outputs
                cell.execution_count = kept[identity].execution_count
    return write(scrub(fresh, profile), twin)


def executed(twin: Path) -> bool:
    """Whether a twin is there and every cell of code in it has been executed."""
    if not twin.exists():
        return False
    code = [c for c in read(twin).cells if c.cell_type == "code" and c.source]
    return all(c.execution_count is not None for c in code)


def check(source: Path, twin: Path) -> list[str]:
    """What is wrong with a twin, a line each; empty if it may be published."""
    if not twin.exists():
        return [f"{twin.name}: missing; ./run_all.sh --twins makes it from {source.name}"]
    theirs = read(twin)
    problems = []
    number = _first_difference(theirs.cells, read(source).cells)
    if number:
        problems.append(f"cell {number} differs from {source.name}; {_AGAIN}")
    if [c.id for c in theirs.cells] != _identities(theirs.cells):
        problems.append(f"not written by the runner (cell ids); {_AGAIN}")
    if "papermill" in theirs.metadata or any("papermill" in c.metadata for c in theirs.cells):
        problems.append(f"bears papermill's metadata; {_AGAIN}")
    outputs = [output for cell in theirs.cells for output in cell.get("outputs", [])]
    if any(output.get("name") == "stderr" for output in outputs):
        problems.append(f"bears stderr output; {_AGAIN}")
    problems += [f"bears the path {path!r}" for path in machine_paths(theirs)]
    return [f"{twin.name}: {problem}" for problem in problems]


def _first_difference(theirs: Sequence, ours: Sequence) -> int | None:
    """Number of the first cell, from 1, that is not the same in both; None if all are."""
    for number, pair in enumerate(zip_longest(theirs, ours), 1):
        if None in pair:
            return number
        if len({(c.cell_type, c.source, *c.metadata.get("tags", [])) for c in pair}) > 1:
            return number
    return None


def machine_paths(notebook) -> list[str]:
    """The absolute paths in a notebook's text and outputs, each once."""
    folders = [re.escape(str(folder)) for folder in (ROOT, _home()) if folder]
    places = re.compile("|".join([_PATH, *folders]))
    return sorted({match for text in _strings(notebook) for match in places.findall(text)})


def _strings(node) -> Iterator[str]:
    """All strings in a notebook but the encoded images."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, value in node.items():
            if not _binary(key):
                yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)


def _binary(kind: str) -> bool:
    return kind.startswith("image/") and kind != "image/svg+xml" or kind == "application/pdf"


def _identities(cells) -> list[str]:
    """An id for each cell that follows from its kind, its text, and how often that came before."""
    seen: Counter = Counter()
    identities = []
    for cell in cells:
        text = f"{cell.cell_type}\n{cell.source}"
        identities.append(hashlib.sha256(f"{seen[text]}\n{text}".encode()).hexdigest()[:12])
        seen[text] += 1
    return identities
