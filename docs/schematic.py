"""The schematic of TGD: `python docs/schematic.py` draws figures/schematic.svg.

The image and its persistence image are real (a training image of CIFAR-10); the bars and the map
stand for what networks say: they are drawn, not measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tgd_lib.images import sample  # noqa: E402
from tgd_lib.topology import PersistenceImageParams, persistence_images  # noqa: E402

# Okabe & Ito's colours, as in the other figures: told apart by colour-blind readers.
BLUE, ORANGE, GREEN, INK = "#0072B2", "#D55E00", "#007A5A", "#222222"
STYLE = {"svg.hashsalt": "tgd", "font.family": "DejaVu Sans", "font.size": 12.5}
SIZE = (10.7, 5.1)  # inches; the axes count in tenths of an inch

# ---------------------------------------------------------------- what is shown


def horse() -> np.ndarray:
    """An image of the sample that is easy to recognise: uint8 (32, 32, 3)."""
    images, _, _ = sample.read("train")
    return images[25]


def pi_picture(image: np.ndarray) -> np.ndarray:
    """The image's persistence images by rows, channels as red, green, blue: uint8 (50, 50, 3)."""
    params = PersistenceImageParams()
    return persistence_images(image[None], "row", params)[0].transpose(1, 2, 0)


def drawn_map(seed: int, contrast: float) -> np.ndarray:
    """A similarity map (12, 12) of four classes of three images, made up."""
    # Images of a class share a feature, the more clearly the higher the contrast.
    classes = np.repeat(np.eye(4), 3, axis=0)
    features = contrast * classes + np.random.default_rng(seed).random((12, 4))
    return features @ features.T


# ---------------------------------------------------------------- pieces of the drawing


def picture(
    page: Axes, image: np.ndarray, x: float, y: float, side: float, *, label: str = ""
) -> None:
    """An image with its lower left corner at (x, y), and its label below."""
    # Axes of its own inside the page, so that an image keeps its pixels.
    place = page.inset_axes((x, y, side, side), transform=page.transData)
    place.imshow(image, cmap="magma", interpolation="nearest")
    place.set(xticks=[], yticks=[])
    page.text(x + side / 2, y - 1.2, label, ha="center", va="top", color=INK)


def network(
    page: Axes, x: float, y: float, width: float, height: float, text: str, colour: str
) -> None:
    """A box for a network."""
    shape = mpl.patches.FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=1.5",
        facecolor=colour,
        edgecolor="none",
    )
    page.add_patch(shape)
    page.text(
        x + width / 2, y + height / 2, text, ha="center", va="center", color="white", weight="bold"
    )


def bars(page: Axes, x: float, y: float, heights: tuple[float, ...], colour: str) -> None:
    """Logits: a few bars on a line."""
    for i, height in enumerate(heights):
        page.add_patch(mpl.patches.Rectangle((x + 1.6 * i, y), 1.1, height, color=colour))
    page.plot([x - 0.5, x + 1.6 * len(heights)], [y, y], color=INK, linewidth=0.8)


def arrow(
    page: Axes,
    start: tuple,
    end: tuple,
    *,
    colour: str = INK,
    bend: float = 0,
    dashed: bool = False,
) -> None:
    """An arrow; a dashed one is what guides the student in training only."""
    style = {"arrowstyle": "-|>", "mutation_scale": 13, "linewidth": 1.6, "color": colour}
    style |= {"linestyle": (0, (4, 2)) if dashed else "-", "shrinkA": 0, "shrinkB": 0}
    style["connectionstyle"] = f"arc3,rad={bend}"
    page.annotate("", xy=end, xytext=start, arrowprops=style)


# ---------------------------------------------------------------- the drawing


def draw() -> Figure:
    """Image -> image teacher; image -> persistence image -> PI teacher; both guide the student."""
    figure = plt.figure(figsize=SIZE, facecolor="white")
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, 10 * SIZE[0]), ylim=(2, 2 + 10 * SIZE[1]))
    page.axis("off")
    image = horse()
    inputs(page, image)
    teachers(page)
    student(page)
    return figure


def inputs(page: Axes, image: np.ndarray) -> None:
    """The left column: the image, and the persistence image that comes from it."""
    picture(page, image, 3, 34, 13, label="image")
    picture(page, pi_picture(image), 3, 6, 13, label="persistence image")
    arrow(page, (9.5, 30), (9.5, 19.6))
    page.text(11, 25, "topology", va="center", color=INK, style="italic")


def teachers(page: Axes) -> None:
    """The middle: two networks, what they say, and the map that their two maps are merged to."""
    network(page, 27, 36, 19, 9, "image teacher", BLUE)
    network(page, 27, 8, 19, 9, "PI teacher", ORANGE)
    arrow(page, (17, 40.5), (26.5, 40.5))
    arrow(page, (17, 12.5), (26.5, 12.5))
    for y, colour, heights in ((39, BLUE, (1, 6, 2, 1.4, 3)), (10, ORANGE, (2.5, 4, 3, 1, 2))):
        arrow(page, (46.5, y + 2), (51, y + 2), colour=colour)
        bars(page, 52.5, y, heights, colour)
        page.text(56.2, y - 1.0, "logits", ha="center", va="top", color=INK)
    # Weights that can be seen; the paper's 0.99 and 0.01 cannot.
    merged = 0.7 * drawn_map(1, 2.0) + 0.3 * drawn_map(2, 0.7)
    picture(page, merged, 52, 22.2, 8.6, label="similarity maps, merged")
    arrow(page, (40, 35.5), (51.3, 28.3), colour=BLUE, bend=0.2)
    arrow(page, (40, 17.5), (51.3, 24.7), colour=ORANGE, bend=-0.2)


def student(page: Axes) -> None:
    """The right: what guides the student in training; along the upper edge, what it sees."""
    network(page, 80, 22, 16, 9, "student", GREEN)
    for start, end, bend in (((62, 41), 29.2, -0.2), ((62, 26.5), 26.5, 0), ((62, 12), 23.8, 0.2)):
        arrow(page, start, (79.4, end), bend=bend, dashed=True)
    page.text(70.5, 27.4, "guide, in training", ha="center", color=INK, style="italic")
    page.plot([9.5, 9.5, 88], [47.6, 51, 51], color=GREEN, linewidth=1.6, solid_joinstyle="round")
    arrow(page, (88, 51.1), (88, 31.6), colour=GREEN)
    page.text(
        56,
        49.6,
        "the student sees the image only",
        ha="center",
        va="top",
        color=INK,
        style="italic",
    )
    arrow(page, (96.6, 26.5), (101, 26.5), colour=GREEN)
    page.text(102, 26.5, "class", va="center", color=INK, weight="bold")


def main() -> None:
    """Write the drawing, the same bytes each time."""
    with plt.rc_context(STYLE):
        figure = draw()
        figure.savefig(ROOT / "figures" / "schematic.svg", metadata={"Date": None, "Title": "TGD"})


if __name__ == "__main__":
    main()
