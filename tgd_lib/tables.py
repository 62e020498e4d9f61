"""Records of runs, and tables and statistics drawn from them. No network is touched here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tgd_lib import config, store
from tgd_lib.config import InputError, Settings

COLUMNS = ("accuracy", "nll", "ece")
# Accuracies of the authors' released checkpoints on CIFAR-10 (one run each, epoch chosen by them on the test set).
ANCHORS = {"scratch": 0.8454, "kd": 0.8517, "tgd": 0.8595}

# ---------------------------------------------------------------- records

def save_records(rows: Sequence[dict], settings: Settings, name: str) -> Path:
    """Write what a notebook measured to `<run>/records/<name>.json`, for others to draw from."""
    path = config.run_dir(settings) / "records" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_json(path, {"run": settings.run_name, "rows": list(rows)})
    return path


def load_records(settings: Settings, name: str) -> list[dict]:
    """The rows of a record; InputError if the notebook that writes it has not run in this profile."""
    path = config.run_dir(settings) / "records" / f"{name}.json"
    if not path.is_file():
        overrides = "".join(f" -p {k} {v}" for k, v in settings.overrides)
        run = f"./run_all.sh --profile {settings.profile} --only {name[:2]}{overrides}"
        raise InputError(f"run {settings.run_name!r} has no record {name!r} yet: run {run} first")
    return store.read_json(path)["rows"]


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
            }
        )
    return pd.DataFrame(lines).set_index("method")


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a markdown table, its index left out."""
    cells = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


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


def _spread(line: dict, column: str, scale: float, digits: int) -> str:
    mean, std = line[f"{column}_mean"] * scale, line[f"{column}_std"] * scale
    spread = "" if math.isnan(std) else f" ± {std:.{digits}f}"
    return f"{mean:.{digits}f}{spread} (n={line['seeds']})"


def paired(rows: Sequence[dict], method: str, control: str, column: str = "accuracy") -> dict:
    """Differences method - control of `column`, seed by seed, with an exact two-sided sign-flip test.

    Rows of one selection rule only. Returns {method, control, column, differences, mean, std, n, p}; std and p are None for n = 1.
    The smallest p that n seeds can give is 2 / 2^n: 0.25 for 3, 0.031 for 6.
    """
    if len({r["selection"] for r in rows}) > 1:
        raise InputError("rows of both selection rules: compare last with last, authors with authors")
    values = {m: {r["seed"]: r[column] for r in rows if r["method"] == m} for m in (method, control)}
    seeds = sorted(values[method].keys() & values[control].keys())
    if not seeds:
        raise InputError(f"no seed has both {method} and {control}: train both first")
    d = np.array([values[method][s] - values[control][s] for s in seeds])
    enough = len(d) > 1
    return {
        "method": method,
        "control": control,
        "column": column,
        "differences": d.tolist(),
        "mean": float(d.mean()),
        "std": float(d.std(ddof=1)) if enough else None,
        "n": len(d),
        "p": sign_flip(d) if enough else None,
    }


def sign_flip(differences: np.ndarray) -> float:
    """Two-sided p of the mean under all 2^n flips of sign (exact; n up to 16, as many seeds as there may be)."""
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    means = np.abs(signs @ differences) / len(differences)
    return float(np.mean(means >= abs(differences.mean()) - 1e-12))
