"""Figures as files, their style, and pictures of images, topology and maps."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from tgd_lib import config, files
from tgd_lib.config import Settings

# Okabe & Ito's colours: told apart by colour-blind readers; markers tell them apart in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MAP = "magma"  # perceptually even, and read the same by colour-blind readers and in grey
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


@dataclass(frozen=True)
class Captioned:
    """A figure and its caption; as the last line of a cell, the one is shown under the other."""

    figure: Figure
    caption: str

    def _ipython_display_(self) -> None:
        from IPython.display import Markdown, display

        display(self.figure)
        display(Markdown(f"*{self.caption}*"))


def save(
    figure: Figure, settings: Settings, name: str, *, caption: str, source: object
) -> Captioned:
    """Write a figure as SVG and PNG to `<run>/figures/`, with its record; close it.

    The record holds the caption and `source`, what was drawn (rows, or the keys of artefacts):
    plain values. Returns the figure with its caption, for a notebook to show.
    """
    folder = config.run_dir(settings) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    # Without dates and versions the same figure is the same bytes.
    draw(figure, folder / name)
    record = {"figure": name, "caption": caption, "run": settings.run_name, "source": source}
    files.write_json(folder / f"{name}.json", record | files.provenance())
    plt.close(figure)  # else a notebook shows it twice
    return Captioned(figure, caption)


def draw(figure: Figure, path: Path) -> None:
    """Write `path`.svg and `path`.png; the same figure gives the same files."""
    with plt.rc_context(STYLE):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})


def styled(plot):
    """Decorator: draw in the project's style and leave matplotlib's global state alone."""

    @functools.wraps(plot)
    def inner(*args, **kwargs):
        with plt.rc_context(STYLE):
            return plot(*args, **kwargs)

    return inner


def short_name(name: str) -> str:
    """A class name that fits above a small picture."""
    name = name.replace("_", " ")
    return name if len(name) <= 18 else name[:17] + "…"


def class_marker(number: int) -> dict:
    """Marker and colours of a class by its number, for a scatter; from the eighth on hollow."""
    colour = COLOURS[number % 7]
    face = colour if number < 7 else "none"
    return {"marker": MARKERS[number % 7], "edgecolors": colour, "facecolors": face}


def scatter_by_class(
    axis: Axes, places: np.ndarray, labels: np.ndarray, names: Sequence[str], **style
) -> None:
    """Points (N, 2) of the first ten classes, each class with a marker and a name of its own."""
    for number, c in enumerate(np.unique(labels)[:10]):
        x, y = places[labels == c].T
        axis.scatter(x, y, label=short_name(names[c]), **style, **class_marker(number))


# ---------------------------------------------------------------- from signal to persistence image


@styled
def pipeline(
    image: np.ndarray,
    signal: np.ndarray,
    diagram: np.ndarray,
    pi: np.ndarray,
    *,
    channel: str,
    upto: float,
    direction: str = "row",
    level: float | None = None,
) -> Figure:
    """From an image to its persistence image, in five pictures.

    Image, one channel as a signal, its barcode beside it, persistence diagram, persistence image.
    image uint8 (H, W, 3), signal float (H * W,) on [0, 1], diagram float (k, 2), pi uint8 (R, R),
    channel: its name, upto: end of the PI's window on both axes, direction: "row" or "column".
    level: of the water; what lies under it is marked in the signal, and the barcode and the diagram
    have grown only so far. None: all of it.
    """
    figure, axes = plt.subplots(1, 5, figsize=(12.5, 2.9), width_ratios=(1, 2.2, 0.9, 1.1, 1.25))
    _image(axes[0], image, "image")
    _signal(axes[1], signal, level)
    axes[1].set_title(f"{channel} channel, {direction} by {direction}")
    _barcode(axes[2], diagram, level)
    _diagram(axes[3], diagram, upto, level)
    picture = _pi(axes[4], pi, upto)
    axes[4].set(title="persistence image", xlabel="birth", ylabel="persistence")
    figure.colorbar(picture, ax=axes[4], label="level", ticks=(0, 128, 255))
    return figure


def _image(axis: Axes, image: np.ndarray, title: str) -> None:
    axis.imshow(image)
    axis.set(title=title, xticks=[], yticks=[])


def _signal(axis: Axes, signal: np.ndarray, level: float | None) -> None:
    """The signal; the components of its sublevel set at `level` are drawn thick at that level."""
    axis.plot(signal, linewidth=0.6, color=COLOURS[0])
    if level is not None:
        # NaN breaks the line where the signal is above the water.
        under = np.where(signal <= level, level, np.nan)
        axis.axhline(level, color="0.6", linewidth=0.6)
        axis.plot(
            under, color=COLOURS[3], linewidth=3, solid_capstyle="butt", marker=".", markersize=2
        )
    axis.set(xlabel="sample", ylabel="value", ylim=(0, 1))


def _barcode(axis: Axes, diagram: np.ndarray, level: float | None) -> None:
    """A bar from birth to death for each point, the longest at the right."""
    births, deaths = _grown(diagram, level)
    # Signal and barcode share their axis of values: a bar begins at the height of its minimum.
    order = np.argsort(deaths - births, kind="stable")
    axis.vlines(
        np.arange(len(order)), births[order], deaths[order], color=COLOURS[0], linewidth=0.8
    )
    axis.set(title="barcode", xlabel="component", ylim=(0, 1), ylabel="birth to death")


def _grown(diagram: np.ndarray, level: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Births and deaths (k,) of the components that there are at `level`; the living end at it."""
    births, deaths = diagram.T
    if level is None:
        return births, deaths
    born = births <= level
    return births[born], np.minimum(deaths[born], level)


def _diagram(axis: Axes, diagram: np.ndarray, upto: float, level: float | None) -> None:
    """Points (birth, death), and the part of the plane that a PI up to `upto` is about."""
    # Persistence is height above the diagonal: a square there is a parallelogram here.
    window = np.array([(0, 0), (upto, upto), (upto, 2 * upto), (0, upto)])
    axis.fill(*window.T, color=COLOURS[1], alpha=0.25, linewidth=0, label="PI window")
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    births, deaths = _grown(diagram, level)
    axis.scatter(births, deaths, s=6, alpha=0.6)
    axis.set(title="persistence diagram", xlabel="birth", ylabel="death", aspect="equal")
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axis.legend(fontsize=7, loc="lower right")


def _pi(axis: Axes, pi: np.ndarray, upto: float):
    """A persistence image over its window; the mappable, for a colour bar."""
    return axis.imshow(pi, cmap=MAP, extent=(0, upto, 0, upto), vmin=0, vmax=255)


@styled
def readings(image: np.ndarray, pis: dict[str, np.ndarray], *, upto: float) -> Figure:
    """An image, and the persistence images of one of its channels, read in several ways.

    image uint8 (H, W, 3), pis uint8 (R, R) by title, upto: end of their window on both axes.
    """
    size = (1.8 + 2.1 * len(pis), 2.4)
    figure, axes = plt.subplots(1, 1 + len(pis), figsize=size)
    _image(axes[0], image, "image")
    for axis, (title, pi) in zip(axes[1:], pis.items(), strict=True):
        picture = _pi(axis, pi, upto)
        axis.set(title=title, xlabel="birth", xticks=(0, upto), yticks=(0, upto))
    axes[1].set_ylabel("persistence")
    figure.colorbar(picture, ax=axes[1:], label="level", ticks=(0, 128, 255))
    return figure


@styled
def window_density(births: np.ndarray, persistences: np.ndarray, *, upto: float) -> Figure:
    """How many points lie where in (birth, persistence), with the paper's window drawn in.

    births, persistences float (k,) on [0, 1]; upto: end of the window on both axes. Counts are
    logarithmic.
    """
    figure, axis = plt.subplots(figsize=(5.6, 4.2))
    # Bins five levels wide, edges between levels: so all of them hold equally many of the 256
    # levels.
    edges = (np.arange(0, 261, 5) - 0.5) / 255
    counts, _, _ = np.histogram2d(births, persistences, bins=(edges, edges))
    # Empty bins stay white: a logarithm has no zero.
    shown = np.ma.masked_equal(counts.T, 0)
    norm = LogNorm(1, max(2, counts.max()))  # of flat images there may be no point at all
    picture = axis.pcolormesh(edges, edges, shown, cmap="viridis", norm=norm, rasterized=True)
    window = plt.Rectangle((0, 0), upto, upto, fill=False, edgecolor=COLOURS[3], linewidth=1.8)
    axis.add_patch(window)
    # Named in the empty half: births and persistences add to at most 1.
    axis.annotate(
        "the paper's window",
        (upto, upto),
        xytext=(0.55, 0.8),
        color=COLOURS[3],
        arrowprops={"arrowstyle": "-", "color": COLOURS[3]},
    )
    axis.set(xlabel="birth", ylabel="persistence", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    figure.colorbar(picture, ax=axis, label="points in a bin")
    return figure


# ---------------------------------------------------------------- class by class


# How the signals of each three channels of a persistence image were read.
READ = {
    "row": ("by rows",),
    "column": ("by columns",),
    "both": ("by rows", "by columns"),
    "authors_literal": ("by rows", "by rows again"),
}


@styled
def by_class(
    images: np.ndarray,
    pis: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    orientation: str,
    upto: float,
) -> Figure:
    """For each class an image above the persistence images of its red channel.

    The first image of each of the first ten classes. images uint8 (N, H, W, 3), pis uint8 (N, 3 or
    6, R, R), labels (N,), upto: end of the PI's window.
    """
    classes = np.unique(labels)[:10]
    rows = 1 + len(READ[orientation])
    figure, axes = plt.subplots(rows, len(classes), figsize=(1.3 * len(classes) + 0.8, 1.45 * rows))
    axes = np.asarray(axes).reshape(rows, len(classes))
    for column, c in zip(axes.T, classes, strict=True):
        i = int(np.flatnonzero(labels == c)[0])
        _image(column[0], images[i], short_name(names[c]))
        column[0].title.set_fontsize(8)
        for half, axis in enumerate(column[1:]):
            picture = _pi(axis, pis[i, 3 * half], upto)
            axis.set(xticks=(0, upto), yticks=(0, upto))
            axis.tick_params(labelsize=6, labelleft=False, labelbottom=axis is column[-1])
    for axis, read in zip(axes[1:, 0], READ[orientation], strict=True):
        axis.set_ylabel(read, fontsize=8)
        axis.tick_params(labelleft=True)
    figure.supxlabel("birth", fontsize=8)
    figure.supylabel("persistence", fontsize=8)
    figure.colorbar(picture, ax=axes[1:], label="level", shrink=0.8)
    return figure


@styled
def mean_pis(pis: np.ndarray, labels: np.ndarray, names: Sequence[str], *, upto: float) -> Figure:
    """The mean persistence image of each class (the first ten) over all channels.

    pis uint8 (N, C, R, R), labels (N,), names: of the classes, upto: end of the window.
    """
    classes = np.unique(labels)[:10]
    columns = -(-len(classes) // 2)
    figure, axes = plt.subplots(
        2, columns, figsize=(9.6, 4), squeeze=False, sharex=True, sharey=True
    )
    # One scale for all: a class with little mass must look dark.
    means = [pis[labels == c].mean((0, 1)) for c in classes]
    brightest = max(mean.max() for mean in means)
    for axis, c, mean in zip(axes.flat, classes, means, strict=False):
        picture = axis.imshow(mean, cmap=MAP, extent=(0, upto, 0, upto), vmin=0, vmax=brightest)
        axis.set_title(short_name(names[c]), fontsize=8)
    for axis in axes.flat[len(classes) :]:
        axis.axis("off")
    figure.supxlabel("birth")
    figure.supylabel("persistence")
    figure.colorbar(picture, ax=axes, label="mean level (of 255)")
    return figure


# ---------------------------------------------------------------- what networks make of images


@styled
def opinions(
    image: np.ndarray, probabilities: dict[str, np.ndarray], names: Sequence[str], truth: int
) -> Figure:
    """An image, and the probabilities in per cent that each network gives its classes.

    image uint8 (H, W, 3), probabilities (classes,) by network. Ten likely classes; the true one is
    framed.
    """
    # Bars for eight networks would be eight small plots; colours with numbers are one.
    table = np.array(list(probabilities.values()))  # (networks, classes)
    # The ten classes that some network finds likeliest, and the true one.
    likely = np.argsort(-table.max(0), kind="stable")[:10]
    classes = sorted({truth, *likely.tolist()})
    size = (3 + 0.75 * len(classes), 1.5 + 0.3 * len(table))
    figure, (left, right) = plt.subplots(1, 2, figsize=size, width_ratios=(1, 0.34 * len(classes)))
    _image(left, image, short_name(names[truth]))
    picture = right.imshow(100 * table[:, classes], cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (y, x), share in np.ndenumerate(100 * table[:, classes]):
        # White where the blue is dark.
        colour = "w" if share > 55 else "k"
        right.text(x, y, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    right.set_yticks(range(len(table)), list(probabilities))
    right.set_xticks(
        range(len(classes)), [short_name(names[c]) for c in classes], rotation=35, ha="right"
    )
    frame = plt.Rectangle(
        (classes.index(truth) - 0.5, -0.5), 1, len(table), fill=False, edgecolor="k"
    )
    right.add_patch(frame)
    figure.colorbar(picture, ax=right, label="probability, %")
    return figure


@styled
def similarity_maps(
    maps: dict[str, np.ndarray], labels: np.ndarray, names: Sequence[str]
) -> Figure:
    """Row-normalised similarity maps (B, B), side by side on one scale.

    Classes are parted by lines and named. labels (B,): sorted classes of the images; names: of all
    classes.
    """
    figure, axes = plt.subplots(1, len(maps), figsize=(2.3 * len(maps) + 1, 3.2), squeeze=False)
    normalised = {}
    for title, g in maps.items():
        normalised[title] = g / np.linalg.norm(g, axis=1, keepdims=True).clip(1e-12)
    # Not the largest entry: the diagonal, of each image with itself, would outshine the rest.
    brightest = max(np.quantile(rows, 0.99) for rows in normalised.values())
    classes, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    for axis, (title, rows) in zip(axes[0], normalised.items(), strict=True):
        picture = axis.imshow(rows, cmap=MAP, vmin=0, vmax=brightest)
        for start in starts[1:]:
            axis.axhline(start - 0.5, color="w", linewidth=0.4)
            axis.axvline(start - 0.5, color="w", linewidth=0.4)
        axis.set(title=textwrap.fill(title, 24), xticks=[], yticks=[])
    middles = starts + (counts - 1) / 2
    axes[0, 0].set_yticks(middles, [short_name(names[c]) for c in classes], fontsize=7)
    figure.colorbar(picture, ax=axes, label="share of the row's norm", shrink=0.7)
    return figure
