"""The README's results: written from the records of recorded runs, never by hand."""

from __future__ import annotations

import re
from pathlib import Path

from tgd_lib import significance, tables
from tgd_lib.store import read_json

CONTRASTS = (("tgd", "tgd_alpha1", "what the PI teacher adds"), ("tgd", "kd_annealed", "what maps and PI teacher add, at the same number of epochs"))
_BLOCK = r"(<!-- results:{} -->\n).*?(<!-- /results -->)"


def block(records: Path, profile: str) -> str:
    """The results of a recorded profile as markdown: what topology adds, then a row a method.

    records: its folder `figures/<profile>`, with records/03_distillation.json and run.json in it.
    """
    rows = read_json(records / "records" / "03_distillation.json")["rows"]
    run = read_json(records / "run.json")
    lines = [f"### `{profile}`", ""]
    for method, control, what in CONTRASTS:
        lines.append(f"* {_difference(rows, method, control)} ({what})")
    command = f"`./run_all.sh --profile {profile}`"
    table = tables.readable(rows).reset_index().assign(command=command)
    lines += ["", tables.markdown(table), "", _place(rows, run), ""]
    return "\n".join(lines)


def update(readme: Path, records: Path, profile: str) -> bool:
    """Write the block of `profile` between its marks in the README; whether the README has such marks."""
    text = readme.read_text(encoding="utf-8")
    pattern = re.compile(_BLOCK.format(re.escape(profile)), re.DOTALL)
    if not pattern.search(text):
        return False
    readme.write_text(pattern.sub(lambda m: m[1] + block(records, profile) + m[2], text), encoding="utf-8")
    return True


def _difference(rows: list[dict], method: str, control: str) -> str:
    labels = {r["method"]: r["label"] for r in rows}
    pair = significance.paired(rows, method, control)
    spread = f" ± {100 * pair['std']:.2f}" if pair["std"] is not None else ""
    p = f", sign-flip p = {pair['p']:.2g}" if pair["p"] is not None else ""
    return f"**{labels[method]} − {labels[control]}**: {100 * pair['mean']:+.2f}{spread} points (n={pair['n']} seeds{p})"


def _place(rows: list[dict], run: dict) -> str:
    first = rows[0]
    return (
        f"Mean ± standard deviation over seeds, {first['n']} test images, selection `{first['selection']}`; "
        f"{first['network']}, {first['precision']}, {first['device']}; torch {run['versions']['torch']}, "
        f"Python {run['python']}, {run['platform']}; commit {(run['commit'] or 'none')[:10]}."
    )
