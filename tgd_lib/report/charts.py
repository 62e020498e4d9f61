"""Plots of results, from rows of records to matplotlib figures, in the one style. No network is touched here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tgd_lib.report.figures import COLOURS, MARKERS, short_name, styled
from tgd_lib.report.significance import accuracy_interval



@styled
def accuracies(
    rows: Sequence[dict], anchors: dict[str, float] | None = None, reference: str | None = None
) -> Figure:
    """Test accuracy of each method: a dot a seed; beside them the mean with its 95 % interval for a test set of this size.

    anchors: accuracies of the authors' checkpoints by method, drawn as crosses. reference: a method whose mean
    is drawn as a line through all.
    """
    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure, axis = plt.subplots(figsize=(6.5, 0.8 + (0.45 if len(methods) < 10 else 0.28) * len(methods)))
    if reference in methods:
        axis.axvline(100 * np.mean([r["accuracy"] for r in rows if r["method"] == reference]), color="0.7", linewidth=0.8)
    for y, m in enumerate(methods):
        chosen = [r for r in rows if r["method"] == m]
        values = 100 * np.array([r["accuracy"] for r in chosen])
        colour, marker = COLOURS[y % 7], MARKERS[y % 7]
        axis.plot(values, np.full(len(values), y - 0.15), marker, color=colour, alpha=0.5, markersize=4)
        low, high = accuracy_interval(values.mean() / 100, chosen[0]["n"])
        error = [[values.mean() - 100 * low], [100 * high - values.mean()]]
        axis.errorbar(values.mean(), y + 0.15, xerr=error, fmt=marker, color=colour, capsize=3, markersize=5)
        if anchors and m in anchors:
            axis.plot(100 * anchors[m], y, "x", color="k", markersize=8)
    labels = {r["method"]: r["label"] for r in rows}
    counts = {m: sum(r["method"] == m for r in rows) for m in methods}
    axis.set_yticks(range(len(methods)), [f"{labels[m]} (n={counts[m]})" for m in methods])
    axis.set(xlabel="test accuracy, %", ylim=(len(methods) - 0.5, -0.5))
    return figure


@styled
def differences(pairs: Sequence[dict], labels: dict[str, str]) -> Figure:
    """Paired differences in points of accuracy: a dot a seed, mean ± standard deviation beside them."""
    figure, axis = plt.subplots(figsize=(6.5, 0.8 + 0.45 * len(pairs)))
    axis.axvline(0, color="0.6", linewidth=0.8)
    for y, pair in enumerate(pairs):
        values = 100 * np.array(pair["differences"])
        axis.plot(values, np.full(len(values), y - 0.12), MARKERS[y % 7], color=COLOURS[y % 7], alpha=0.5, markersize=4)
        std = 100 * (pair["std"] or 0)
        axis.errorbar(100 * pair["mean"], y + 0.12, xerr=std, fmt=MARKERS[y % 7], color=COLOURS[y % 7], capsize=3)
    names = [f"{labels[p['method']]} − {labels[p['control']]} (n={p['n']})" for p in pairs]
    axis.set_yticks(range(len(pairs)), names)
    axis.set(xlabel="difference in test accuracy, points", ylim=(len(pairs) - 0.5, -0.5))
    return figure


@styled
def curves(rows: Sequence[dict], column: str, ylabel: str) -> Figure:
    """A figure an epoch, the mean over seeds: one line a method. column: "loss" or "training_accuracy"."""
    figure, axis = plt.subplots(figsize=(7, 3))
    for k, m in enumerate(dict.fromkeys(r["method"] for r in rows)):
        chosen = [r for r in rows if r["method"] == m]
        mean = np.mean([r[column] for r in chosen], axis=0)
        label = f"{chosen[0]['label']} (n={len(chosen)})"
        axis.plot(np.arange(1, len(mean) + 1), mean, marker=MARKERS[k % 7], markersize=3, label=label)
    axis.set(xlabel="epoch", ylabel=ylabel)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def alpha_curve(rows: Sequence[dict], *, ylabel: str) -> Figure:
    """Accuracy against alpha: a dot a seed, the mean and its standard deviation over seeds. rows: alpha, accuracy.

    Evenly spaced, not to scale: alpha = 1, without the PI teacher, stands at the left.
    """
    figure, axis = plt.subplots(figsize=(6, 3))
    weights = sorted({round(1 - r["alpha"], 6) for r in rows})
    groups = [100 * np.array([r["accuracy"] for r in rows if round(1 - r["alpha"], 6) == w]) for w in weights]
    for x, values in enumerate(groups):
        axis.plot(np.full(len(values), x), values, MARKERS[0], color=COLOURS[0], alpha=0.4, markersize=4)
    means = [v.mean() for v in groups]
    spreads = [v.std(ddof=1) if len(v) > 1 else 0 for v in groups]
    axis.errorbar(np.arange(len(groups)) + 0.1, means, yerr=spreads, fmt="-s", color=COLOURS[3], capsize=3, markersize=4)
    axis.set_xticks(range(len(weights)), [f"{1 - w:g}\n(n={len(v)})" for w, v in zip(weights, groups, strict=True)])
    axis.set(xlabel="alpha (1: no PI teacher; 0: the PI teacher alone)", ylabel=ylabel)
    return figure


@styled
def corruption_curves(rows: Sequence[dict]) -> Figure:
    """Accuracy against severity (0: clean), a panel a corruption, a line a method: mean over seeds, its range as a band.

    rows: as `studies.robustness` gives them.
    """
    names = list(rows[0]["corrupted"])
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(2.6 * columns + (2 if columns == 1 else 0), 2.1 * lines + 0.5), squeeze=False, sharex=True, sharey=True)
    for axis, name in zip(axes.flat, names, strict=False):
        for k, m in enumerate(dict.fromkeys(r["method"] for r in rows)):
            chosen = [r for r in rows if r["method"] == m]
            values = 100 * np.array([[f["accuracy"] for f in (r["clean"], *r["corrupted"][name])] for r in chosen])
            x, label = np.arange(values.shape[1]), f"{chosen[0]['label']} (n={len(chosen)})"
            axis.fill_between(x, values.min(0), values.max(0), color=COLOURS[k % 7], alpha=0.15, linewidth=0)
            axis.plot(x, values.mean(0), marker=MARKERS[k % 7], markersize=3, color=COLOURS[k % 7], label=label)
        axis.set_title(name.replace("_", " "), fontsize=8)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis in axes.flat[max(0, len(names) - columns) : len(names)]:  # the lowest of each column
        axis.tick_params(labelbottom=True)
    figure.supxlabel("severity (0: clean)", fontsize=9)
    figure.supylabel("accuracy, %", fontsize=9)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return figure


@styled
def reliability(rows: Sequence[dict]) -> Figure:
    """Reliability diagrams, a column a method, all its seeds pooled; above as trained, below after temperature scaling.

    rows: as `studies.calibration` gives them. A bar is the accuracy in a bin of confidence, grey where few images lie.
    """
    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure, axes = plt.subplots(2, len(methods), figsize=(1.9 * len(methods), 3.9), squeeze=False, sharex=True, sharey=True)
    for column, m in enumerate(methods):
        chosen = [r for r in rows if r["method"] == m]
        for axis, when in zip(axes[:, column], ("before", "after"), strict=True):
            ece = 100 * np.mean([r[when]["ece"] for r in chosen])
            _reliability(axis, [r[when]["reliability"] for r in chosen])
            axis.set_title(f"{chosen[0]['label']} (n={len(chosen)})\n{when}: ECE {ece:.1f} %", fontsize=8)
    figure.supxlabel("confidence", fontsize=9)
    figure.supylabel("accuracy", fontsize=9)
    return figure


def _reliability(axis, diagrams: Sequence[dict]) -> None:
    counts = np.array([d["count"] for d in diagrams], float)
    right = np.array([[a or 0 for a in d["accuracy"]] for d in diagrams]) * counts
    total, bins = counts.sum(0), counts.shape[1]
    height = np.divide(right.sum(0), total, out=np.zeros(bins), where=total > 0)
    few = total < 0.01 * total.sum()
    middles = (np.arange(bins) + 0.5) / bins
    axis.bar(middles, height, 1 / bins, color=np.where(few, "0.8", COLOURS[0]), edgecolor="w", linewidth=0.4)
    axis.plot([0, 1], [0, 1], color="k", linewidth=0.8, linestyle="--")
    axis.set(xlim=(0, 1), ylim=(0, 1))


@styled
def embeddings(rows: Sequence[dict], names: Sequence[str]) -> Figure:
    """t-SNE of the last layer's input, a panel a network; a class (the first ten) has a marker of its own, full or hollow.

    rows: as `studies.embedding` gives them.
    """
    figure, axes = plt.subplots(1, len(rows), figsize=(3.1 * len(rows), 3.4), squeeze=False)
    labels = np.array(rows[0]["labels"])
    for axis, r in zip(axes[0], rows, strict=True):
        places = np.array(r["places"])
        for k, c in enumerate(np.unique(labels)[:10]):
            style = {"marker": MARKERS[k % 7], "edgecolors": COLOURS[k % 7], "facecolors": COLOURS[k % 7] if k < 7 else "none"}
            axis.scatter(*places[labels == c].T, s=12, linewidth=0.6, label=short_name(names[c]), **style)
        axis.set(title=f"{r['label']}, seed {r['seed']}", xticks=[], yticks=[])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7)
    return figure


@styled
def cost_and_accuracy(costs: dict, rows: Sequence[dict]) -> Figure:
    """Mean test accuracy against multiply-adds of teachers and students; a vertical line is the range over seeds.

    costs: networks of a `cost.measure` record; rows with role ("student", "image teacher", "PI teacher").
    """
    figure, axis = plt.subplots(figsize=(6.5, 3.4))
    for k, m in enumerate(dict.fromkeys(r["method"] for r in rows)):
        chosen = [r for r in rows if r["method"] == m]
        values = 100 * np.array([r["accuracy"] for r in chosen])
        network = costs[chosen[0]["role"]]
        spread = 1.03 ** (k - 2.5) if chosen[0]["role"] == "student" else 1  # side by side, that they can be told apart
        x = network["multiply_adds"] / 1e6 * spread
        axis.plot([x, x], [values.min(), values.max()], color=COLOURS[k % 7], linewidth=1)
        fill = "full" if k < 7 else "none"
        axis.plot(x, values.mean(), MARKERS[k % 7], color=COLOURS[k % 7], fillstyle=fill, label=f"{chosen[0]['label']} (n={len(chosen)})")
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    ticks = [t for t in (5, 10, 20, 50, 100, 200, 500, 1000, 2000) if low <= t <= high]
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.minorticks_off()
    axis.set(xlabel="multiply-adds an image, million", ylabel="test accuracy, %")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def costs(record: dict) -> Figure:
    """Seconds an image of networks and topology (left), seconds a training step (right), from `cost.measure`."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.9))
    single = {f"{n}, batch {b}": v[f"batch_{b}"] for n, v in record["networks"].items() for b in (1, 128)}
    single |= {f"persistence images, batch {b}": record["topology"][f"batch_{b}"] for b in (1, 128)}
    for axis, timings, unit in ((left, single, "ms an image"), (right, record["steps"], "ms a training step")):
        for y, (name, s) in enumerate(timings.items()):
            k = 1 if "persistence" in name else 0
            axis.plot([1e3 * s["min"], 1e3 * s["max"]], [y, y], color="0.6", linewidth=2)
            axis.plot(1e3 * s["median"], y, MARKERS[k], color=COLOURS[k])
            axis.text(1e3 * s["max"], y, f"  {1e3 * s['median']:.3g}", va="center", fontsize=7)
        axis.set_yticks(range(len(timings)), list(timings))
        axis.set(xlabel=f"{unit}: median, smallest to largest", ylim=(len(timings) - 0.5, -0.5))
        axis.margins(x=0.15)
    left.set_xscale("log")
    right.set_xlim(left=0)
    return figure
