"""The results of recorded runs as markdown: written from their records, never by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tgd_lib import files
from tgd_lib.config import PROFILES, InputError
from tgd_lib.report import sentences, significance, tables
from tgd_lib.study import methods

KEPT_ROWS = (
    " Students were trained on several machines, one after the other; what was measured of each,"
    " with its own versions and commit, is in the record's `results/`."
)
FOLDED = 30  # lines from which on a table is folded
CONTROLS = ("kd_annealed", "tgd_alpha1")  # differences from them stand in the table
ANCHOR = "anchor: accuracy %, NLL, ECE %"
_BLOCK = r"(<!-- results:{} -->\n).*?(<!-- /results -->)"


def block(folder: Path, profile: str) -> str:
    """The results of a recorded profile as markdown: what topology adds, then a row a method.

    folder: `figures/<profile>`, with run.json and the records of notebooks 04 and 05 in it.
    """
    rows = _rows(folder, "04_ablations")
    robust = _rows(folder, "05_robustness")
    # Chosen on held-out images, shown on test images.
    found = significance.choose_and_compare(rows, _rows(folder, "04_search"), methods.CANDIDATES)
    lines = [f"### `{profile}`", "", sentences.topology(rows, tables.under_corruption(robust)), ""]
    shares = _rows(folder, "04_shares")
    if shares:
        lines += [f"**How large is its part?** {sentences.shares(shares)}", ""]
    if set(found["candidates"]) & set(methods.SEARCH):
        lines += [f"**A topology that does help?** {sentences.search(found)}", ""]
    anchored = PROFILES[profile].dataset == "cifar10"
    main = {r["method"] for r in rows} & set(methods.TABLE)
    lines += [*_folded(tables.markdown(_table(rows, anchored)), len(main)), ""]
    lines += [*_corrupted(tables.under_corruption(robust), anchored), ""]
    run = files.read_json(folder / "run.json")
    provenance = _provenance(rows, robust, run, drawn=_drawn(folder, run))
    lines += [_command(profile, anchored), provenance, ""]
    return "\n".join(lines)


def marks(profile: str) -> str:
    """An empty place for the block of `profile`."""
    return f"<!-- results:{profile} -->\n<!-- /results -->"


def update(page: Path, folder: Path, profile: str) -> None:
    """Write the block of `profile` between its marks in a page; what else stands there stays."""
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(_BLOCK.format(re.escape(profile)), re.DOTALL)
    written, count = pattern.subn(lambda found: found[1] + block(folder, profile) + found[2], text)
    if not count:
        first, last = marks(profile).split()[:3], marks(profile).split()[-3:]
        raise InputError(
            f"{page.name}: put back its lines {' '.join(first)} and {' '.join(last)},"
            " between which the results are written"
        )
    files.write_text(page, written)


def _rows(folder: Path, name: str) -> list[dict]:
    return files.read_json(folder / "records" / f"{name}.json")["rows"]


# ---------------------------------------------------------------- the table


def _table(rows: Sequence[dict], anchored: bool) -> pd.DataFrame:
    """A line a method: metrics, differences from the controls, anchors."""
    frame = tables.by_method(rows).reset_index().drop(columns="selection")
    labels = sentences.labels_of(rows)
    for control in CONTROLS:
        frame[f"− {labels[control]}"] = [_against(rows, name, control) for name in labels]
    if anchored:
        frame[ANCHOR] = _anchors(labels, "clean")
    return tables.n_once(frame)


def _corrupted(under: Sequence[dict], anchored: bool) -> list[str]:
    """The main methods under corruption: the same metrics, means of all corruptions."""
    main = [r for r in under if r["method"] in methods.TABLE]
    frame = tables.metrics_by_method(main).reset_index()
    if anchored:
        frame[ANCHOR] = _anchors(sentences.labels_of(main), "corrupted")
    title = "Under corruption, means over all corruptions and severities:"
    return [title, "", tables.markdown(tables.n_once(frame))]


def _anchors(labels: dict[str, str], part: str) -> list[str]:
    """Accuracy, NLL and ECE of the authors' network of each method; empty where there is none."""
    found = tables.anchors()
    return [_three(found[name][part]) if name in found else "" for name in labels]


def _three(metrics: dict) -> str:
    return f"{100 * metrics['accuracy']:.2f}, {metrics['nll']:.3f}, {100 * metrics['ece']:.2f}"


def _against(rows: Sequence[dict], name: str, control: str) -> str | tables.Cell:
    """The cell of a method in a control's column."""
    if name == control:
        return ""
    return tables.difference(significance.paired(rows, name, control))


def _folded(table: str, main: int) -> list[str]:
    """The table's lines, those after the first `main` methods folded away where it is long."""
    lines = table.split("\n")
    if len(lines) <= FOLDED:
        return lines
    # A table of sixty rows buries what the text speaks of; the rest opens on a click.
    head, rows = lines[:2], lines[2:]
    first, rest = rows[:main], rows[main:]
    opening = f"<details><summary>The other {len(rest)} methods</summary>"
    return [*head, *first, "", opening, "", *head, *rest, "", "</details>"]


# ---------------------------------------------------------------- how to read it


def _command(profile: str, anchored: bool) -> str:
    """What makes the rows, and what the cells are."""
    data = " --data DIR" if anchored else ""
    text = (
        f"Every row: `./run_all.sh --profile {profile}{data}`. Accuracy, NLL and ECE: mean ± "
        "standard deviation "
        "(n seeds). Differences are paired by seed, in points of accuracy: from six seeds on "
        "their mean with "
        f"Student's 95 % interval, below that seed by seed, n too small to conclude. KD and TGD "
        f"with the KL reduction `{PROFILES[profile].kl_reduction}` where their name says no other."
    )
    if anchored:
        n = tables.anchored_on()
        text += (
            f" Anchor: the authors' released checkpoints on this test set, or on {n:,} of its"
            " images under corruption (trained on all 50,000 images, one run each, epoch chosen by"
            " them on the test set; `benchmarks/recorded/anchors.md`)."
        )
    return text


def _drawn(folder: Path, run: dict) -> list[str]:
    """Commits at which the figures were drawn: notebooks may have been recorded one by one."""
    figures = sorted((folder / "figures").glob("*.json"))
    return _commits([files.read_json(path) for path in figures] or [run])


def _commits(made: Sequence[dict]) -> list[str]:
    return sorted({(m["commit"] or "none")[:10] for m in made})


def _provenance(
    rows: Sequence[dict], robust: Sequence[dict], run: dict, *, drawn: Sequence[str]
) -> str:
    """Test images, selection, network, machine, versions and commits."""
    first = rows[0]
    # All rows of a profile have these in common.
    count = len(robust[0]["corrupted"])
    ways = "1 way" if count == 1 else f"{count} ways"
    devices = ", ".join(sorted({r["device"] for r in rows}))
    text = (
        f"{first['n']} test images, which leave an accuracy open by up to ± {_open(rows):.1f} "
        "points (Wilson, "
        f"95 %), {robust[0]['n']} of them corrupted in {ways} at 5 severities; selection "
        f"`{first['selection']}`; "
        f"{first['network']}, {first['precision']}, {devices}; torch "
        f"{run['versions']['torch']}, Python "
        f"{run['python']}, {run['platform']}; trained at commit {', '.join(_commits(rows))}, "
        f"drawn at {', '.join(drawn)}."
    )
    return text + KEPT_ROWS if run.get("from_results") else text


def _open(rows: Sequence[dict]) -> float:
    """Half of the widest interval that so many test images leave a row's accuracy, in points."""
    # The interval is widest at one half, so it differs from row to row.
    ends = [significance.accuracy_interval(r["accuracy"], r["n"]) for r in rows]
    return max(50 * (high - low) for low, high in ends)
