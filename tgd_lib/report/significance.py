"""What seeds and test sets allow to say: paired differences, exact tests, intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from tgd_lib.config import InputError


def paired(rows: Sequence[dict], method: str, control: str, column: str = "accuracy") -> dict:
    """Differences method - control of `column`, seed by seed, with an exact two-sided sign-flip test.

    Rows of one selection rule only. Returns {method, control, column, differences, mean, std, low, high, n, p, verdict}:
    low and high end Student's 95 % interval of the mean; for n = 1 std, low, high and p are None. The smallest p that n
    seeds can give is 2 / 2^n: 0.25 for 3, 0.031 for 6; below six seeds the verdict says that n is too small to conclude.
    """
    if len({r["selection"] for r in rows}) > 1:
        raise InputError("rows of both selection rules: compare last with last, authors with authors")
    values = {m: {r["seed"]: r[column] for r in rows if r["method"] == m} for m in (method, control)}
    seeds = sorted(values[method].keys() & values[control].keys())
    if not seeds:
        raise InputError(f"no seed has both {method} and {control}: train both first")
    d = np.array([values[method][s] - values[control][s] for s in seeds])
    enough = len(d) > 1
    std, p = (float(d.std(ddof=1)), sign_flip(d)) if enough else (None, None)
    half = _student(len(d)) * std / math.sqrt(len(d)) if enough else None
    return {
        "method": method,
        "control": control,
        "column": column,
        "differences": d.tolist(),
        "mean": float(d.mean()),
        "std": std,
        "low": float(d.mean()) - half if enough else None,
        "high": float(d.mean()) + half if enough else None,
        "n": len(d),
        "p": p,
        "verdict": verdict(len(d), p),
    }


def chosen(rows: Sequence[dict], among: Sequence[str]) -> str | None:
    """The method of `among` with the highest mean accuracy, for choices: give it rows of held-out images.

    The first of equal ones; None if fewer than two of them have rows.
    """
    accuracies = {m: [r["accuracy"] for r in rows if r["method"] == m] for m in among}
    means = {m: np.mean(values) for m, values in accuracies.items() if values}
    return max(means, key=means.get) if len(means) > 1 else None


def verdict(n: int, p: float | None, *, level: float = 0.05) -> str:
    """What a sign-flip test of n seeds allows to say: "n too small to conclude", "differs" or "no difference shown"."""
    if 2 / 2**n > level:
        return "n too small to conclude"
    return "differs" if p <= level else "no difference shown"


def _student(n: int) -> float:
    """The 97.5 % point of Student's t with n - 1 degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.975))


def sign_flip(differences: np.ndarray) -> float:
    """Two-sided p of the mean under all 2^n flips of sign (exact; n up to 16, as many seeds as there may be)."""
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    means = np.abs(signs @ differences) / len(differences)
    return float(np.mean(means >= abs(differences.mean()) - 1e-12))


def accuracy_interval(accuracy: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """(low, high): Wilson's confidence interval of an accuracy (a fraction) measured on n images.

    Where the true accuracy of one network may lie, given so many test images; the spread over seeds is
    another matter (and another test set of this size would scatter about 1.4 times as wide). Wilson 1927. Raises InputError for values that cannot be.
    """
    from scipy.special import ndtri

    if not (0 <= accuracy <= 1 and n >= 1 and 0 < level < 1):
        given = f"accuracy={accuracy}, n={n}, level={level}"
        raise InputError(f"{given}: a fraction from 0 to 1, 1 image or more, a level between 0 and 1 needed")
    z = float(ndtri((1 + level) / 2))
    centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(accuracy * (1 - accuracy) / n + (z / (2 * n)) ** 2) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)
