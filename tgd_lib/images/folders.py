"""Class folders of image files: `root/{train,test[,valid]}/{class}/*.png`, in; arrays, out.

The names of the class folders, sorted, are the classes. Hidden files, `Thumbs.db` and `desktop.ini`
are ignored, as are other plain files beside the class folders; anything else inside a class folder
is refused, because a format that is silently left out would be data silently left out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tgd_lib.config import InputError, nearest

SPLITS = ("train", "valid", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # what a file may hold, whatever its name says
IGNORED = ("thumbs.db", "desktop.ini")  # what other systems leave behind
MAX_PIXELS = 50_000_000  # of one image: more is a decompression bomb or no training image
MAX_BYTES = 8 << 30  # of all images of a split, decoded


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong while `path` is read into an InputError of one line.

    A pipe, a socket or a device is refused before it is opened, where reading would never end.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{path}: not an ordinary file: replace it or take it away")
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} is missing: put it there, or correct the path") from None
    except Exception as error:  # on damaged bytes, decoders raise all kinds of things
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}): replace it or take it away") from None


# ---------------------------------------------------------------- splits and classes


def splits(root: Path) -> tuple[str, ...]:
    """The splits that lie in root, train and test for certain; InputError otherwise."""
    folders = _visible_folders(root)
    missing = [s for s in ("train", "test") if s not in folders]
    if missing:
        near = "".join(nearest(s, folders) for s in missing)
        there = f"there are {', '.join(folders[:5])}" if folders else "there are no folders"
        raise InputError(
            f"{root}: no {' and no '.join(missing)} folder in it: {near}{there}; "
            f"expected are {root}/train/CLASS/*.png and {root}/test/CLASS/*.png"
        )
    return tuple(s for s in SPLITS if s in folders)


def class_names(root: Path) -> tuple[str, ...]:
    """The classes, sorted by name.

    Raises InputError if there is only one, the splits do not agree, or a name cannot be written
    into a table (it holds a line break, say, or is not Unicode).
    """
    found = {split: _visible_folders(root / split) for split in splits(root)}
    train = found["train"]
    if len(train) < 2:
        raise InputError(
            f"{root}/train: {len(train)} class folders: at least 2 are needed, one folder a class"
        )
    for name in train:
        if not name.isprintable():
            where = f"{root}/train: class folder {name!r}"
            raise InputError(f"{where}: give it a name that can be printed")
    for split, names in found.items():
        odd = sorted(set(names) ^ set(train))
        if odd:
            where, other = ("train", split) if odd[0] in train else (split, "train")
            near = nearest(odd[0], set(found[other]) - set(found[where]))
            raise InputError(
                f"{root}: class {odd[0]!r} is in {where}/ but not in {other}/: "
                f"{near}the class folders must be the same in every split"
            )
    return tuple(train)


def _visible_folders(folder: Path) -> list[str]:
    with reading(folder):
        return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")


def _files(folder: Path) -> list[Path]:
    """The image files of one class, sorted by name; InputError if there are none, or others."""
    files = []
    with reading(folder):
        for path in sorted(folder.iterdir()):
            if path.name[0] != "." and path.name.lower() not in IGNORED:
                files.append(path)
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            suffixes = ", ".join(SUFFIXES)
            raise InputError(f"{path}: not an image ({suffixes}): convert it or take it away")
    if not files:
        raise InputError(
            f"{folder}: no images of this class: add some, or remove the class everywhere"
        )
    return files


# ---------------------------------------------------------------- images


def read(
    root: Path, split: str, *, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Every image of a split, class after class, each class sorted by file name.

    `size` (height, width) resizes all. Returns images uint8 (N, H, W, 3), labels int64 (N,), class
    names. Raises InputError for a wrong layout, an empty class, a file that is not a readable 8-bit
    image, images of different sizes without `size`, or more than 8 GiB of pixels.
    """
    names = class_names(root)
    # All is listed and looked over before a first image is decoded.
    classes = [_files(root / split / name) for name in names]
    files = [file for files_of_class in classes for file in files_of_class]
    # The first image says how large all are: so the room is known before it is taken.
    shape = decode(files[0], size).shape
    if len(files) * int(np.prod(shape)) > MAX_BYTES:
        raise InputError(
            f"{root / split}: {len(files)} images of {shape[0]}x{shape[1]} pixels are more than "
            f"{MAX_BYTES >> 30} GiB in memory: set resize to a smaller size"
        )
    images = np.empty((len(files), *shape), np.uint8)

    def fill(i: int) -> None:
        image = decode(files[i], size)
        if image.shape != shape:
            sizes = f"{image.shape[0]}x{image.shape[1]} pixels, {files[0]} {shape[0]}x{shape[1]}"
            raise InputError(f"{files[i]}: {sizes}: set resize so that all become the same size")
        images[i] = image

    with ThreadPoolExecutor() as pool:  # the decoders release the interpreter lock
        deque(pool.map(fill, range(len(files))), maxlen=0)  # keeps nothing, raises what was raised
    labels = np.repeat(np.arange(len(names)), [len(c) for c in classes])
    return images, labels, names


def decode(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """One image file as uint8 (H, W, 3), upright as its EXIF says, the first frame of several.

    Grey, palette, CMYK and other 8-bit images become RGB; transparency is laid on white. `size`
    (height, width) resizes, bilinear with antialiasing, without regard to the aspect ratio.
    Raises InputError if it is damaged, no image, larger than 50 million pixels, or has more than 8
    bits.
    """
    from PIL import Image, ImageOps

    with reading(path), Image.open(path, formats=FORMATS) as image:
        # Only the header has been read so far, so a bomb has not gone off.
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"{path}: {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}: "
                "make it smaller or take it away"
            )
        # Pillow cuts 16-bit colour to 8 bits in silence; only the raw mode in `tile`, "RGB;16B",
        # tells.
        if image.mode[0] in "IF" or re.search(r";16[BLN]", str(image.tile)):
            raise InputError(f"{path}: more than 8 bits a channel: convert it to 8 bits")
        image = _rgb(ImageOps.exif_transpose(image))
        return _resize(image, size) if size else np.asarray(image)


def resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (N, H, W, 3) → uint8 (N, *size, 3), as `decode` resizes."""
    from PIL import Image

    return np.stack([_resize(Image.fromarray(image), size) for image in images])


def _resize(image, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    height, width = size
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _rgb(image):
    """A PIL image of any 8-bit mode in RGB, transparency laid on white."""
    from PIL import Image

    # Converted straight to RGB, transparent pixels would show whatever colour lies under them.
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
