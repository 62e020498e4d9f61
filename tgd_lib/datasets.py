"""Images and labels as arrays in memory, whatever they come from, with a fingerprint of every byte.

    load        a data set's split      sample · cifar10 · cinic10 · folder
    stratified  which images            a subset of fixed size, classes as even as in the whole
    load_parts  what a run works on     train, test, and images held out for choices

Where they come from is a matter of `tgd_lib.images`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tgd_lib import config
from tgd_lib.config import InputError
from tgd_lib.images import cifar, folders, sample


class Dataset(NamedTuple):
    """Images in memory, what they show, and a fingerprint of all that."""

    images: np.ndarray  # uint8 (N, H, W, 3)
    labels: np.ndarray  # int64 (N,), 0 to classes - 1
    class_names: tuple[str, ...]
    fingerprint: str  # sha256, hex


class Parts(NamedTuple):
    """What a run learns from, is measured on, and makes its choices on (None: it makes none)."""

    train: Dataset
    test: Dataset
    holdout: Dataset | None


# ---------------------------------------------------------------- loading


def load(
    name: str,
    split: str,
    root: str | Path | None = None,
    *,
    resize: int | tuple[int, int] | None = None,
    download: bool = True,
) -> Dataset:
    """One split of a data set.

    name: sample | cifar10 | cinic10 | folder. split: train | test, and valid where there is one.
    root: the data folder (default data/ in the repository, from where relative paths count).
    resize: a side, or (height, width), for all images. download: whether cifar10 may be downloaded.
    Raises InputError (one line: what, where, what to do) for anything that cannot be used.
    """
    size = _size(resize)
    known = splits(name, root)
    if split not in known:
        raise config.unknown(f"{name} split", split, known)
    if name == "folder":  # the only one whose images may differ in size, so resized one by one
        return _dataset(*folders.read(_folder(root), split, size=size))
    if name == "sample":
        images, labels, class_names = sample.read(split)
    elif name == "cifar10":
        images, labels, class_names = cifar.cifar10(_folder(root), split, download=download)
    else:
        images, labels, class_names = cifar.cinic10(_folder(root), split)
    if size and images.shape[1:3] != size:
        images = folders.resized(images, size)
    return _dataset(images, labels, class_names)


def splits(name: str, root: str | Path | None = None) -> tuple[str, ...]:
    """The splits of a data set; for `folder`, those that lie in root.

    Raises InputError for an unknown name.
    """
    config.check("dataset", name)
    if name == "folder":
        return folders.splits(_folder(root))
    return ("train", "test") if name == "cifar10" else folders.SPLITS


def check(settings: config.Settings) -> None:
    """A quick look at the data folder of the settings, before anything runs.

    Raises InputError if it will not do.
    """
    if settings.data_dir:
        splits(settings.dataset, _folder(config.data_path(settings)))


def fingerprint(images: np.ndarray, labels: np.ndarray, class_names: Sequence[str] = ()) -> str:
    """sha256 (hex) over the shapes, dtypes and bytes of both arrays and the class names."""
    arrays = [np.ascontiguousarray(images), np.ascontiguousarray(labels)]
    # Shapes and names as well: the same bytes may be another data set.
    header = [[a.dtype.str, a.shape] for a in arrays] + [list(class_names)]
    digest = hashlib.sha256(json.dumps(header).encode())
    for array in arrays:
        digest.update(array.data)
    return digest.hexdigest()


def _dataset(images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> Dataset:
    return Dataset(images, labels, class_names, fingerprint(images, labels, class_names))


def _size(resize: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width), checked; None if nothing is to be resized."""
    if resize is None:
        return None
    size = tuple(resize) if isinstance(resize, (tuple, list)) else (resize, resize)
    if len(size) != 2 or not all(type(side) is int and 1 <= side <= 4096 for side in size):
        raise InputError(
            f"resize={resize!r}: give a side or (height, width), whole numbers from 1 to 4096"
        )
    return size


def _folder(root: str | Path | None) -> Path:
    """The data folder. Only the default one may be missing: it is made by the first download."""
    folder = config.from_root(root or "data")
    try:
        folder.stat()
    except FileNotFoundError:
        if root:
            raise InputError(
                f"data folder {folder} does not exist: correct the path, or make the folder"
            ) from None
        return folder
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        raise InputError(f"data folder {folder}: no such path ({error}): correct it") from None
    if not folder.is_dir():
        raise InputError(
            f"data folder {folder} is a file: name the folder that the data set lies in"
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(
            f"data folder {folder} cannot be read: change its permissions, or name another"
        )
    return folder


# ---------------------------------------------------------------- subsets


def stratified(labels: np.ndarray, n: int, *, seed: int, exclude: Sequence[int] = ()) -> np.ndarray:
    """Sorted indices int64 (n,) of n images outside `exclude`, classes as even as in the whole.

    The seed fixes an order of all images, and each class gives its first ones: neither `exclude`
    nor a larger n reshuffles the others. Each class gives in proportion to what it has outside
    `exclude`. Raises InputError if there are fewer than n, or a class would get none.
    """
    labels = np.asarray(labels)
    # Classes are those of the whole: one that `exclude` has emptied must be missed, not forgotten.
    free = np.ones(len(labels), bool)
    free[np.asarray(exclude, np.int64)] = False
    classes = np.unique(labels)
    available = np.array([np.count_nonzero(labels[free] == c) for c in classes], np.int64)
    if not 1 <= n <= available.sum():
        raise InputError(
            f"{n} images where {available.sum()} are available: ask for 1 to that many"
        )
    shares = _shares(available, n)
    if not shares.all():
        empty = classes[np.argmin(shares)]
        raise InputError(
            f"{n} images leave class {empty} without any: ask for more, or add images to it"
        )
    # The raw stream of a bit generator never changes between NumPy versions; Generator.choice may.
    order = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    order = order[free[order]]
    chosen = []  # of each class its first ones in that order
    for c, share in zip(classes, shares, strict=True):
        chosen.append(order[labels[order] == c][:share])
    return np.sort(np.concatenate(chosen))


def _shares(available: np.ndarray, n: int) -> np.ndarray:
    """n divided in proportion to `available`, int64 (classes,), rounded by largest remainder.

    Never more than is available.
    """
    total = available.sum()
    shares, remainders = n * available // total, n * available % total
    largest = np.argsort(-remainders, kind="stable")  # of equal ones, the first
    shares[largest[: n - shares.sum()]] += 1
    return shares


def take(dataset: Dataset, indices: np.ndarray) -> Dataset:
    """The images at `indices`, in that order, with a fingerprint of their own."""
    return _dataset(dataset.images[indices], dataset.labels[indices], dataset.class_names)


# ---------------------------------------------------------------- the parts of a run


def load_parts(settings: config.Settings) -> Parts:
    """The train, test and held-out images that the settings ask for, drawn with their `data_seed`.

    Held-out images come from the split `valid` where there is one, else from the train images that
    are not trained on. Raises InputError if a part is larger than what there is, leaves a class
    empty, or there is but one class to learn.
    """
    name = settings.dataset
    root = config.data_path(settings) if settings.data_dir else None
    whole = load(name, "train", root, resize=settings.resize)
    chosen = _choose(whole, settings.n_train, f"n_train={settings.n_train}", settings)
    train = take(whole, chosen)
    _check_classes(name, train)
    test = load(name, "test", root, resize=settings.resize)
    _check_sizes(name, whole, test)
    test = take(test, _choose(test, settings.n_test, f"n_test={settings.n_test}", settings))
    if not settings.holdout:
        return Parts(train, test, None)
    label = f"holdout={settings.holdout}"
    if "valid" in splits(name, root):
        rest, exclude = load(name, "valid", root, resize=settings.resize), ()
        _check_sizes(name, whole, rest, "valid")
    else:
        rest, exclude = whole, chosen
        label += " outside n_train"
        if settings.published:  # of a smaller n_train, too, no image that its teachers know
            exclude = np.union1d(chosen, _places_outside(_held_out(whole), whole))
            label += " and the teachers' images"
    holdout = take(rest, _choose(rest, settings.holdout, label, settings, exclude=exclude))
    return Parts(train, test, holdout)


def _check_classes(name: str, train: Dataset) -> None:
    found = np.unique(train.labels)
    if len(found) < 2:  # any network learns to say the one word that is ever right
        only = train.class_names[found[0]]
        raise InputError(
            f"{name}: all {len(train.labels)} training images are of class {only!r}: "
            "at least 2 classes are needed"
        )


def _check_sizes(name: str, train: Dataset, other: Dataset, split: str = "test") -> None:
    sizes = [f"{d.images.shape[1]}x{d.images.shape[2]}" for d in (train, other)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{name}: train images are {sizes[0]} pixels, {split} images {sizes[1]}: set resize"
        )


def teachers_images(fingerprint: str, settings: config.Settings) -> Dataset:
    """The images that published teachers were trained on: CIFAR-10's but those held out.

    Only to train them again: whoever uses them needs no more than the published weights. Raises
    InputError (what is missing, what to do) where CIFAR-10 is not at hand, or comes to other
    images.
    """
    if fingerprint != config.NOT_HELD_OUT:
        raise InputError(
            f"no data set with the fingerprint {fingerprint[:12]} is known: "
            "its teacher cannot be trained"
        )
    root = config.data_path(settings) if settings.data_dir else None
    try:
        whole = load("cifar10", "train", root)
    except InputError as error:
        raise InputError(
            "a teacher is to be trained on all of CIFAR-10, which is not at hand: "
            f"name a copy with --data ({error})"
        ) from None
    found = not_held_out(whole)
    if found.fingerprint != fingerprint:
        raise InputError(
            f"the CIFAR-10 in {config.data_path(settings)} has other images "
            "than the teachers were trained on"
        )
    return found


def not_held_out(whole: Dataset) -> Dataset:
    """CIFAR-10's training images without the 2,000 that `study` holds out (`quick` 500 of them)."""
    return take(whole, _places_outside(_held_out(whole), whole))


def _held_out(whole: Dataset) -> np.ndarray:
    """Places of the 2,000 of CIFAR-10's training images that `study` holds out."""
    study = config.PROFILES["study"]
    students = stratified(whole.labels, study.n_train, seed=study.data_seed)
    return stratified(whole.labels, study.holdout, seed=study.data_seed, exclude=students)


def _places_outside(places: np.ndarray, whole: Dataset) -> np.ndarray:
    return np.setdiff1d(np.arange(len(whole.labels)), places)


def _choose(
    dataset: Dataset,
    n: int | None,
    label: str,
    settings: config.Settings,
    *,
    exclude: Sequence[int] = (),
) -> np.ndarray:
    """`stratified`, where None means all, and an error names the parameter."""
    if n is None:
        return np.arange(len(dataset.labels))
    try:
        return stratified(dataset.labels, n, seed=settings.data_seed, exclude=exclude)
    except InputError as error:
        raise InputError(f"{label} of {settings.dataset}: {error}") from None
