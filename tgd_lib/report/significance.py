"""What seeds and test sets allow to say: paired differences, exact tests, intervals.

One rule for all tables, figures and notebooks. Six seeds or more: mean difference, Student's 95 %
interval, exact sign-flip p, verdict. Fewer: the differences seed by seed and "n too small", no
interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from tgd_lib.config import InputError
from tgd_lib.study import methods

LEVEL = 0.05
# Seeds: the fewest with which a two-sided sign-flip test can fall below LEVEL (2 / 2^6 = 0.031).
ENOUGH = 6
TOO_SMALL, DIFFERS, NOTHING = "n too small", "differs", "no difference shown"
CONTROL = "tgd_alpha1"  # all of TGD but the PI teacher: what topology adds is measured against it

# ---------------------------------------------------------------- differences


def paired(rows: Sequence[dict], method: str, control: str, column: str = "accuracy") -> dict:
    """Differences method - control of `column`, seed by seed, and what they allow to say.

    rows: of one selection rule, with method, seed, selection and `column`. Returns {method,
    control, column, n, differences, mean, low, high, p, verdict} in the column's units: differences
    in the order of the seeds, low and high the ends of Student's 95 % interval of the mean, p of
    the sign-flip test. low, high and p are None below six seeds. Raises InputError where both
    selection rules are mixed or no seed has both methods.
    """
    if len({r["selection"] for r in rows}) > 1:
        raise InputError(
            "rows of both selection rules: compare last with last, authors with authors"
        )
    # Methods of the same seed share initial weights and batches: what those bring cancels.
    ours = {r["seed"]: r[column] for r in rows if r["method"] == method}
    theirs = {r["seed"]: r[column] for r in rows if r["method"] == control}
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise InputError(f"no seed has both {method} and {control}: train both first")
    differences = np.array([ours[seed] - theirs[seed] for seed in shared])
    pair = {"method": method, "control": control, "column": column}
    return pair | {"differences": differences.tolist()} | _inference(differences)


def _inference(differences: np.ndarray) -> dict:
    """n, mean, and what so many seeds allow: low, high and p, or None."""
    # None instead of numbers that nobody may read anything from.
    n, mean = len(differences), float(differences.mean())
    if n < ENOUGH:
        low = high = p = None
    else:
        half = _half_interval(differences)
        low, high = mean - half, mean + half
        p = sign_flip(differences)
    return {"n": n, "mean": mean, "low": low, "high": high, "p": p, "verdict": verdict(n, p)}


def verdict(n: int, p: float | None) -> str:
    """What a sign-flip test of n seeds allows to say, at a level of 0.05.

    "n too small", "differs" or "no difference shown".
    """
    if n < ENOUGH:
        return TOO_SMALL
    return DIFFERS if p <= LEVEL else NOTHING


def sign_flip(differences: np.ndarray) -> float:
    """Two-sided p of the mean of (n,) paired differences under all 2^n flips of sign, exact.

    The smallest p that n seeds can give is 2 / 2^n: 0.25 for 3, 0.031 for 6.
    """
    from scipy import stats  # 1 s, and only for this

    # In whole billionths: 0.7209 - 0.7197 is not quite 0.0012, and a mean of flipped signs that
    # differs in rounding alone would not count as one as far from zero.
    whole = np.rint(1e9 * differences)
    # Of a single sample, "samples" flips signs: that is the paired test of its differences.
    test = stats.permutation_test(
        (whole,), np.mean, permutation_type="samples", n_resamples=np.inf, axis=0
    )
    return float(test.pvalue)


def _half_interval(differences: np.ndarray) -> float:
    """Half of Student's 95 % interval of the mean; 0 where all differences are the same."""
    from scipy import stats

    # Not scipy's own interval, which is NaN where the differences have no spread.
    quantile = stats.t.ppf(1 - LEVEL / 2, len(differences) - 1)
    return float(quantile * stats.sem(differences))


def from_alpha_1(points: Sequence[dict]) -> list[dict]:
    """The pairs of `methods.ALPHA_CURVES` against alpha = 1: as `paired`, with `alpha`, `curve`.

    Curve by curve, alpha falling. points: {method, alpha, seed, selection, accuracy}, a network
    each. Empty where nothing was trained at alpha = 1.
    """
    alphas = {p["method"]: p["alpha"] for p in points}
    if CONTROL not in alphas:
        return []
    pairs = []
    for curve, names in methods.ALPHA_CURVES.items():
        there = [name for name in names if name in alphas]
        for name in sorted(there, key=alphas.__getitem__, reverse=True):
            about = {"alpha": alphas[name], "curve": curve}
            pairs.append(paired(points, name, CONTROL) | about)
    return pairs


def family(rows: Sequence[dict], names: Sequence[tuple[str, str]]) -> list[dict]:
    """The pairs (method, control) tested together on accuracy: verdicts after Holm's correction.

    Each as `paired`, with `adjusted` (p, corrected; None where a pair has fewer than six seeds) and
    the differences that its n pairs would show with probability 0.8, from their own spread (None
    for one pair): `detectable` at a level of 0.05, `detectable_holm` at that of Holm's first step.
    """
    pairs = [paired(rows, method, control) for method, control in names]
    # A family with a pair that cannot be tested has no size to correct by.
    testable = all(pair["p"] is not None for pair in pairs)
    adjusted = holm([pair["p"] for pair in pairs]) if testable else [None] * len(pairs)
    found = []
    for pair, p in zip(pairs, adjusted, strict=True):
        said = verdict(pair["n"], p) if p is not None else TOO_SMALL
        shown = {
            "detectable": _detectable(pair, level=0.05),
            "detectable_holm": _detectable(pair, level=0.05 / len(pairs)),
        }
        found.append(pair | {"adjusted": p, "verdict": said} | shown)
    return found


def _detectable(pair: dict, *, level: float) -> float | None:
    """`detectable` for the pair's own n and spread; None for one seed, which has no spread."""
    n = pair["n"]
    if n < 2:
        return None
    return detectable(float(np.std(pair["differences"], ddof=1)), n, level=level)


# ---------------------------------------------------------------- choices


def chosen(rows: Sequence[dict], among: Sequence[str]) -> str | None:
    """The method of `among` with the highest mean accuracy, for choices.

    Give it rows of held-out images. The first of equal ones; None if fewer than two have rows.
    """
    frame = pd.DataFrame(rows, columns=["method", "accuracy"])
    # In the order of `among`, so that of equal means the first, a control, stays.
    means = frame.groupby("method")["accuracy"].mean()
    present = [name for name in among if name in means.index]
    if len(present) < 2:
        return None
    return means[present].idxmax()


def choose_and_compare(
    test: Sequence[dict],
    held_out: Sequence[dict],
    among: Sequence[str],
    control: str = CONTROL,
) -> dict:
    """What held-out images choose of `among`, and what the test images then say of it.

    Returns {chosen, candidates, held_out, test}: the name (None: nothing to choose from; the
    control's own: nothing beats it), the candidates that were there beside the control, the pair
    against the control on the held-out images, and the pairs on the test images against the control
    and against the chosen method's matched control (a second image teacher in the same place),
    where that was trained.
    """
    name = chosen(held_out, among)
    there = {r["method"] for r in held_out}
    result = {"chosen": name, "candidates": [m for m in among if m in there and m != control]}
    if name in (None, control):
        return result | {"held_out": None, "test": []}
    # The test images are looked at now, and for the chosen one alone.
    trained = {r["method"] for r in test}
    controls = [c for c in (control, methods.METHODS[name].control) if c in trained]
    pairs = [paired(test, name, c) for c in controls]
    return result | {"held_out": paired(held_out, name, control), "test": pairs}


def without_second(name: str) -> str | None:
    """The method that is `name` at alpha = 1, without its second teacher, or None.

    With weight 0 neither which second teacher it is, nor what it is shown, nor the order of merging
    matters.
    """
    wanted = _at_alpha_1(methods.METHODS[name])
    for other in methods.METHODS.values():
        if other.alpha == 1 and other.name != name and _at_alpha_1(other) == wanted:
            return other.name
    return None


def _at_alpha_1(method: methods.Method) -> methods.Method:
    """What a method would train at alpha = 1, without what it is called."""
    unnamed = replace(method, name="", label="", why="", control=None)
    return replace(unnamed, alpha=1.0, second="", shown=None, order=None)


# ---------------------------------------------------------------- test sets


def accuracy_interval(accuracy: float, n: int) -> tuple[float, float]:
    """(low, high): Wilson's 95 % interval of an accuracy (a fraction) measured on n images.

    Where the true accuracy of one network may lie, given so many test images; the spread over seeds
    is another matter, and methods are never compared by it. Wilson 1927. Raises InputError for
    values that cannot be.
    """
    from scipy import stats

    if not (0 <= accuracy <= 1 and n >= 1):
        given = f"accuracy={accuracy}, n={n}"
        raise InputError(f"{given}: give a fraction from 0 to 1 of 1 image or more")
    test = stats.binomtest(round(accuracy * n), n)
    interval = test.proportion_ci(1 - LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def holm(p: Sequence[float]) -> list[float]:
    """Each p of a family of tests, adjusted by Holm's step-down rule, in the order given.

    A test is decided by its adjusted p as if it were alone. Source: Holm, "A Simple Sequentially
    Rejective Multiple Test Procedure" (1979).
    """
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        # No test is decided more easily than one before it.
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def detectable(std: float, n: int, *, level: float = 0.05, power: float = 0.8) -> float:
    """The difference that n pairs whose differences have this `std` would show with this `power`.

    In the unit of std; two-sided, at `level`: of a paired t test, against which the sign-flip test
    loses little. Raises InputError for less than two pairs.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    if n < 2:
        raise InputError(f"{n} pairs have no spread: two are needed at least")
    threshold = t.ppf(1 - level / 2, n - 1)
    # The noncentrality with which the statistic lies beyond the threshold that often. It is never
    # much above the threshold, which for two pairs is 76 at a level of 0.05 / 6.
    above = 10 + 2 * threshold
    noncentrality = brentq(lambda x: nct.sf(threshold, n - 1, x) - power, 0, above)
    return float(noncentrality * std / n**0.5)
