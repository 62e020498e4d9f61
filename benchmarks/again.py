"""Students trained again here: how far another machine's training moves what results say.

    python -m benchmarks.again --data DIR
    python -m benchmarks.again --methods tgd_pi_normalise0.5 --seeds 6 --data DIR \\
        --beside tgd_pi_across_normalise0.5 tgd_noise_normalise0.5    # what is recorded

A student is trained from the same start and by the same teachers as the one whose result is kept in
`figures/<profile>/results`, so that only the machine's rounding differs. Test accuracy and NLL,
last epoch, in pairs by seed; published students are left out: they would be found and not trained.
--beside: kept results of other methods, in pairs with the students trained here. --quick: `smoke`,
trained twice on this machine, which must end in the same bits.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import _measure
from tgd_lib import config
from tgd_lib.config import InputError
from tgd_lib.lab import results
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.results import Result
from tgd_lib.lab.spec import Spec
from tgd_lib.lab.store import Store, key_of
from tgd_lib.report import tables
from tgd_lib.report.significance import paired
from tgd_lib.study import questions
from tgd_lib.study.specs import specs_of

HERE, KEPT = "trained here", "kept"


def main() -> None:
    options = _options()
    if options.quick:
        rows, profile = _twice(), "smoke"
    else:
        rows, profile = _rows(options), options.profile
    found = compared(rows)
    record = {
        "quick": options.quick,
        "machine": _measure.machine("torch"),
        "profile": profile,
        "rows": rows,
        "compared": found,
    }
    _measure.write(options.out, "again", record, report(record))


def _options() -> argparse.Namespace:
    parser = _measure.parser(__doc__, quick="toy size, the same machine twice")
    parser.add_argument("--profile", default="study")
    parser.add_argument("--methods", nargs="+", default=["kd_batchmean_annealed", "tgd_alpha1"])
    parser.add_argument("--beside", nargs="*", default=[], metavar="METHOD")
    parser.add_argument("--data", metavar="DIR", help="a folder with CIFAR-10")
    parser.add_argument("--seeds", type=_measure.count, default=3)
    return parser.parse_args()


def _rows(options: argparse.Namespace) -> list[dict]:
    """A row a network: students trained here, their kept results, and those of --beside."""
    folder = config.ROOT / "figures" / options.profile / config.KEPT
    lab = Lab(config.resolve(options.profile, data_dir=options.data))
    again = _unpublished(lab, _students(lab, options.methods, options.seeds))
    others = _students(lab, options.beside, options.seeds)
    # Asked for first: what is missing is said before anything is trained.
    before = kept_rows(lab, [*again, *others], folder)
    return [*before, *rows_here(lab, again)]


def _students(lab: Lab, names: Sequence[str], seeds: int) -> list[Spec]:
    study = specs_of(lab)
    return [study.student(name, seed) for name in names for seed in range(seeds)]


def _unpublished(lab: Lab, specs: Sequence[Spec]) -> list[Spec]:
    """Those that are not published; InputError where all are."""
    left = [spec for spec in specs if lab.store.given(spec.key) is None]
    if not left:
        raise InputError("all of these students are published: ask for more --seeds")
    return left


def _twice() -> list[dict]:
    """The rows of a student of `smoke`, trained twice, with a store of its own each time."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = (
            Lab(config.resolve("smoke"), store=Store(Path(folder) / name)) for name in "ab"
        )
        specs = _students(first, ["kd"], seeds=1)
        first.train(specs)
        first.metrics(specs[0])
        results.keep(first.store, specs, Path(folder))
        rows = [*kept_rows(first, specs, Path(folder)), *rows_here(second, specs)]
    assert rows[0]["nll"] == rows[1]["nll"], "two trainings on one machine end in different bits"
    return rows


def rows_here(lab: Lab, specs: Sequence[Spec]) -> list[dict]:
    """A row a network trained here, whatever is kept of it."""
    for spec in specs:
        lab.trained(spec)
    rounding = [lab.trained(spec).record["bf16_by_rounding"] for spec in specs]
    rows = questions.metrics_on(lab, specs, "test")
    return [
        row | {"where": HERE, "bf16_by_rounding": by}
        for row, by in zip(rows, rounding, strict=True)
    ]


def kept_rows(lab: Lab, specs: Sequence[Spec], folder: Path) -> list[dict]:
    """A row a network, of its kept result; InputError where there is none."""
    found = results.load(folder)
    return [_kept(lab, spec, found) for spec in specs]


def _kept(lab: Lab, spec: Spec, found: dict[str, Result]) -> dict:
    asked = {"network": spec.key, "test": lab.data.test.fingerprint}
    answer = f"evaluation/{key_of('evaluation', asked)}"
    result = found.get(spec.key)
    if result is None or answer not in result.answers:
        raise InputError(
            f"{spec.label} of {lab.settings.run_name}: no result is kept to compare with"
        )
    metrics = {name: result.answers[answer][name] for name in (*questions.METRICS, "n")}
    # Older records do not say it: their CPUs had instructions for bf16.
    by = {"bf16_by_rounding": result.record.get("bf16_by_rounding", False)}
    return questions.about(spec) | metrics | {"where": KEPT} | by


def compared(rows: Sequence[dict]) -> list[dict]:
    """For each method trained here: against its own kept results, and others' against it."""
    here = [row for row in rows if row["where"] == HERE]
    kept = [row for row in rows if row["where"] == KEPT]
    labels = {row["method"]: row["label"] for row in rows}
    again = list(dict.fromkeys(row["method"] for row in here))
    found = []
    for name in again:
        both = [row | {"method": row["where"]} for row in rows if row["method"] == name]
        found.append(_line(f"{labels[name]}: {HERE} - {KEPT}", both, HERE, KEPT))
        others = [row for row in kept if row["method"] not in again]
        for other in dict.fromkeys(row["method"] for row in others):
            what = f"{labels[other]} ({KEPT}) - {labels[name]} ({HERE})"
            found.append(_line(what, [*others, *here], other, name))
    return found


def _line(what: str, rows: Sequence[dict], method: str, control: str) -> dict:
    pairs = [paired(rows, method, control, column) for column in ("accuracy", "nll")]
    return {"what": what, "pair": pairs[0], "nll": pairs[1]}


def report(record: dict) -> str:
    """A line a comparison: accuracy and NLL, with p and verdict of each."""
    head = f"Students of `{record['profile']}` trained again, {record['rows'][0]['n']} test images."
    lines = []
    for line in record["compared"]:
        accuracy, nll = _cells(line["pair"]), _cells(line["nll"])
        cells = dict(zip(("accuracy, points", "p", "verdict"), accuracy, strict=True))
        cells |= dict(zip(("NLL, nats", "p, NLL", "verdict, NLL"), nll, strict=True))
        lines.append({"what": line["what"]} | cells)
    return f"{head}\n\n{_measure.table(lines)}"


def _cells(pair: dict) -> tuple[str, str, str]:
    p = "" if pair["p"] is None else f"{pair['p']:.3f}"
    return str(tables.difference(pair)), p, pair["verdict"]


if __name__ == "__main__":
    _measure.run(main)
