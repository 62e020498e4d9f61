"""What a network is shown of a set of images: the images, their persistence images, or a control
for those.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tgd_lib.datasets import Dataset, Parts
from tgd_lib.diagrams import persistence_maps
from tgd_lib.images.corruptions import corrupt
from tgd_lib.lab.spec import View
from tgd_lib.lab.store import Store
from tgd_lib.topology import save_persistence_images

SEED = 0  # of the permutations; one each for all students, as there is one PI teacher
# Of CIFAR-10-C's corruptions and severities: what "pi_noisy" is drawn from.
NOISY = ("gaussian_noise", 3)


class Views:
    """The pixels that views show of a run's data, from the store or made now."""

    def __init__(self, data: Parts, store: Store, *, say: Callable[[str], None]):
        self.data, self.store, self.say = data, store, say
        self._measured: dict[View, tuple] = {}  # constants of views that have no published ones

    def array(self, view: View, part: str) -> np.ndarray:
        """uint8 (N, C, H, W) that `view` shows of "train", "test" or "holdout"."""
        made = self.persistence_maps if view.kind == "image_map" else self.persistence_images
        return array(view, getattr(self.data, part), lambda: made(view, part))

    def constants(self, view: View) -> tuple:
        """Mean and standard deviation a channel, on [0, 1], that `view` is normalised by:
        published, or measured on what it shows of the training images.
        """
        if view.constants:
            return view.constants
        if view not in self._measured:
            self._measured[view] = measured_constants(self.array(view, "train"))
        return self._measured[view]

    def persistence_images(self, view: View, part: str) -> np.ndarray:
        """Persistence images uint8 (N, 3 or 6, R, R) that `view` is about, mapped from
        the store."""
        images = getattr(self.data, part)
        spec = {
            "images": images.fingerprint,
            "orientation": view.orientation,
            "params": view.params,
        }
        if view.kind == "pi_noisy":
            spec |= {"corruption": NOISY}

        def build(folder: Path) -> dict:
            self.say(f"persistence images of {len(images.images)} images ({part})")
            watched = sys.stderr.isatty()  # a live bar only where a person watches
            save_persistence_images(
                folder / "images.npy",
                pictured(view, images),
                view.orientation,
                view.params,
                progress=watched,
            )
            return {"n": len(images.images), "part": part}

        return self.store.make("persistence_images", spec, build).array("images")

    def persistence_maps(self, _: View, part: str) -> np.ndarray:
        """Persistence maps uint8 (N, 6, H, W), mapped from the store."""
        images = getattr(self.data, part)

        def build(folder: Path) -> dict:
            self.say(f"persistence maps of {len(images.images)} images ({part})")
            np.save(folder / "maps.npy", persistence_maps(images.images))
            return {"n": len(images.images), "part": part}

        return self.store.make("persistence_maps", {"images": images.fingerprint}, build).array(
            "maps"
        )


# ---------------------------------------------------------------- what is shown, as a function


def array(view: View, images: Dataset, topology: Callable[[], np.ndarray]) -> np.ndarray:
    """uint8 (N, C, H, W) that `view` shows of `images`; `topology` gives their persistence images
    or maps if needed.
    """
    pictures = images.images.transpose(0, 3, 1, 2)  # (N, C, H, W), channels last in memory
    if view.kind == "image":
        return pictures
    if view.kind == "image_map":
        return np.concatenate([pictures, topology()], axis=1)
    if view.kind in ("pi", "pi_noisy"):
        return topology()
    if view.kind == "pi_mixed":
        return mixed(topology(), seed=SEED)
    groups = images.labels if view.kind == "pi_within" else np.zeros_like(images.labels)
    return topology()[exchanged(groups, seed=SEED)]


def pictured(view: View, images: Dataset) -> np.ndarray:
    """uint8 (N, H, W, 3): the images whose topology `view` is about, their own or, for "pi_noisy",
    noisy copies.

    The noise is drawn once for a set of images, other noise for another set.
    """
    if view.kind != "pi_noisy":
        return images.images
    return corrupt(images.images, *NOISY, seed=_seed(images) % 2**32)


def _seed(images: Dataset) -> int:
    return int(images.fingerprint[:12], 16)


def exchanged(groups: np.ndarray, *, seed: int) -> np.ndarray:
    """int64 (N,): for each place another place of the same group, drawn at random; its own where it
    is alone.

    Each group is laid in a circle in random order, and each takes its neighbour's: nobody keeps
    their own.
    """
    order = _shuffled(len(groups), np.random.PCG64(seed))
    result = np.empty(len(groups), np.int64)
    for group in np.unique(groups):
        circle = order[groups[order] == group]
        result[circle] = np.roll(circle, 1)
    return result


def mixed(pictures: np.ndarray, *, seed: int) -> np.ndarray:
    """Noise with the distribution that each pixel has over uint8 (N, C, H, W): each is taken from
    another picture, and those of one picture from all over.

    All pictures are laid in a circle in random order; each pixel has its own number of places to
    go on.
    """
    generator, n = np.random.PCG64(seed), len(pictures)
    flat = pictures.reshape(n, -1)
    order = _shuffled(n, generator)
    steps = 1 + generator.random_raw(flat.shape[1]) % max(1, n - 1)
    result = np.empty_like(flat)
    for pixel, step in enumerate(steps.tolist()):
        result[order, pixel] = flat[np.roll(order, step), pixel]
    return result.reshape(pictures.shape)


def _shuffled(n: int, generator: np.random.PCG64) -> np.ndarray:
    """0 to n - 1 in random order, the same in any NumPy."""
    return np.argsort(generator.random_raw(n), kind="stable")


def measured_constants(array) -> tuple[list[float], list[float]]:
    """Mean and standard deviation on [0, 1] of each channel of uint8 (N, C, H, W); a constant one
    gets 1.
    """
    # Bincount makes eight bytes of each.
    parts = [array[i : i + 1000] for i in range(0, len(array), 1000)]
    counts = [
        sum(np.bincount(p[:, c].ravel(), minlength=256) for p in parts)
        for c in range(array.shape[1])
    ]
    levels = np.arange(256) / 255
    mean = [float(n @ levels / n.sum()) for n in counts]
    std = [
        float(np.sqrt(n @ (levels - m) ** 2 / n.sum())) for n, m in zip(counts, mean, strict=True)
    ]
    return mean, [s if s > 0 else 1.0 for s in std]
