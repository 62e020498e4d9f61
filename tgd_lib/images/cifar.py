"""CIFAR-10 and CINIC-10 as they are published: local copies, archives, the download.

Nothing from outside is trusted before it is checked: archives and pickles against their published
md5, and even then pickles may hold nothing but arrays and plain containers.
"""

from __future__ import annotations

import hashlib
import http.client
import pickle
import socket
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tgd_lib.config import InputError, nearest
from tgd_lib.files import no_room
from tgd_lib.images import folders
from tgd_lib.images.folders import reading

Arrays = tuple[np.ndarray, np.ndarray, tuple[str, ...]]  # images, labels, class names

CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
BATCH_IMAGES = 10_000

# Published sums, copied because importing torchvision costs 5 s. Those of the batches are in
# torchvision.datasets.CIFAR10 (train_list, test_list); CINIC-10's is the one its many users check
# against.
BATCH_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR10_ARCHIVES = {  # file: md5, the folder that it unpacks to
    "cifar-10-python.tar.gz": ("c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"),
    "cifar-10-binary.tar.gz": ("c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin"),
}
CINIC10_ARCHIVE, CINIC10_MD5 = "CINIC-10.tar.gz", "6ee4d0c996905fe93221de577967a372"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
STALLED = 60  # seconds without a byte after which a download is given up

CIFAR10_FORMS = (
    "train.npz and test.npz, cifar-10-batches-py, cifar-10-batches-bin, cifar-10-python.tar.gz, "
    "cifar-10-binary.tar.gz, or train/CLASS/*.png and test/CLASS/*.png"
)


# ---------------------------------------------------------------- CIFAR-10


def cifar10(root: Path, split: str, *, download: bool = True) -> Arrays:
    """CIFAR-10 from root or root/cifar10, in any of its forms; downloaded if it is not there.

    Returns images uint8 (N, 32, 32, 3), labels int64 (N,), class names; smaller sets are accepted.
    Raises InputError if it is damaged, or neither there nor to be had.
    """
    place = _find_cifar10(root)
    if place is None and (_unpack_cifar10(root) or (download and _download_cifar10(root))):
        place = _find_cifar10(root)
    if place is None:
        raise InputError(f"{root}: no CIFAR-10 in it: put there {CIFAR10_FORMS}")
    read, folder = place
    return (*read(folder, split), CLASS_NAMES)


def _find_cifar10(root: Path) -> tuple[Callable, Path] | None:
    """The reader and the folder of the first form that is there; its other half may be missing."""
    binary = [f"{batch}.bin" for batch in BATCH_MD5]
    for base in (root, root / "cifar10"):
        for read, folder, marks in (
            (_read_npz, base, ("train.npz", "test.npz")),
            (_read_py, base / "cifar-10-batches-py", BATCH_MD5),
            (_read_py, base, BATCH_MD5),
            (_read_bin, base / "cifar-10-batches-bin", binary),
            (_read_bin, base, binary),
        ):
            if any((folder / mark).is_file() for mark in marks):
                return read, folder
    for base in (root, root / "cifar10"):  # last, because they are the least telling
        trees = [s for s in folders.SPLITS if (base / s).is_dir()]
        if trees and "valid" not in trees:  # with valid/ it is CINIC-10, whose classes are the same
            return _read_tree, base
    return None


def _read_npz(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    path = folder / f"{split}.npz"
    images, labels = _arrays(path, ("images", "labels"))
    return _checked(images, labels, path)


def _arrays(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """The named arrays of an npz file; InputError if it is damaged, or one is missing."""
    with reading(path), path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        for name in names:
            if name not in file:
                needed = " and ".join(names)
                raise InputError(f"{path}: no array {name!r} in it: it must hold {needed}")
        return [file[name] for name in names]


def _read_py(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for name in BATCHES[split]:
        path = folder / name
        _check_md5(path, BATCH_MD5[name])
        with reading(path), path.open("rb") as file:
            # Written by Python 2: its byte strings become text of as many characters.
            batch = _ArraysOnly(file, encoding="latin1").load()
            pixels = np.asarray(batch["data"]).reshape(-1, 3, 32, 32)
            labels = np.asarray(batch["labels"])
            parts.append(_checked(pixels.transpose(0, 2, 3, 1), labels, path))
    return _joined(parts)


class _ArraysOnly(pickle.Unpickler):
    """Builds NumPy arrays and plain containers, and nothing else."""

    def find_class(self, module: str, name: str):
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]  # that function, wherever this NumPy keeps it
        raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}")


def _read_bin(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    right = BATCH_IMAGES * 3073
    for name in BATCHES[split]:
        path = folder / f"{name}.bin"
        with reading(path):
            raw = np.fromfile(path, np.uint8)
        if raw.size != right:
            sizes = f"{raw.size:,} bytes, {right:,} bytes are right"
            raise InputError(f"{path}: {sizes}: truncated or foreign, replace it")
        records = raw.reshape(-1, 3073)  # the label, then 32x32 red, green, blue
        pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts.append(_checked(pixels, records[:, 0], path))
    return _joined(parts)


def _joined(parts) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of all batches, one after the other."""
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _read_tree(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    names = folders.class_names(folder)
    odd = sorted(set(names) ^ set(CLASS_NAMES))
    if odd:
        state = "missing" if odd[0] in CLASS_NAMES else "not one of the ten"
        near = nearest(odd[0], CLASS_NAMES if odd[0] in names else names)
        ten = ", ".join(CLASS_NAMES)
        raise InputError(f"{folder}: class folder {odd[0]!r} is {state}: {near}the ten are {ten}")
    images, labels, _ = folders.read(folder, split)
    return _checked(images, labels, folder / split)


def _checked(images: np.ndarray, labels: np.ndarray, where: Path) -> tuple[np.ndarray, np.ndarray]:
    """The arrays in their final form, if they are 32x32 RGB images with labels 0 to 9."""
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or not len(images):
        found = f"images are {images.dtype} {images.shape}"
        raise InputError(f"{where}: {found}: uint8 (N, 32, 32, 3) is needed")
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        found = f"labels are {labels.dtype} {labels.shape}"
        raise InputError(f"{where}: {found}: {len(images)} whole numbers are needed, one an image")
    wrong = np.flatnonzero((labels < 0) | (labels > 9))
    if len(wrong):
        first = f"label {labels[wrong[0]]} of image {wrong[0]}"
        raise InputError(f"{where}: {first}: must be 0 to 9, repair it")
    return np.ascontiguousarray(images), labels.astype(np.int64)


# ---------------------------------------------------------------- CINIC-10


def cinic10(root: Path, split: str) -> Arrays:
    """CINIC-10 from root, root/CINIC-10 or root/cinic10: folders, or the archive beside them.

    Returns images uint8 (N, 32, 32, 3), labels int64 (N,), class names.
    Raises InputError if it is not there, damaged or incomplete.
    """
    places = (root, root / "CINIC-10", root / "cinic10")
    bases = (*places, *(place / "CINIC-10" for place in places[1:]))  # unpacked beside an archive
    if not any((base / "train").is_dir() for base in bases):
        for archive in (place / CINIC10_ARCHIVE for place in places):
            if archive.is_file():
                _unpack(archive, CINIC10_MD5, archive.parent / "CINIC-10")
                break
    for base in bases:
        if (base / "train").is_dir():
            if not (base / split).is_dir():
                found = f"{base}: no {split} folder in it"
                raise InputError(f"{found}: CINIC-10 has train, valid and test")
            return (*_read_tree(base, split), CLASS_NAMES)
    raise InputError(
        f"{root}: no CINIC-10 in it: put there train/CLASS/*.png, valid/... and test/..., "
        f"or {CINIC10_ARCHIVE}"
    )


def transfer_sample(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CINIC-10 images on which a CIFAR-10 network is measured, from an npz file.

    Returns images uint8 (N, 32, 32, 3), labels int64 (N,) from 0 to 9, seen bool (N,). seen: the
    image is one of CIFAR-10's *training* images too (`source` is 1 in the file), so it says nothing
    of transfer; the others (`source` 0) do. Raises InputError (one line) if the file is missing,
    damaged or something else.
    """
    path = Path(path)
    images, labels, source = _arrays(path, ("images", "labels", "source"))
    images, labels = _checked(images, labels, path)
    whole = source.dtype.kind in "iu" and source.shape == (len(images),)
    if not whole or source.min() < 0 or source.max() > 1:
        found = f"source is {source.dtype} {source.shape}"
        raise InputError(f"{path}: {found}: {len(images)} whole numbers from 0 to 1 are needed")
    if source.min() == source.max():
        raise InputError(f"{path}: source is {source[0]} throughout: images of 0 and 1 are needed")
    return images, labels, source == 1


# ---------------------------------------------------------------- archives and download


def _unpack_cifar10(root: Path) -> bool:
    """Unpacks the first of the two archives that is there; False if there is none."""
    for base in (root, root / "cifar10"):
        for name, (md5, folder) in CIFAR10_ARCHIVES.items():
            if (base / name).is_file():
                _unpack(base / name, md5, base / folder)
                return True
    return False


def _unpack(archive: Path, md5: str, target: Path) -> None:
    """Makes the folder `target` from a checked archive: whole, or not at all."""
    _check_md5(archive, md5)
    if not hasattr(tarfile, "data_filter"):
        raise InputError(
            f"{archive}: Python 3.11.4 unpacks it safely, this one does not: do it yourself"
        )
    with _workspace(target.parent) as work, reading(archive):
        with tarfile.open(archive) as tar:
            # Refuses what climbs out of the folder, links that lead out of it, and devices.
            try:
                tar.extractall(work / "all", filter="data")
            except OSError as error:
                if no_room(error):  # the archive is as good as it was
                    where = f"no room left in {target.parent} to unpack {archive.name}"
                    raise InputError(f"{where}; make some and start again") from None
                raise
        # Archives come with a folder of their own or without. The rename makes it whole or nothing.
        inner = work / "all" / target.name
        try:
            (inner if inner.is_dir() else work / "all").rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another run was faster
                raise


def _download_cifar10(root: Path) -> bool:
    """Downloads CIFAR-10 and unpacks it into root: True, or InputError with nothing left behind."""
    archive, (md5, folder) = next(iter(CIFAR10_ARCHIVES.items()))
    made = not root.exists()  # then it goes again where nothing comes of it
    try:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"data folder {root} cannot be written to ({error.strerror}): "
                "name another, or one with a copy in it"
            ) from None
        with _workspace(root) as work:
            _fetch(work, archive, md5, root)
            _unpack(work / archive, md5, root / folder)
        return True
    except BaseException:  # Ctrl-C too
        if made and root.is_dir() and not any(root.iterdir()):
            root.rmdir()
        raise


def _fetch(work: Path, archive: str, md5: str, root: Path) -> None:
    try:
        from torchvision.datasets.utils import download_url

        with _impatient():
            download_url(CIFAR10_URL, work, filename=archive, md5=md5)
    except (OSError, RuntimeError, ImportError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"CIFAR-10 could not be downloaded from {CIFAR10_URL} ({reason}): its host may be "
            "throttled, or there is no network; try later, or put a copy in "
            f"{root}: {CIFAR10_FORMS}"
        ) from None


@contextmanager
def _impatient() -> Iterator[None]:
    """A time limit for sockets: torchvision sets none, and waits for a silent host for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder` (a rename must stay on one disk), gone at the end."""
    try:
        work = tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}): "
            "make it writable, or name another data folder"
        ) from None
    with work as name:
        yield Path(name)


def _check_md5(path: Path, md5: str) -> None:
    with reading(path), path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        sums = f"md5 {found}, published is {md5}"
        raise InputError(f"{path}: {sums}: incomplete or changed, get it again")
