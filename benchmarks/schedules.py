"""How long students train, and which teachers they learn from: accuracy on held-out images.

    python -m benchmarks.schedules --of epochs --seeds 1 --data DIR
    python -m benchmarks.schedules --of teachers --data DIR

`epochs`: students with the profile's epochs, and with twice as many. `teachers`: students of the
profile's image teacher, and of the one of `paper-42`, which has seen the held-out images: it must
win by more than that can explain. No choice is made on a test image.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from benchmarks import _measure
from benchmarks.weights import held_out, table
from tgd_lib import config
from tgd_lib.config import Settings
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.spec import Spec
from tgd_lib.study.methods import method
from tgd_lib.study.specs import specs_of

STUDENTS = ("scratch", "kd_batchmean_annealed", "tgd_alpha1")
HEADS = {"epochs": "Epochs of a student", "teachers": "Image teachers"}


def main() -> None:
    options = _options()
    settings = config.resolve("smoke" if options.quick else options.profile, data_dir=options.data)
    seeds = range(1 if options.quick else options.seeds)
    if options.of == "epochs":
        rows = epochs(settings, seeds)
    else:
        # At toy size no other profile has teachers: the same with twice the epochs stands in.
        toy = replace(settings, teacher_epochs=2 * settings.teacher_epochs)
        longer = toy if options.quick else config.resolve("paper-42", data_dir=options.data)
        rows = teachers(settings, longer, seeds)
    record = {
        "quick": options.quick,
        "machine": _measure.machine("torch"),
        "profile": settings.run_name,
        "of": options.of,
        "rows": rows,
    }
    head = f"{HEADS[options.of]}, `{settings.run_name}`, held-out images, mean ± std (n seeds)"
    name = f"schedules_{options.of}"
    _measure.write(options.out, name, record, "\n".join([head, "", *table(rows)]))


def _options() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick="one seed, toy size")
    parser.add_argument("--profile", default="study")
    parser.add_argument("--of", choices=sorted(HEADS), required=True)
    parser.add_argument(
        "--data", metavar="DIR", help="a folder with CIFAR-10, where the profile needs it"
    )
    parser.add_argument("--seeds", type=_measure.count, default=3)
    return parser.parse_args()


def epochs(settings: Settings, seeds: range) -> list[dict]:
    """A row a method and number of epochs: accuracies, one a seed, and their mean."""
    rows = []
    for name in STUDENTS:
        for count in (settings.epochs, 2 * settings.epochs):
            lab = Lab(replace(settings, epochs=count))
            specs = [specs_of(lab).student(name, seed) for seed in seeds]
            rows.append({"method": method(name).label, "epochs": count} | held_out(lab, specs))
    return rows


def teachers(settings: Settings, longer: Settings, seeds: range) -> list[dict]:
    """A row a teacher and method that learns from it: accuracies, one a seed, and their mean.

    longer: settings whose image teacher is compared with that of `settings`.
    """
    lab = Lab(settings)
    study = specs_of(lab)
    pair = {settings.profile: study.teacher("image")}
    pair[f"{longer.profile}, {longer.teacher_epochs} epochs"] = _teacher(longer)
    rows = []
    for profile, teacher in pair.items():
        for name in STUDENTS[1:]:
            students = [study.student(name, seed) for seed in seeds]
            specs = [replace(s, teachers=(teacher, None)) for s in students]
            row = {"teacher": profile, "method": method(name).label}
            rows.append(row | held_out(lab, specs))
    return rows


def _teacher(settings: Settings) -> Spec:
    """The image teacher of other settings, trained on their own images where it is not there."""
    lab = Lab(settings)
    spec = specs_of(lab).teacher("image")
    lab.train([spec])
    return spec


if __name__ == "__main__":
    _measure.run(main)
