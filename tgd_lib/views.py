"""What a network is shown of a set of images: the images, their persistence images, or a control for those."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tgd_lib.datasets import Dataset
from tgd_lib.specs import View

SEED = 0  # of the permutations; one each for all students, as there is one PI teacher


def array(view: View, images: Dataset, topology: Callable[[], np.ndarray], *, training: bool) -> np.ndarray:
    """uint8 (N, C, H, W) that `view` shows of `images`; `topology` gives their persistence images or maps if needed.

    Permuted are those of the training images only: others are measured on their own persistence images.
    """
    pictures = images.images.transpose(0, 3, 1, 2)  # (N, C, H, W), channels last in memory
    if view.kind == "image":
        return pictures
    if view.kind == "image_map":
        return np.concatenate([pictures, topology()], axis=1)
    if view.kind == "noise":
        side = view.params.resolution
        return noise((len(pictures), view.channels, side, side), seed=int(images.fingerprint[:12], 16))
    if view.kind == "pi" or not training:
        return topology()
    groups = images.labels if view.kind == "pi_within" else np.zeros_like(images.labels)
    return topology()[exchanged(groups, seed=SEED)]


def exchanged(groups: np.ndarray, *, seed: int) -> np.ndarray:
    """int64 (N,): for each place another place of the same group, drawn at random; its own where it is alone.

    Each group is laid in a circle in random order, and each takes its neighbour's: nobody keeps their own.
    """
    order = np.argsort(np.random.PCG64(seed).random_raw(len(groups)), kind="stable")
    result = np.empty(len(groups), np.int64)
    for group in np.unique(groups):
        circle = order[groups[order] == group]
        result[circle] = np.roll(circle, 1)
    return result


def noise(shape: tuple[int, ...], *, seed: int) -> np.ndarray:
    """Uniform uint8 of a shape, the same for the same seed (and any NumPy)."""
    size = int(np.prod(shape))
    return np.random.PCG64(seed).random_raw(-(-size // 8)).view(np.uint8)[:size].reshape(shape)
