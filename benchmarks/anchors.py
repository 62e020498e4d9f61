"""The authors' released checkpoints, measured as our students are: clean and under corruption.

    python -m benchmarks.anchors --checkpoints DIR --data DIR

Accuracy, NLL and ECE of the three networks that the paper's authors have released (one run each,
epoch chosen by them on the test set): on CIFAR-10's 10,000 test images, and on those that
`paper-42` corrupts, means over corruptions and severities. In float32. --quick: networks that know
nothing in their place, profile `smoke`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks import _measure
from tgd_lib import config
from tgd_lib.compute import Compute, Pixels
from tgd_lib.evaluation import logits_of, metrics
from tgd_lib.lab.lab import Lab
from tgd_lib.networks import load_authors_checkpoint, wide_resnet
from tgd_lib.study import questions
from tgd_lib.study.specs import IMAGE_CONSTANTS

FILES = {
    "scratch": "wrn161_Student.pth.tar",
    "kd": "T163_S161_kd.pth.tar",
    "tgd": "T163_S161_TGD.pth.tar",
}


def main() -> None:
    options = _options()
    lab = Lab(config.resolve("smoke" if options.quick else "paper-42", data_dir=options.data))
    networks = {name: _network(name, options) for name in FILES}
    test = lab.data.test
    rows = {name: {"method": name} for name in networks}
    for name, network in networks.items():
        rows[name]["clean"] = measured(network, test.images, test.labels)
    for name, found in under_corruption(lab, networks).items():
        rows[name]["corrupted"] = found
    record = {
        "quick": options.quick,
        "machine": _measure.machine("torch"),
        "n": len(test.labels),
        "n_corrupted": min(lab.settings.n_corrupted, len(test.labels)),
        "corruptions": list(questions.corruption_names(lab)),
        "source": "official" if questions.official_corruptions(lab) else "ours",
        "rows": list(rows.values()),
    }
    _measure.write(options.out, "anchors", record, report(record))


def _options() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick="toy size")
    parser.add_argument("--checkpoints", metavar="DIR", type=Path, help="the authors' *.pth.tar")
    parser.add_argument("--data", metavar="DIR", help="a folder with CIFAR-10")
    options = parser.parse_args()
    if options.checkpoints is None and not options.quick:
        parser.error("--checkpoints: the folder with the authors' networks is needed")
    return options


def _network(name: str, options: argparse.Namespace) -> nn.Module:
    if options.quick:
        return Compute().place(wide_resnet(10, 1, seed=0)).eval()
    return Compute().place(load_authors_checkpoint(options.checkpoints / FILES[name])).eval()


def measured(network: nn.Module, images: np.ndarray, labels: np.ndarray) -> dict:
    """Metrics on images uint8 (N, H, W, 3), normalised as the authors do."""
    pixels = Pixels(images.transpose(0, 3, 1, 2), *IMAGE_CONSTANTS["cifar10"], Compute())
    found = metrics(logits_of(network, pixels), torch.from_numpy(labels))
    return {name: found[name] for name in questions.METRICS}


def under_corruption(lab: Lab, networks: dict[str, nn.Module]) -> dict[str, dict]:
    """The mean of each metric over all corruptions and severities, by network."""
    found: dict[str, list[dict]] = {name: [] for name in networks}
    for corruption, labels, severities in questions.corrupted_images(lab):
        if corruption == questions.CLEAN:
            continue
        for images in severities:
            for name, network in networks.items():
                found[name].append(measured(network, images, labels))
    return {name: pd.DataFrame(each).mean().to_dict() for name, each in found.items()}


def report(record: dict) -> str:
    """The table, and what it is of."""
    n = {"clean": record["n"], "corrupted": record["n_corrupted"]}
    rows = [
        {"network": row["method"], "images": f"{part} (n={n[part]:,})"} | _cells(row[part])
        for row, part in _parts(record["rows"])
    ]
    ways = f"{len(record['corruptions'])} corruptions ({record['source']}), five severities each"
    head = (
        "The authors' released networks (WRN-16-1, one run each, epoch chosen by them on the test"
        f" set), CIFAR-10, float32; corrupted: means over {ways}"
    )
    return "\n\n".join([head, _measure.table(rows)])


def _parts(rows: Iterable[dict]) -> list[tuple[dict, str]]:
    return [(row, part) for row in rows for part in ("clean", "corrupted")]


def _cells(found: dict) -> dict:
    accuracy, ece = (f"{100 * found[name]:.2f}" for name in ("accuracy", "ece"))
    return {"accuracy %": accuracy, "NLL": f"{found['nll']:.3f}", "ECE %": ece}


if __name__ == "__main__":
    _measure.run(main)
