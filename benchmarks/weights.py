"""Weights of guidance, chosen on held-out images for the control.

    python -m benchmarks.weights --profile quick
    python -m benchmarks.weights --profile study --seeds 1 --from-results --data DIR
    python -m benchmarks.weights --profile study --of embedding --data DIR
    python -m benchmarks.weights --profile study --of baselines --seeds 1 --data DIR

`maps`: the weight gamma of the similarity maps and the reduction of the divergence, for TGD without
the PI teacher (alpha = 1), beside the same without maps (gamma 0, KD). `embedding`: the weight of
each loss of the embedding, for random trees (docs/protocol-topology.md). These choices are made for
the control, so that they cannot favour topology. `baselines`: how much of its source's weight each
baseline keeps where steps are few. No choice is made on a test image. What is used stands in
`config.PROFILES` and `study.methods`. --from-results: of students with kept results
(`figures/<profile>/results`) these are taken.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from benchmarks import _measure
from tgd_lib import config
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.spec import Spec
from tgd_lib.report.tables import spread
from tgd_lib.study import methods
from tgd_lib.study.specs import specs_of

GAMMAS = (30.0, 100.0, 300.0, 1000.0, 3000.0)
REDUCTIONS = ("mean", "batchmean")
FACTORS = (1.0, 0.3, 0.1, 0.03, 0.01)  # of a baseline's weights, until accuracy falls
HEADS = {
    "maps": "TGD without the PI teacher (alpha = 1)",
    "embedding": "KD (batchmean), annealing, with the loss on random trees",
    "baselines": "Baselines, annealing, with a factor on the weights of their sources",
}


def main() -> None:
    options = _options()
    settings = config.resolve("smoke" if options.quick else options.profile, data_dir=options.data)
    if options.from_results:
        os.environ["TGD_FROM_RESULTS"] = "1"
    lab = Lab(settings)
    seeds = 1 if options.quick else options.seeds
    if options.of == "maps":
        rows = maps(lab, GAMMAS[:2] if options.quick else GAMMAS, seeds)
        groups = [[r for r in rows if r["gamma"]]]  # without maps there is no weight to choose
    elif options.of == "embedding":
        rows = embedding(lab, seeds)
        groups = [[r for r in rows if r["loss"] == loss] for loss in ("signature", "diagram")]
    else:
        rows = baselines(lab, FACTORS[:1] if options.quick else FACTORS, seeds)
        names = dict.fromkeys(r["baseline"] for r in rows)
        groups = [[r for r in rows if r["baseline"] == name] for name in names]
        rows = [*references(lab, seeds), *rows]
    best = [chosen(group) for group in groups]
    record = {
        "quick": options.quick,
        "machine": _measure.machine("torch"),
        "profile": settings.run_name,
        "device": lab.compute.name,
        "of": options.of,
        "rows": rows,
        "chosen": best,
    }
    head = f"{HEADS[options.of]}, `{settings.run_name}`, held-out images, mean ± std (n seeds)"
    last = [f"Highest mean: {', '.join(f'{k} {v}' for k, v in found.items())}." for found in best]
    text = "\n".join([head, "", *table(rows), "", *last])
    _measure.write(options.out, _name(options), record, text)


def _options() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick="few values, one seed, toy size")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--of", choices=sorted(HEADS), default="maps")
    parser.add_argument(
        "--data", metavar="DIR", help="a folder with CIFAR-10, where the profile needs it"
    )
    parser.add_argument("--seeds", type=_measure.count, default=3)
    parser.add_argument(
        "--from-results", action="store_true", help="train no student whose result is kept"
    )
    return parser.parse_args()


def _name(options: argparse.Namespace) -> str:
    """What the record is called: weights of the maps are chosen for each profile."""
    if options.of != "maps":
        return f"weights_{options.of}"
    return "weights" if options.profile == "quick" else f"weights_{options.profile}"


def maps(lab: Lab, gammas, seeds: int) -> list[dict]:
    """A row a pair of gamma and reduction: the control, accuracies one a seed, and their mean.

    First of each reduction, with gamma = 0, KD with as many epochs.
    """
    study, rows, control = specs_of(lab), [], methods.method("tgd_alpha1")
    for reduction in REDUCTIONS:
        for gamma in (0.0, *gammas):
            tried = replace(control, gamma=gamma, kl_reduction=reduction)
            specs = [study.student(tried, seed) for seed in range(seeds)]
            rows.append({"gamma": gamma, "kl_reduction": reduction} | held_out(lab, specs))
    return rows


def embedding(lab: Lab, seeds: int) -> list[dict]:
    """A row a loss and weight: accuracies of its control, one a seed, and their mean."""
    study, rows = specs_of(lab), []
    for name in methods.WEIGHTS:
        guidance = methods.method(name).embedding
        specs = [study.student(name, seed) for seed in range(seeds)]
        rows.append({"loss": guidance.loss, "weight": guidance.weight} | held_out(lab, specs))
    return rows


def references(lab: Lab, seeds: int) -> list[dict]:
    """What baselines are seen against: the student they start from, and KD at its strongest."""
    study, rows = specs_of(lab), []
    for name in ("scratch", "kd_batchmean_annealed"):
        specs = [study.student(name, seed) for seed in range(seeds)]
        rows.append({"baseline": methods.method(name).label, "factor": 1.0} | held_out(lab, specs))
    return rows


def baselines(lab: Lab, factors, seeds: int) -> list[dict]:
    """A row a baseline and factor: accuracies, one a seed, and their mean.

    The factor falls until accuracy does, too, from a value above that of the scratch students:
    where training collapses, one collapse may be worse than the other.
    """
    study, rows = specs_of(lab), []
    # Of the source's weights, not of what was chosen before.
    study = replace(study, settings=replace(lab.settings, few_steps=False))
    floor = references(lab, seeds)[0]["mean"]
    annealed = [m for m in map(methods.method, methods.BASELINES) if m.baseline and m.start]
    for method in annealed:
        best = 0.0
        for factor in factors:
            tried = replace(method, baseline=method.baseline.scaled(factor))
            specs = [study.student(tried, seed) for seed in range(seeds)]
            row = {"baseline": method.baseline.loss, "factor": factor} | held_out(lab, specs)
            rows.append(row)
            if row["mean"] < best and best > floor:
                break
            best = max(best, row["mean"])
    return rows


def held_out(lab: Lab, specs: list[Spec]) -> dict:
    """Accuracies on the held-out images and their mean; chance where training diverges."""
    found = []
    for spec in specs:
        if lab.train([spec], tolerant=True):
            found.append(1 / spec.network.classes)
        else:
            found.append(lab.metrics(spec, "holdout")["accuracy"])
    return {"accuracies": found, "mean": sum(found) / len(found)}


def chosen(rows: list[dict]) -> dict:
    """The values with the highest mean; of equals the first."""
    best = max(rows, key=lambda row: row["mean"])
    return {k: v for k, v in best.items() if k not in ("accuracies", "mean")}


def table(rows: list[dict]) -> list[str]:
    """The rows as markdown."""
    names = [k for k in rows[0] if k not in ("accuracies", "mean")]
    lines = [f"| {' | '.join(names)} | accuracy on held-out images, % |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for row in rows:
        values = [f"{row[k]:g}" if isinstance(row[k], float) else str(row[k]) for k in names]
        lines.append(f"| {' | '.join(values)} | {spread(row['accuracies'])} |")
    return lines


if __name__ == "__main__":
    _measure.run(main)
