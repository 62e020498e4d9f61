"""Plots of results: from rows of records to matplotlib figures. No network is touched here.

Where methods are compared, differences are paired by seed and follow the rule of `significance`: an
interval from six seeds on, below that the seeds themselves; never the spread of seeds, never the
interval of a test set.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tgd_lib.report import tables
from tgd_lib.report.figures import COLOURS, MARKERS, scatter_by_class, styled
from tgd_lib.report.significance import ENOUGH, paired
from tgd_lib.study import methods

SEEDS = {"linestyle": "", "alpha": 0.4, "markersize": 4}  # pale dots, one a seed
LINE = {"color": "0.5", "linewidth": 0.8, "zorder": 0}  # what is compared with, under all else
MEAN = {"markeredgewidth": 2, "markersize": 10}  # a bar across the dots

# ---------------------------------------------------------------- what the plots share


def _groups(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Rows by method, in their order."""
    groups: dict[str, list[dict]] = {}
    for r in rows:
        groups.setdefault(r["method"], []).append(r)
    return groups


def _style(number: int) -> dict:
    """Colour and marker of the method with this number; from the eighth on hollow."""
    fill = "full" if number < 7 else "none"
    return {"color": COLOURS[number % 7], "marker": MARKERS[number % 7], "fillstyle": fill}


def _with_n(rows: Sequence[dict]) -> str:
    """The legend's words for a method."""
    return f"{rows[0]['label']} (n={len(rows)})"


def _lines(axis: Axes, count: int) -> None:
    """Room for `count` lines of dots, the first at the top."""
    axis.set_ylim(count - 0.5, -0.5)
    # The names of the lines are axis enough.
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)


# ---------------------------------------------------------------- accuracies


@styled
def accuracies(
    rows: Sequence[dict], anchors: dict[str, float] | None = None, reference: str | None = None
) -> Figure:
    """Test accuracy of each method in per cent: a pale dot for each seed, a bar for their mean.

    Grouped and coloured by family, sorted by mean within. anchors: accuracies of the authors'
    checkpoints by method, drawn as crosses. reference: a method whose mean is a labelled line
    through all, with the verdict on the paired difference from it beside each.
    """
    groups = _groups(tables.by_family(rows))
    # Sixty methods would make a figure taller than a screen: closer lines for many.
    each = 0.36 if len(groups) < 12 else 0.22
    figure, axis = plt.subplots(figsize=(8.5, 1 + each * len(groups)))
    order = methods.FAMILY_NAMES
    named: set[str] = set()
    for y, (method, chosen) in enumerate(groups.items()):
        group = methods.family(method)
        values = 100 * np.array([r["accuracy"] for r in chosen])
        style = {"color": COLOURS[order.index(group)], "marker": MARKERS[order.index(group)]}
        axis.plot(values, np.full(len(values), y), **SEEDS, **style)
        # A family stands in the legend once.
        label = None if group in named else group
        named.add(group)
        axis.plot(values.mean(), y, "|", color=style["color"], label=label, **MEAN)
        if anchors and method in anchors:
            axis.plot(100 * anchors[method], y, "x", color="k", markersize=8)
    if reference in groups:
        _reference(axis, groups[reference])
        for y, method in enumerate(groups):
            if method != reference and _share_seeds(groups[method], groups[reference]):
                _beside(axis, y, _verdict(paired(rows, method, reference)))
    _lines(axis, len(groups))
    axis.set_yticks(range(len(groups)), [_with_n(chosen) for chosen in groups.values()])
    axis.set_xlabel("test accuracy, %")
    if len(named) > 1:
        # Below: beside the lines stand their verdicts.
        figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    return figure


def _share_seeds(one: Sequence[dict], other: Sequence[dict]) -> bool:
    return bool({r["seed"] for r in one} & {r["seed"] for r in other})


def _verdict(pair: dict) -> str:
    """What is said beside a line: the verdict, and the p that it goes by."""
    verdict = pair["verdict"]
    # Of a family that is tested together, that is the p after correction.
    if pair.get("adjusted") is not None:
        return f"{verdict} (p after Holm = {pair['adjusted']:.2g})"
    return verdict if pair["p"] is None else f"{verdict} (p = {pair['p']:.2g})"


def _beside(axis: Axes, y: float, words: str) -> None:
    """Words right of the axes, at the height of a line of them."""
    # In units of the axes' width across and of lines down.
    axis.text(1.01, y, words, transform=axis.get_yaxis_transform(), va="center", fontsize=7)


def _reference(axis: Axes, rows: Sequence[dict]) -> None:
    """A line through all at the mean of a method, with its name and value above the plot."""
    mean = 100 * np.mean([r["accuracy"] for r in rows])
    axis.axvline(mean, **LINE)
    text = f"{rows[0]['label']}: {mean:.1f} %"
    # Above the axes, where no method's dots can lie under it.
    axis.annotate(
        text, (mean, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
        textcoords="offset points", ha="center", fontsize=7, color="0.3",
    )  # fmt: skip


# ---------------------------------------------------------------- differences


@styled
def differences(
    pairs: Sequence[dict], labels: dict[str, str], *, of: str = "test accuracy"
) -> Figure:
    """Paired differences of accuracy in points, a line a pair, with the verdict beside it.

    A pale dot for each seed and a bar for their mean; from six seeds on Student's 95 % interval of
    the mean. of: which accuracy it is. A control that many share is named once, below the axis.
    """
    controls = {labels[p["control"]] for p in pairs}
    shared = controls.pop() if len(controls) == 1 and len(pairs) > 1 else None
    whole = [labels[p["method"]] if shared else tables.versus(p, labels) for p in pairs]
    # Of second teachers names are long: in several lines, or no room is left for the plot.
    names = [textwrap.fill(f"{w} (n={p['n']})", 48) for w, p in zip(whole, pairs, strict=True)]
    lines = max((name.count("\n") for name in names), default=0) + 1
    each = (0.3 if len(pairs) < 12 else 0.15) + 0.12 * lines
    figure, axis = plt.subplots(figsize=(8, 0.8 + each * len(pairs)))
    axis.axvline(0, **LINE)
    for y, pair in enumerate(pairs):
        _difference(axis, y, pair, COLOURS[0])
        _beside(axis, y, _verdict(pair))
    axis.set_yticks(range(len(pairs)), names)
    words = f"paired difference in {of}" + (f" from {shared}" if shared else "")
    axis.set_xlabel(f"{words}, points")
    _lines(axis, len(pairs))
    return figure


def _difference(axis: Axes, y: float, pair: dict, colour: str) -> None:
    """Dots, mean and, if n allows, the interval of a pair, lying at height y."""
    values = 100 * np.array(pair["differences"])
    # Seeds a little above the line and what they come to a little below, so that both are seen.
    axis.plot(values, np.full(len(values), y - 0.1), marker="o", color=colour, **SEEDS)
    axis.plot(100 * pair["mean"], y + 0.12, "|", color=colour, **MEAN)
    # Of few seeds an interval says nothing, or too much: the dots are all there is.
    if pair["n"] >= ENOUGH:
        ends = [100 * pair["low"], 100 * pair["high"]]
        axis.plot(ends, [y + 0.12] * 2, color=colour, linewidth=1.2)


@styled
def alpha_curve(pairs: Sequence[dict], *, part: str) -> Figure:
    """Paired difference of accuracy from alpha = 1, against alpha, a colour for each curve.

    pairs: as `significance.from_alpha_1` gives them. Evenly spaced, not to scale: alpha = 1,
    without a second teacher, is the zero line at the left. part: of the images, "held-out" or
    "test".
    """
    curves = list(dict.fromkeys(pair["curve"] for pair in pairs))
    figure, axis = plt.subplots(figsize=(max(6.5, len(pairs) + 1), 3.4))
    axis.axhline(0, **LINE)
    axis.plot(0, 0, "D", color="k", markersize=5)
    for x, pair in enumerate(pairs, 1):
        number = curves.index(pair["curve"])
        values = 100 * np.array(pair["differences"])
        axis.plot(np.full(len(values), x), values, **_style(number), **SEEDS)
        beside = x + 0.12  # the dots
        if pair["n"] >= ENOUGH:
            ends = [100 * pair["low"], 100 * pair["high"]]
            axis.plot([beside] * 2, ends, color=COLOURS[number])
        axis.plot(beside, 100 * pair["mean"], "_", color=COLOURS[number], **MEAN)
    for number, curve in enumerate(curves):
        axis.plot([], [], linestyle="", **_style(number), label=curve)
    # The verdict stands under each alpha: nobody has to look for it in a table.
    ticks = ["1\n(control)"]
    for pair in pairs:
        verdict = textwrap.fill(pair["verdict"], 14)
        ticks.append(f"{pair['alpha']:g}\n(n={pair['n']})\n{verdict}")
    axis.set_xticks(range(len(ticks)), ticks)
    axis.tick_params(axis="x", labelsize=7)
    axis.set(xlim=(-0.5, len(pairs) + 0.5), xlabel="α (1: no second teacher; 0: it alone)")
    axis.set_ylabel(f"{part} accuracy,\ndifference from α = 1, points")
    # Above the axes: the dots of a curve may lie anywhere within them.
    if curves:
        figure.legend(loc="outside upper center", ncols=len(curves), fontsize=7)
    return figure


@styled
def corruption_differences(rows: Sequence[dict], control: str) -> Figure:
    """Paired difference of accuracy from `control`, against severity: a panel a corruption.

    A line is the mean over seeds of a method; from six seeds on a band is Student's 95 % interval
    of it, below that thin lines are the seeds. rows: as `questions.robustness` gives them.
    """
    names = list(rows[0]["corrupted"])
    figure, axes = _panels(len(names))
    groups = _groups(rows)
    # The control is the zero line, and no line of its own.
    label = groups.pop(control)[0]["label"]
    for axis, name in zip(axes, names, strict=False):
        axis.axhline(0, **LINE)
        axis.set_title(name.replace("_", " "), fontsize=8)
        for number, (method, chosen) in enumerate(groups.items()):
            pairs = _by_severity(rows, method, control, name)
            _course(axis, pairs, _style(number), _with_n(chosen))
    figure.supxlabel("severity (0: clean)", fontsize=9)
    # A figure of one line of panels is low.
    words = textwrap.fill(f"accuracy, difference from {label}, points", 36)
    figure.supylabel(words, fontsize=9)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, fontsize=8)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of the same axes, four in a row."""
    columns = min(4, count)
    lines = -(-count // columns)
    size = (max(4.5, 2.6 * columns), 2.1 * lines + 0.8)
    figure, axes = plt.subplots(
        lines, columns, figsize=size, squeeze=False, sharex=True, sharey=True
    )
    flat = list(axes.flat)
    for axis in flat[count:]:
        axis.axis("off")
    # The lowest panel of each column says its severities, wherever the last line ends.
    for axis in flat[max(0, count - columns) : count]:
        axis.tick_params(labelbottom=True)
    return figure, flat


def _by_severity(rows: Sequence[dict], method: str, control: str, corruption: str) -> list[dict]:
    """The pair of a method against its control at each severity, 0 (clean) first."""
    pairs = []
    for severity in range(6):
        at = []
        for r in rows:
            metrics = r["corrupted"][corruption][severity - 1] if severity else r["clean"]
            about = {k: r[k] for k in ("method", "seed", "selection")}
            at.append(about | {"accuracy": metrics["accuracy"]})
        pairs.append(paired(at, method, control))
    return pairs


def _course(axis: Axes, pairs: Sequence[dict], style: dict, label: str) -> None:
    """A method's mean difference over the severities, with what its n allows to show around it."""
    x = np.arange(len(pairs))
    means = [100 * p["mean"] for p in pairs]
    axis.plot(x, means, markersize=3, linewidth=1.2, label=label, **style)
    if pairs[0]["n"] >= ENOUGH:
        low = [100 * p["low"] for p in pairs]
        high = [100 * p["high"] for p in pairs]
        axis.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        return
    # (severities, seeds): too few seeds for a band, so each is a thin line.
    seeds = np.array([p["differences"] for p in pairs])
    for seed in seeds.T:
        axis.plot(x, 100 * seed, color=style["color"], linewidth=0.5, alpha=0.6)


# ---------------------------------------------------------------- training, calibration, embeddings


@styled
def curves(rows: Sequence[dict], column: str, ylabel: str) -> Figure:
    """A value per epoch, the mean over seeds: one line per method.

    column: "loss" or "training_accuracy".
    """
    figure, axis = plt.subplots(figsize=(7.5, 3))
    # Fractions are drawn in per cent, losses as they are.
    scale = 100 if "accuracy" in column else 1
    for number, chosen in enumerate(_groups(rows).values()):
        mean = scale * np.mean([r[column] for r in chosen], axis=0)
        epochs = np.arange(1, len(mean) + 1)
        axis.plot(epochs, mean, markersize=3, label=_with_n(chosen), **_style(number))
    _over_epochs(axis, ylabel)
    return figure


@styled
def terms(rows: Sequence[dict]) -> Figure:
    """The terms of one method's loss over the epochs, means over seeds, on a logarithmic axis.

    rows: of `questions.terms`.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3))
    for number, name in enumerate(rows[0]["terms"]):
        mean = np.mean([r["terms"][name] for r in rows], axis=0)
        epochs = np.arange(1, len(mean) + 1)
        axis.semilogy(epochs, mean, markersize=3, label=tables.TERMS[name], **_style(number))
    _over_epochs(axis, "weighted term of the loss")
    return figure


def _over_epochs(axis: Axes, ylabel: str) -> None:
    """Names of the axes, and the legend beside them."""
    axis.set(xlabel="epoch", ylabel=ylabel)
    axis.xaxis.get_major_locator().set_params(integer=True)  # of a single epoch there are no parts
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


@styled
def reliability(rows: Sequence[dict]) -> Figure:
    """Reliability diagrams, a column a method: above as trained, below after temperature scaling.

    All seeds of a method are pooled. rows: as `questions.calibration` gives them. A bar is the
    accuracy in a bin of confidence.
    """
    groups = _groups(rows)
    size = (1.9 * len(groups), 3.9)
    figure, axes = plt.subplots(
        2, len(groups), figsize=size, squeeze=False, sharex=True, sharey=True
    )
    for column, chosen in zip(axes.T, groups.values(), strict=True):
        for axis, when in zip(column, ("before", "after"), strict=True):
            ece = 100 * np.mean([r[when]["ece"] for r in chosen])
            _reliability(axis, [r[when]["reliability"] for r in chosen])
            name = textwrap.fill(_with_n(chosen), 24)
            axis.set_title(f"{name}\n{when}: ECE {ece:.1f} %", fontsize=8)
    figure.supxlabel("confidence, %", fontsize=9)
    figure.supylabel("accuracy, %", fontsize=9)
    return figure


def _reliability(axis: Axes, diagrams: Sequence[dict]) -> None:
    """The bars of several diagrams pooled, and the diagonal; pale under 1 % of the images."""
    counts = np.array([d["count"] for d in diagrams], float)  # (seeds, bins)
    accuracies_ = np.array([d["accuracy"] for d in diagrams], float)  # NaN in an empty bin
    total = counts.sum(0)
    # Pooled are the right answers, not the accuracies: a bin that is nearly empty counts little.
    right = np.nansum(accuracies_ * counts, axis=0)
    bins = len(total)
    height = np.divide(right, total, out=np.zeros(bins), where=total > 0)
    colours = np.where(total < 0.01 * total.sum(), "0.8", COLOURS[0])
    middles = (np.arange(bins) + 0.5) / bins
    axis.bar(100 * middles, 100 * height, 100 / bins, color=colours, edgecolor="w", linewidth=0.4)
    axis.plot([0, 100], [0, 100], color="k", linewidth=0.8, linestyle="--")
    axis.set(xlim=(0, 100), ylim=(0, 100))


@styled
def embeddings(rows: Sequence[dict], names: Sequence[str]) -> Figure:
    """t-SNE of the last layer's input, a panel a network; each class has a marker of its own.

    rows: as `questions.embedding` gives them. names: of the classes, of which ten are shown.
    """
    size = (3.6 * len(rows), 4.1)
    figure, axes = plt.subplots(1, len(rows), figsize=size, squeeze=False)
    labels = np.array(rows[0]["labels"])
    for axis, r in zip(axes[0], rows, strict=True):
        scatter_by_class(axis, np.array(r["places"]), labels, names, s=30, linewidth=0.9)
        axis.set(title=f"{r['label']}, seed {r['seed']}", xticks=[], yticks=[])
    # The same classes in all panels: one legend.
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5, fontsize=8, markerscale=1.2)
    return figure


# ---------------------------------------------------------------- cost


@styled
def cost_and_accuracy(costs: dict, rows: Sequence[dict]) -> Figure:
    """Test accuracy against multiply-adds: a pale dot for each seed, their mean marked.

    costs: networks of a `cost.measure` record. rows: of teachers and students, with their role
    ("student", "image teacher", "PI teacher").
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.4))
    for number, chosen in enumerate(_groups(rows).values()):
        values = 100 * np.array([r["accuracy"] for r in chosen])
        x = costs[chosen[0]["role"]]["multiply_adds"] / 1e6
        # Students all cost the same: side by side, so that they can be told apart.
        if chosen[0]["role"] == "student":
            x *= 1.04 ** (number - 2.5)
        colour = COLOURS[number % 7]
        axis.plot(np.full(len(values), x), values, marker=".", color=colour, **SEEDS)
        axis.plot(x, values.mean(), linestyle="", label=_with_n(chosen), **_style(number))
    axis.set_xscale("log")
    # matplotlib's own ticks are powers of ten, of which there may be one.
    low, high = axis.get_xlim()
    ticks = [t for t in (5, 10, 20, 50, 100, 200, 500, 1000, 2000) if low <= t <= high]
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.minorticks_off()
    axis.set(xlabel="multiply-adds per image, million", ylabel="test accuracy, %")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def costs(record: dict) -> Figure:
    """Milliseconds per image (left) and per training step (right), from `cost.measure`."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3))
    timed = record["networks"] | {"persistence images": record["topology"]}
    single = {}
    for name, timings in timed.items():
        for batch in (1, 128):
            single[f"{name}, batch {batch}"] = timings[f"batch_{batch}"]
    _timings(left, single, "ms per image")
    _timings(right, record["steps"], "ms per training step")
    # Images take from tenths of milliseconds to several; steps are to be compared by length.
    left.set_xscale("log")
    right.set_xlim(left=0)
    return figure


def _timings(axis: Axes, timings: dict[str, dict], unit: str) -> None:
    """Medians with their values above them, on lines from the smallest to the largest."""
    for y, (name, seconds) in enumerate(timings.items()):
        kind = 1 if "persistence" in name else 0  # topology has a colour of its own
        low, median, high = (1e3 * seconds[k] for k in ("min", "median", "max"))
        axis.plot([low, high], [y, y], color="0.6", linewidth=2)
        axis.plot(median, y, MARKERS[kind], color=COLOURS[kind], markersize=4)
        above = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center"}
        number = f"{median:,.0f}" if median >= 100 else f"{median:.3g}"
        axis.annotate(number, (median, y), fontsize=7, **above)
    axis.set_yticks(range(len(timings)), list(timings))
    axis.set(xlabel=f"{unit}: median, smallest to largest", ylim=(len(timings) - 0.5, -0.8))
    axis.margins(x=0.12)
