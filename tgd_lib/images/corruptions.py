"""Thirteen of CIFAR-10-C's corruptions, and the official arrays of all nineteen.

    corrupt        images, each corrupted, by our own code
    read_official  the published arrays
    source         which of the two a run takes, as one object

Source: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019; their constants and order of operations are those of the script that made
the published arrays (hendrycks/robustness, make_cifar_c.py). The constants are meant for 32x32
images and are not scaled to other sizes. As published, results are *truncated* to 8 bits, not
rounded, which darkens by half a level in the mean.

What differs from the published code: the noise is other noise of the same law (drawn from a seed,
while theirs had none), defocus and zoom blur add in another order (equal to one level), and images
that are not 32x32 are taken too. The six other corruptions need pictures, OpenCV or ImageMagick:
`read_official`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Its stream is frozen for good; default_rng's may change with NumPy.
from numpy.random import RandomState

from tgd_lib.config import InputError, unknown
from tgd_lib.files import sha256
from tgd_lib.images.folders import reading

CHUNK = 200  # images worked on at a time; does not change the result
SEVERITIES = (1, 2, 3, 4, 5)
SEED = 0  # of the noise that a `Source` draws
OFFICIAL_IMAGES = 10_000  # CIFAR-10's test images


def corrupt(images: np.ndarray, name: str, severity: int, *, seed: int = 0) -> np.ndarray:
    """Images uint8 (N, H, W, 3), each corrupted: uint8 of the same shape.

    name: one of NAMES; severity: 1 to 5; H and W at least 8. Random numbers depend on (name,
    severity, seed) alone and are dealt to the images in order: `corrupt(images)[:k]` equals
    `corrupt(images[:k])`, but an image in another place gets other noise. Raises InputError (one
    line) for anything else.
    """
    images = np.asarray(images)
    _check(images, name, severity, seed)
    apply, constants = _TABLE[name]
    random = RandomState([zlib.crc32(name.encode()), severity, seed])
    result = np.empty_like(images)
    for i in range(0, len(images), CHUNK):
        part = apply(images[i : i + CHUNK], constants[severity - 1], random)
        result[i : i + CHUNK] = _to_uint8(part)
    return result


def _check(images: np.ndarray, name: str, severity: int, seed: int) -> None:
    if name not in NAMES:
        raise unknown("corruption", name, NAMES)
    if not _whole(severity) or severity not in SEVERITIES:
        raise InputError(f"severity {severity!r} does not exist: choose 1, 2, 3, 4 or 5")
    if not _whole(seed) or not 0 <= seed < 2**32:
        raise InputError(f"seed {seed!r}: a whole number from 0 to 2**32 - 1 is needed")
    shape = images.shape
    if images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < 8:
        found = f"images are {images.dtype} {shape}"
        raise InputError(f"{found}: uint8 (N, H, W, 3), 8x8 or more, is needed")


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    """Values on [0, 1], clipped and truncated to 8 bits; what is 8-bit already stays."""
    if values.dtype == np.uint8:
        return values
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


# ---------------------------------------------------------------- noise
# Every corruption takes images uint8 (n, H, W, 3), the constant of its severity, and a RandomState;
# it returns values on [0, 1], still to be clipped, or uint8. Every one that draws does so in C
# order with the images first, so that a prefix of the images gets a prefix of the numbers.


def _gaussian_noise(images: np.ndarray, sigma: float, random: RandomState) -> np.ndarray:
    """x + sigma * normal, each value by itself."""
    return images / 255 + random.normal(scale=sigma, size=images.shape)


def _shot_noise(images: np.ndarray, photons: float, random: RandomState) -> np.ndarray:
    """Poisson(photons * x) / photons: variance x / photons."""
    return random.poisson(images / 255 * photons) / photons


def _impulse_noise(images: np.ndarray, amount: float, random: RandomState) -> np.ndarray:
    """A share `amount` of the values (not pixels) becomes 0 or 1, with equal chances."""
    u = random.random_sample(images.shape)
    values = images / 255
    values[u < amount / 2] = 0
    values[u >= 1 - amount / 2] = 1
    return values


def _speckle_noise(images: np.ndarray, sigma: float, random: RandomState) -> np.ndarray:
    """x + x * sigma * normal."""
    x = images / 255
    return x + x * random.normal(scale=sigma, size=images.shape)


# ---------------------------------------------------------------- blur


def _gaussian_blur(images: np.ndarray, sigma: float, _: RandomState) -> np.ndarray:
    """Gaussian cut at 4 sigma; beyond its edge an image goes on as its edge, as skimage does."""
    from scipy import ndimage

    return ndimage.gaussian_filter(images / 255, (0, sigma, sigma, 0), mode="nearest", truncate=4)


def _defocus_blur(images: np.ndarray, disk: tuple[float, float], _: RandomState) -> np.ndarray:
    """Mean over a disk; an image is mirrored at its edge, which is not repeated (OpenCV's way)."""
    from scipy import ndimage

    kernel = disk_kernel(*disk)[None, :, :, None]  # over the pixels alone
    return ndimage.correlate(images / 255, kernel, mode="mirror")


def disk_kernel(radius: float, sigma: float) -> np.ndarray:
    """A disk of 0 or 1 on whole pixels, blurred by a 3x3 Gaussian: float64 (k, k), of sum 1."""
    from scipy import ndimage

    # One pixel more than the disk, for its blur.
    reach = np.arange(-int(radius) - 1, int(radius) + 2)
    distance = reach[:, None] ** 2 + reach**2
    disk = (distance <= radius**2).astype(float)
    bell = np.exp(-(np.array([-1, 0, 1]) ** 2) / (2 * sigma**2))
    blurred = ndimage.convolve(disk, np.outer(bell, bell), mode="constant")
    return blurred / blurred.sum()


def _zoom_blur(images: np.ndarray, end: float, _: RandomState) -> np.ndarray:
    """Mean of the image, and of its zooms by 1 (the image again), 1.01, 1.02 ..., below `end`."""
    values = (images / 255).astype(np.float32)
    x = np.ascontiguousarray(values.transpose(0, 3, 1, 2))  # (n, 3, H, W)
    height, width = x.shape[2:]
    total = x.copy()
    # The rounding of arange counts: 26 * 1.25 = 32.5 pixels become 33, not 32.
    zooms = np.arange(1, end, 0.01)
    for zoom in zooms:
        rows, columns = _zoom_matrix(height, zoom), _zoom_matrix(width, zoom)
        total += rows @ (x @ columns.T)
    return (total / (len(zooms) + 1)).transpose(0, 2, 3, 1)


def _zoom_matrix(side: int, zoom: float) -> np.ndarray:
    """The linear map float32 (side, side) from a line of pixels to its middle, magnified.

    The middle ceil(side / zoom) pixels are interpolated by scipy's zoom, and what is more than
    `side` is trimmed, as in the published code. Zoom is separable: two such maps zoom an image.
    """
    from scipy import ndimage

    kept = int(np.ceil(side / zoom))
    top = (side - kept) // 2
    middle = np.eye(side)[top : top + kept]
    magnified = ndimage.zoom(middle, (zoom, 1), order=1)
    trim = (len(magnified) - side) // 2
    return magnified[trim : trim + side].astype(np.float32)


# ---------------------------------------------------------------- weather


def _fog(images: np.ndarray, constants: tuple[float, float], random: RandomState) -> np.ndarray:
    """(x + strength * plasma) * m / (m + strength), m the image's largest value."""
    strength, decay = constants
    n, height, width, _ = images.shape
    size = 32  # the published map's; larger images take the next power of two
    while size < max(height, width):
        size *= 2
    plasma = plasma_fractals(n, size, decay, random)[:, :height, :width, None]
    largest = images.max((1, 2, 3), keepdims=True) / 255  # (n, 1, 1, 1)
    foggy = images / 255 + strength * plasma
    return foggy * largest / (largest + strength)


def plasma_fractals(n: int, size: int, decay: float, random: RandomState) -> np.ndarray:
    """n cloudy height maps float64 (n, size, size), each from 0 to 1; size is a power of two.

    Diamond-square algorithm on a torus: a grid is halved again and again, each new point the mean
    of its four neighbours plus w^2 * uniform(-1, 1). w is 100 at first and divided by `decay` at
    each halving (the square is the published code's: it scales the noise twice). Larger decay,
    smoother clouds.
    """
    maps = np.zeros((n, size, size))
    uniform = random.uniform(-1, 1, (n, size * size - 1))  # one a point but the first, which is 0
    used, step, w = 0, size, 100.0

    def fill(rows: slice, columns: slice, neighbours: np.ndarray) -> None:
        nonlocal used
        count = neighbours[0].size
        drawn = uniform[:, used : used + count].reshape(neighbours.shape)
        maps[:, rows, columns] = neighbours / 4 + w**2 * drawn
        used += count

    while step >= 2:
        old, new = slice(0, None, step), slice(step // 2, None, step)
        # The diamond step: the middle of each square, from its four corners.
        corners = maps[:, old, old]
        pairs = corners + np.roll(corners, -1, 1)
        fill(new, new, pairs + np.roll(pairs, -1, 2))
        # The square step: the middle of each side, from its two ends and the two middles beside it.
        centres = maps[:, new, new]
        beside = centres + np.roll(centres, 1, 1)
        fill(old, new, beside + corners + np.roll(corners, -1, 2))
        beside = centres + np.roll(centres, 1, 2)
        fill(new, old, beside + corners + np.roll(corners, -1, 1))
        step, w = step // 2, w / decay
    maps -= maps.min((1, 2), keepdims=True)
    return maps / maps.max((1, 2), keepdims=True)


def _brightness(images: np.ndarray, added: float, _: RandomState) -> np.ndarray:
    """HSV value + added."""
    return _in_hsv(images, 2, 1, added)


def _saturate(images: np.ndarray, constants: tuple[float, float], _: RandomState) -> np.ndarray:
    """HSV saturation * factor + added. A grey pixel has hue 0: what is added makes it reddish."""
    return _in_hsv(images, 1, *constants)


def _in_hsv(images: np.ndarray, channel: int, factor: float, added: float) -> np.ndarray:
    """One channel of HSV times a factor plus a number, clipped to [0, 1], back in RGB."""
    from skimage import color

    hsv = color.rgb2hsv(images / 255)
    hsv[..., channel] = np.clip(hsv[..., channel] * factor + added, 0, 1)
    return color.hsv2rgb(hsv)


# ---------------------------------------------------------------- digital


def _contrast(images: np.ndarray, factor: float, _: RandomState) -> np.ndarray:
    """Differences from the mean of each image's channel, times a factor."""
    x = images / 255
    means = x.mean((1, 2), keepdims=True)
    return (x - means) * factor + means


def _pixelate(images: np.ndarray, factor: float, _: RandomState) -> np.ndarray:
    """Shrunk by box means to the factor (rounded down to whole pixels), and back."""
    from PIL import Image

    height, width = images.shape[1:3]
    small = (int(width * factor), int(height * factor))
    result = np.empty_like(images)
    for i, image in enumerate(images):
        shrunk = Image.fromarray(image).resize(small, Image.Resampling.BOX)
        result[i] = shrunk.resize((width, height), Image.Resampling.BOX)
    return result


def _jpeg_compression(images: np.ndarray, quality: int, _: RandomState) -> np.ndarray:
    """Through a JPEG file of that quality, all else PIL's defaults (colour at half resolution)."""
    from PIL import Image

    result = np.empty_like(images)
    for i, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        result[i] = Image.open(file)
    return result


# ---------------------------------------------------------------- what there is


class _Corruption(NamedTuple):
    apply: Callable[[np.ndarray, object, RandomState], np.ndarray]
    constants: tuple  # of severities 1 to 5


_TABLE = {
    "gaussian_noise": _Corruption(_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": _Corruption(_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": _Corruption(_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle_noise": _Corruption(_speckle_noise, (0.06, 0.10, 0.12, 0.16, 0.20)),
    "gaussian_blur": _Corruption(_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1)),
    "defocus_blur": _Corruption(
        _defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
    ),
    # The last zooms are 1.06, 1.11, 1.15, 1.20, 1.25: meant were 1.05 and 1.10, but in
    # arange(1, 1.06, 0.01) and arange(1, 1.11, 0.01) rounding lets the end in. The published arrays
    # were made so.
    "zoom_blur": _Corruption(_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "fog": _Corruption(_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": _Corruption(_brightness, (0.05, 0.10, 0.15, 0.20, 0.30)),
    "contrast": _Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "saturate": _Corruption(_saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
    "pixelate": _Corruption(_pixelate, (0.95, 0.90, 0.85, 0.75, 0.65)),
    "jpeg_compression": _Corruption(_jpeg_compression, (80, 65, 58, 50, 40)),
}
NAMES = tuple(_TABLE)
OFFICIAL_NAMES = NAMES + (
    "elastic_transform", "frost", "glass_blur", "motion_blur", "snow", "spatter",
)  # fmt: skip


# ---------------------------------------------------------------- the official arrays


def read_official(folder: str | Path, name: str) -> np.ndarray:
    """CIFAR-10-C's own `<name>.npy`: uint8 (5, 10000, 32, 32, 3), severities first, mapped.

    name: one of OFFICIAL_NAMES. The images are CIFAR-10's test images in the order of
    `official_labels`. Raises InputError (one line) if the file is missing, damaged or something
    else.
    """
    if name not in OFFICIAL_NAMES:
        raise unknown("corruption", name, OFFICIAL_NAMES)
    images = _load(Path(folder) / f"{name}.npy", (5 * OFFICIAL_IMAGES, 32, 32, 3), np.uint8)
    return images.reshape(5, OFFICIAL_IMAGES, 32, 32, 3)


def official_labels(folder: str | Path) -> np.ndarray:
    """CIFAR-10-C's `labels.npy`: int64 (10000,), the same for all severities.

    Raises InputError as `read_official` does.
    """
    path = Path(folder) / "labels.npy"
    labels = _load(path, (5 * OFFICIAL_IMAGES,)).reshape(5, OFFICIAL_IMAGES)
    alike = labels.dtype.kind in "iu" and (labels == labels[0]).all()
    if not alike or labels.min() < 0 or labels.max() > 9:
        raise InputError(
            f"{path}: not 10,000 labels from 0 to 9, five times over: get CIFAR-10-C again"
        )
    return labels[0].astype(np.int64)


def _load(path: Path, shape: tuple[int, ...], dtype: type | None = None) -> np.ndarray:
    if not path.parent.is_dir():
        raise InputError(f"CIFAR-10-C folder {path.parent} does not exist: correct the path")
    with reading(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        found = "an archive"
    elif array.shape == shape and array.dtype == (dtype or array.dtype):
        return array
    else:
        found = f"{array.dtype} {array.shape}"
    wanted = f"{np.dtype(dtype).name if dtype else 'whole numbers'} {shape}"
    raise InputError(f"{path}: {found} where {wanted} is needed: not CIFAR-10-C's, replace it")


# ---------------------------------------------------------------- which of the two


@dataclass(frozen=True)
class Source:
    """Where corrupted images come from: our own code, or the published arrays.

    kind: "own" or "official"; names: the corruptions to be had; folder: that of the arrays.
    """

    kind: str
    names: tuple[str, ...]
    folder: Path | None = None

    def fingerprint(self, name: str) -> str:
        """What the images of a corruption are made of: "own", or the sha256 of the official array.

        The clean images ("none") are nobody's but the data set's: "own".
        """
        if self.kind == "own" or name == "none":
            return "own"
        return sha256(self.folder / f"{name}.npy")

    def images(self, clean: np.ndarray, places: np.ndarray, name: str, severity: int) -> np.ndarray:
        """The images uint8 (N, 32, 32, 3) under a corruption: `clean` ones corrupted, or read.

        places: where each of them stands among the test images, int (N,).
        """
        if self.kind == "own":
            return corrupt(clean, name, severity, seed=SEED)
        whole = read_official(self.folder, name)  # (5, 10000, 32, 32, 3), mapped
        return np.ascontiguousarray(whole[severity - 1][places])


def source(folder: Path | None, labels: np.ndarray, chosen: Sequence[str] | None = None) -> Source:
    """The official arrays where `folder` has them, otherwise our own code.

    labels: of all of CIFAR-10's test images, int (10000,), in the order of this run; folder None
    where the run's test images are others. chosen: the corruptions asked for; None: all there are.
    Raises InputError for an unknown one, or arrays that are of other images.
    """
    foreign = [name for name in chosen or () if name not in OFFICIAL_NAMES]
    if foreign:
        raise unknown("corruption", foreign[0], OFFICIAL_NAMES)
    if folder is None or not folder.is_dir():
        return Source("own", tuple(chosen) if chosen else NAMES)
    if not np.array_equal(official_labels(folder), labels):
        raise InputError(
            f"{folder}: its labels are not those of these test images: "
            "remove it, or the other copy of CIFAR-10"
        )
    there = [name for name in OFFICIAL_NAMES if (folder / f"{name}.npy").is_file()]
    names = tuple(name for name in there if not chosen or name in chosen)
    return Source("official", names, folder)
