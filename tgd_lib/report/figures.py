"""Figures as files, their style, and pictures of images, topology and maps. No network is touched here."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tgd_lib import config
from tgd_lib import files
from tgd_lib.config import Settings

# Okabe & Ito's colours: told apart by colour-blind readers; markers tell them apart in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.dpi": 80,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "legend.frameon": False,
    "svg.hashsalt": "tgd",  # the same figure is the same file
}

# ---------------------------------------------------------------- files


def save(figure: Figure, settings: Settings, name: str, *, caption: str, source: object) -> None:
    """Write a figure as SVG and PNG to `<run>/figures/`, with a record of what it shows and from what; close it.

    `source` is what was drawn (rows, or the keys of artefacts): plain values.
    """
    folder = config.run_dir(settings) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
    record = {"figure": name, "caption": caption, "run": settings.run_name, "source": source}
    files.write_json(folder / f"{name}.json", record | files.provenance())
    plt.close(figure)  # else a notebook shows it twice


def styled(plot):
    """Decorator: draw in the project's style and leave matplotlib's global state alone."""

    def inner(*args, **kwargs):
        with plt.rc_context(STYLE):
            return plot(*args, **kwargs)

    inner.__doc__, inner.__name__ = plot.__doc__, plot.__name__
    return inner


# ---------------------------------------------------------------- plots of images and topology


@styled
def pipeline(
    image: np.ndarray, signal: np.ndarray, diagram: np.ndarray, pi: np.ndarray, *, channel: str, upto: float
) -> Figure:
    """Image -> one channel as a signal -> persistence diagram -> persistence image.

    image uint8 (H, W, 3), signal float (H * W,) on [0, 1], diagram float (k, 2), pi uint8 (R, R),
    channel: its name, upto: end of the PI's window on both axes.
    """
    figure, axes = plt.subplots(1, 4, figsize=(11, 2.7), width_ratios=(1, 2.2, 1.1, 1.1))
    axes[0].imshow(image)
    axes[0].set(title="image", xticks=[], yticks=[])
    axes[1].plot(signal, linewidth=0.6)
    axes[1].set(title=f"{channel} channel, row by row", xlabel="sample", ylabel="value", ylim=(0, 1))
    window = [(0, 0), (upto, upto), (upto, 2 * upto), (0, upto)]  # births and persistences up to `upto`
    axes[2].fill(*zip(*window, strict=True), color=COLOURS[1], alpha=0.25, linewidth=0)
    axes[2].plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axes[2].scatter(diagram[:, 0], diagram[:, 1], s=6, alpha=0.6)
    axes[2].set(title="persistence diagram", xlabel="birth", ylabel="death", aspect="equal")
    _show_pi(axes[3], pi, upto)
    axes[3].set(title="persistence image", xlabel="birth", ylabel="persistence")
    return figure


def _show_pi(axis, pi: np.ndarray, upto: float) -> None:
    axis.imshow(pi, cmap="magma", extent=(0, upto, 0, upto), vmin=0, vmax=255)


@styled
def by_class(images: np.ndarray, pis: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figure:
    """For each class (the first ten) its first image above that image's persistence images (channels as red, green, blue).

    images uint8 (N, H, W, 3), pis uint8 (N, 3 or 6, R, R), labels (N,).
    """
    shown = np.unique(labels)[:10]
    rows = 1 + pis.shape[1] // 3
    figure, axes = plt.subplots(rows, len(shown), figsize=(1.15 * len(shown), 1.25 * rows), squeeze=False)
    for column, c in enumerate(shown):
        i = int(np.flatnonzero(labels == c)[0])
        axes[0, column].imshow(images[i])
        axes[0, column].set_title(short_name(names[c]), fontsize=7)
        for r in range(1, rows):
            axes[r, column].imshow(pis[i, 3 * r - 3 : 3 * r].transpose(1, 2, 0))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure


@styled
def mean_pis(pis: np.ndarray, labels: np.ndarray, names: Sequence[str], *, upto: float) -> Figure:
    """The mean persistence image of each class (the first ten) over all channels. pis uint8 (N, C, R, R)."""
    shown = np.unique(labels)[:10]
    columns = -(-len(shown) // 2)
    figure, axes = plt.subplots(2, columns, figsize=(9, 4), squeeze=False, sharex=True, sharey=True)
    means = [pis[labels == c].mean((0, 1)) for c in shown]
    brightest = max(m.max() for m in means)
    for axis, c, mean in zip(axes.flat, shown, means, strict=False):
        axis.imshow(mean, cmap="magma", extent=(0, upto, 0, upto), vmin=0, vmax=brightest)
        axis.set_title(short_name(names[c]), fontsize=8)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    figure.supxlabel("birth")
    figure.supylabel("persistence")
    return figure


@styled
def opinions(image: np.ndarray, probabilities: dict[str, np.ndarray], names: Sequence[str], truth: int) -> Figure:
    """An image, and the class probabilities (classes,) that each network gives it."""
    k = len(probabilities)
    likely = np.argsort(-np.max(list(probabilities.values()), axis=0), kind="stable")[:10]
    shown = sorted({truth, *likely.tolist()})
    figure, axes = plt.subplots(1, k + 1, figsize=(1.9 * (k + 1), 2.6))
    axes[0].imshow(image)
    axes[0].set(title=f"this is:\n{short_name(names[truth])}", xticks=[], yticks=[])
    for axis, (who, p) in zip(axes[1:], probabilities.items(), strict=True):
        axis.barh(range(len(shown)), p[shown], color=["0.1" if c == truth else "0.7" for c in shown])
        axis.set(title=who, xlim=(0, 1), xlabel="probability", yticks=[], xticks=(0, 0.5), xticklabels=("0", "0.5"))
        axis.invert_yaxis()
    axes[1].set_yticks(range(len(shown)), [short_name(names[c]) for c in shown], fontsize=7)
    return figure


@styled
def similarity_maps(maps: dict[str, np.ndarray], boundaries: Sequence[int]) -> Figure:
    """Row-normalised similarity maps (B, B), side by side; `boundaries` are where a class ends."""
    figure, axes = plt.subplots(1, len(maps), figsize=(2.3 * len(maps), 2.6), squeeze=False)
    for axis, (title, g) in zip(axes[0], maps.items(), strict=True):
        rows = g / np.linalg.norm(g, axis=1, keepdims=True).clip(1e-12)
        axis.imshow(rows, cmap="magma", vmin=0, vmax=np.quantile(rows, 0.99))
        for b in boundaries:
            axis.axhline(b - 0.5, color="w", linewidth=0.3)
            axis.axvline(b - 0.5, color="w", linewidth=0.3)
        axis.set(title=title, xticks=[], yticks=[])
    return figure


def short_name(name: str) -> str:
    """A class name that fits above a small picture."""
    name = name.replace("_", " ")
    return name if len(name) <= 18 else name[:17] + "…"
