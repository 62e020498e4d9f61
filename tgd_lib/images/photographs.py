"""The embedded data set: 32x32 patches of eight photographs that come with scikit-image, nothing downloaded.

The class of a patch is the photograph it was cut from. No pixel is shared between two splits:

    +---------------+---------------+
    |     train     |               |
    |               |     test      |
    +---------------+               |
    |     valid     |               |
    +---------------+---------------+

It demonstrates the method offline; it proves nothing about CIFAR-10.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np

from tgd_lib.config import InputError

SIZE = 32
POOL = {"train": 600, "valid": 200, "test": 400}  # patches of each class
FLATTEST = 4  # levels; a patch with a channel of smaller standard deviation is passed over (the retina's rim)
MEAN, STD = 128, 48  # of every channel of every patch, so that overall colour does not decide
SEED = 0  # of the places

PHOTOGRAPHS = {  # class name: file in skimage/data, sha256
    "astronaut": ("astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
    "chelsea": ("chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    "coffee": ("coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    "hubble_deep_field": (
        "hubble_deep_field.jpg",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    ),
    "immunohistochemistry": ("ihc.png", "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef"),
    "retina": ("retina.jpg", "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6"),
    "rocket": ("rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
    "stereo_motorcycle": (
        "motorcycle_left.png",
        "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
    ),
}
CLASS_NAMES = tuple(PHOTOGRAPHS)


def read(split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """All patches of a split (train, valid or test), class after class.

    Returns images uint8 (N, 32, 32, 3), labels int64 (N,), class names; N = 8 * POOL[split].
    Raises InputError if scikit-image or one of its photographs is missing or changed.
    """
    count = POOL[split]
    patches = [
        standardised(cut(_part(_photograph(name), split), count, seed=SEED)) for name in CLASS_NAMES
    ]
    return np.concatenate(patches), np.repeat(np.arange(len(patches)), count), CLASS_NAMES


def cut(region: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """`count` patches at different places of a region, none with a flat channel.

    region uint8 (H, W, 3) → uint8 (count, 32, 32, 3), overlapping, in an order fixed by the seed.
    """
    rows, columns = np.nonzero((_variances(region) >= FLATTEST**2).all(axis=-1))
    # The raw stream of a bit generator never changes between NumPy versions; Generator.choice may.
    order = np.argsort(np.random.PCG64(seed).random_raw(len(rows)), kind="stable")[:count]
    windows = np.lib.stride_tricks.sliding_window_view(region, (SIZE, SIZE), axis=(0, 1))
    return windows[rows[order], columns[order]].transpose(0, 2, 3, 1)


def standardised(patches: np.ndarray) -> np.ndarray:
    """Each channel of each patch brought to mean 128 and standard deviation 48, clipped to 0..255.

    patches uint8 (N, H, W, 3), no channel constant → uint8 of the same shape.
    """
    x = patches.astype(np.int64)
    n = x.shape[1] * x.shape[2]
    total, squares = x.sum(axis=(1, 2), keepdims=True), (x * x).sum(axis=(1, 2), keepdims=True)
    # Whole numbers up to one root, one division and one product: the same bits on every machine.
    levels = MEAN + STD * ((n * x - total) / np.sqrt(n * squares - total * total))
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def _variances(region: np.ndarray) -> np.ndarray:
    """Variance of every 32x32 window: uint8 (H, W, 3) → float64 (H-31, W-31, 3)."""
    x = region.astype(np.int64)
    n = SIZE * SIZE
    return (n * _window_sums(x * x) - _window_sums(x) ** 2) / n**2


def _window_sums(x: np.ndarray) -> np.ndarray:
    """Sum over every 32x32 window: int64 (H, W, 3) → int64 (H-31, W-31, 3)."""
    table = np.pad(x.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0), (0, 0)))
    s = SIZE
    return table[s:, s:] - table[:-s, s:] - table[s:, :-s] + table[:-s, :-s]


def _part(photograph: np.ndarray, split: str) -> np.ndarray:
    """The region of a photograph that belongs to a split."""
    height, width, _ = photograph.shape
    row, column = height * 3 // 4, width // 2
    return {
        "train": photograph[:row, :column],
        "valid": photograph[row:, :column],
        "test": photograph[:, column:],
    }[split]


def _photograph(name: str) -> np.ndarray:
    """One photograph, uint8 (H, W, 3). Read from the package's folder: skimage.data might download."""
    from PIL import Image

    file, sha256 = PHOTOGRAPHS[name]
    package = importlib.util.find_spec("skimage")
    if package is None:
        raise InputError("photographs: scikit-image is not installed: pip install scikit-image")
    path = Path(package.origin).parent / "data" / file
    found = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(found).hexdigest() != sha256:
        state = "is not the published photograph" if found else "is missing"
        raise InputError(f"{path} {state}: pip install --force-reinstall scikit-image")
    return np.asarray(Image.open(io.BytesIO(found)).convert("RGB"))
