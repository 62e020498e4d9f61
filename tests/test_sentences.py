"""What runs are said to show, from records by hand."""

import numpy as np
import pytest

from tgd_lib import config
from tgd_lib.report import sentences, significance


def rows(column="accuracy", **values):
    """{method: (a value a seed, ...)} as rows."""
    found = []
    for method, many in values.items():
        for seed, value in enumerate(many):
            about = {"method": method, "label": method.upper(), "seed": seed, "selection": "last"}
            found.append(about | {"accuracy": 0.5, "nll": 1.0, "ece": 0.1, column: value})
    return found


def test_settings_are_resolved_and_overrides_stand_out():
    text = sentences.settings(config.resolve("smoke", alpha=0.7))
    assert text.startswith("Profile `smoke`: CI and tests. dataset sample,")
    assert "**alpha 0.7**, lam 0.9," in text and "data_dir" not in text
    assert "corruptions all, n_corrupted 40" in text and "None" not in text
    assert "memory_gb" not in text and "published" not in text
    text = sentences.settings(config.resolve("quick"))
    assert "offline. published teachers, dataset sample" in text and "{" not in text


def test_a_difference_in_words_follows_the_rule():
    few = significance.paired(rows(a=(0.5, 0.6), b=(0.4, 0.4)), "a", "b")
    assert sentences.amount(few) == "+10.00, +20.00 (n=2) points of accuracy: n too small"
    six = significance.paired(rows("nll", a=[1.5] * 6, b=[1.0] * 6), "a", "b", "nll")
    assert sentences.amount(six) == "+0.500 [+0.500, +0.500] (n=6) nats of NLL, p = 0.031: differs"


def test_topology_is_measured_against_alpha_1_and_against_any_second_teacher():
    text = sentences.topology(rows(tgd=[0.5], tgd_alpha1=[0.4], tgd_image_2=[0.6]))
    assert (
        "(TGD − TGD_ALPHA1, paired by seed): +10.00 (n=1) points of accuracy: n too small;" in text
    )
    assert "(TGD − TGD_IMAGE_2): -10.00 (n=1) points of accuracy" in text
    assert "any second teacher" not in sentences.topology(rows(tgd=[0.5], tgd_alpha1=[0.4]))


def test_a_comparison_counts_above_below_and_shown():
    many = rows(c=[0.5] * 6, up=[0.6] * 6, few=[0.7], down=[0.4] * 6)
    text = sentences.comparison(many, "c")
    assert (
        "In accuracy, of 3 methods beside *C*, 2 lie above it in the mean"
        " (shown by six seeds or more: *UP*)" in text
    )
    assert (
        "1 lie below it in the mean (shown by six seeds or more: *DOWN*)" in text
        and "n too small: 1." in text
    )
    assert sentences.comparison(rows(c=[0.5]), "c") == "Nothing was trained to compare."


def test_a_shared_error_is_said():
    wrong, right = np.array([0.9, 0.1]), np.array([0.2, 0.8])
    text = sentences.opinions(
        {"image teacher": wrong, "TGD": wrong, "KD": right}, ("cat", "dog"), 1
    )
    assert text.startswith("This is *dog*. Right: KD. Wrong: image teacher (cat), TGD (cat).")
    assert "shares the image teacher's error" in text
    assert "shares" not in sentences.opinions(
        {"image teacher": right, "TGD": right}, ("cat", "dog"), 1
    )


def test_the_share_outside_the_window_by_hand():
    """Of four points one is born late, one is tall, one both."""
    births, persistences = np.array([0.1, 0.5, 0.1, 0.5]), np.array([0.1, 0.1, 0.4, 0.4])
    text = sentences.window(births, persistences, upto=0.3, channels=2)
    assert text.startswith(
        "4 points in 2 channels: 75 % lie outside the window 0 to 0.3, 50 % because"
    )
    assert "1 channel:" in sentences.window(births, persistences, upto=0.3, channels=1)
    assert "No pair" in sentences.window(births[:0], births[:0], upto=0.3, channels=1)


def test_class_means_name_brightest_and_faintest():
    pis = np.array([10, 20, 40]).reshape(3, 1, 1, 1)
    text = sentences.class_means(pis, np.array([0, 0, 2]), ("a", "b", "c"))
    assert "*c* (level 40.0" in text and "*a* (15.0)" in text


def test_teachers_are_compared_class_by_class():
    image = {"accuracy": 0.6, "per_class": [0.9, 0.3, None]}
    pi = {"accuracy": 0.3, "per_class": [0.1, 0.5, 0.2]}
    text = sentences.teachers([image, pi], ("a", "b", "c"))
    assert "60.0 %, the PI teacher 30.0 %; chance is 33 %" in text
    assert text.endswith("ahead in b (50 against 30 %).")
    assert sentences.teachers([image, image], ("a", "b", "c")).endswith(
        "In no class is the PI teacher ahead."
    )


def test_what_the_pi_teacher_knows_alone():
    image, pi = np.array([True, True, False, False]), np.array([True, False, True, True])
    text = sentences.where_the_other_fails(image, pi)
    assert (
        "100 % of the 2 test images" in text
        and "50 % of those it gets right: 50.0 % of all" in text
    )
    assert "all test images, or on none" in sentences.where_the_other_fails(image[:2], pi[:2])


def test_whom_students_follow():
    first, second = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])
    text = sentences.follows(first, second, {"TGD": np.array([5, 0, 1, 0])})
    assert "disagree on 3 of 4 test images" in text and text.endswith("on: TGD 67 and 33 %.")
    assert "agree on all" in sentences.follows(first, first, {})


def test_training_and_gap():
    trained = {"training_accuracy": [0.1, 0.8], "selected_epoch": 2}
    many = [r | trained for r in rows(scratch=[0.5], kd=[0.55])]
    said = sentences.training(many)
    assert said.endswith(
        "during the last epoch, and on test images after it: SCRATCH 80 and 50 %; KD 80 and 55 %."
    )
    best = [r | {"selected_epoch": 1, "selection": "authors"} for r in many]
    said = sentences.training(best)
    assert "during the epoch that is best on the test images, and on" in said
    assert said.endswith("test images after it: SCRATCH 10 and 50 %; KD 10 and 55 %.")
    assert sentences.gap(many, {"accuracy": 0.6}).endswith(
        "is 10.0 points. Share of it that each method closes, in the mean: KD 50 %."
    )
    said = sentences.gap(many, {"accuracy": 0.5})
    assert "no gap to close" in said and "`-p teacher_epochs`" in said


def test_terms_are_shares_of_their_sum():
    two = [{"label": "TGD", "terms": {"ce": [c, 1], "maps": [2, 1]}} for c in (1, 3)]
    assert sentences.terms(two) == (
        "Shares of TGD's loss in the first and in the last epoch: labels 50 and 50 %; similarity "
        "maps 50 and 50 %."
    )


def test_alphas_and_shares():
    points = [
        {"method": m, "alpha": a, "seed": 0, "accuracy": v, "selection": "last"}
        for m, a, v in (
            ("tgd_alpha1", 1.0, 0.5),
            ("tgd_pi_normalise0.9", 0.9, 0.6),
            ("tgd_pi_normalise0.5", 0.5, 0.4),
        )
    ]
    pairs = significance.from_alpha_1(points)
    said = "highest at α = 0.9 (PI teacher, normalised); against α = 1, +10.00 (n=1)"
    assert said in sentences.alphas(pairs, "held-out")
    assert "highest at α = 1" in sentences.alphas(pairs[1:], "held-out")
    share = {"method": "tgd", "alpha": 0.75, "shares": [[0.1, 0.2, 0.3], [0.3, 0.2, 0.3]]}
    assert (
        "weighs 25 %, and its share of the merged maps is 20.0, 20.0, 30.0 %"
        in sentences.shares([share])
    )


@pytest.mark.parametrize(
    ("chosen", "said"), [(None, "nothing is chosen"), ("tgd_alpha1", "none has a higher mean")]
)
def test_a_search_that_chooses_nothing(chosen, said):
    assert said in sentences.search(
        {"chosen": chosen, "candidates": ["tgd"], "held_out": None, "test": []}
    )


def test_calibration_and_costs():
    before, after = {"ece": 0.2, "nll": 2.0}, {"ece": 0.01, "nll": 1.0}
    many = [r | {"before": before, "after": after} for r in rows(a=[1])]
    many += [
        r | {"before": before | {"ece": 0.1}, "after": after | {"ece": 0.03, "nll": 1.5}}
        for r in rows(b=[1])
    ]
    text = sentences.calibration(many)
    assert (
        "Lowest mean ECE as trained: *B* 10.00 %; *A* 20.00 %." in text
        and "between 1.0 and 3.0 %" in text
        and "in nats: *A* 1.000; *B* 1.500; that of *B* is 1.500." in text
    )
    time = {f"batch_{b}": {"median": 2.0} for b in (1, 128)}
    steps = {"plain step": {"median": 1.0}, "bank step": {"median": 1.25}}
    text = sentences.costs({"networks": {"student": time}, "topology": time, "steps": steps})
    assert (
        "1.00 times the student's forward pass at batch 1 and" in text
        and "The bank step takes 1.25 times" in text
    )


TREE = "kd_signature"


def family_of(first, matched, near, *, n=6):
    """The family of the tree's candidate, all seeds alike: its differences in points."""
    values = dict.fromkeys(("kd_batchmean_annealed", "kd_random_tree", "kd_nearest"), 0.0)
    for control, points in zip(values, (first, matched, near), strict=True):
        values[control] = [0.5 - points / 100] * n
    values[TREE] = [0.5] * n
    pairs = [(TREE, control) for control in list(values)[:3]]
    return significance.family(rows(**values), pairs)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ((1, 1, 1), "topology helps, and it is not locality."),
        ((1, 1, 0), "topology helps, though not more than locality."),
        ((1, 0, 1), "the guidance helps, and topology is not shown to be why."),
        ((0, 1, 1), "no gain is shown."),
        ((-1, -1, -1), "no gain is shown."),
    ],
)
def test_what_the_protocol_allows_to_say(points, said):
    # Ten seeds: a p of 2 / 1024, three times that after Holm.
    assert sentences.protocol(family_of(*points, n=10)) == f"*KD + signature of H0*: {said}"


def test_fresh_seeds_of_the_other_sign_withdraw_a_claim():
    found = family_of(1, 1, 1, n=10)
    withdrawn = "; more was claimed, and withdrawn, because the fresh seeds do not share its sign."
    said = sentences.protocol(found, family_of(1, -1, 1))
    assert said.startswith("*KD + signature of H0*: the guidance helps, and topology is not shown")
    assert said.endswith(withdrawn)
    # Of the sign against locality only that part of the claim goes.
    said = sentences.protocol(found, family_of(1, 1, -1))
    assert said.endswith(f"topology helps, though not more than locality{withdrawn}")
    assert sentences.protocol(found, family_of(1, 1, 1)).endswith("and it is not locality.")
    # What was not claimed cannot be withdrawn.
    for few in ((0, 0, 0), (0, 0, 1)):
        said = sentences.protocol(family_of(*few, n=10), family_of(-1, -1, -1))
        assert said.endswith(": no gain is shown.")


def test_a_family_with_few_seeds_says_nothing():
    assert sentences.protocol(family_of(1, 1, 1, n=3)).endswith("n too small to conclude anything.")


def test_of_each_part_the_largest_difference_is_chosen():
    found = rows(a=[0.5], b=[0.6], c=[0.4])
    pairs = [significance.paired(found, m, "c") for m in ("a", "b")]
    for pair, name in zip(pairs, ("kd_signature", "kd_diagram"), strict=True):
        pair["method"] = name
    parts = {"embedding": ("kd_signature", "kd_diagram"), "image": ()}
    text = sentences.candidates(pairs, parts)
    assert text.startswith("Topology of the embedding: *KD + H0 diagram* is chosen (+20.00 (n=1)")
    assert "image" not in text and "no candidate" in sentences.candidates([], parts)


def test_edges_between_two_classes_are_counted():
    row = {"label": "A", "edges": [[0, 1], [1, 2], [2, 3]], "across": [False, True, True]}
    assert sentences.trees([row]) == "Of 3 edges join two classes: A 2."


def test_locality_is_spoken_of_only_where_it_was_tested():
    """The image's candidates have two comparisons: nothing is known of locality."""
    two = family_of(1, 1, 1, n=10)[:2]
    assert sentences.protocol(two) == "*KD + signature of H0*: topology helps."
