"""Which weight of the similarity maps, and which reduction of the divergence: chosen on held-out
images.

    python -m benchmarks.weights --profile quick [--data DIR]

Trains the control, TGD without the PI teacher (alpha = 1), with each pair of values, and prints its
accuracy on the held-out images. The choice is made for the control, so that it cannot favour
topology, and never on a test image. What a profile uses stands
in `config.PROFILES`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks import _measure
from tgd_lib import config
from tgd_lib.lab.lab import Lab
from tgd_lib.report.tables import spread
from tgd_lib.study import methods
from tgd_lib.study.specs import Specs, specs_of

GAMMAS = (30.0, 100.0, 300.0, 1000.0, 3000.0)
REDUCTIONS = ("mean", "batchmean")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default="quick")
    parser.add_argument(
        "--data", metavar="DIR", help="a folder with CIFAR-10, where the profile needs it"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two values, one seed, toy size")
    parser.add_argument("--out", type=Path, default=config.artifacts_dir() / "benchmarks")
    options = parser.parse_args()
    gammas, seeds = (GAMMAS, options.seeds) if not options.quick else (GAMMAS[:2], 1)
    settings = config.resolve("smoke" if options.quick else options.profile, data_dir=options.data)
    rows = measured(Lab(settings), gammas, seeds)
    best = max(rows, key=lambda row: row["mean"])
    record = {
        "quick": options.quick,
        "machine": _measure.machine("torch"),
        "profile": settings.run_name,
        "rows": rows,
        "chosen": {"gamma": best["gamma"], "kl_reduction": best["kl_reduction"]},
    }
    last = f"Highest mean: gamma {best['gamma']:g}, {best['kl_reduction']}."
    head = f"TGD without the PI teacher (alpha = 1), `{settings.run_name}`, mean ± std (n seeds)"
    _measure.write(options.out, "weights", record, "\n".join([head, "", *table(rows), "", last]))


def measured(lab: Lab, gammas, seeds: int) -> list[dict]:
    """A row a pair of values: accuracies of the control on the held-out images, one a seed."""
    study, rows = specs_of(lab), []
    for reduction in REDUCTIONS:
        for gamma in gammas:
            found = [_held_out(lab, study, gamma, reduction, seed) for seed in range(seeds)]
            mean = sum(found) / len(found)
            rows.append(
                {"gamma": gamma, "kl_reduction": reduction, "accuracies": found, "mean": mean}
            )
    return rows


def _held_out(lab: Lab, study: Specs, gamma: float, reduction: str, seed: int) -> float:
    """Accuracy on the held-out images; chance where training diverges."""
    control = methods.method("tgd_alpha1")
    spec = study.student(replace(control, gamma=gamma, kl_reduction=reduction), seed)
    if lab.train([spec], tolerant=True):
        return 1 / study.classes
    return lab.evaluation(spec, "holdout").record["accuracy"]


def table(rows: list[dict]) -> list[str]:
    """The rows as markdown."""
    lines = ["| gamma | reduction | accuracy on held-out images, % |", "|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['gamma']:g} | {row['kl_reduction']} | {spread(row['accuracies'])} |")
    return lines


if __name__ == "__main__":
    main()
