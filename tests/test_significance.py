"""Statistics, by hand."""

import math

import numpy as np
import pytest

from tgd_lib.report import significance
from tgd_lib.config import InputError


def row(method, seed, accuracy, selection="last"):
    return {"method": method, "seed": seed, "selection": selection, "accuracy": accuracy}


ROWS = [row("a", 0, 0.50), row("a", 1, 0.54), row("b", 0, 0.55), row("b", 1, 0.57), row("c", 0, 0.4)]


def test_rules_are_not_paired_with_each_other():
    with pytest.raises(InputError, match="both selection rules"):
        significance.paired([*ROWS, row("a", 0, 0.6, "authors")], "b", "a")


def test_paired_differences_by_hand():
    pair = significance.paired(ROWS, "b", "a")
    assert pair["differences"] == pytest.approx([0.05, 0.03]) and pair["mean"] == pytest.approx(0.04)
    assert pair["std"] == pytest.approx(0.02 / 2**0.5) and pair["p"] == 0.5
    alone = significance.paired(ROWS, "c", "a")
    assert (alone["n"], alone["std"], alone["p"]) == (1, None, None)
    with pytest.raises(InputError, match="no seed"):
        significance.paired([row("a", 0, 1), row("b", 1, 1)], "a", "b")


@pytest.mark.parametrize(("d", "p"), [([1, 1, 1], 0.25), ([1] * 6, 2 / 64), ([1, -1], 1.0), ([3, 1, -1], 0.75)])
def test_sign_flips_by_hand(d, p):
    assert significance.sign_flip(np.array(d, float)) == pytest.approx(p)


# ---------------------------------------------------------------- interval


def test_interval_by_hand():
    z = 1.959963985
    assert significance.accuracy_interval(1, 10) == pytest.approx((10 / (10 + z * z), 1.0))  # centre and half add to 1
    assert significance.accuracy_interval(0, 10) == pytest.approx((0.0, z * z / (10 + z * z)))
    half = z / (2 * math.sqrt(100 + z * z))  # at one half Wilson's is 1/2 ± z / (2 sqrt(n + z^2))
    assert significance.accuracy_interval(0.5, 100) == pytest.approx((0.5 - half, 0.5 + half))
    low, high = significance.accuracy_interval(0.8454, 10_000)  # the authors' scratch student: about ± 0.7 points
    assert low == pytest.approx(0.8382, abs=1e-4) and high == pytest.approx(0.8524, abs=1e-4)
    assert low < significance.accuracy_interval(0.8454, 10_000, 0.5)[0]


@pytest.mark.parametrize("given", [(1.1, 10), (-0.1, 10), (0.5, 0), (0.5, 10, 1.0), (math.nan, 10)])
def test_interval_refuses(given):
    with pytest.raises(InputError, match="fraction") as caught:
        significance.accuracy_interval(*given)
    assert "\n" not in str(caught.value)


def test_three_seeds_never_conclude_and_six_may():
    assert significance.verdict(3, 0.25) == "n too small to conclude" == significance.verdict(5, 0.0625)
    assert significance.verdict(6, 2 / 64) == "differs" and significance.verdict(6, 4 / 64) == "no difference shown"


def test_the_interval_of_a_mean_is_student_s():
    """Differences 0.05 and 0.03: t = 12.706 with one degree of freedom, standard error 0.01."""
    pair = significance.paired(ROWS, "b", "a")
    assert (pair["low"], pair["high"]) == pytest.approx((0.04 - 0.12706, 0.04 + 0.12706), abs=1e-5)
    assert pair["verdict"] == "n too small to conclude"


def test_chosen_is_the_highest_mean_of_those_among_which_is_chosen():
    assert significance.chosen(ROWS, ("a", "b", "c")) == "b"
    assert significance.chosen(ROWS, ("a", "c", "d")) == "a"
    assert significance.chosen([row("x", 0, 0.5), row("y", 0, 0.5)], ("y", "x")) == "y"
    assert significance.chosen(ROWS, ("a", "d")) is None
