"""What storing teachers in half precision costs: bytes, test accuracy, and the student's loss.

    python -m benchmarks.storage --profile study --data DIR

Both teachers of a profile with weights and statistics rounded to float16 and to bfloat16, and back
to float32; they compute in the profile's precision. Accuracy is that on the test images; the loss
is TGD's, of the scratch student of seed 0 on batches of training images, beside the same with the
teachers as they are. --quick: profile `smoke`, one batch.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import nn

from benchmarks import _measure
from tgd_lib import config
from tgd_lib.bank import Teacher
from tgd_lib.evaluation import logits_of, metrics
from tgd_lib.lab.lab import Lab
from tgd_lib.losses import merge_maps, similarity_map, tgd_loss
from tgd_lib.study.specs import Specs, specs_of
from tgd_lib.training import batch_order

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
WEIGHTS = ("alpha", "lam", "temperature", "gamma", "kl_reduction")


def main() -> None:
    options = _options()
    settings = config.resolve("smoke" if options.quick else options.profile, data_dir=options.data)
    lab = Lab(settings)
    study = specs_of(lab)
    rows = [row for name in ("image", "pi") for row in accuracies(lab, study, name)]
    losses = student_losses(lab, study, 1 if options.quick else options.batches)
    record = {
        "quick": options.quick,
        "machine": _measure.machine("torch"),
        "profile": settings.run_name,
        "arithmetic": settings.precision,
        "device": lab.compute.name,
        "rows": rows,
        "losses": losses,
    }
    _measure.write(options.out, "storage", record, report(record))


def _options() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick="toy size")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--data", metavar="DIR", help="a folder with CIFAR-10")
    parser.add_argument("--batches", type=_measure.count, default=20)
    return parser.parse_args()


def rounded(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network in eval mode, its numbers as if they had been stored as `dtype`."""
    found = copy.deepcopy(network).eval()
    with torch.no_grad():
        for value in (*found.parameters(), *found.buffers()):
            if value.is_floating_point():
                value.copy_(value.to(dtype))
    return found


def accuracies(lab: Lab, study: Specs, name: str) -> list[dict]:
    """A row a type of storage: megabytes, and metrics on the test images."""
    spec = study.teacher(name)
    network, pixels = lab.network(spec), lab.pixels(lab.view(spec), "test")
    labels = torch.from_numpy(lab.data.test.labels)
    numbers = sum(v.numel() for v in network.state_dict().values() if v.is_floating_point())
    rows, first = [], None
    for kind, dtype in TYPES.items():
        logits = logits_of(rounded(network, dtype), pixels)
        found = metrics(logits, labels)
        first = logits if first is None else first
        row = {"teacher": spec.name, "stored as": kind, "MB": numbers * dtype.itemsize / 1e6}
        row |= {"accuracy": found["accuracy"], "nll": found["nll"]}
        changed = (logits.argmax(1) != first.argmax(1)).sum()
        rows.append(row | {"other answers": int(changed), "n": len(labels)})
    return rows


def student_losses(lab: Lab, study: Specs, batches: int) -> list[dict]:
    """A row a type of storage: how far the student's loss is from that by unrounded teachers."""
    student = lab.network(study.student("scratch", 0)).train()
    specs = [study.teacher(name) for name in ("image", "pi")]
    pixels = [lab.pixels(spec.view, "train") for spec in specs]
    found: dict[str, list[float]] = {}
    for kind, dtype in TYPES.items():
        networks = [rounded(lab.network(spec), dtype) for spec in specs]
        teachers = [Teacher(n, p) for n, p in zip(networks, pixels, strict=True)]
        found[kind] = [_loss(lab, student, teachers, epoch) for epoch in range(batches)]
    exact, rows = torch.tensor(found["float32"]), []
    for kind, losses in found.items():
        apart = (torch.tensor(losses) / exact - 1).abs()
        rows.append({"stored as": kind, "mean": float(apart.mean()), "largest": float(apart.max())})
    return rows


@torch.no_grad()
def _loss(lab: Lab, student: nn.Module, teachers: list[Teacher], epoch: int) -> float:
    """TGD's loss on the first batch of an epoch."""
    everything = torch.from_numpy(lab.data.train.labels)
    index = batch_order(len(everything), seed=0, epoch=epoch)[: lab.settings.batch_size]
    labels = everything[index].to(lab.compute.device)
    (first, one), (second, two) = (teacher.look(index) for teacher in teachers)
    maps = [[similarity_map(f) for f in features] for features in (one, two)]
    merged = merge_maps(*maps, alpha=lab.settings.alpha)
    view = specs_of(lab).view("image")
    outputs = student.stages(lab.pixels(view, "train")[index])
    weights = {name: getattr(lab.settings, name) for name in WEIGHTS}
    logits = (first, second)
    loss, _ = tgd_loss(outputs.logits, labels, outputs.features, logits, merged, **weights)
    return float(loss)


def report(record: dict) -> str:
    """The tables, and what they are of."""
    rows = []
    for row in record["rows"]:
        shown = {"teacher": row["teacher"], "stored as": row["stored as"], "MB": f"{row['MB']:.2f}"}
        shown |= {"accuracy %": f"{100 * row['accuracy']:.2f}", "NLL": f"{row['nll']:.5f}"}
        rows.append(shown | {"other answers": f"{row['other answers']} of {row['n']}"})
    losses = []
    for row in record["losses"]:
        apart = {k: f"{row[k]:.1e}" for k in ("mean", "largest")}
        losses.append({"stored as": row["stored as"]} | apart)
    head = f"Teachers of `{record['profile']}`, one network each, test images, computing in "
    head += f"{record['arithmetic']}"
    tail = "The student's loss (TGD), relative distance from that by the teachers in float32"
    return "\n\n".join([head, _measure.table(rows), tail, _measure.table(losses)])


if __name__ == "__main__":
    _measure.run(main)
