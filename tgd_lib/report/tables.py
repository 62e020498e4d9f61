"""Records of runs, and tables drawn from them. No network is touched here.

Where methods are compared, a cell is a paired difference and follows the rule of `significance`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tgd_lib import config, files
from tgd_lib.config import InputError, Settings
from tgd_lib.report.significance import ENOUGH, paired
from tgd_lib.study import methods

COLUMNS = ("accuracy", "nll", "ece")
# How a column is written: scale, digits, unit. Fractions become per cent, their differences points.
SCALES = {
    "accuracy": (100, 2, "points"),
    "transfer": (100, 2, "points"),
    "ece": (100, 2, "points"),
    "nll": (1, 3, "nats"),
    "brier": (1, 3, ""),
}
TERMS = {  # of TGD's loss, in words
    "ce": "labels",
    "kd_t1": "logits of the image teacher",
    "kd_t2": "logits of the PI teacher",
    "maps": "similarity maps",
}
NAMES = {
    "accuracy": "accuracy",
    "transfer": "accuracy",
    "ece": "ECE",
    "nll": "NLL",
    "brier": "Brier",
}
KEYS = ["method", "selection"]  # never pooled over either
# The authors' released checkpoints on CIFAR-10, one run each, epoch chosen on the test set:
# {method: {"clean": metrics, "corrupted": their means over corruptions and severities}}.
ANCHORS_RECORD = config.ROOT / "benchmarks" / "recorded" / "anchors.json"

# ---------------------------------------------------------------- records


def anchors() -> dict[str, dict]:
    """The metrics of the authors' checkpoints by method, as `benchmarks.anchors` has recorded."""
    rows = files.read_json(ANCHORS_RECORD)["rows"]
    return {row["method"]: {part: row[part] for part in ("clean", "corrupted")} for row in rows}


def anchored_on() -> int:
    """How many test images the authors' networks were shown under corruption."""
    return files.read_json(ANCHORS_RECORD)["n_corrupted"]


def anchor_accuracies() -> dict[str, float]:
    """Their test accuracies alone, by method."""
    return {method: found["clean"]["accuracy"] for method, found in anchors().items()}


def save_records(rows: Sequence[dict], settings: Settings, name: str) -> None:
    """Write what a notebook measured to `<run>/records/<name>.json`, for others to draw from."""
    path = config.run_dir(settings) / "records" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {"run": settings.run_name, "rows": list(rows)})


def load_records(settings: Settings, name: str) -> list[dict]:
    """The rows of a record; InputError if the notebook that writes it has not run yet."""
    path = config.run_dir(settings) / "records" / f"{name}.json"
    if not path.is_file():
        # The very command, overrides and all, that makes it.
        overrides = "".join(f" -p {k} {shlex.quote(str(v))}" for k, v in settings.overrides)
        run = f"./run_all.sh --profile {settings.profile} --only {name[:2]}{overrides}"
        raise InputError(f"run {settings.run_name!r} has no record {name!r} yet: run {run} first")
    return files.read_json(path)["rows"]


def total_epochs(row: dict) -> int:
    """Epochs of a network and of what it started from.

    Older records call them `epochs_in_all`.
    """
    return row["total_epochs"] if "total_epochs" in row else row["epochs_in_all"]


# ---------------------------------------------------------------- cells


@dataclass(frozen=True)
class Cell:
    """What n seeds say, in words: "52.00 ± 2.83 (n=2)" as text, unless n stands elsewhere."""

    words: str
    n: int

    def __str__(self) -> str:
        return f"{self.words} (n={self.n})"


def spread(values: Iterable[float], scale: float = 100, digits: int = 2) -> Cell:
    """mean ± standard deviation (n) of values, one a seed: "52.00 ± 2.83 (n=2)".

    The only place that writes it.
    """
    scaled = scale * np.asarray(list(values), float)
    mean = f"{scaled.mean():.{digits}f}"
    if len(scaled) > 1:
        mean += f" ± {scaled.std(ddof=1):.{digits}f}"
    return Cell(mean, len(scaled))


def difference(pair: dict) -> Cell:
    """A paired difference by the rule, in points or nats.

    "+0.96 [+0.68, +1.25] (n=6)", or seed by seed: "+0.04, -0.02 (n=2)".
    """
    scale, digits, _ = SCALES[pair["column"]]
    # The rule: an interval from six seeds on, below that the seeds themselves.
    if pair["n"] >= ENOUGH:
        mean, low, high = (f"{scale * pair[k]:+.{digits}f}" for k in ("mean", "low", "high"))
        return Cell(f"{mean} [{low}, {high}]", pair["n"])
    each = ", ".join(f"{scale * d:+.{digits}f}" for d in pair["differences"])
    return Cell(each, pair["n"])


def n_once(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame in words, with n in a column of its own instead of in each cell: "52.00 (n=2)".

    n stays in the cells where those of some line differ in it.
    """
    counts = [{c.n for c in line if isinstance(c, Cell)} for line in frame.to_numpy()]
    if not counts or any(len(n) != 1 for n in counts):
        return frame.map(lambda cell: str(cell) if isinstance(cell, Cell) else cell)
    shown = frame.map(lambda cell: cell.words if isinstance(cell, Cell) else cell)
    # Before the first column that it is about.
    place = next(i for i, cell in enumerate(frame.iloc[0]) if isinstance(cell, Cell))
    shown.insert(place, "n", [n.pop() for n in counts])
    return shown


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a markdown table, its index left out."""
    lines = [list(frame.columns), ["---"] * len(frame.columns)]
    lines += frame.astype(str).to_numpy().tolist()
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---------------------------------------------------------------- results


def results(rows: Sequence[dict]) -> pd.DataFrame:
    """One line a method and selection rule: mean and standard deviation (ddof 1) over seeds.

    accuracy and ece are fractions, nll nats; std is empty (NaN) where seeds is 1.
    """
    # Both selection rules may be there, and are never pooled.
    groups = pd.DataFrame(rows).groupby(["method", "selection"], sort=False)
    frame = groups.size().to_frame("seeds")
    for column in COLUMNS:
        frame[f"{column}_mean"] = groups[column].mean().round(6)
        frame[f"{column}_std"] = groups[column].std().round(6)
    return frame.reset_index()


def write_results(rows: Sequence[dict], settings: Settings) -> Path:
    """Write `results.csv` of this run, whole or not at all, and return its path."""
    path = config.run_dir(settings) / "results.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, results(rows).to_csv(index=False, lineterminator="\n"))
    return path


def by_family(rows: Sequence[dict]) -> list[dict]:
    """Rows in the order in which many methods are shown: families, the highest mean first."""
    frame = pd.DataFrame(rows, columns=["method", "accuracy"])
    means = frame.groupby("method")["accuracy"].mean()
    order = methods.FAMILY_NAMES

    def place(row: dict) -> tuple[int, float, str]:
        name = row["method"]
        return order.index(methods.family(name)), -means[name], name

    return sorted(rows, key=place)


def grouped(table: pd.DataFrame, rows: Sequence[dict]) -> pd.DataFrame:
    """A table with a line a method, indexed by its label, with the family before the label."""
    families = {r["label"]: methods.family(r["method"]) for r in rows}
    return table.set_index(table.index.map(families).rename("family"), append=True).swaplevel()


def readable(rows: Sequence[dict]) -> pd.DataFrame:
    """The results in words: mean ± std a method, accuracy and ECE in per cent, NLL in nats."""
    return n_once(by_method(rows))


def by_method(rows: Sequence[dict]) -> pd.DataFrame:
    """The same with n in each cell, for tables that add other cells."""
    frame = pd.DataFrame(rows).assign(total_epochs=[total_epochs(r) for r in rows])
    epochs = frame.groupby(KEYS, sort=False)["total_epochs"].first()
    table = metrics_by_method(rows)
    table.insert(0, "total epochs", epochs.to_numpy())
    # "last" and "authors" are different quantities: every line says which it is.
    table["selection"] = epochs.index.get_level_values("selection")
    return table


def metrics_by_method(rows: Sequence[dict]) -> pd.DataFrame:
    """Accuracy, NLL and ECE, mean ± std (n), a line a method and selection rule."""
    groups = pd.DataFrame(rows).groupby(KEYS, sort=False)
    table = groups[["label"]].first()
    table.columns = ["method"]
    table["accuracy %"] = groups["accuracy"].apply(spread)
    table["NLL"] = groups["nll"].apply(spread, scale=1, digits=3)
    table["ECE %"] = groups["ece"].apply(spread)
    return table.set_index("method")


def networks(rows: Sequence[dict]) -> pd.DataFrame:
    """Teachers, a line a network: architecture, metrics, epochs, when trained.

    Accuracy and ECE in per cent, NLL in nats.
    """
    lines = []
    for r in rows:
        line = {"network": r["label"], "architecture": r["network"], "seed": r["seed"]}
        line |= {"accuracy %": f"{100 * r['accuracy']:.2f}", "NLL": f"{r['nll']:.3f}"}
        line |= {
            "ECE %": f"{100 * r['ece']:.2f}",
            "epochs": total_epochs(r),
            "selection": r["selection"],
        }
        line |= {"trained": r["made"][:10], "minutes": f"{r['training_seconds'] / 60:.1f}"}
        lines.append(line)
    return pd.DataFrame(lines).set_index("network")


def by_class(rows: Sequence[dict], names: Sequence[str]) -> pd.DataFrame:
    """Accuracy in per cent on each class, a column a network.

    Empty for a class without test images.
    """
    # None, of a class without images, becomes NaN.
    columns = {r["label"]: 100 * np.array(r["per_class"], float) for r in rows}
    return pd.DataFrame(columns, index=list(names)).round(1)


def against(rows: Sequence[dict], control: str, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Each method against `control` by the rule, in the order of the rows.

    p and verdict are those of the first column. Left out are methods without a seed of the control.
    """
    # A method without a seed of the control's cannot be paired, and is left out.
    seeds = {r["seed"] for r in rows if r["method"] == control}
    labels = {
        r["method"]: r["label"] for r in rows if r["seed"] in seeds and r["method"] != control
    }
    lines = []
    for name, label in labels.items():
        pairs = [paired(rows, name, control, column) for column in columns]
        lines.append({"method": label} | _cells(pairs))
    return n_once(_indexed(lines, "method"))


def _indexed(lines: Sequence[dict], name: str) -> pd.DataFrame:
    """Lines as a frame indexed by their column `name`, which an empty one has too."""
    return pd.DataFrame(lines, columns=list(lines[0]) if lines else [name]).set_index(name)


def contrasts(pairs: Sequence[dict], labels: dict[str, str]) -> pd.DataFrame:
    """Paired differences, a line each: "A − B", by the rule. labels: of methods."""
    lines = [{"difference": versus(pair, labels)} | _cells([pair]) for pair in pairs]
    return n_once(_indexed(lines, "difference"))


def against_controls(
    rows: Sequence[dict], controls: dict[str, str], columns: Sequence[str] = COLUMNS
) -> pd.DataFrame:
    """Each method against its own control, a line each: "A − B", by the rule.

    controls: {method: its control}. p and verdict are those of the first column.
    """
    labels = {r["method"]: r["label"] for r in rows}
    lines = []
    for method, control in controls.items():
        pairs = [paired(rows, method, control, column) for column in columns]
        lines.append({"difference": versus(pairs[0], labels)} | _cells(pairs))
    return n_once(_indexed(lines, "difference"))


def family(pairs: Sequence[dict], labels: dict[str, str], asks: Sequence[str]) -> pd.DataFrame:
    """Comparisons that are tested together, as `significance.family` gives them, a line each."""
    lines = []
    for pair, asked in zip(pairs, asks, strict=True):
        line = {
            "difference": versus(pair, labels),
            "asks": asked,
            "accuracy, points": difference(pair),
        }
        line |= {"p": _p(pair["p"]), "p after Holm": _p(pair["adjusted"])}
        line |= {"verdict": pair["verdict"]}
        line |= {"80 % power at level 0.05, points": _points(pair["detectable"])}
        line |= {"at Holm's first step, points": _points(pair["detectable_holm"])}
        lines.append(line)
    return n_once(_indexed(lines, "difference"))


def beside(groups: dict[str, Sequence[dict]], labels: dict[str, str]) -> pd.DataFrame:
    """The same pairs from several sets of seeds, a line each: difference and p, set by set.

    groups: pairs as `significance.family` gives them, in the same order, by the name of the seeds.
    """
    lines = []
    for pairs in zip(*groups.values(), strict=True):
        line = {"difference": versus(pairs[0], labels)}
        for seeds, pair in zip(groups, pairs, strict=True):
            line[f"{seeds}, points"] = difference(pair)
            line[f"p, {seeds}"] = _p(pair["p"])
        lines.append(line)
    return n_once(_indexed(lines, "difference"))


def _points(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f}"


def _p(p: float | None) -> str:
    return "" if p is None else f"{p:.2g}"


def versus(pair: dict, labels: dict[str, str]) -> str:
    """ "TGD − KD": what a paired difference is of."""
    return f"{labels[pair['method']]} − {labels[pair['control']]}"


def _cells(pairs: Sequence[dict]) -> dict[str, str | Cell]:
    """The cells of a line: a difference a column, p and verdict of the first."""
    cells = {}
    for pair in pairs:
        unit = SCALES[pair["column"]][2]
        cells[f"{NAMES[pair['column']]}, {unit}"] = difference(pair)
    name = NAMES[pairs[0]["column"]]
    return cells | {
        f"p, {name}": _p(pairs[0]["p"]),
        f"verdict, {name}": pairs[0]["verdict"],
    }


# ---------------------------------------------------------------- weights and shares


def by_weight(rows: Sequence[dict]) -> pd.DataFrame:
    """Accuracy in per cent, mean ± std (n): a line a gamma, a column an alpha.

    rows: gamma, alpha, seed, accuracy. A network that stands for two methods (TGD and its control,
    where the run's own alpha is 1) counts once.
    """
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows).drop_duplicates(["gamma", "alpha", "seed"])
    cells = frame.groupby(["gamma", "alpha"])["accuracy"].apply(spread)
    table = cells.unstack("alpha").fillna("not run")
    return n_once(table.rename(columns="α = {:g}".format, index="γ = {:g}".format))


def shares(rows: Sequence[dict]) -> pd.DataFrame:
    """The second teacher's share of the merged map in per cent, a column a stage.

    mean ± std (n batches). rows: as `questions.shares` gives them. Methods with the same teachers
    and weights have one line.
    """
    # Not by their numbers: at alpha = 0.5, normalised, every second teacher's share is a half.
    first: dict[str, dict] = {}
    for r in rows:
        first.setdefault(r["question"], r)
    lines = []
    for r in first.values():
        line = {"method": r["label"], "1 − alpha, %": f"{100 * (1 - r['alpha']):g}"}
        for number, stage in enumerate(zip(*r["shares"], strict=True), 1):
            line[f"stage {number}"] = spread(stage)
        lines.append(line)
    frame = pd.DataFrame(lines, columns=["method", "1 − alpha, %", "stage 1", "stage 2", "stage 3"])
    return n_once(frame.set_index("method"))


# ---------------------------------------------------------------- corruption, calibration,
# transfer, cost


def under_corruption(rows: Sequence[dict]) -> list[dict]:
    """Each metric's mean over corruptions and severities, a line a network.

    rows: as `questions.robustness` gives them.
    """
    lines = []
    for r in rows:
        # Each corruption has five severities, so the mean of all is the mean of their means.
        every = pd.DataFrame([metrics for five in r["corrupted"].values() for metrics in five])
        means = every[["accuracy", "nll", "ece", "brier"]].mean().to_dict()
        about = {k: r[k] for k in ("method", "label", "seed", "selection", "n", "key")}
        lines.append(about | means | {"clean": r["clean"]["accuracy"]})
    return lines


def corruptions(rows: Sequence[dict]) -> pd.DataFrame:
    """Accuracy in per cent, mean over severities: a line a method, a column a corruption.

    rows: as `questions.robustness` gives them.
    """
    # Long before wide: one line a network and corruption, and pandas makes the columns.
    lines = []
    for r, mean in zip(rows, under_corruption(rows), strict=True):
        lines.append(
            {"label": r["label"], "corruption": "none", "accuracy": r["clean"]["accuracy"]}
        )
        for name, five in r["corrupted"].items():
            accuracy = np.mean([metrics["accuracy"] for metrics in five])
            lines.append({"label": r["label"], "corruption": name, "accuracy": accuracy})
        lines.append(
            {"label": r["label"], "corruption": "mean of all", "accuracy": mean["accuracy"]}
        )
    cells = (
        pd.DataFrame(lines).groupby(["label", "corruption"], sort=False)["accuracy"].apply(spread)
    )
    table = cells.unstack("corruption", sort=False)
    return n_once(table.rename_axis("method").rename_axis(None, axis=1))


def calibration(rows: Sequence[dict]) -> pd.DataFrame:
    """Temperature, NLL, ECE and Brier score before and after scaling: mean ± std (n).

    A line a method. rows: as `questions.calibration` gives them.
    """
    lines = []
    for r in rows:
        line = {"method": r["label"], "temperature": r["temperature"]}
        for when in ("before", "after"):
            line |= {f"NLL, {when}": r[when]["nll"], f"ECE %, {when}": 100 * r[when]["ece"]}
            line |= {f"Brier, {when}": r[when]["brier"]}
        lines.append(line)
    if not lines:  # a profile that holds nothing out
        return pd.DataFrame()
    groups = pd.DataFrame(lines).groupby("method", sort=False)
    return n_once(groups.agg(lambda values: spread(values, 1, 2 if "%" in values.name else 3)))


def scaled(rows: Sequence[dict], when: str) -> list[dict]:
    """The metrics "before" or "after" temperature scaling, a row a network, to compare methods by.

    rows: as `questions.calibration` gives them.
    """
    about = ("method", "label", "seed", "selection")
    return [{name: r[name] for name in about} | r[when] for r in rows]


def transfer(rows: Sequence[dict]) -> pd.DataFrame:
    """Accuracy in per cent on the CINIC-10 sample: a line a method.

    Images that CIFAR-10 has and has not are apart.
    """
    if not rows:  # no such file, or other data than CIFAR-10's
        return pd.DataFrame()
    groups = pd.DataFrame(rows).groupby("label", sort=False)
    first = rows[0]
    heads = {
        "transfer": f"unseen ({first['n']} images)",
        "seen": f"in CIFAR-10 ({first['n_seen']} images)",
    }
    table = groups[["transfer", "seen"]].agg(spread)
    return n_once(table.rename(columns=heads).rename_axis("method"))


def costs(record: dict) -> pd.DataFrame:
    """Parameters, operations and milliseconds per image of each network.

    record: of `cost.measure`.
    """
    lines = {}
    for name, network in record["networks"].items():
        line = {"network": network["network"], "parameters": network["parameters"]}
        line["multiply-adds, M"] = round(network["multiply_adds"] / 1e6, 2)
        for batch in (1, 128):
            line[f"ms per image, batch {batch}"] = _milliseconds(network[f"batch_{batch}"])
        lines[name] = line
    return pd.DataFrame(lines).T


def _milliseconds(seconds: dict) -> str:
    """ "median (smallest to largest)" of seconds, in milliseconds."""
    median, low, high = (f"{1e3 * seconds[k]:.3f}" for k in ("median", "min", "max"))
    return f"{median} ({low} to {high})"
