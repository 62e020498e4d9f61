"""Persistence images of pictures.

A channel is flattened to a signal, the signal's sublevel sets are filtered, and the diagram of its
components is drawn as a small picture. NumPy, SciPy and gudhi only.

Why it is fast without approximation: pixels are 8-bit, so births and persistences lie on the
lattice k/255 and the Gaussian's mass over the pixels is a table of 256 x 50 float64 numbers; the
signals of a whole block of images go through gudhi in one call; the pictures are sums of small
matrix products. Threads share the work, for all that is heavy releases the interpreter's lock: no
start-up, no copies between processes.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from threading import Lock, local

import numpy as np
from scipy.special import ndtr

from tgd_lib import config
from tgd_lib.config import InputError
from tgd_lib.diagrams import (
    CUBICAL,
    checked_images,
    cubical_pairs,
    line_pairs,
    sublevel_diagrams,  # noqa: F401  topology.sublevel_diagrams is a public name
)


@dataclass(frozen=True)
class PersistenceImageParams:
    """How a diagram is drawn; the defaults are the paper's. Values count in units of the signal,
    [0, 1].

    resolution: pixels a side. low, high: the window, on both axes. sigma: of the Gaussian.
    threshold: only pairs of larger persistence are drawn. Raises InputError for values that cannot
    be.
    """

    resolution: int = 50
    low: float = 0.0
    high: float = 0.3
    sigma: float = 0.01
    threshold: float = 0.02

    def __post_init__(self):
        for name, kind in zip(self.__match_args__, (Integral, Real, Real, Real, Real), strict=True):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) or not math.isfinite(value):
                wanted = "a whole number" if kind is Integral else "a finite number"
                raise InputError(f"{name}={value!r}: give {wanted} to PersistenceImageParams")
            # plain types, so that high=1 and high=np.float32(1) are one and the same in a store's
            # key
            object.__setattr__(self, name, int(value) if kind is Integral else float(value))
        axes = 1 <= self.resolution <= 1024 and self.low < self.high
        if not (axes and self.sigma > 0 and self.threshold >= 0):
            raise InputError(
                f"{self}: give resolution 1 to 1024, low < high, sigma > 0, threshold >= 0"
            )


PAPER = PersistenceImageParams()


# ---------------------------------------------------------------- one picture, by definition


def persistence_image(diagram, params: PersistenceImageParams = PAPER) -> np.ndarray:
    """The persistence image of one diagram, straight from the definition (any real values, no
    table).

    diagram: (k, 2) of (birth, death), in units where white is 1. Returns float64 (resolution,
    resolution): births grow to the right, persistence upwards. Each pair above the threshold is a
    Gaussian weighted by persistence / (largest persistence); a pixel's value is the mass over it.
    The pixels' lower edges run evenly from low to high, both ends included, and each pixel is (high
    - low) / resolution wide. Source: TGD paper, persistence images; the authors' code, which calls
    persim's PersImage.
    """
    diagram = np.asarray(diagram, dtype=np.float64)
    if diagram.ndim != 2 or diagram.shape[1] != 2 or not np.isfinite(diagram).all():
        raise InputError(
            f"diagram of shape {diagram.shape}: give finite pairs (birth, death), shape (k, 2)"
        )
    birth, persistence = diagram[:, 0], diagram[:, 1] - diagram[:, 0]
    birth, persistence = (side[persistence > params.threshold] for side in (birth, persistence))
    weights = persistence / persistence.max(initial=0)  # initial: a diagram may be empty
    image = np.zeros((params.resolution, params.resolution))
    for x, y, weight in zip(_mass(birth, params), _mass(persistence, params), weights, strict=True):
        image += np.outer(y, x) * weight
    return image[::-1]


def to_levels(image: np.ndarray) -> np.ndarray:
    """float64 (R, R) → uint8 (R, R): divided by its maximum (if above 0), times 255, truncated."""
    peak = image.max()
    return (image / (peak if peak > 0 else 1.0) * 255).astype(np.uint8)


def _mass(centres: np.ndarray, params: PersistenceImageParams) -> np.ndarray:
    """(k,) centres → (k, R): the normal distribution's mass over each pixel of one axis.

    ndtr and not erf, float64 and not float32, no truncation: where all points lie outside the
    window, the far tails are the picture.
    """
    lower = np.linspace(params.low, params.high, params.resolution)
    upper = lower + (params.high - params.low) / params.resolution
    centres = centres[:, None]
    return ndtr((upper - centres) / params.sigma) - ndtr((lower - centres) / params.sigma)


# ---------------------------------------------------------------- many pictures, by table


def persistence_images(
    images, orientation: str = "both", params: PersistenceImageParams = PAPER,
    *, n_jobs: int | None = 1, progress: bool = False,
) -> np.ndarray:  # fmt: skip
    """The persistence images of colour images.

    images: uint8 (N, H, W, 3), values 0..255. Returns uint8 (N, C, R, R), R = params.resolution: C
    = 3 for orientation "row" (a row's end is the neighbour of the next row's start) or "column"
    (the same on the transposed channel), 6 for "both" (row-wise first) or "authors_literal" (the
    row-wise ones twice). Beyond the paper, orientation "cubical": the channels are not strung but
    taken as two-dimensional cubical complexes, pixels as top-dimensional cells (components touch at
    corners, too); 6 channels, H0 of red, green, blue, then H1. "cubical_super": the same of
    superlevel sets, as sublevel sets of 255 - value. n_jobs: threads, None for all usable cores;
    the result does not depend on it. progress: show a bar. Raises InputError. Source: TGD paper,
    persistence images; authors' code.
    """
    images, shape = _checked(images, orientation, params)
    out = np.empty(shape, np.uint8)

    def put(start: int, block: np.ndarray) -> None:
        out[start : start + len(block)] = block

    _compute(images, orientation, params, _threads(n_jobs), progress, put)
    return out


def save_persistence_images(
    path, images, orientation: str = "both", params: PersistenceImageParams = PAPER,
    *, n_jobs: int | None = None, progress: bool = False,
) -> None:  # fmt: skip
    """`persistence_images` straight into the .npy file `path`, never held in memory.

    Read it with np.load(path, mmap_mode="r"). A file left half-made by an error is removed. The
    blocks are written, not mapped: a mapping's dirty pages would count as this process's memory.
    """
    images, shape = _checked(images, orientation, params)
    n_jobs = _threads(n_jobs)  # checked before the file is touched
    lock, size = Lock(), math.prod(shape[1:])

    def put(start: int, block: np.ndarray) -> None:
        with lock:
            file.seek(header + start * size)
            file.write(block)

    header = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).offset
    try:
        with open(path, "r+b") as file:
            _compute(images, orientation, params, n_jobs, progress, put)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise


def _checked(
    images, orientation: str, params: PersistenceImageParams
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The images as an array, and the result's shape."""
    if orientation not in CUBICAL:
        config.check("orientation", orientation)
    if not isinstance(params, PersistenceImageParams):
        raise InputError(f"params={params!r}: give a PersistenceImageParams")
    images = checked_images(images)
    channels = 3 if orientation in ("row", "column") else 6
    return images, (len(images), channels, params.resolution, params.resolution)


def _threads(n_jobs: int | None) -> int:
    """n_jobs, or the number of cores this process may use."""
    if n_jobs is None:
        return config.cores()
    if not isinstance(n_jobs, Integral) or isinstance(n_jobs, bool) or n_jobs < 1:
        raise InputError(f"n_jobs={n_jobs!r}: give a whole number from 1, or None for all cores")
    return int(n_jobs)


def _compute(images, orientation, params, n_jobs, progress, put) -> None:
    """Call put(start, uint8 block (n, C, R, R)) for all blocks of images, from any thread."""
    _, height, width, _ = images.shape
    # 32 CIFAR images a block: threads seldom meet at the interpreter's lock, with 13 MB of scratch
    # each.
    step = max(1, min(32, 32_768 // (height * width), 80_000 // params.resolution**2))
    starts = range(0, len(images), step)
    own = local()

    def work(start: int) -> None:
        if not hasattr(own, "scratch"):
            own.scratch = _Scratch(6 * min(step, len(images)), params.resolution)
        put(start, _block(images[start : start + step], orientation, params, own.scratch))

    # The pool's map calls off the rest when one fails, or at Ctrl-C.
    with ThreadPoolExecutor(n_jobs) as pool:
        done = map(work, starts) if n_jobs == 1 else pool.map(work, starts)
        if progress:
            from tqdm import tqdm

            done = tqdm(done, "persistence images", len(starts), unit="image", unit_scale=step)
        deque(done, maxlen=0)  # run through it, keep nothing


# ---------------------------------------------------------------- a block of images

# A point of the lattice is one integer, signal << 16 | height << 8 | birth; its height is its
# persistence.
# Points a matrix product; 50 x 50 x 32 is small enough for BLAS to stay on its own core.
PIECE = 32
CUT = 1e-22  # a point left out adds less than this to every pixel
ROUNDING = 1e-16  # relative; what all points left out may add up to
SUBNORMAL = 1e-280  # below this peak, products lose digits and their order decides


@lru_cache(maxsize=8)
def _tables(params: PersistenceImageParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Births (256, R): mass over the columns. Heights (256, R): mass over the rows, upwards,
    weighted. Seen (65536,) bool, at height << 8 | birth: the point can be seen in the window.
    """
    lattice = np.arange(256) / 255
    births = _mass(lattice, params)
    # Weights without "/ largest persistence": a common factor, which the division by the peak
    # cancels.
    heights = np.ascontiguousarray((births * lattice[:, None])[:, ::-1])
    return births, heights, np.outer(heights.max(axis=1), births.max(axis=1)).ravel() > CUT


class _Scratch:
    """Arrays a thread uses again for each block: fresh ones would cost more in page faults than the
    sums.
    """

    def __init__(self, signals: int, resolution: int):
        self.sums, self.terms = np.empty((2, signals, resolution, resolution))
        self.births, self.heights = np.empty((2, signals, PIECE, resolution))


def _block(
    images: np.ndarray, orientation: str, params: PersistenceImageParams, scratch
) -> np.ndarray:
    """uint8 (n, H, W, 3) → uint8 (n, C, R, R).

    Points that cannot be seen in the window are left out first. They add at most dropped x CUT to a
    pixel: where that is above rounding against the picture's peak, the picture is made again from
    all points, and where even the peak is nearly subnormal, by the definition itself.
    """
    *tables, seen = _tables(params)
    points = _points(images, orientation, params.threshold)
    count = len(images) * (3 if orientation in ("row", "column", "authors_literal") else 6)
    near = points[seen[points & 0xFFFF]]
    levels, peaks = _levels(near, count, tables, scratch)
    dropped = np.bincount(points >> 16, minlength=count) - np.bincount(near >> 16, minlength=count)
    unsafe = np.flatnonzero(dropped * CUT > ROUNDING * peaks)
    if len(unsafe):
        points = points[np.isin(points >> 16, unsafe)]
        points = np.searchsorted(unsafe, points >> 16).astype(np.int32) << 16 | points & 0xFFFF
        levels[unsafe], peaks = _levels(points, len(unsafe), tables, scratch)
        for i in np.flatnonzero(peaks < SUBNORMAL):
            birth, height = (points[points >> 16 == i] >> shift & 255 for shift in (0, 8))
            diagram = np.stack([birth, birth + height], axis=1) / 255
            levels[unsafe[i]] = to_levels(persistence_image(diagram, params))
    levels = levels.reshape(len(images), -1, params.resolution, params.resolution)
    return np.concatenate([levels, levels], axis=1) if orientation == "authors_literal" else levels


def _points(images: np.ndarray, orientation: str, threshold: float) -> np.ndarray:
    """The diagrams of all channels as sorted int32 lattice points of persistence above the
    threshold.

    Sorting makes the sums, and so the last bit, independent of the order in which gudhi reports and
    of the signal's direction.
    """
    pairs = (
        cubical_pairs(images, orientation)
        if orientation in CUBICAL
        else line_pairs(images, orientation)
    )
    height = pairs[:, 1] - pairs[:, 0]
    smallest = np.argmax(np.append(np.arange(256) / 255 > threshold, True))
    kept = (height >= smallest) & (height <= 255)
    births, height = pairs[kept, 0].astype(np.int32), height[kept].astype(np.int32)
    points = (births >> 8) << 16 | height << 8 | births & 255
    return np.sort(points)


def _levels(points: np.ndarray, count: int, tables, scratch):
    """Sorted points of `count` signals → uint8 (count, R, R), and the peaks (count,) before
    scaling.

    A picture is the sum over its points of (column of rows' mass) x (row of columns' mass): a
    matrix product over 32 points at a time, for all signals at once. Short ones are filled up with
    the point 0, of weight 0. Signals are ordered by their number of points, so that those with a
    next piece are always the first ones.
    """
    signal = points >> 16
    size = np.bincount(signal, minlength=count)
    rank = np.argsort(np.argsort(-size, kind="stable"))
    nth = np.arange(len(points)) - (np.cumsum(size) - size)[signal]  # of its signal
    pieces = max(1, -(-int(size.max()) // PIECE))
    grid = np.zeros((pieces, count, PIECE), np.int32)
    grid[nth // PIECE, rank[signal], nth % PIECE] = points & 0xFFFF

    sums = scratch.sums[:count]
    for i, piece in enumerate(grid):
        m = np.count_nonzero(size > i * PIECE) if i else count
        births, heights, terms = (
            scratch.births[:m],
            scratch.heights[:m],
            (scratch.terms if i else sums)[:m],
        )
        np.take(tables[0], piece[:m] & 255, axis=0, out=births, mode="clip")  # clip: unbuffered
        np.take(tables[1], piece[:m] >> 8, axis=0, out=heights, mode="clip")
        np.matmul(heights.transpose(0, 2, 1), births, out=terms)
        if i:
            sums[:m] += terms
    peaks = sums.max(axis=(1, 2))
    sums /= np.where(peaks > 0, peaks, 1.0)[:, None, None]
    levels = np.empty(sums.shape, np.uint8)
    np.multiply(sums, 255, out=levels, casting="unsafe")  # truncates
    return levels[rank], peaks[rank]
