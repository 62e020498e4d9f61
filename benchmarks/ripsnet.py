"""What TopKD is guided by: how near its RipsNet comes to the persistence images it stands for.

    python -m benchmarks.ripsnet --profile study --data DIR

The RipsNet of the profile's image teacher, trained as for its students, and its mean squared error
a pixel on the clouds kept aside, beside that of always saying the mean image: a network that does
no better has learnt nothing of a cloud. --quick: `smoke`.
"""

from __future__ import annotations

import argparse

from benchmarks import _measure
from tgd_lib import config
from tgd_lib.lab.lab import Lab
from tgd_lib.study.specs import specs_of


def main() -> None:
    options = _options()
    profile = "smoke" if options.quick else options.profile
    lab = Lab(config.resolve(profile, data_dir=options.data))
    found = error(lab)
    record = {
        "quick": options.quick,
        "machine": _measure.machine("torch"),
        "profile": profile,
        **found,
    }
    head = f"RipsNet for TopKD, `{profile}`, mean squared error a pixel on the clouds kept aside"
    _measure.write(options.out, "ripsnet", record, f"{head}\n\n{_measure.table([_row(found)])}")


def _options() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick="toy size")
    parser.add_argument("--profile", default="study")
    parser.add_argument("--data", metavar="DIR", help="a folder with CIFAR-10")
    return parser.parse_args()


def error(lab: Lab) -> dict:
    """{teacher, clouds, points, epochs, loss, loss_of_mean}, as `ripsnet.fit` says it."""
    student = specs_of(lab).student("topkd", 0)  # the teacher is that of all its seeds
    lab.train(student.needs)
    record = lab.objectives.ripsnet(student).record
    return {
        name: record[name]
        for name in ("teacher", "clouds", "points", "epochs", "loss", "loss_of_mean")
    }


def _row(found: dict) -> dict:
    """The same for people, with the share of the error that is left."""
    return {
        "teacher": found["teacher"],
        "clouds": found["clouds"],
        "points a cloud": found["points"],
        "epochs": found["epochs"],
        "RipsNet": f"{found['loss']:.3g}",
        "mean image": f"{found['loss_of_mean']:.3g}",
        "ratio": f"{found['loss'] / found['loss_of_mean']:.2f}",
    }


if __name__ == "__main__":
    _measure.run(main)
