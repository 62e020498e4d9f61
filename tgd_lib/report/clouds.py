"""Pictures of a batch's embedding as a cloud of points: its spanning tree, its H0 deaths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from tgd_lib.report.figures import COLOURS, scatter_by_class, styled

LINES = ("-", "--", "-.", ":")


@styled
def trees(rows: Sequence[dict], names: Sequence[str]) -> Figure:
    """Each cloud in the plane of its two principal components, with the edges of its tree.

    rows: as `questions.spanning_trees` gives them. names: of the classes, of which ten are marked.
    An edge between two classes is drawn in another colour and dashed.
    """
    size = (3.6 * len(rows), 4.2)
    figure, axes = plt.subplots(1, len(rows), figsize=size, squeeze=False)
    for axis, r in zip(axes[0], rows, strict=True):
        places = np.array(r["places"])  # (B, 2)
        ends = places[np.array(r["edges"])]  # (B - 1, 2 ends, 2)
        across = np.array(r["across"])
        # Under the points, so that no edge hides one.
        _edges(axis, ends[~across], "0.55", "-")
        _edges(axis, ends[across], COLOURS[3], "--")
        scatter_by_class(axis, places, np.array(r["labels"]), names, s=26)
        title = f"{r['label']}\n{across.sum()} of {len(ends)} edges join two classes"
        axis.set(title=title, xticks=[], yticks=[])
    # The same classes in all panels: one legend.
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _edges(axis: Axes, segments: np.ndarray, colour: str, line: str) -> None:
    """Lines (k, 2 ends, 2) under the points."""
    style = {"colors": colour, "linestyles": line, "linewidths": 0.9, "zorder": 0}
    axis.add_collection(LineCollection(segments, **style))


@styled
def deaths(rows: Sequence[dict]) -> Figure:
    """Sorted H0 deaths of each network's cloud, over its mean distance.

    rows: as `questions.spanning_trees` gives them.
    """
    figure, axis = plt.subplots(figsize=(6.5, 3))
    for number, r in enumerate(rows):
        # Told apart in grey, too.
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number % len(LINES)]}
        components = np.arange(1, len(r["deaths"]) + 1)
        axis.plot(components, r["deaths"], label=r["label"], **style)
    axis.set(xlabel="component, by its death", ylabel="death, in mean distances", ylim=(0, None))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
