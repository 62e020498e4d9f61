"""Records of runs, and tables drawn from them. No network is touched here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tgd_lib import config
from tgd_lib import files
from tgd_lib.config import InputError, Settings
from tgd_lib.report.significance import accuracy_interval, paired

COLUMNS = ("accuracy", "nll", "ece")
# Accuracies of the authors' released checkpoints on CIFAR-10 (one run each, epoch chosen by them on the test set).
ANCHORS = {"scratch": 0.8454, "kd": 0.8517, "tgd": 0.8595}

# ---------------------------------------------------------------- records

def save_records(rows: Sequence[dict], settings: Settings, name: str) -> Path:
    """Write what a notebook measured to `<run>/records/<name>.json`, for others to draw from."""
    path = config.run_dir(settings) / "records" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {"run": settings.run_name, "rows": list(rows)})
    return path


def load_records(settings: Settings, name: str) -> list[dict]:
    """The rows of a record; InputError if the notebook that writes it has not run in this profile."""
    path = config.run_dir(settings) / "records" / f"{name}.json"
    if not path.is_file():
        overrides = "".join(f" -p {k} {v}" for k, v in settings.overrides)
        run = f"./run_all.sh --profile {settings.profile} --only {name[:2]}{overrides}"
        raise InputError(f"run {settings.run_name!r} has no record {name!r} yet: run {run} first")
    return files.read_json(path)["rows"]


# ---------------------------------------------------------------- tables


def results(rows: Sequence[dict]) -> pd.DataFrame:
    """One line a method and selection rule: mean and standard deviation (ddof 1) over seeds.

    accuracy and ece are fractions, nll nats; std is empty (NaN) where seeds is 1.
    """
    frame = pd.DataFrame(rows)
    lines = []
    for (method, selection), group in frame.groupby(["method", "selection"], sort=False):
        line = {"method": method, "selection": selection, "seeds": len(group)}
        for c in COLUMNS:
            line |= {f"{c}_mean": round(group[c].mean(), 6), f"{c}_std": round(group[c].std(ddof=1), 6)}
        lines.append(line)
    return pd.DataFrame(lines)


def write_results(rows: Sequence[dict], settings: Settings) -> Path:
    """Write `results.csv` of this run, whole or not at all, and return its path."""
    path = config.run_dir(settings) / "results.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    results(rows).to_csv(temporary, index=False)
    temporary.replace(path)
    return path


def readable(rows: Sequence[dict]) -> pd.DataFrame:
    """The results in words: mean ± std (n) a method, accuracy and ECE in per cent, epochs in all."""
    first_of = {(r["method"], r["selection"]): r for r in reversed(rows)}
    lines = []
    for line in results(rows).to_dict("records"):
        first = first_of[line["method"], line["selection"]]
        lines.append(
            {
                "method": first["label"],
                "selection": line["selection"],
                "epochs in all": first["epochs_in_all"],
                "accuracy %": _spread(line, "accuracy", 100, 2),
                "NLL": _spread(line, "nll", 1, 3),
                "ECE %": _spread(line, "ece", 100, 2),
                "95 % CI, test set": _test_sets(line["accuracy_mean"], first["n"]),
            }
        )
    return pd.DataFrame(lines).set_index("method")


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a markdown table, its index left out."""
    cells = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def against(rows: Sequence[dict], control: str, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Each method against `control`, seed by seed: mean ± std (n) of the differences, p and verdict on accuracy.

    Only methods that share a seed with the control, in the order of the rows; accuracy and ece in points.
    """
    scales = {"accuracy": (100, 2, "points"), "ece": (100, 2, "points"), "nll": (1, 3, "nats"), "transfer": (100, 2, "points")}
    have = {r["seed"] for r in rows if r["method"] == control}
    labels = {r["method"]: r["label"] for r in rows if r["seed"] in have and r["method"] != control}
    lines = []
    for name, label in labels.items():
        line = {"method": label}
        for column in columns:
            pair, (scale, digits, unit) = paired(rows, name, control, column), scales[column]
            line[f"{column}, {unit}"] = difference(pair, scale, digits)
        first = paired(rows, name, control, columns[0])
        p = {f"p, {columns[0]}": None if first["p"] is None else round(first["p"], 3), f"verdict, {columns[0]}": first["verdict"]}
        lines.append(line | p)
    return pd.DataFrame(lines).set_index("method")


def by_weight(rows: Sequence[dict]) -> pd.DataFrame:
    """Accuracy in per cent, mean ± std (n): a line a gamma, a column an alpha. rows: gamma, alpha, accuracy."""
    frame = pd.DataFrame(rows)
    cells = frame.groupby(["gamma", "alpha"])["accuracy"].apply(lambda values: spread(values))
    return cells.unstack("alpha").rename(columns=lambda a: f"alpha = {a:g}").rename(index=lambda g: f"gamma = {g:g}").fillna("not run")


def difference(pair: dict, scale: float = 100, digits: int = 2) -> str:
    """A paired difference in words: "+1.20 ± 0.30 (n=6)"."""
    spread = "" if pair["std"] is None else f" ± {scale * pair['std']:.{digits}f}"
    return f"{scale * pair['mean']:+.{digits}f}{spread} (n={pair['n']})"


def spread(values: Sequence[float], scale: float = 100, digits: int = 2) -> str:
    """mean ± standard deviation (n) of figures, one a seed."""
    v = scale * np.asarray(values, float)
    return f"{v.mean():.{digits}f}{f' ± {v.std(ddof=1):.{digits}f}' if len(v) > 1 else ''} (n={len(v)})"


def under_corruption(rows: Sequence[dict]) -> list[dict]:
    """From rows of `studies.robustness`, one line a network: each figure's mean over corruptions and severities."""
    lines = []
    for r in rows:
        every = [figures for five in r["corrupted"].values() for figures in five]
        means = {k: float(np.mean([f[k] for f in every])) for k in ("accuracy", "nll", "ece", "brier")}
        lines.append({k: r[k] for k in ("method", "label", "seed", "selection", "n", "key")} | means | {"clean": r["clean"]["accuracy"]})
    return lines


def corruptions(rows: Sequence[dict]) -> pd.DataFrame:
    """Accuracy in per cent under each corruption, mean over severities: a line a corruption, a column a method."""
    table: dict[str, dict[str, str]] = {}
    for label in dict.fromkeys(r["label"] for r in rows):
        chosen = [r for r in rows if r["label"] == label]
        column = {"none": [r["clean"]["accuracy"] for r in chosen]}
        for name in chosen[0]["corrupted"]:
            column[name] = [float(np.mean([f["accuracy"] for f in r["corrupted"][name]])) for r in chosen]
        column["mean of all"] = [r["accuracy"] for r in under_corruption(chosen)]
        table[label] = {name: spread(values) for name, values in column.items()}
    return pd.DataFrame(table)


def calibration(rows: Sequence[dict]) -> pd.DataFrame:
    """Temperature, NLL, ECE and Brier score before and after scaling, a line a method: mean ± std (n)."""
    lines = {}
    for label in dict.fromkeys(r["label"] for r in rows):
        chosen = [r for r in rows if r["label"] == label]
        line = {"temperature": spread([r["temperature"] for r in chosen], 1)}
        for when in ("before", "after"):
            for name, scale, digits in (("nll", 1, 3), ("ece", 100, 2), ("brier", 1, 3)):
                unit = ", %" if scale == 100 else ""
                line[f"{name.upper() if name != 'brier' else 'Brier'}{unit}, {when}"] = spread([r[when][name] for r in chosen], scale, digits)
        lines[label] = line
    return pd.DataFrame(lines).T


def costs(record: dict) -> pd.DataFrame:
    """Parameters, operations and milliseconds an image of each network, from the record of `cost.measure`."""
    lines = {}
    for name, n in record["networks"].items():
        lines[name] = {
            "network": n["network"],
            "parameters": n["parameters"],
            "multiply-adds, M": round(n["multiply_adds"] / 1e6, 2),
            **{f"ms an image, batch {b}": _milliseconds(n[f"batch_{b}"]) for b in (1, 128)},
        }
    return pd.DataFrame(lines).T


def _milliseconds(s: dict) -> str:
    return f"{1e3 * s['median']:.3f} ({1e3 * s['min']:.3f} to {1e3 * s['max']:.3f})"


def _test_sets(accuracy: float, n: int) -> str:
    """Wilson's 95 % interval, in per cent, for the true accuracy of a network that has this one on n images."""
    low, high = accuracy_interval(accuracy, n)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _spread(line: dict, column: str, scale: float, digits: int) -> str:
    mean, std = line[f"{column}_mean"] * scale, line[f"{column}_std"] * scale
    spread = "" if math.isnan(std) else f" ± {std:.{digits}f}"
    return f"{mean:.{digits}f}{spread} (n={line['seeds']})"
