"""Whether bf16 trains other students than fp32: accuracies of the same seeds in both.

    python -m benchmarks.rounding --profile study --data DIR

Students of scratch and of the strongest KD, whose start is trained in the same arithmetic; the
teachers are the same networks where they are published. Held-out images, last epoch, evaluated in
float32. The mean difference stands beside the spread of single seeds. --quick: `smoke`, one seed.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks import _measure
from tgd_lib import config
from tgd_lib.lab.lab import Lab
from tgd_lib.report import tables
from tgd_lib.report.significance import paired
from tgd_lib.study import questions
from tgd_lib.study.specs import specs_of

METHODS = ("scratch", "kd_batchmean_annealed")
TYPES = ("bf16", "fp32")


def main() -> None:
    options = _options()
    profile = "smoke" if options.quick else options.profile
    names = METHODS[:1] if options.quick else METHODS
    seeds = 1 if options.quick else options.seeds
    rows = []
    for precision in TYPES:
        lab = Lab(config.resolve(profile, data_dir=options.data, precision=precision))
        rows += accuracies(lab, names, seeds, precision)
    found = [compared(rows, name) for name in names]
    record = {
        "quick": options.quick,
        "machine": _measure.machine("torch"),
        "profile": profile,
        "device": lab.compute.name,
        "rows": rows,
        "compared": found,
    }
    head = f"Students of `{profile}` trained in bf16 and in fp32, {rows[0]['n']} held-out images."
    table = _measure.table([{k: v for k, v in row.items() if k != "pair"} for row in found])
    _measure.write(options.out, "rounding", record, f"{head}\n\n{table}")


def _options() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick="toy size")
    parser.add_argument("--profile", default="study")
    parser.add_argument("--data", metavar="DIR", help="a folder with CIFAR-10")
    parser.add_argument("--seeds", type=_measure.count, default=3)
    return parser.parse_args()


def accuracies(lab: Lab, names, seeds: int, precision: str) -> list[dict]:
    """A row a network: its metrics on the held-out images, `arithmetic` added."""
    study = specs_of(lab)
    specs = [study.student(name, seed) for name in names for seed in range(seeds)]
    lab.train(specs)
    # Asked in float32, all of them: what differs is how they were trained.
    rows = questions.metrics_on(lab, specs, "holdout", exact=True)
    return [row | {"arithmetic": precision} for row in rows]


def compared(rows: list[dict], name: str) -> dict:
    """A method in both, the paired difference, and the spread over seeds to hold it to."""
    mine = [row for row in rows if row["method"] == name]
    by_type = {t: [row for row in mine if row["arithmetic"] == t] for t in TYPES}
    values = {t: [row["accuracy"] for row in chosen] for t, chosen in by_type.items()}
    pair = paired([row | {"method": row["arithmetic"]} for row in mine], *TYPES)
    # Of both together, each about its own mean; of one seed there is none.
    deviations = [np.std(v, ddof=1) for v in values.values() if len(v) > 1]
    spread = 100 * float(np.sqrt(np.mean(np.square(deviations)))) if deviations else None
    return {
        "method": mine[0]["label"],
        **{f"{t}, accuracy %": str(tables.spread(v)) for t, v in values.items()},
        "bf16 - fp32, points": str(tables.difference(pair)),
        "mean": f"{100 * pair['mean']:+.2f}",
        "std over seeds": "" if spread is None else f"{spread:.2f}",
        "pair": pair,
    }


if __name__ == "__main__":
    _measure.run(main)
