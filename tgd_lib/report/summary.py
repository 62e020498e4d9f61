"""The README's results: written from the records of recorded runs, never by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from tgd_lib.report import significance, tables
from tgd_lib.study import methods
from tgd_lib.config import PROFILES
from tgd_lib.files import read_json

FOLDED = 30  # lines from which on a table is folded
_BLOCK = r"(<!-- results:{} -->\n).*?(<!-- /results -->)"


def block(records: Path, profile: str) -> str:
    """The results of a recorded profile as markdown: what topology adds, then a row a method.

    records: its folder `figures/<profile>`, with run.json and the records of notebooks 04 and 05 in it.
    """
    rows = _rows(records, "04_ablations")
    run = read_json(records / "run.json")
    robust = _rows(records, "05_robustness")
    under = tables.under_corruption(robust)
    anchored = PROFILES[profile].dataset == "cifar10"
    lines = [f"### `{profile}`", "", _headline(rows, under), "", *_search(rows, _rows(records, "04_search"))]
    lines += [*_folded(tables.markdown(_table(rows, anchored))), ""]
    corrupted = f"{robust[0]['n']} of them corrupted in {len(robust[0]['corrupted'])} way{'s' * (len(robust[0]['corrupted']) > 1)} at 5 severities"
    return "\n".join([*lines, _place(rows, run, profile, anchored, corrupted), ""])


def _rows(records: Path, name: str) -> list[dict]:
    return read_json(records / "records" / f"{name}.json")["rows"]


def _headline(rows: list[dict], under: list[dict]) -> str:
    """What the topological teacher adds, whichever way it falls: TGD minus its alpha = 1, paired by seed; then against
    TGD with a second image teacher instead, where that was trained."""
    parts = [
        (rows, "accuracy", "points of accuracy"), (rows, "nll", "nats of NLL"), (rows, "ece", "points of ECE"),
        (under, "accuracy", "points of accuracy on corrupted images"),
    ]  # fmt: skip
    said = [_difference(significance.paired(r, "tgd", "tgd_alpha1", c), c, unit) for r, c, unit in parts]
    text = "**What the topological teacher adds (TGD − TGD at alpha = 1, paired by seed):** " + "; ".join(said) + "."
    if not any(r["method"] == "tgd_image_2" for r in rows):
        return text
    instead = _difference(significance.paired(rows, "tgd", "tgd_image_2"), "accuracy", "points of accuracy")
    return f"{text}\n\n**Topology, or just a second teacher? (TGD − TGD with a second image teacher instead):** {instead}."


def _search(rows: list[dict], held_out: list[dict]) -> list[str]:
    """Lines on the search for a topology that helps, where one was made: what was chosen, and its test figures."""
    candidates = {r["method"] for r in held_out} & set(methods.SEARCH)
    if not candidates:
        return []
    name, control = significance.chosen(held_out, methods.CANDIDATES), "tgd_alpha1"
    text = f"**A topology that does help? ({len(candidates)} candidates beside TGD; the choice is made on held-out images):** "
    if name == control:
        return [text + "none has a higher mean than TGD at alpha = 1.", ""]
    label = methods.METHODS[name].label
    seen = tables.difference(significance.paired(held_out, name, control))
    said = [f"{label} has the highest mean, {seen} points above TGD at alpha = 1 on the held-out images"]
    matched = [methods.MATCHED[name]] if any(r["method"] == methods.MATCHED[name] for r in rows) else []
    for other in (control, *matched):
        pair = _difference(significance.paired(rows, name, other), "accuracy", "points")
        said.append(f"on the test images against *{methods.METHODS[other].label}* {pair}")
    return [text + "; ".join(said) + ".", ""]


def _folded(table: str) -> list[str]:
    """The table's lines, those after the main methods folded away where it is long."""
    lines = table.split("\n")
    head, first, rest = lines[:2], lines[2 : 2 + len(methods.TABLE)], lines[2 + len(methods.TABLE) :]
    if len(lines) <= FOLDED:
        return lines
    return [*head, *first, "", f"<details><summary>The other {len(rest)} methods</summary>", "", *head, *rest, "", "</details>"]


def _difference(pair: dict, column: str, unit: str) -> str:
    scale, digits = (1, 3) if column == "nll" else (100, 2)
    text = f"{tables.difference(pair, scale, digits)} {unit}"
    if pair["p"] is None:
        return text
    interval = f"{scale * pair['low']:+.{digits}f} to {scale * pair['high']:+.{digits}f}"
    return f"{text} (95 % interval {interval}, sign-flip p = {pair['p']:.2g}: {pair['verdict']})"


def _table(rows: list[dict], anchored: bool) -> pd.DataFrame:
    """A line a method: figures, differences from the two controls, the authors' checkpoints beside them."""
    frame = tables.readable(rows).reset_index().drop(columns=["selection", "95 % CI, test set"])
    names = list(dict.fromkeys(r["method"] for r in rows))
    for control, heading in (("kd_annealed", "− KD, annealing"), ("tgd_alpha1", "− TGD at alpha = 1")):
        frame[heading] = [_against(rows, name, control) for name in names]
    if anchored:
        frame["anchor %"] = [f"{100 * tables.ANCHORS[n]:.2f}" if n in tables.ANCHORS else "" for n in names]
    return frame


def _against(rows: list[dict], name: str, control: str) -> str:
    if name == control:
        return ""
    pair = significance.paired(rows, name, control)
    interval = "" if pair["n"] < 2 else f" [{100 * pair['low']:+.2f}, {100 * pair['high']:+.2f}]"
    return tables.difference(pair) + interval


def update(readme: Path, records: Path, profile: str) -> bool:
    """Write the block of `profile` between its marks in the README; whether the README has such marks."""
    text = readme.read_text(encoding="utf-8")
    pattern = re.compile(_BLOCK.format(re.escape(profile)), re.DOTALL)
    if not pattern.search(text):
        return False
    readme.write_text(pattern.sub(lambda m: m[1] + block(records, profile) + m[2], text), encoding="utf-8")
    return True


def _place(rows: list[dict], run: dict, profile: str, anchored: bool, corrupted: str) -> str:
    first = rows[0]
    ends = [significance.accuracy_interval(r["accuracy"], first["n"]) for r in rows]
    open_by = max(50 * (high - low) for low, high in ends)
    commits = ", ".join(sorted({(r["commit"] or "none")[:10] for r in rows}))
    data = " --data DIR" if anchored else ""
    note = (
        " Anchor: the authors' released checkpoints on this test set (trained on all 50,000 images, one run each, epoch chosen by them on the test set)."
        if anchored
        else ""
    )
    return (
        f"Every row: `./run_all.sh --profile {profile}{data}`. Mean ± standard deviation (n seeds); differences paired by seed, in points of accuracy, "
        f"with Student's 95 % interval; {first['n']} test images, which leave an accuracy open by up to ± {open_by:.1f} points (Wilson, 95 %), {corrupted}; selection `{first['selection']}`; "
        f"{first['network']}, {first['precision']}, {first['device']}; torch {run['versions']['torch']}, "
        f"Python {run['python']}, {run['platform']}; trained at commit {commits}, drawn at {(run['commit'] or 'none')[:10]}.{note}"
    )
