"""Figures to play with, for notebooks 00 and 01: a picture that follows its controls.

Where nobody can play, under papermill and so on the web, the same call gives the picture as it
stands at the start: the runner says so by $TGD_STATIC, and where ipywidgets is not installed it is
no different.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tgd_lib import diagrams, topology
from tgd_lib.report import figures

STATIC = "TGD_STATIC"  # set: there is nobody to play
CHANNELS = ("red", "green", "blue")


def interactive() -> bool:
    """Whether there is somebody to play, and something to play with."""
    return not os.environ.get(STATIC) and importlib.util.find_spec("ipywidgets") is not None


# ---------------------------------------------------------------- what there is to play with


def persistence(images: np.ndarray, *, number: int = 0):
    """From one channel of an image to its persistence image, with the water rising in it.

    images: uint8 (N, H, W, 3), of which `number` is the first to be shown. Controls: image,
    channel, row or column, water level, and the persistence image's window, sigma, threshold and
    resolution. Returns a widget with `controls` by name, or the figure at the start.
    """
    paper = topology.PAPER
    start = {"number": number, "channel": "red", "direction": "row", "level": 0.4}
    start |= {"window": paper.high, "sigma": paper.sigma}
    start |= {"threshold": paper.threshold, "resolution": paper.resolution}

    def draw(number: int, **chosen) -> Figure:
        return pipeline(images[number], **chosen)

    return _shown(draw, start, last=len(images) - 1)


def opinions(
    images: np.ndarray,
    labels: np.ndarray,
    answers: Callable[[np.ndarray], dict[str, np.ndarray]],
    names: Sequence[str],
    *,
    number: int = 0,
):
    """An image of one's choice, and the class probabilities that each network gives it.

    images uint8 (N, H, W, 3), labels int (N,), answers: from one of the images to probabilities
    (classes,) by network, names: of the classes. Returns a widget with `controls` by name, or the
    figure at the start.
    """

    def draw(number: int) -> Figure:
        given = answers(images[number])
        return figures.opinions(images[number], given, names, int(labels[number]))

    return _shown(draw, {"number": number}, last=len(images) - 1)


def pipeline(
    image: np.ndarray,
    *,
    channel: str,
    direction: str,
    level: float,
    window: float,
    sigma: float,
    threshold: float,
    resolution: int,
) -> Figure:
    """`figures.pipeline` of one channel of an image, all of it computed here and now.

    image: uint8 (H, W, 3). channel: red, green or blue. direction: row or column. level: of the
    water, on [0, 1]. The others as in `topology.PersistenceImageParams`.
    """
    params = topology.PersistenceImageParams(
        high=window, sigma=sigma, threshold=threshold, resolution=resolution
    )
    place = CHANNELS.index(channel)
    values = image[:, :, place]
    # Column by column is row by row of the transposed channel.
    signal = (values.T if direction == "column" else values).reshape(-1) / 255  # (H * W,)
    diagram = diagrams.sublevel_diagrams(signal[None])[0]
    pi = topology.persistence_images(image[None], direction, params)[0, place]
    how = {"channel": channel, "direction": direction, "upto": window, "level": level}
    return figures.pipeline(image, signal, diagram, pi, **how)


# ---------------------------------------------------------------- picture and controls


def _shown(draw: Callable[..., Figure], start: dict, *, last: int):
    """The picture with controls that stand at `start`, or without them."""
    if interactive():
        return _player(draw, _controls(start, last))
    figure = draw(**start)
    plt.close(figure)  # else a notebook shows it twice
    return figure


def _player(draw: Callable[..., Figure], controls: dict):
    """A widget: controls above the picture that `draw` makes of their values, at each change."""
    import ipywidgets

    # An Image, not an Output: its bytes are its state, which a test can look at.
    picture = ipywidgets.Image(format="png")

    def follow(_=None) -> None:
        values = {name: control.value for name, control in controls.items()}
        picture.value = _png(draw(**values))

    for control in controls.values():
        control.observe(follow, names="value")
    follow()
    # Two controls a line, so that the picture stays in sight.
    grid = ipywidgets.GridBox(
        list(controls.values()),
        layout=ipywidgets.Layout(grid_template_columns="repeat(2, 24em)"),
    )
    player = ipywidgets.VBox([grid, picture])
    player.controls, player.picture = controls, picture
    return player


def _controls(start: dict, last: int) -> dict:
    """A control for each name in `start`, at its value. last: number of the last image."""
    import ipywidgets as widgets

    # Least, largest, step.
    ranges = {
        "number": (0, last, 1),
        "level": (0, 1, 0.01),
        "window": (0.1, 1, 0.05),
        "sigma": (0.005, 0.1, 0.005),
        "threshold": (0, 0.3, 0.01),
        "resolution": (10, 100, 5),
    }
    options = {"channel": CHANNELS, "direction": ("row", "column")}
    words = {"number": "image", "level": "water level"}
    controls = {}
    for name, value in start.items():
        description = words.get(name, name)
        if name in options:
            controls[name] = widgets.Dropdown(
                options=options[name], value=value, description=description
            )
            continue
        low, high, step = ranges[name]
        slider = widgets.IntSlider if isinstance(value, int) else widgets.FloatSlider
        controls[name] = slider(value, min=low, max=high, step=step, description=description)
    # Two digits, ipywidgets' own, would hide the paper's sigma.
    if "sigma" in controls:
        controls["sigma"].readout_format = ".3f"
    return controls


def _png(figure: Figure) -> bytes:
    """The figure as PNG, closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    plt.close(figure)
    return buffer.getvalue()
