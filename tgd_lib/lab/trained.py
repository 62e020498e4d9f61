"""What has been trained, ready for use: networks from the store, and the pixels they look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from safetensors.torch import load_file
from torch import nn

from tgd_lib.bank import Teacher
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import InputError
from tgd_lib.diagrams import persistence_maps
from tgd_lib.files import sha256
from tgd_lib.lab.spec import Spec, View
from tgd_lib.lab.store import Artefact
from tgd_lib.lab.views import Views
from tgd_lib.networks import wide_resnet
from tgd_lib.topology import persistence_images

WEIGHTS = "weights.safetensors"


def fresh(spec: Spec) -> nn.Module:
    """The network of `spec` before training, on the CPU; its initial weights depend on the seed
    alone.
    """
    depth, width, classes = spec.network
    return wide_resnet(depth, width, spec.view.channels, classes, seed=spec.seed)


class Trained:
    """Loads what has been trained, as `find` knows it by its spec; trains nothing.

    `views` shows the images of one run, so a teacher loaded here looks at the training images of
    its student, whatever it was trained on itself.
    """

    def __init__(self, find: Callable[[Spec], Artefact | None], views: Views, compute: Compute):
        self.find, self.views, self.compute = find, views, compute
        self._pixels: dict[tuple[View, str], Pixels] = {}  # seeds and methods share them
        self._sums: dict[str, str] = {}  # of weights, by key: a teacher has many students

    def network(self, spec: Spec) -> nn.Module:
        """The trained network in eval mode, on the device."""
        module = fresh(spec)
        module.load_state_dict(load_file(self.find(spec).path / WEIGHTS))
        return self.compute.place(module).eval()

    def sum_of(self, spec: Spec) -> str | None:
        """The sha256 of a network's weights; None where it is not trained."""
        found = None if spec.key in self._sums else self.find(spec)
        if found:
            self._sums[spec.key] = sha256(found.path / WEIGHTS)
        return self._sums.get(spec.key)

    def teacher(self, spec: Spec, *, shown: str | None = None) -> Teacher:
        """The trained network together with the training images as it sees them, or as another
        kind of view shows them, normalised alike.
        """
        view = self.view(spec)
        if shown:
            view = replace(view, kind=shown)
        return Teacher(self.network(spec), self.pixels(view, "train"))

    def view(self, spec: Spec) -> View:
        """What the trained network sees, normalised as in its own training."""
        if spec.view.constants:
            return spec.view
        # Measured on what it was trained on, which may be other images than this run's.
        return replace(spec.view, constants=_as_tuples(self.find(spec).record["constants"]))

    def pixels(self, view: View, part: str) -> Pixels:
        """What `view` shows of "train", "test" or "holdout", resident on the device."""
        if (view, part) not in self._pixels:
            array, constants = self.views.array(view, part), self.views.constants(view)
            if view.kind != "image":
                self._drop_others(view)
            self._pixels[view, part] = Pixels(array, *constants, self.compute)
        return self._pixels[view, part]

    def _drop_others(self, view: View) -> None:
        """Keep the images and one other view: persistence images of 50,000 images take 0.75 GB."""
        for held, part in list(self._pixels):
            if held.kind != "image" and held != view:
                del self._pixels[held, part]

    def shown(self, view: View, images) -> Pixels:
        """Other images uint8 (N, H, W, 3) as the networks of `view` are shown theirs (`seen`)."""
        return Pixels(seen(view, images), *self.views.constants(view), self.compute)


def seen(view: View, images: np.ndarray) -> np.ndarray:
    """uint8 (N, C, H, W): what networks of `view` see of images uint8 (N, H, W, 3), made now.

    InputError for a view that no single image has: permuted or noisy ones.
    """
    pictures = images.transpose(0, 3, 1, 2)
    if view.kind == "image":
        return pictures
    if view.kind == "pi":
        return persistence_images(images, view.orientation, view.params)
    if view.kind == "image_map":
        return np.concatenate([pictures, persistence_maps(images)], axis=1)
    raise InputError(f"a network that sees {view.kind!r}: only those of a whole run can be shown")


def _as_tuples(constants) -> tuple:
    """Mean and standard deviation as a view has them, from JSON's lists."""
    mean, std = constants
    return tuple(mean), tuple(std)
