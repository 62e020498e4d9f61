"""Students of the authors' three methods by both rules of selection, beside the authors' networks.

    python -m benchmarks.selection --data DIR

Of `paper-42` as far as it is trained, or kept in `figures/paper-42/results`: trains nothing, so it
can be asked while the study is under way. Only best-on-test accuracies can be set against the
authors' (one run each, epoch chosen by them on the test set); the last epoch is what this study
compares. --quick: `smoke`, trained for it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks import _measure
from tgd_lib import config
from tgd_lib.config import InputError
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.spec import Spec
from tgd_lib.report import tables
from tgd_lib.study import methods
from tgd_lib.study.specs import specs_of

RULES = {"last": "the last", "authors": "best on the test set"}
NEAR = 0.6  # points: how far from the authors' accuracy still counts as theirs


def main() -> None:
    options = _options()
    profile = "smoke" if options.quick else options.profile
    os.environ["TGD_FROM_RESULTS"] = "1"
    rows = []
    for rule in RULES:  # resolved, not replaced: a profile's published teachers are of one rule
        lab = Lab(config.resolve(profile, data_dir=options.data, selection=rule))
        specs = specs_of(lab).students(methods.AUTHORS)
        if options.quick:
            lab.train(specs)
        rows += [_row(lab, spec) for spec in specs if lab.find(spec) or lab.result(spec)]
    if not rows:
        raise InputError(
            f"no student of {profile} is trained yet: run"
            f" ./run_all.sh --train --profile {profile} -p selection authors first"
        )
    record = {
        "quick": options.quick,
        "machine": _measure.machine("torch"),
        "profile": profile,
        "rows": rows,
    }
    _measure.write(options.out, "selection", record, report(record))


def _options() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick="toy size, trained now")
    parser.add_argument("--profile", default="paper-42")
    parser.add_argument("--data", metavar="DIR", help="a folder with CIFAR-10")
    return parser.parse_args()


def _row(lab: Lab, spec: Spec) -> dict:
    """Metrics on the test images, and the epoch that they are of."""
    metrics, record = lab.metrics(spec), lab.record(spec)
    measured = {name: metrics[name] for name in ("accuracy", "nll", "ece", "n")}
    about = {"method": spec.method, "label": spec.name, "seed": spec.seed}
    made = {name: record[name] for name in ("selection", "selected_epoch", "training_seconds")}
    return about | made | {"total_epochs": spec.epochs_in_all} | measured


def report(record: dict) -> str:
    """A line a method and rule; the difference from the authors' network where the rule is theirs.

    `last` lies before `authors` in the rows.
    """
    frame = pd.DataFrame(record["rows"])
    groups = [rows for _, rows in frame.groupby(["method", "selection"], sort=False)]
    # A method's rules one below the other, methods in the order of the rows.
    order = {name: place for place, name in enumerate(methods.AUTHORS)}
    groups.sort(key=lambda rows: order[rows["method"].iloc[0]])
    head = (
        f"`{record['profile']}`, {frame['n'].iloc[0]:,} test images, mean ± std (n seeds); theirs:"
        " the authors' network, one run, epoch chosen by them on the test set"
    )
    lines = pd.DataFrame([_line(rows) for rows in groups])
    return "\n\n".join([head, tables.markdown(tables.n_once(lines))])


def _line(rows: pd.DataFrame) -> dict:
    first = rows.iloc[0]
    theirs = tables.anchor_accuracies()[first["method"]]
    line = {
        "method": first["label"],
        "epoch that counts": RULES[first["selection"]],
        "which": _numbers(rows["selected_epoch"]),
        "accuracy %": tables.spread(rows["accuracy"]),
        "NLL": tables.spread(rows["nll"], scale=1, digits=3),
        "ECE %": tables.spread(rows["ece"]),
        "theirs %": f"{100 * theirs:.2f}",
    }
    comparable = first["selection"] == "authors"
    return line | _beside(rows["accuracy"], theirs if comparable else None)


def _numbers(epochs: Sequence[int]) -> str:
    return ", ".join(str(epoch) for epoch in dict.fromkeys(epochs))


def _beside(accuracies: Sequence[float], theirs: float | None) -> dict:
    """The mean minus theirs, and whether that is within `NEAR`; empty where none is comparable."""
    name = f"within {NEAR} points"
    if theirs is None:
        return {"minus theirs": "", name: ""}
    off = 100 * (np.mean(accuracies) - theirs)
    return {"minus theirs": f"{off:+.2f}", name: "yes" if abs(off) <= NEAR else "no"}


if __name__ == "__main__":
    _measure.run(main)
