"""The steps of docs/protocol-topology.md, one part at a time.

    python -m benchmarks.protocol --part embedding --data DIR           choice, held-out images
    python -m benchmarks.protocol --part embedding --data DIR --test    test images, the chosen one
    ... --images 500                                                    with fewer training images

The choice: each candidate against its matched control, seed by seed; the one with the largest mean
difference goes on. The test: the chosen one (`study.protocol.CHOSEN`) against all that the protocol
compares it with, with the fresh seeds too. What is missing is trained; with --from-results not
what figures/<profile>/results has measured. With fewer training images the same comparisons are
described by the first seeds, and not tested. Notebook 08 shows both parts together.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence

import pandas as pd

from benchmarks import _measure
from tgd_lib import config
from tgd_lib.config import InputError, Settings
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.spec import Spec
from tgd_lib.report import charts, figures, sentences, significance, tables
from tgd_lib.study import methods, protocol, questions
from tgd_lib.study.protocol import Comparison
from tgd_lib.study.specs import specs_of


def main() -> None:
    options = _options()
    if options.from_results:
        os.environ["TGD_FROM_RESULTS"] = "1"
    profile = "smoke" if options.quick else options.profile
    settings = config.resolve(profile, data_dir=options.data, n_train=options.images)
    lab, part = Lab(settings), options.part
    if not options.test:
        made = choice(lab, part)
    else:
        _check_chosen(lab, part)
        made = of_fewer_images(lab, part) if _fewer_images(settings) else test(lab, part)
    images = f"{len(lab.data.test.labels)} test" if options.test else f"{settings.holdout} held-out"
    head = f"Topology of the {part}, `{settings.run_name}`, {images} images."
    text = f"{head}\n\n{made.pop('text')}"
    about = {"quick": options.quick, "machine": _measure.machine("torch")}
    record = about | {"profile": settings.run_name, "part": part}
    record |= {"device": lab.compute.name} | made
    name = f"protocol_{part}"
    if options.test:
        name += "_test"
    if options.images:
        name += f"_{options.images}"
    _measure.write(options.out, name, record, text)
    if "pairs" in record and options.test:  # it shows verdicts
        labels = sentences.labels_of(record["rows"])
        figure = charts.differences(record["pairs"]["seeds from 0 on"], labels)
        figures.draw(figure, options.out / name)


def _options() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick="toy size")
    parser.add_argument("--profile", default="study")
    parser.add_argument("--part", choices=sorted(protocol.CANDIDATES), required=True)
    parser.add_argument("--data", metavar="DIR", help="a folder with CIFAR-10")
    fewer = "training images, if not all"
    parser.add_argument("--images", type=_measure.count, metavar="N", help=fewer)
    parser.add_argument("--test", action="store_true", help="test images, the chosen candidate")
    parser.add_argument("--from-results", action="store_true", help="do not train what has results")
    return parser.parse_args()


def choice(lab: Lab, part: str) -> dict:
    """Rows on the held-out images, the pairs of candidate and control, the one that is chosen."""
    names = protocol.CANDIDATES[part]
    controls = [methods.method(name).control for name in names]
    asked = dict.fromkeys([protocol.WITHOUT[part], *names, *controls])
    specs = specs_of(lab).students(asked)
    lab.train(specs)
    rows = _with_epochs(questions.metrics_on(lab, specs, "holdout"), specs)
    pairs = [significance.paired(rows, *pair) for pair in zip(names, controls, strict=True)]
    chosen = max(pairs, key=lambda pair: pair["mean"])["method"]
    text = [
        _table(rows),
        tables.markdown(tables.contrasts(pairs, sentences.labels_of(rows)).reset_index()),
        sentences.candidates(pairs, {part: names}),
    ]
    return {"rows": rows, "pairs": pairs, "chosen": chosen, "text": "\n\n".join(text)}


def test(lab: Lab, part: str) -> dict:
    """Rows on the test images, the pairs of the part by sets of seeds, and what may be said."""
    family = protocol.family()  # of both parts, once both are chosen: Holm counts all of it
    mine = protocol.comparisons(part, protocol.CHOSEN[part])
    members = protocol.members()
    specs = specs_of(lab).tested([name for name in methods.of(lab.settings) if name in members])
    lab.train(specs)
    rows = _with_epochs(questions.metrics_on(lab, specs, "test"), specs)
    pairs = {}
    for first in (0, protocol.PILOT_SEEDS, lab.settings.seeds):
        counted = [row for row in rows if row["seed"] >= first]
        if counted:
            tested = significance.family(counted, _pairs(family))
            pairs[f"seeds from {first} on"] = [tested[family.index(c)] for c in mine]
    labels = sentences.labels_of(rows)
    compared = {name for c in mine for name in (c.method, c.control)}
    described = _described(lab, [*_pairs(mine), *protocol.DESCRIBED[part]])
    text = [
        _table([row for row in rows if row["method"] in compared]),
        _said(pairs, labels, mine, lab.settings),
        _in_words(described),
    ]
    made = {"rows": rows, "pairs": pairs, "described": _cells(described)}
    return made | {"text": "\n\n".join(text)}


def of_fewer_images(lab: Lab, part: str) -> dict:
    """Rows of the part's methods on the test images, and their differences, described alone."""
    pairs = _pairs(protocol.comparisons(part, protocol.CHOSEN[part]))
    specs = specs_of(lab).students(dict.fromkeys(itertools.chain(*pairs)))
    lab.train(specs)
    rows = _with_epochs(questions.metrics_on(lab, specs, "test"), specs)
    described = {"clean": _lines(pairs, [(rows, name, "") for name in ("accuracy", "nll", "ece")])}
    text = f"{_table(rows)}\n\n{_in_words(described)}"
    return {"rows": rows, "described": _cells(described), "text": text}


def _check_chosen(lab: Lab, part: str) -> None:
    """InputError where there is nothing to test."""
    if protocol.CHOSEN[part] is None:
        raise InputError(
            f"--test: no candidate of the {part} is chosen yet; leave it out to choose"
        )
    lacking = set(protocol.members()) - set(methods.of(lab.settings))
    if lacking:
        raise InputError(f"profile {lab.settings.profile!r} has no {', '.join(sorted(lacking))}")


def _said(pairs: dict, labels: dict, asked: Sequence[Comparison], settings: Settings) -> str:
    """Tables and the sentence that the protocol allows."""
    everything = pairs["seeds from 0 on"]
    beside = tables.beside(pairs, labels).reset_index()
    table = tables.family(everything, labels, [c.asks for c in asked]).reset_index()
    count = f"Holm's correction over the {len(protocol.family())} comparisons of the chosen."
    fresh = pairs.get(f"seeds from {settings.seeds} on", ())
    text = [tables.markdown(table), count, tables.markdown(beside)]
    return "\n\n".join([*text, sentences.protocol(everything, fresh)])


def _pairs(found: Sequence[Comparison]) -> list[tuple[str, str]]:
    return [(c.method, c.control) for c in found]


def _fewer_images(settings: Settings) -> bool:
    return settings.n_train != config.PROFILES[settings.profile].n_train


def _described(lab: Lab, pairs: Sequence[tuple[str, str]]) -> dict[str, list[dict]]:
    """Differences without a verdict, by a run's first seeds: a table of clean and one of corrupted
    images, in each a line a pair of method and control."""
    members = {name for pair in pairs for name in pair}
    specs = [spec for spec in specs_of(lab).examined() if spec.method in members]
    lab.train(specs)
    there = {spec.method for spec in specs}  # another profile's grid may lack some
    pairs = [pair for pair in pairs if set(pair) <= there]
    clean = questions.metrics_on(lab, specs, "test")
    corrupted = tables.under_corruption(questions.robustness(lab, specs))
    of_clean = [(clean, column, "") for column in ("accuracy", "nll", "ece")]
    if lab.settings.holdout:  # on which a temperature is fitted
        scaled = [row | row["after"] for row in questions.calibration(lab, specs)]
        of_clean += [(scaled, column, " after scaling") for column in ("nll", "ece")]
    of_corrupted = [(corrupted, column, " when corrupted") for column in ("accuracy", "nll", "ece")]
    return {"clean": _lines(pairs, of_clean), "corrupted": _lines(pairs, of_corrupted)}


def _lines(pairs: Sequence[tuple[str, str]], columns: Sequence[tuple]) -> list[dict]:
    """A line a pair; of each column, the rows, which metric of theirs, and where it is taken."""
    labels = sentences.labels_of(columns[0][0])
    lines = []
    for method, control in pairs:
        line = {"difference": tables.versus({"method": method, "control": control}, labels)}
        for rows, column, where in columns:
            name = f"{tables.NAMES[column]}{where}, {tables.SCALES[column][2]}"
            line[name] = tables.difference(significance.paired(rows, method, control, column))
        lines.append(line)
    return lines


def _in_words(described: dict[str, list[dict]]) -> str:
    """What `_described` gives, as tables."""
    made = [tables.markdown(tables.n_once(pd.DataFrame(lines))) for lines in described.values()]
    return "\n\n".join(["Described, not tested.", *made])


def _cells(described: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """The same, every cell as text."""
    return {
        images: [{name: str(cell) for name, cell in line.items()} for line in lines]
        for images, lines in described.items()
    }


def _with_epochs(rows: list[dict], specs: Sequence[Spec]) -> list[dict]:
    return [row | {"total_epochs": s.epochs_in_all} for row, s in zip(rows, specs, strict=True)]


def _table(rows: list[dict]) -> str:
    return tables.markdown(tables.readable(rows).drop(columns="selection").reset_index())


if __name__ == "__main__":
    _measure.run(main)
