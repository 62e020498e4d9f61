"""Persistence diagrams of signals and pictures, by gudhi, and where in a picture they come from.

    sublevel_diagrams   of one signal after another
    line_pairs          of all channels of a block of images, strung to signals, in one call
    cubical_pairs       of its channels as two-dimensional cubical complexes
    persistence_maps    persistence at the pixels it comes from

Pixels are whole numbers: all of it is exact. NumPy and gudhi only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from tgd_lib.config import InputError

CUBICAL = ("cubical", "cubical_super")  # orientations beyond the paper's


def checked_images(images) -> np.ndarray:
    """`images` as an array; InputError unless it is uint8 (N, H, W, 3), not empty."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.size == 0 or images.dtype != np.uint8:
        found = f"{images.dtype} of shape {images.shape}"
        raise InputError(
            f"images are {found}: give uint8 (0 to 255) of shape (N, H, W, 3), not empty"
        )
    return images


# ---------------------------------------------------------------- one after another


def sublevel_diagrams(signals) -> list[np.ndarray]:
    """H0 persistence of the sublevel sets of each signal on the path graph.

    signals: (B, n) finite numbers; a vertex has its sample's value, an edge the larger of its
    ends'. Returns B float64 arrays (k, 2) of (birth, death) in the input's units: the finite pairs
    of positive persistence, in no particular order. Raises InputError for another shape, NaN or
    infinity. Source: TGD paper, persistence images; computed by gudhi's linear-time algorithm for a
    line.
    """
    signals = np.asarray(signals)
    if signals.ndim != 2 or signals.size == 0 or signals.dtype.kind not in "buif":
        found = f"{signals.dtype} of shape {signals.shape}"
        raise InputError(
            f"signals are {found}: give real numbers of shape (signals, samples), not empty"
        )
    signals = np.ascontiguousarray(signals, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(signals).all(axis=1))
    if len(bad):
        raise InputError(f"signal {bad[0]} holds NaN or infinity: replace or drop such samples")
    line = persistence_on_a_line()
    return [pairs[np.isfinite(pairs[:, 1])] for pairs in map(line, signals)]


@lru_cache(maxsize=1)
def persistence_on_a_line() -> Callable[[np.ndarray], np.ndarray]:
    """(n,) floats → (k, 2) pairs, the last of them infinite.

    The private name is what gudhi's public CubicalPersistence calls, but that one imports
    scikit-learn: 1.2 s against 0.01 s. gudhi is pinned; should the name vanish, the public class
    takes over.
    """
    try:
        from gudhi._pers_cub_low_dim_ext import _persistence_on_a_line as line
    except ImportError:
        from gudhi.sklearn.cubical_persistence import CubicalPersistence

        return lambda signal: CubicalPersistence(homology_dimensions=0).fit_transform([signal])[0]
    return line


@lru_cache(maxsize=1)
def persistence_on_a_rectangle() -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """(H, W) floats → pairs (k, 2) of H0 and of H1 of the cubical complex whose top-dimensional
    cells they are.

    Private and public name as in `persistence_on_a_line`.
    """
    try:
        from gudhi._pers_cub_low_dim_ext import (
            _persistence_on_rectangle_from_top_cells as rectangle,
        )
    except ImportError:
        from gudhi.sklearn.cubical_persistence import CubicalPersistence

        return lambda cells: CubicalPersistence(homology_dimensions=[0, 1]).fit_transform([cells])[
            0
        ]

    return lambda cells: rectangle(cells, 0.0) if min(cells.shape) > 1 else _no_rectangle(cells)


def _no_rectangle(cells: np.ndarray) -> Sequence[np.ndarray]:
    """A single row or column of cells: a line, without holes."""
    return persistence_on_a_line()(cells.ravel()), np.empty((0, 2))


# ---------------------------------------------------------------- a block of images


def line_pairs(images: np.ndarray, orientation: str) -> np.ndarray:
    """(k, 2) of 256 * (number of the signal) + level.

    One call to gudhi for the whole block: the signals are laid end to end, each raised by 256 times
    its number, so that a birth says whose it is, with a wall above everything between them, at
    which only what would never die dies. Exact in float32: all values are whole numbers up to
    2**24.
    """
    rows = images.transpose(0, 3, 1, 2)  # (n, 3, H, W)
    columns = images.transpose(0, 3, 2, 1)  # (n, 3, W, H)
    halves = {"column": [columns], "both": [rows, columns]}.get(orientation, [rows])
    n, length = len(images), images.shape[1] * images.shape[2]
    signals = np.full((n, len(halves), 3, length + 1), 2**24, np.float32)
    for i, half in enumerate(halves):
        signals[:, i, :, :-1] = half.reshape(n, 3, length)
    signals = signals.reshape(-1, length + 1)
    signals += 256 * np.arange(len(signals), dtype=np.float32)[:, None]
    return persistence_on_a_line()(signals.ravel())


def cubical_pairs(images: np.ndarray, orientation: str) -> np.ndarray:
    """(k, 2) of 256 * (number of the diagram) + level: six diagrams an image, H0 then H1 of its
    channels.
    """
    channels = (255 - images if orientation == "cubical_super" else images).transpose(0, 3, 1, 2)
    rectangle, raised = persistence_on_a_rectangle(), []
    for i, image in enumerate(channels.astype(np.float64)):
        for c, channel in enumerate(image):
            for dimension, pairs in enumerate(rectangle(np.ascontiguousarray(channel))):
                raised.append(pairs + 256 * (6 * i + 3 * dimension + c))
    return np.concatenate(raised)


# ---------------------------------------------------------------- persistence in its place


def persistence_maps(images) -> np.ndarray:
    """Where the topology of an image is: each critical pixel carries the persistence of its pair.

    images: uint8 (N, H, W, 3). Returns uint8 (N, 6, H, W), in levels: H0 of red, green, blue, then
    H1, of the sublevel sets of the two-dimensional cubical complex. The pixels at which a component
    or hole is born and at which it dies get death - birth; one that is critical for several pairs
    the largest; all others 0. Equal values are ordered by position, so that every pair has its
    place; that changes no persistence.
    """
    images = checked_images(images)
    n, height, width, _ = images.shape
    size, rectangle = height * width, persistence_on_a_rectangle()
    maps = np.zeros((n, 6, size), np.uint8)
    places = np.arange(size, dtype=np.float64).reshape(height, width)
    for i, image in enumerate(images.transpose(0, 3, 1, 2)):
        for c, channel in enumerate(image):
            for dimension, pairs in enumerate(rectangle(channel * float(size) + places)):
                pairs = pairs[np.isfinite(pairs[:, 1])].astype(np.int64)
                levels, where = pairs // size, pairs % size
                persistence = np.repeat((levels[:, 1] - levels[:, 0]).astype(np.uint8), 2)
                np.maximum.at(maps[i, 3 * dimension + c], where.ravel(), persistence)
    return maps.reshape(n, 6, height, width)
