"""The embedded data set: 4,000 real CIFAR-10 images, lossless, that come with the repository.

`sample/` beside this file holds them as WebP strips, with a card (README.md): source, citation,
official indices, sums.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from tgd_lib.config import InputError
from tgd_lib.images.folders import reading

FOLDER = Path(__file__).with_name("sample")
INDEX = FOLDER / "index.json"
SIZE = 32


def read(split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """All images of a split: train (2,000), valid (500) or test (1,500), in the order of their
    official indices.

    Returns images uint8 (N, 32, 32, 3), labels int64 (N,), class names. Raises InputError if a file
    is missing or not as it was made.
    """
    with reading(INDEX):
        index = json.loads(INDEX.read_text(encoding="utf-8"))
    part = index["splits"][split]
    strips = [_strip(FOLDER / name) for name in part["files"]]
    images = np.concatenate(strips).reshape(-1, SIZE, SIZE, 3)
    if hashlib.sha256(images.tobytes()).hexdigest() != part["sha256"]:
        raise InputError(
            f"{FOLDER}: the images of {split} are not as they were made: "
            f"git checkout -- {FOLDER.name}"
        )
    return images, np.array(part["labels"], np.int64), tuple(index["class_names"])


def _strip(path: Path) -> np.ndarray:
    """uint8 (H, 32, 3): images one below the other."""
    from PIL import Image

    with reading(path), Image.open(path, formats=("WEBP",)) as strip:
        return np.asarray(strip.convert("RGB"))
