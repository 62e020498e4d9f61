"""What a run shows, in a sentence or two, from its records.

For notebooks and summaries, in markdown: each function for one figure or table. Comparisons
follow the rule of `significance`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tgd_lib.config import Settings
from tgd_lib.report import tables
from tgd_lib.report.significance import CONTROL, DIFFERS, ENOUGH, NOTHING, paired
from tgd_lib.study import methods

ALL = ("n_train", "n_test", "n_corrupted", "corruptions")  # None means all of them
PROSE = ("profile", "purpose", "budget", "memory_gb", "data_dir", "publishes")  # or paths, or moot

# ---------------------------------------------------------------- settings


def settings(settings: Settings) -> str:
    """All that a run depends on, in a paragraph; what was overridden stands out."""
    values = dataclasses.asdict(settings)
    overridden = dict(values.pop("overrides"))
    published = values.pop("published")
    for left_out in PROSE:
        del values[left_out]
    words = ["published teachers"] if published else []
    for name, value in values.items():
        # None is all images or corruptions, and nothing of anything else.
        if value is None and name not in ALL:
            continue
        word = f"{name} {'all' if value is None else value}"
        words.append(f"**{word}**" if name in overridden else word)
    return f"Profile `{settings.profile}`: {settings.purpose}. {', '.join(words)}."


# ---------------------------------------------------------------- differences


def labels_of(rows: Sequence[dict]) -> dict[str, str]:
    """{method: label}."""
    return {r["method"]: r["label"] for r in rows}


def amount(pair: dict, of: str = "") -> str:
    """A paired difference in words, as the rule allows.

    "-0.10 [-0.29, +0.09] (n=6) points of accuracy, p = 0.19: no difference shown"; few seeds one
    by one.
    """
    unit = f"{tables.SCALES[pair['column']][2]} of {tables.NAMES[pair['column']]}{of}"
    text = f"{tables.difference(pair)} {unit}"
    if pair["p"] is not None:
        text += f", p = {pair['p']:.2g}"
    return f"{text}: {pair['verdict']}"


def topology(rows: Sequence[dict], corrupted: Sequence[dict] = ()) -> str:
    """What the PI teacher adds, whichever way it falls: TGD minus its alpha = 1, paired by seed.

    rows: of trained students. corrupted: rows of `tables.under_corruption`, where there are some.
    """
    parts = [amount(paired(rows, "tgd", CONTROL, column)) for column in tables.COLUMNS]
    if corrupted:
        parts.append(amount(paired(corrupted, "tgd", CONTROL), " on corrupted images"))
    labels = labels_of(rows)
    text = (
        f"**What the PI teacher adds** ({labels['tgd']} − {labels[CONTROL]}, paired by seed): "
        f"{'; '.join(parts)}."
    )
    if "tgd_image_2" not in labels:
        return text
    instead = amount(paired(rows, "tgd", "tgd_image_2"))
    return (
        f"{text}\n\n**Topology, or any second teacher?** ({labels['tgd']} − "
        f"{labels['tgd_image_2']}): {instead}."
    )


def comparison(rows: Sequence[dict], control: str, column: str = "accuracy") -> str:
    """How many methods lie above and below `control`, how many of them shown by six seeds."""
    # Only what shares a seed with the control can be compared with it.
    names = [m for m in labels_of(rows) if m != control]
    seeds = {r["seed"] for r in rows if r["method"] == control}
    names = [m for m in names if seeds & {r["seed"] for r in rows if r["method"] == m}]
    if not names:
        return "Nothing was trained to compare."
    pairs = [paired(rows, name, control, column) for name in names]
    labels = labels_of(rows)
    parts = []
    for word, sign in (("above", 1), ("below", -1)):
        # Which side of the control a mean lies on is a fact of this run; whether more is said by
        # it, the verdict knows.
        there = [p for p in pairs if sign * p["mean"] > 0]
        tested = [labels[p["method"]] for p in there if p["verdict"] == DIFFERS]
        shown = (
            f"shown by six seeds or more: {_named(tested)}" if tested else "none shown by six seeds"
        )
        parts.append(f"{len(there)} lie {word} it in the mean ({shown})")
    undecided = sum(p["verdict"] == NOTHING for p in pairs)
    few = sum(p["n"] < ENOUGH for p in pairs)
    return (
        f"In {tables.NAMES[column]}, of {len(pairs)} methods beside *{labels[control]}*, "
        f"{parts[0]}, {parts[1]}; "
        f"no difference shown: {undecided}; n too small: {few}."
    )


def _named(labels: Sequence[str]) -> str:
    """Labels as a list to read: there are commas in them."""
    return "; ".join(f"*{label}*" for label in labels)


# ---------------------------------------------------------------- one image, persistence images


def opinions(probabilities: dict[str, np.ndarray], names: Sequence[str], truth: int) -> str:
    """What the networks say of one image: who is right, and whose error the TGD student shares.

    probabilities (classes,) by network; its keys are the notebook's names of the networks.
    """
    answers = {who: int(p.argmax()) for who, p in probabilities.items()}
    right = [who for who, answer in answers.items() if answer == truth]
    text = f"This is *{names[truth]}*. "
    text += f"Right: {', '.join(right)}. " if right else "No network is right. "
    wrong = [f"{who} ({names[a]})" for who, a in answers.items() if a != truth]
    text += f"Wrong: {', '.join(wrong)}." if wrong else "None is wrong."
    teacher, student = answers.get("image teacher"), answers.get(_label("tgd"))
    # What distillation passes on, too: at alpha = 0.99 the image teacher has nearly all the weight.
    if teacher is not None and teacher == student != truth:
        text += " The TGD student shares the image teacher's error."
    return text


def window(births: np.ndarray, persistences: np.ndarray, *, upto: float, channels: int) -> str:
    """The share of points (birth, persistence) outside the window [0, upto]², and why."""
    if not len(births):
        return "No pair is persistent enough to be drawn."
    # A point may be outside for both reasons, so the two shares do not add up.
    late, tall = births > upto, persistences > upto
    share, by_birth = 100 * (late | tall).mean(), 100 * late.mean()
    where = "1 channel" if channels == 1 else f"{channels} channels"
    return (
        f"{len(births)} points in {where}: {share:.0f} % lie outside the window 0 to {upto:g}, "
        f"{by_birth:.0f} % because they are born above {upto:g}."
    )


def class_means(pis: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> str:
    """The classes whose mean PIs are the brightest and the faintest. pis uint8 (N, C, R, R)."""
    means = {names[c]: float(pis[labels == c].mean()) for c in np.unique(labels)}
    first, last = max(means, key=means.get), min(means, key=means.get)
    return (
        f"The brightest mean is that of *{first}* (level {means[first]:.1f} of 255 on average), "
        f"the faintest that of *{last}* ({means[last]:.1f})."
    )


# ---------------------------------------------------------------- teachers


def teachers(rows: Sequence[dict], names: Sequence[str]) -> str:
    """How far the PI teacher lies above chance and below the image teacher, by class too.

    rows: of the image teacher and of the PI teacher, in this order.
    """
    image, pi = rows
    text = (
        f"The image teacher has {100 * image['accuracy']:.1f} %, the PI teacher "
        f"{100 * pi['accuracy']:.1f} %; "
        f"chance is {100 / len(names):.0f} % (n = 1 network each)."
    )
    ahead = []
    for name, one, two in zip(names, image["per_class"], pi["per_class"], strict=True):
        if None not in (one, two) and two > one:
            ahead.append(f"{name} ({100 * two:.0f} against {100 * one:.0f} %)")
    if ahead:
        return f"{text} The PI teacher is ahead in {', '.join(ahead)}."
    return f"{text} In no class is the PI teacher ahead."


def where_the_other_fails(image_right: np.ndarray, pi_right: np.ndarray) -> str:
    """Whether the PI teacher is good where the image teacher is bad.

    bool (N,) each: right on a test image.
    """
    # If the PI teacher were right by chance alone, the two shares would be equal.
    both, alone = pi_right[image_right], pi_right[~image_right]
    if not len(alone) or not len(both):
        return "The image teacher is right on all test images, or on none."
    return (
        f"The PI teacher is right on {100 * alone.mean():.0f} % of the {len(alone)} test images "
        "that the image "
        f"teacher gets wrong, and on {100 * both.mean():.0f} % of those it gets right: "
        f"{100 * (pi_right & ~image_right).mean():.1f} % of all images are classified "
        "correctly by the PI teacher alone."
    )


def follows(first: np.ndarray, second: np.ndarray, students: dict[str, np.ndarray]) -> str:
    """Whom the students follow where the teachers disagree.

    Predicted classes int (N,), those of the students by name.
    """
    # Where both say the same, nobody can tell whom a student follows.
    apart = first != second
    if not apart.any():
        return "The two teachers agree on all test images."
    parts = []
    for name, answers in students.items():
        one = 100 * (answers[apart] == first[apart]).mean()
        two = 100 * (answers[apart] == second[apart]).mean()
        parts.append(f"{name} {one:.0f} and {two:.0f} %")
    return (
        f"The teachers disagree on {apart.sum()} of {len(apart)} test images. There the students "
        f"agree with the image teacher, and with the PI teacher, on: {'; '.join(parts)}."
    )


# ---------------------------------------------------------------- students


def training(rows: Sequence[dict]) -> str:
    """Training accuracy at the epoch that counts, the mean over seeds, beside the test accuracy."""
    parts = []
    for method, label in labels_of(rows).items():
        chosen = [r for r in rows if r["method"] == method]
        trained = [r["training_accuracy"][r["selected_epoch"] - 1] for r in chosen]
        test = 100 * np.mean([r["accuracy"] for r in chosen])
        parts.append(f"{label} {100 * np.mean(trained):.0f} and {test:.0f} %")
    chosen_by_test = any(r["selection"] == "authors" for r in rows)
    when = "the epoch that is best on the test images" if chosen_by_test else "the last epoch"
    said = "; ".join(parts)
    return f"Accuracy on training images during {when}, and on test images after it: {said}."


def terms(rows: Sequence[dict]) -> str:
    """What the loss of one method is the sum of, in the first epoch and in the last: mean shares.

    rows: of `questions.terms`.
    """
    names = list(rows[0]["terms"])
    sizes = np.mean([[r["terms"][name] for name in names] for r in rows], axis=0)
    shares = 100 * sizes / sizes.sum(axis=0)  # (terms, epochs)
    parts = [
        f"{tables.TERMS[name]} {first:.0f} and {last:.0f} %"
        for name, first, last in zip(names, shares[:, 0], shares[:, -1], strict=True)
    ]
    label = rows[0]["label"]
    return f"Shares of {label}'s loss in the first and in the last epoch: {'; '.join(parts)}."


def maps(distances: dict[str, float]) -> str:
    """How near the students' similarity maps come to the merged one.

    distances: mean squared, by network.
    """
    parts = [f"{name} {value:.2g}" for name, value in distances.items()]
    return (
        f"Mean squared distance of the maps' rows from those of the merged map: {', '.join(parts)}."
    )


def alphas(pairs: Sequence[dict], part: str) -> str:
    """What the alpha curve shows.

    pairs: as `significance.from_alpha_1` gives them. part: of the images.
    """
    if not pairs:
        return "There is nothing at α = 1 to compare with."
    # Differences from alpha = 1: the best of them below zero means that alpha = 1 is best.
    best = max(pairs, key=lambda p: p["mean"])
    if best["mean"] <= 0:
        return f"On the {part} images the mean is highest at α = 1: without the PI teacher."
    return (
        f"On the {part} images the mean is highest at α = {best['alpha']:g} ({best['curve']}); "
        f"against α = 1, {amount(best)}."
    )


def shares(rows: Sequence[dict]) -> str:
    """The second teacher's real share in TGD's merged maps, a stage after the other."""
    # Of many methods with a second teacher, the paper's own.
    mine = [r for r in rows if r["method"] == "tgd"]
    if not mine:
        return "This profile has no students with a second teacher's maps."
    stages = [f"{100 * value:.1f}" for value in np.mean(mine[0]["shares"], axis=0)]
    weight = 100 * (1 - mine[0]["alpha"])
    return (
        f"In TGD the PI teacher weighs {weight:g} %, and its share of the merged maps is "
        f"{', '.join(stages)} % in the three stages."
    )


def search(found: dict) -> str:
    """What was chosen on held-out images, and how it does on test images.

    found: from `significance.choose_and_compare`.
    """
    if found["chosen"] is None:
        return "Nothing was held out or searched, so nothing is chosen."
    count = len(found["candidates"])
    text = f"{count} candidate{'s' if count != 1 else ''}"
    text += f" ({_named([_label(name) for name in found['candidates']])}); " if count else "; "
    text += "the choice is made on held-out images: "
    if found["chosen"] == CONTROL:
        return text + f"none has a higher mean than *{_label(CONTROL)}*."
    text += (
        f"*{_label(found['chosen'])}* has the highest mean; on them, against "
        f"*{_label(CONTROL)}* {amount(found['held_out'])}"
    )
    for pair in found["test"]:
        text += f"; on the test images against *{_label(pair['control'])}* {amount(pair)}"
    return text + "."


def _label(method: str) -> str:
    return methods.METHODS[method].label


def trees(rows: Sequence[dict]) -> str:
    """How many edges of each network's tree join two classes.

    rows: as `questions.spanning_trees` gives them.
    """
    parts = [f"{r['label']} {sum(r['across'])}" for r in rows]
    return f"Of {len(rows[0]['edges'])} edges join two classes: {', '.join(parts)}."


def candidates(pairs: Sequence[dict], parts: dict[str, Sequence[str]]) -> str:
    """Of each part of the protocol the candidate that held-out images choose.

    pairs: of each candidate against its matched control, on held-out images.
    """
    texts = []
    for part, names in parts.items():
        mine = [pair for pair in pairs if pair["method"] in names]
        if mine:
            best = max(mine, key=lambda pair: pair["mean"])
            chosen = _label(best["method"])
            texts.append(f"Topology of the {part}: *{chosen}* is chosen ({amount(best)}).")
    return " ".join(texts) or "This profile trains no candidate; `study` does."


def protocol(pairs: Sequence[dict], fresh: Sequence[dict] = ()) -> str:
    """What docs/protocol-topology.md allows to say of one candidate.

    pairs: from `significance.family`, all of this candidate, in the order of
    `protocol.comparisons`: without the guidance, the matched control, locality. fresh: the same of
    the seeds that nothing was chosen with; a claim whose sign they do not share is withdrawn.
    """
    name = f"*{_label(pairs[0]['method'])}*"
    if any(pair["adjusted"] is None for pair in pairs):
        return f"{name}: n too small to conclude anything."
    above = [pair["verdict"] == DIFFERS and pair["mean"] > 0 for pair in pairs]
    said = _claim(above)
    if fresh:
        shared = [a and f["mean"] > 0 for a, f in zip(above, fresh, strict=True)]
        if _claim(shared) != said:
            said = f"{_claim(shared)}; more was claimed, and withdrawn, because the fresh seeds"
            said += " do not share its sign"
    return f"{name}: {said}."


def _claim(above: Sequence[bool]) -> str:
    """What may be said, by the comparisons that show a gain; see `protocol` for their order."""
    helps, topology, *not_locality = above
    if helps and topology:
        if not not_locality:
            return "topology helps"
        beside = "and it is not locality" if all(not_locality) else "though not more than locality"
        return f"topology helps, {beside}"
    if helps:
        return "the guidance helps, and topology is not shown to be why"
    return "no gain is shown"


# ---------------------------------------------------------------- robustness, calibration, cost


def calibration(rows: Sequence[dict]) -> str:
    """Which methods have the lowest ECE as trained, and the lowest NLL after scaling."""
    if not rows:
        return "This profile holds no images out, so no temperature is fitted."
    ece, nll = {}, {}
    for method, label in labels_of(rows).items():
        chosen = [r for r in rows if r["method"] == method]
        ece[label] = 100 * np.mean([r["before"]["ece"] for r in chosen])
        nll[label] = np.mean([r["after"]["nll"] for r in chosen])
    # Scaling repairs most of the ECE of all alike; what is left to compare is the likelihood.
    after = [100 * r["after"]["ece"] for r in rows]
    first = [f"*{name}* {ece[name]:.2f} %" for name in sorted(ece, key=ece.get)[:3]]
    sharpest = [f"*{name}* {nll[name]:.3f}" for name in sorted(nll, key=nll.get)[:3]]
    least = min(ece, key=ece.get)
    return (
        f"Lowest mean ECE as trained: {'; '.join(first)}. After temperature scaling the networks' "
        f"ECE lies between {min(after):.1f} and {max(after):.1f} %; lowest mean NLL, in nats: "
        f"{'; '.join(sharpest)}; that of *{least}* is {nll[least]:.3f}. Of many methods one is "
        "always the lowest; whether two differ is said by paired differences alone."
    )


def costs(record: dict) -> str:
    """What topology would cost at test time, and a step of training: ratios of medians.

    record: of `cost.measure`.
    """
    student, topology = record["networks"]["student"], record["topology"]
    parts = []
    for batch in (1, 128):
        ratio = topology[f"batch_{batch}"]["median"] / student[f"batch_{batch}"]["median"]
        parts.append(f"{ratio:.2f} times the student's forward pass at batch {batch}")
    text = f"Persistence images take {' and '.join(parts)}."
    plain = record["steps"]["plain step"]["median"]
    for name, seconds in record["steps"].items():
        if name != "plain step":
            text += f" The {name} takes {seconds['median'] / plain:.2f} times the plain step."
    return text


def gap(rows: Sequence[dict], teacher: dict) -> str:
    """How much of the way from scratch to the image teacher each method goes, in means."""
    means = {}
    for method in labels_of(rows):
        means[method] = np.mean([r["accuracy"] for r in rows if r["method"] == method])
    # A share of nothing, or of less, is no share.
    way = teacher["accuracy"] - means["scratch"]
    if way <= 0:
        return (
            "The image teacher is no better than the scratch student, so there is no gap to close,"
            " and little to teach: train it longer (`-p teacher_epochs`)."
        )
    parts = []
    for method, label in labels_of(rows).items():
        if method != "scratch":
            parts.append(f"{label} {100 * (means[method] - means['scratch']) / way:.0f} %")
    return (
        f"The gap from scratch to the image teacher is {100 * way:.1f} points. Share of it that "
        f"each method closes, in the mean: {'; '.join(parts)}."
    )
