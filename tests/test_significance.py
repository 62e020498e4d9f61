"""Statistics, by hand."""

import itertools
import math

import numpy as np
import pytest

from tgd_lib.config import InputError
from tgd_lib.report import significance


def row(method, seed, accuracy, selection="last"):
    return {"method": method, "seed": seed, "selection": selection, "accuracy": accuracy}


def seeds(method, *accuracies):
    return [row(method, seed, accuracy) for seed, accuracy in enumerate(accuracies)]


ROWS = [*seeds("a", 0.50, 0.54), *seeds("b", 0.55, 0.57), *seeds("c", 0.4)]
# ---------------------------------------------------------------- differences


def test_rules_are_not_paired_with_each_other():
    with pytest.raises(InputError, match="both selection rules"):
        significance.paired([*ROWS, row("a", 0, 0.6, "authors")], "b", "a")
    with pytest.raises(InputError, match="no seed"):
        significance.paired([row("a", 0, 1), row("b", 1, 1)], "a", "b")


def test_few_seeds_have_their_differences_and_no_interval():
    pair = significance.paired(ROWS, "b", "a")
    assert pair["differences"] == pytest.approx([0.05, 0.03]) and pair["mean"] == pytest.approx(
        0.04
    )
    assert (pair["n"], pair["low"], pair["high"], pair["p"]) == (2, None, None, None)
    assert pair["verdict"] == "n too small"
    five = significance.paired([*seeds("x", 1, 1, 1, 1, 1), *seeds("y", 0, 0, 0, 0, 0)], "x", "y")
    assert (five["low"], five["p"], five["verdict"]) == (None, None, "n too small")


def test_six_seeds_have_an_interval_a_p_and_a_verdict():
    """Differences 1, 1, 1, 3, 3, 3: mean 2, variance 6 / 5; t = 2.570582 with five degrees of
    freedom.
    """
    rows = [*seeds("x", 1, 1, 1, 3, 3, 3), *seeds("y", 0, 0, 0, 0, 0, 0)]
    pair = significance.paired(rows, "x", "y")
    half = 2.570582 * math.sqrt(6 / 5 / 6)
    assert (pair["low"], pair["high"]) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert pair["p"] == pytest.approx(2 / 64) and pair["verdict"] == "differs"
    tied = significance.paired([*seeds("x", 1, -1, 1, -1, 1, -1), *seeds("y", *[0] * 6)], "x", "y")
    assert tied["p"] == 1 and tied["verdict"] == "no difference shown"


def test_six_equal_differences_are_an_interval_without_width():
    pair = significance.paired([*seeds("x", *[0.5] * 6), *seeds("y", *[0.25] * 6)], "x", "y")
    assert (pair["low"], pair["high"]) == (0.25, 0.25) and pair["verdict"] == "differs"


@pytest.mark.parametrize(
    ("d", "p"), [([1, 1, 1], 0.25), ([1] * 6, 2 / 64), ([1, -1], 1.0), ([3, 1, -1], 0.75)]
)
def test_sign_flips_by_hand(d, p):
    assert significance.sign_flip(np.array(d, float)) == pytest.approx(p)


def test_sign_flips_are_all_sign_flips():
    """Against counting them one by one; differences like those of accuracies on 10,000 images, ties
    among them.
    """
    random = np.random.default_rng(0)
    for n in (3, 6, 7):
        d = random.integers(-60, 80, n) / 10_000
        means = [abs(np.mean(d * signs)) for signs in itertools.product((1, -1), repeat=n)]
        counted = np.mean(np.array(means) >= abs(d.mean()) - 1e-12)
        assert significance.sign_flip(d) == pytest.approx(counted)


def test_sign_flips_see_ties_of_accuracies_that_were_subtracted():
    """0.7209 - 0.7197 is not quite 0.0012: equal means must be equal all the same."""
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = random.integers(7100, 7300, (2, 8))
        signs = np.array(list(itertools.product((1, -1), repeat=8)))
        counted = np.mean(np.abs(signs @ (a - b)) >= abs((a - b).sum()))  # in integers
        assert significance.sign_flip(a / 10_000 - b / 10_000) == pytest.approx(counted)


def test_alphas_are_paired_with_alpha_1():
    curves = {
        "tgd_alpha0.5": 0.5, "tgd_alpha1": 1.0, "tgd": 0.99,
        "tgd_image_2_normalise0.9": 0.9, "tgd_pi_normalise0.9": 0.9,
    }  # fmt: skip
    points = [
        {"method": m, "alpha": a, "seed": s, "accuracy": a / 2 + s, "selection": "last"}
        for m, a in curves.items()
        for s in (0, 1)
    ]
    pairs = significance.from_alpha_1(points)
    assert [(p["curve"], p["alpha"]) for p in pairs] == [
        ("PI teacher", 0.99),
        ("PI teacher", 0.5),
        ("PI teacher, normalised", 0.9),
        ("second image teacher, normalised", 0.9),
    ]
    assert pairs[1]["differences"] == pytest.approx([-0.25, -0.25])
    assert significance.from_alpha_1(points[:2]) == []


# ---------------------------------------------------------------- choices


def test_chosen_is_the_highest_mean_of_those_among_which_is_chosen():
    assert significance.chosen(ROWS, ("a", "b", "c")) == "b"
    assert significance.chosen(ROWS, ("a", "c", "d")) == "a"
    assert significance.chosen([row("x", 0, 0.5), row("y", 0, 0.5)], ("y", "x")) == "y"
    assert significance.chosen(ROWS, ("a", "d")) is None
    assert significance.chosen([], ("a", "d")) is None


def test_the_choice_is_by_held_out_images_and_the_comparison_by_test_images():
    held_out = [
        *seeds("tgd_alpha1", 0.5),
        *seeds("tgd", 0.4),
        *seeds("tgd_pi_wide_normalise0.5", 0.6),
    ]
    test = [
        *seeds("tgd_alpha1", 0.5),
        *seeds("tgd", 0.9),
        *seeds("tgd_pi_wide_normalise0.5", 0.4),
        *seeds("tgd_image_2_normalise0.5", 0.2),
    ]
    found = significance.choose_and_compare(
        test, held_out, ("tgd_alpha1", "tgd", "tgd_pi_wide_normalise0.5", "tgd_super_normalise0.5")
    )
    assert found["chosen"] == "tgd_pi_wide_normalise0.5" and found["candidates"] == [
        "tgd",
        "tgd_pi_wide_normalise0.5",
    ]
    assert found["held_out"]["mean"] == pytest.approx(0.1)
    against = {p["control"]: p["mean"] for p in found["test"]}
    assert against == pytest.approx({"tgd_alpha1": -0.1, "tgd_image_2_normalise0.5": 0.2})


def test_a_control_that_nothing_beats_stays():
    held_out = [*seeds("tgd_alpha1", 0.5), *seeds("tgd", 0.5)]
    found = significance.choose_and_compare(held_out, held_out, ("tgd_alpha1", "tgd"))
    assert (found["chosen"], found["held_out"], found["test"]) == ("tgd_alpha1", None, [])
    assert significance.choose_and_compare([], [], ("tgd_alpha1", "tgd"))["chosen"] is None


@pytest.mark.parametrize(
    ("method", "control"),
    [
        ("tgd", "tgd_alpha1"),
        ("tgd_batchmean", "tgd_alpha1_batchmean"),
        ("tgd_gamma10", "tgd_alpha1_gamma10"),
        ("tgd_image_2", "tgd_alpha1"),
        ("tgd_noise_normalise0.5", "tgd_alpha1"),
        ("tgd_logits", "kd_annealed"),
        ("tgd_maps", None),
        ("tgd_alpha1", None),
    ],
)
def test_the_control_without_a_second_teacher_has_the_same_changes(method, control):
    assert significance.without_second(method) == control


# ---------------------------------------------------------------- test sets


def test_interval_by_hand():
    z = 1.959963985
    # at 1 and 0 centre and half add to the end; at one half Wilson's is 1/2 ± z / (2 sqrt(n + z^2))
    assert significance.accuracy_interval(1, 10) == pytest.approx((10 / (10 + z * z), 1.0))
    assert significance.accuracy_interval(0, 10) == pytest.approx((0.0, z * z / (10 + z * z)))
    half = z / (2 * math.sqrt(100 + z * z))
    assert significance.accuracy_interval(0.5, 100) == pytest.approx((0.5 - half, 0.5 + half))
    # the authors' scratch student: about ± 0.7 points
    low, high = significance.accuracy_interval(0.8454, 10_000)
    assert low == pytest.approx(0.8382, abs=1e-4) and high == pytest.approx(0.8524, abs=1e-4)


@pytest.mark.parametrize("given", [(1.1, 10), (-0.1, 10), (0.5, 0), (math.nan, 10)])
def test_interval_refuses(given):
    with pytest.raises(InputError, match="fraction") as caught:
        significance.accuracy_interval(*given)
    assert "\n" not in str(caught.value)


def test_holm_by_hand():
    # 0.01 x 3, 0.02 x 2, 0.03 x 1, none below the one before it; at most 1
    assert significance.holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert significance.holm([0.6, 0.7]) == [1, 1]
    assert significance.holm([0.02]) == [0.02] and significance.holm([]) == []


def test_the_detectable_difference_is_found_as_often_as_it_says():
    found = significance.detectable(2.0, 12)
    assert found == pytest.approx(2 * significance.detectable(1.0, 12))
    # of 500 studies of 12 pairs with that difference about 80 % fall below 0.05 (standard error 1.8
    # %)
    rng = np.random.default_rng(3)
    studies = rng.normal(found, 2.0, (500, 12))
    signs = np.array(np.meshgrid(*[(1, -1)] * 12)).reshape(12, -1).T
    sums = np.abs(studies @ signs.T)
    p = (sums >= np.abs(studies.sum(1, keepdims=True)) - 1e-12).mean(1)
    assert 0.74 < (p <= 0.05).mean() < 0.86


def test_more_pairs_and_laxer_tests_detect_less():
    assert significance.detectable(1, 12) < significance.detectable(1, 6)
    assert significance.detectable(1, 12) < significance.detectable(1, 12, level=0.05 / 6)
    with pytest.raises(InputError, match="two are needed"):
        significance.detectable(1, 1)


def test_a_family_is_corrected_for_being_one():
    """Two pairs of six seeds: p = 2 / 64 and 1, doubled and at most 1."""
    both = [*seeds("a", *[0.6] * 6), *seeds("b", *[0.5] * 6), *seeds("c", *[0.6] * 6)]
    first, second = significance.family(both, [("a", "b"), ("a", "c")])
    assert (first["p"], first["adjusted"]) == (0.03125, 0.0625)
    assert first["verdict"] == second["verdict"] == significance.NOTHING
    assert second["adjusted"] == 1.0 and first["detectable"] == pytest.approx(0, abs=1e-9)
    few = significance.family(both[:6] + both[6:9], [("a", "b")])[0]
    assert (few["adjusted"], few["verdict"]) == (None, significance.TOO_SMALL)
    one = significance.family([both[0], both[6]], [("a", "b")])[0]
    assert one["detectable"] is one["detectable_holm"] is None  # a single pair has no spread
    two = [r for r in both if r["seed"] < 2]  # t of one degree of freedom has wide tails
    assert significance.family(two, [("a", "b")] * 6)[0]["detectable_holm"] is not None
    assert significance.detectable(1.0, 2, level=0.05 / 6) == pytest.approx(
        97.906 / 2**0.5, rel=1e-4
    )
    scattered = [*seeds("a", 0.6, 0.62, 0.64, 0.6, 0.62, 0.64), *both[6:]]
    said = significance.family(scattered, [("a", "b"), ("a", "c")])[0]
    spread = float(np.std([0.1, 0.12, 0.14] * 2, ddof=1))
    assert said["detectable"] == pytest.approx(significance.detectable(spread, 6))
    halved = significance.detectable(spread, 6, level=0.05 / 2)
    assert said["detectable_holm"] == pytest.approx(halved)
    assert significance.family([], []) == []
