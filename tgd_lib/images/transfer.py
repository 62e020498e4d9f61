"""The CINIC-10 sample: images like CIFAR-10's from elsewhere, on which a CIFAR-10 network is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tgd_lib.config import InputError
from tgd_lib.images.folders import reading

ARRAYS = ("images", "labels", "source")


def load_transfer_sample(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """images uint8 (N, 32, 32, 3), labels int64 (N,) from 0 to 9, seen bool (N,), from an npz file.

    seen: the image is one of CIFAR-10's *training* images too (`source` is 1 in the file), so it says
    nothing of transfer; the others (`source` 0) do. Raises InputError (one line) if the file is missing,
    damaged or something else.
    """
    path = Path(path)
    with reading(path), path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        missing = [name for name in ARRAYS if name not in file]
        if missing:
            raise InputError(f"{path}: no array {missing[0]!r} in it: it must hold {', '.join(ARRAYS)}")
        images, labels, source = (file[name] for name in ARRAYS)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3) or not len(images):
        raise InputError(f"{path}: images are {images.dtype} {images.shape}: uint8 (N, 32, 32, 3) is needed")
    for name, values, largest in (("labels", labels, 9), ("source", source, 1)):
        whole = values.dtype.kind in "iu" and values.shape == (len(images),)
        if not whole or values.min() < 0 or values.max() > largest:
            wanted = f"{len(images)} whole numbers from 0 to {largest}"
            raise InputError(f"{path}: {name} are {values.dtype} {values.shape}: {wanted} are needed")
    return images, labels.astype(np.int64), source == 1
