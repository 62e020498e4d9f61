"""datasets, and the rooms it is fed from: the sample, folders, CIFAR-10 and CINIC-10."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import types
import zlib
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tgd_lib import config, datasets
from tgd_lib.config import InputError
from tgd_lib.images import cifar, folders, sample

TEN = cifar.CLASS_NAMES


# ---------------------------------------------------------------- helpers


def fails(call, *words):
    """Asserts that `call` raises an InputError of one line with all the words; returns the line."""
    with pytest.raises(InputError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 700
    for word in words:
        assert str(word) in line, line
    return line


def tree(root):
    """Every path under root, to see that nothing was left behind."""
    return sorted(str(p.relative_to(root)) for p in Path(root).rglob("*"))


def arrays(n=20, side=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8), np.arange(
        n, dtype=np.int64
    ) % 10


def write_npz(folder, split, images, labels):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{split}.npz", images=images, labels=labels)


def write_tree(root, split, images, labels, names, suffix=".png"):
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / split / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:04d}{suffix}")


def two_classes(root, *, splits=("train", "test"), side=8):
    """A sound folder data set: two classes of two images."""
    images, _ = arrays(4, side)
    for split in splits:
        write_tree(root, split, images, [0, 0, 1, 1], ["cat", "dog"])
    return images


def png(width, height, bits, colour, channels, data=None):
    """A PNG file's bytes, of any depth, also with pixels that are not there."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    if data is None:
        data = bytes(height * (1 + width * channels * bits // 8))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


class Python2Pickler(pickle._Pickler):
    """Writes as Python 2 did when CIFAR-10 was made: byte strings, NumPy's old module name."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, obj):
        self.write(pickle.BINSTRING + struct.pack("<i", len(obj)) + obj)

    def save_str(self, obj):
        self.save_bytes(obj.encode())

    dispatch[bytes], dispatch[str] = save_bytes, save_str


def python2_pickle(obj):
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(obj)
    return out.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def planar(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def write_py(folder, monkeypatch, *, broken=None):
    """Tiny cifar-10-batches-py whose sums are made the published ones; returns the train arrays."""
    folder.mkdir(parents=True)
    images, labels = arrays(60)
    sums = {}
    for i, name in enumerate(cifar.BATCH_MD5):
        part = slice(10 * i, 10 * i + 10)
        batch = {"batch_label": name, "labels": labels[part].tolist(), "data": planar(images[part])}
        data = broken if broken else python2_pickle(batch)
        (folder / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(cifar, "BATCH_MD5", sums)
    return images[:50], labels[:50]


def write_bin(folder, monkeypatch):
    monkeypatch.setattr(cifar, "BATCH_IMAGES", 10)
    folder.mkdir(parents=True)
    images, labels = arrays(60)
    records = np.concatenate([labels[:, None].astype(np.uint8), planar(images)], axis=1)
    for i, name in enumerate(cifar.BATCH_MD5):
        records[10 * i : 10 * i + 10].tofile(folder / f"{name}.bin")
    return images[:50], labels[:50]


def pack(folder, archive):
    """folder's contents → archive (.tar.gz); returns its md5."""
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return hashlib.md5(archive.read_bytes()).hexdigest()


# ---------------------------------------------------------------- fingerprint, subsets


def test_fingerprint_sees_every_byte_shape_and_name():
    images, labels = arrays(4, 2)
    one = datasets.fingerprint(images, labels, ("a", "b"))
    assert one == datasets.fingerprint(images.copy(), labels.copy(), ["a", "b"])
    # Layout is no content.
    assert one == datasets.fingerprint(np.asfortranarray(images), labels, ("a", "b"))
    other = images.copy()
    other[3, 1, 1, 2] ^= 1
    changed = [
        datasets.fingerprint(other, labels, ("a", "b")),
        datasets.fingerprint(images, labels[::-1], ("a", "b")),
        datasets.fingerprint(images, labels, ("a", "c")),
        datasets.fingerprint(images, labels.astype(np.int32), ("a", "b")),
        datasets.fingerprint(images.reshape(4, 4, 1, 3), labels, ("a", "b")),
    ]
    assert len({one, *changed}) == 6 and len(one) == 64


def test_shares_by_hand():
    assert datasets._shares(np.array([10, 10, 10]), 6).tolist() == [2, 2, 2]
    # A tie goes to the first.
    assert datasets._shares(np.array([10, 10, 10]), 7).tolist() == [3, 2, 2]
    assert datasets._shares(np.array([60, 30, 10]), 10).tolist() == [6, 3, 1]
    assert datasets._shares(np.array([5, 3, 1]), 4).tolist() == [2, 1, 1]  # 2.2, 1.3, 0.4
    assert datasets._shares(np.array([4, 0, 2]), 6).tolist() == [4, 0, 2]


def test_stratified_golden():
    """The subset of a seed is the same on every machine and NumPy: keys in the store hang on it."""
    labels = np.arange(40) % 4
    assert datasets.stratified(labels, 8, seed=0).tolist() == GOLDEN_STRATIFIED


GOLDEN_STRATIFIED = [2, 3, 11, 13, 18, 20, 21, 32]

labels_of = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


@settings(max_examples=150, deadline=None)
@given(labels=labels_of, n=st.integers(-1, 70), seed=st.integers(0, 5), data=st.data())
def test_stratified_properties(labels, n, seed, data):
    exclude = sorted(data.draw(st.sets(st.integers(0, len(labels) - 1), max_size=len(labels))))
    free = np.delete(labels, exclude)
    sizes = np.array([np.sum(free == c) for c in np.unique(labels)])
    try:
        chosen = datasets.stratified(labels, n, seed=seed, exclude=exclude)
    except InputError:
        # Too few, or a class below one image.
        assert n < 1 or n > len(free) or (n * sizes < len(free)).any()
        return
    assert chosen.dtype == np.int64 and len(chosen) == n
    assert (np.diff(chosen) > 0).all() and not set(chosen) & set(exclude)
    counts = np.array([np.sum(labels[chosen] == c) for c in np.unique(labels)])
    assert (counts >= 1).all() and (np.abs(counts - n * sizes / len(free)) < 1).all()
    assert (chosen == datasets.stratified(labels, n, seed=seed, exclude=exclude)).all()


def test_stratified_excluding_does_not_reshuffle_and_more_contains_less():
    labels = np.arange(100) % 5
    small, large = (datasets.stratified(labels, n, seed=3) for n in (10, 50))
    assert set(small) < set(large)
    rest = datasets.stratified(labels, 40, seed=3, exclude=small)
    assert set(rest) | set(small) == set(large)
    assert (datasets.stratified(labels, 50, seed=4) != large).any()


def test_stratified_refuses():
    labels = np.array([0] * 9 + [1])
    for n in (0, -3, 11):
        fails(lambda n=n: datasets.stratified(labels, n, seed=0), f"{n} images", "10 are available")
    fails(lambda: datasets.stratified(labels, 4, seed=0), "4 images", "class 1 ")
    fails(lambda: datasets.stratified(labels, 4, seed=0, exclude=[9]), "class 1 ")


def test_take():
    images, labels = arrays(4, 2)
    whole = datasets.Dataset(images, labels, ("a",), datasets.fingerprint(images, labels, ("a",)))
    part = datasets.take(whole, np.array([3, 1]))
    assert (part.images == images[[3, 1]]).all() and part.labels.tolist() == [3, 1]
    assert part.fingerprint == datasets.fingerprint(images[[3, 1]], labels[[3, 1]], ("a",))
    assert part.fingerprint != whole.fingerprint
    assert datasets.take(whole, np.arange(4)).fingerprint == whole.fingerprint


# ---------------------------------------------------------------- the sample


@pytest.fixture(scope="module")
def sample_parts():
    return {split: datasets.load("sample", split) for split in datasets.splits("sample")}


@pytest.mark.parametrize("split, count", [("train", 2000), ("valid", 500), ("test", 1500)])
def test_the_sample(sample_parts, split, count):
    part = sample_parts[split]
    assert part.images.shape == (count, 32, 32, 3) and part.images.dtype == np.uint8
    assert part.labels.dtype == np.int64 and np.ptp(np.bincount(part.labels, minlength=10)) <= 3
    assert part.class_names[0] == "airplane" and part.class_names[9] == "truck"


def test_no_image_of_the_sample_is_in_two_splits(sample_parts):
    images = np.concatenate([p.images.reshape(len(p.images), -1) for p in sample_parts.values()])
    assert len(np.unique(images, axis=0)) == 4000


@pytest.mark.slow
def test_the_sample_is_where_its_card_says_in_cifar10(tmp_path, sample_parts):
    """Its pixels are the official ones at its indices, and it holds out what `study` holds out."""
    shared = config.ROOT.parent / "shared/data/unpack_cifar10.py"
    if not shared.is_file():
        pytest.skip("the whole CIFAR-10 is not beside this clone")
    subprocess.run(
        [sys.executable, str(shared), str(tmp_path)], check=True, stdout=subprocess.DEVNULL
    )
    index = json.loads(sample.INDEX.read_text())["splits"]
    whole = {s: datasets.load("cifar10", s, tmp_path) for s in ("train", "test")}
    for split, part in sample_parts.items():
        where = index[split]["official_indices"]
        of = whole[index[split]["official_split"]]
        assert (of.images[where] == part.images).all() and (of.labels[where] == part.labels).all()
    teachers = datasets.not_held_out(whole["train"])
    assert teachers.fingerprint == config.NOT_HELD_OUT and len(teachers.labels) == 48_000
    seen = {i.tobytes() for i in teachers.images}
    assert not any(i.tobytes() in seen for i in sample_parts["valid"].images)


@pytest.fixture
def numbered_cifar(monkeypatch):
    """As large as CIFAR-10, the pixels of an image its number; in place of the real one."""
    numbers = np.arange(50_000, dtype="<u4").view(np.uint8).reshape(-1, 4)[:, :3]
    images, labels = numbers.reshape(-1, 1, 1, 3), np.arange(50_000) % 10
    whole = datasets._dataset(images, labels, tuple("abcdefghij"))
    monkeypatch.setattr(datasets, "load", lambda *args, **kwargs: whole)
    return whole


@pytest.mark.parametrize("n_train", [5000, 1000, 5500])
def test_what_is_held_out_is_unknown_to_published_teachers(numbered_cifar, n_train):
    """With fewer or more training images, too."""
    known = {i.tobytes() for i in datasets.not_held_out(numbered_cifar).images}
    parts = datasets.load_parts(config.resolve("study", n_train=n_train, holdout=1000))
    held_out = {i.tobytes() for i in parts.holdout.images}
    assert len(held_out) == 1000 and not held_out & known
    assert not held_out & {i.tobytes() for i in parts.train.images}


def test_more_than_published_teachers_leave_cannot_be_held_out(numbered_cifar):
    more = config.resolve("study", holdout=2001)
    fails(lambda: datasets.load_parts(more), "holdout=2001", "the teachers' images", "2000 are")
    parts = datasets.load_parts(config.resolve("study", holdout=2001, teacher_epochs=30))
    assert len(parts.holdout.labels) == 2001  # its own teachers know the students' images alone


def test_teachers_of_other_images_are_not_trained_again(numbered_cifar):
    study = config.resolve("study")
    fails(lambda: datasets.teachers_images("0" * 64, study), "000000000000 is known")
    fails(lambda: datasets.teachers_images(config.NOT_HELD_OUT, study), "has other images")


def test_without_cifar_published_teachers_are_not_trained_again(monkeypatch):
    def nothing_there(*_, **__):
        raise InputError("no CIFAR-10 in it")

    monkeypatch.setattr(datasets, "load", nothing_there)
    fails(
        lambda: datasets.teachers_images(config.NOT_HELD_OUT, config.resolve("quick")),
        "name a copy with --data", "no CIFAR-10 in it",
    )  # fmt: skip


def test_a_damaged_sample_is_said(tmp_path, monkeypatch):
    shutil.copytree(sample.FOLDER, tmp_path / "sample")
    monkeypatch.setattr(sample, "FOLDER", tmp_path / "sample")
    shutil.copy(tmp_path / "sample/test_0.webp", tmp_path / "sample/test_1.webp")
    fails(lambda: sample.read("test"), "test are not as they were made", "git checkout")
    (tmp_path / "sample/test_1.webp").write_bytes(b"x")
    fails(lambda: sample.read("test"), "test_1.webp", "cannot be read")


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from tgd_lib import datasets; assert 'PIL' not in sys.modules;"
        "datasets.load('sample', 'valid');"
        "heavy = ('torch', 'torchvision', 'skimage', 'scipy', 'pooch');"
        "print([m for m in heavy if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(config.ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert out.stdout == "[]\n"


# ---------------------------------------------------------------- load: arguments


def test_unknown_names_suggest_the_nearest(tmp_path):
    fails(lambda: datasets.load("cifar100", "train"), "cifar100", "did you mean 'cifar10'?")
    fails(lambda: datasets.load("photos", "train"), "sample, cifar10, cinic10, folder")
    fails(lambda: datasets.load("sample", "vaild"), "'vaild'", "did you mean 'valid'?")
    fails(
        lambda: datasets.load("cifar10", "valid", tmp_path), "cifar10 split 'valid'", "train, test"
    )


@pytest.mark.parametrize("resize", [0, -1, 1.5, True, "32", (8,), (8, 0), (8, 8, 3), 10**6])
def test_resize_refused(resize):
    fails(lambda: datasets.load("sample", "valid", resize=resize), "resize=", "1 to 4096")


def test_resize_of_any_data_set(sample_parts):
    small = datasets.load("sample", "valid", resize=(16, 8))
    assert (
        small.images.shape == (500, 16, 8, 3)
        and small.fingerprint != sample_parts["valid"].fingerprint
    )
    assert (
        datasets.load("sample", "valid", resize=32).fingerprint == sample_parts["valid"].fingerprint
    )


@pytest.mark.parametrize("name", ["cifar10", "cinic10", "folder"])
def test_data_folder_missing_or_a_file(name, tmp_path):
    fails(
        lambda: datasets.load(name, "train", tmp_path / "nowhere"),
        tmp_path / "nowhere",
        "does not exist",
    )
    assert tree(tmp_path) == []
    (tmp_path / "file").write_text("x")
    fails(lambda: datasets.load(name, "train", tmp_path / "file"), tmp_path / "file", "is a file")


def test_data_folder_of_a_user_that_is_not():
    fails(lambda: datasets.load("cifar10", "train", "~nobody-here/x"), "~nobody-here/x: no user")


def test_data_folder_unreadable(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.os, "access", lambda path, mode: False)  # tests may run as root
    fails(lambda: datasets.load("cifar10", "train", tmp_path), tmp_path, "permissions")


# ---------------------------------------------------------------- folder


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".PNG"])
def test_folder_round_trip(tmp_path, suffix):
    images, labels = arrays(6, 5)
    labels[:] = [1, 0, 0, 1, 1, 0]
    kwargs = {"lossless": True} if suffix == ".webp" else {}
    for split in ("train", "test"):
        for i in range(6):
            folder = tmp_path / split / ["ant", "bee"][labels[i]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[i]).save(folder / f"{i}{suffix}", **kwargs)
    for other in (".DS_Store", "Thumbs.db"):
        (tmp_path / "train" / "ant" / other).write_text("x")
    (tmp_path / "train" / "README.txt").write_text("x")
    (tmp_path / "train" / ".cache").mkdir()
    ds = datasets.load("folder", "train", tmp_path)
    assert ds.class_names == ("ant", "bee") and ds.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert ds.images.dtype == np.uint8 and (ds.images == images[[1, 2, 5, 0, 3, 4]]).all()
    assert datasets.splits("folder", tmp_path) == ("train", "test")


def test_folder_jpeg_and_other_sizes(tmp_path):
    for split in ("train", "test"):
        for name, level in (("dark", 50), ("light", 200)):
            (tmp_path / split / name).mkdir(parents=True)
            for side in (20, 31):
                image = Image.new("RGB", (side, 2 * side), (level,) * 3)
                image.save(tmp_path / split / name / f"{side}.jpeg")
    load = partial(datasets.load, "folder", "train", tmp_path)
    fails(load, "31.jpeg", "62x31", "20.jpeg", "40x20", "set resize")
    ds = datasets.load("folder", "train", tmp_path, resize=(6, 4))
    assert ds.images.shape == (4, 6, 4, 3)
    assert (ds.images[:2] == 50).all() and (ds.images[2:] == 200).all()


def test_valid_split_of_a_folder(tmp_path):
    two_classes(tmp_path, splits=("train", "valid", "test"))
    assert datasets.splits("folder", tmp_path) == ("train", "valid", "test")
    assert len(datasets.load("folder", "valid", tmp_path).labels) == 4


def saved(tmp_path, image, name="x.png", **kwargs):
    image.save(tmp_path / name, **kwargs)
    return folders.decode(tmp_path / name)


def test_modes_become_rgb(tmp_path):
    grey = saved(tmp_path, Image.fromarray(np.array([[0, 100], [200, 255]], np.uint8)))
    assert grey[..., 0].tolist() == grey[..., 2].tolist() == [[0, 100], [200, 255]]
    bilevel = saved(tmp_path, Image.new("1", (2, 2), 1))
    assert (bilevel == 255).all()
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert saved(tmp_path, palette).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    clear = saved(tmp_path, palette, transparency=0)  # the palette's first entry: white shows
    assert clear.tolist() == [[[255, 255, 255], [40, 50, 60]]]
    rgba = np.array([[[0, 0, 0, 0], [10, 20, 30, 255], [0, 0, 0, 51]]], np.uint8)
    assert saved(tmp_path, Image.fromarray(rgba)).tolist() == [[[255] * 3, [10, 20, 30], [204] * 3]]
    grey_alpha = saved(tmp_path, Image.new("LA", (1, 1), (0, 51)))
    assert grey_alpha.tolist() == [[[204] * 3]]
    cmyk = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "x.jpg")
    assert (cmyk == 255).all() and cmyk.shape == (8, 8, 3)


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    wide = Image.new("RGB", (4, 2))
    wide.putpixel((0, 0), (255, 0, 0))
    turned = saved(tmp_path, wide, exif=exif)
    assert turned.shape == (4, 2, 3) and turned[0, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("colour, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_refused(tmp_path, colour, channels):
    path = tmp_path / "deep.png"
    path.write_bytes(png(4, 4, 16, colour, channels))
    fails(lambda: folders.decode(path), path, "more than 8 bits", "convert")


def test_float_and_16_bit_tiff_refused_and_16_bit_bmp_accepted(tmp_path):
    for dtype in (np.uint16, np.int32, np.float32):
        Image.fromarray(np.zeros((4, 4), dtype)).save(tmp_path / "x.tif")
        fails(lambda: folders.decode(tmp_path / "x.tif"), "x.tif", "more than 8 bits")
    header = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 62, 0, 54, 40, 2, 2, 1, 16, 0, 8, 0, 0, 0, 0)
    (tmp_path / "x.bmp").write_bytes(header + b"\xff\x7f" * 4)  # 16 bits a *pixel*, 5 a channel
    assert (folders.decode(tmp_path / "x.bmp") == 255).all()


def test_bombs_refused(tmp_path):
    path = tmp_path / "bomb.png"
    for side in (8_000, 30_000):  # under Pillow's own limit, and over it
        path.write_bytes(png(side, side, 8, 2, 3, data=b""))
        fails(lambda: folders.decode(path), path, "pixels")


def test_too_much_in_memory(tmp_path, monkeypatch):
    two_classes(tmp_path)
    monkeypatch.setattr(folders, "MAX_BYTES", 700)
    fails(lambda: datasets.load("folder", "train", tmp_path), "4 images of 8x8", "set resize")
    assert datasets.load("folder", "train", tmp_path, resize=4).images.shape == (4, 4, 4, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_damaged_images(tmp_path, suffix, damage):
    two_classes(tmp_path, side=32)
    path = tmp_path / "train" / "dog" / f"9{suffix}"
    Image.fromarray(arrays(1)[0][0]).save(path)
    whole = path.read_bytes()
    path.write_bytes({"half": whole[: len(whole) // 2], "empty": b"", "text": b"<html>404"}[damage])
    before = tree(tmp_path)
    fails(lambda: datasets.load("folder", "train", tmp_path), path, "cannot be read")
    assert tree(tmp_path) == before


def test_foreign_files_in_a_class(tmp_path):
    two_classes(tmp_path)
    for name in ("photo.heic", "notes.txt", "no_suffix"):
        path = tmp_path / "train" / "cat" / name
        path.write_text("x")
        fails(
            lambda: datasets.load("folder", "train", tmp_path), path, "not an image", "take it away"
        )
        path.unlink()
    (tmp_path / "train" / "cat" / "more").mkdir()
    fails(lambda: datasets.load("folder", "train", tmp_path), "cat/more", "not an image")


def pipe(path):
    os.mkfifo(path)


def local_socket(path):
    # Long paths are refused.
    with socket.socket(socket.AF_UNIX) as s, contextlib.chdir(path.parent):
        s.bind(path.name)


STRANGE = {
    "a pipe": (pipe, "not an ordinary file"),
    "a socket": (local_socket, "not an ordinary file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "not an ordinary file"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "is missing"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "cannot be read"),
    "a folder": (lambda path: path.mkdir(), "cannot be read"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("place", ["train/dog/0002.png", "train/dog/9999.png"])
def test_what_is_no_ordinary_file_neither_hangs_nor_passes(tmp_path, kind, place):
    two_classes(tmp_path)
    make, words = STRANGE[kind]
    (tmp_path / place).unlink(missing_ok=True)
    make(tmp_path / place)
    fails(lambda: datasets.load("folder", "train", tmp_path), tmp_path / place, words)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
@pytest.mark.parametrize(
    "name", ["test.npz", "cifar-10-batches-py/data_batch_3", "data_batch_3.bin"]
)
def test_pipes_in_the_place_of_arrays(tmp_path, monkeypatch, name):
    if name.endswith("npz"):
        write_npz(tmp_path, "train", IMAGES, LABELS)
    elif name.endswith("bin"):
        write_bin(tmp_path / "root", monkeypatch)
        tmp_path = tmp_path / "root"
    else:
        write_py(tmp_path / "cifar-10-batches-py", monkeypatch)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    split = "test" if name == "test.npz" else "train"
    fails(
        lambda: datasets.load("cifar10", split, tmp_path), tmp_path / name, "not an ordinary file"
    )


NAMES = [
    b"a\nb",
    b"\xff\xfe",
    b"\x1b[31mred",
    "\u202egnp".encode(),
    b"-rf",
    b"a b",
    "Ångström".encode(),
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_file_names_of_any_encoding(tmp_path, name):
    """A sound image may have any name; a damaged one is named in one line that can be printed."""
    two_classes(tmp_path)
    path = os.path.join(os.fsencode(tmp_path / "train" / "dog"), name + b".png")
    try:
        os.rename(tmp_path / "train" / "dog" / "0002.png", path)
    except OSError:
        pytest.skip("this file system has no such names")
    assert len(datasets.load("folder", "train", tmp_path).labels) == 4
    with open(path, "wb") as file:
        file.write(b"x")
    line = fails(lambda: datasets.load("folder", "train", tmp_path), "cannot be read")
    assert line.isprintable() and line.encode()


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_class_names_of_any_encoding(tmp_path, name):
    two_classes(tmp_path)
    root = os.fsencode(tmp_path)
    try:
        for split in (b"train", b"test"):
            os.rename(os.path.join(root, split, b"dog"), os.path.join(root, split, name))
    except OSError:
        pytest.skip("this file system has no such names")
    shown = os.fsdecode(name)
    if shown.isprintable():
        assert shown in datasets.load("folder", "train", tmp_path).class_names
    else:
        fails(lambda: datasets.load("folder", "train", tmp_path), "a name that can be printed")


def test_names_that_are_too_long(tmp_path):
    for wrong in (tmp_path / ("x" * 300), tmp_path / "/".join(["y" * 200] * 40), "a\0b"):
        with pytest.raises(InputError) as caught:
            datasets.load("folder", "train", wrong)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1100


def test_folder_layout_errors(tmp_path):
    load = partial(datasets.load, "folder", "train", tmp_path)
    fails(load, tmp_path, "no train and no test folder", "there are no folders", "train/CLASS")
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    fails(load, "there are cat, dog", f"{tmp_path}/train/CLASS/*.png")
    (tmp_path / "Train").mkdir()
    (tmp_path / "test").mkdir()
    fails(load, "no train folder", "did you mean 'Train'?")
    (tmp_path / "Train").rename(tmp_path / "train")
    fails(load, "0 class folders", "at least 2")
    fails(lambda: datasets.load("folder", "valid", tmp_path), "folder split 'valid'", "train, test")


def test_folder_classes_must_agree_and_have_images(tmp_path):
    two_classes(tmp_path)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "dgo")
    fails(
        lambda: datasets.load("folder", "train", tmp_path),
        "'dgo' is in test/ but not in train/",
        "'dog'?",
    )
    (tmp_path / "test" / "dgo").rename(tmp_path / "test" / "dog")
    for split in ("train", "test"):
        (tmp_path / split / "eel").mkdir()
    fails(
        lambda: datasets.load("folder", "train", tmp_path), tmp_path / "train" / "eel", "no images"
    )


# ---------------------------------------------------------------- cifar10: local copies


@pytest.mark.parametrize("below", ["", "cifar10"])
def test_cifar10_npz(tmp_path, below):
    images, labels = arrays(20)
    for split in ("train", "test"):
        write_npz(tmp_path / below, split, images, labels.astype(np.uint8))
    ds = datasets.load("cifar10", "test", tmp_path)
    assert (
        (ds.images == images).all() and (ds.labels == labels).all() and ds.labels.dtype == np.int64
    )
    assert ds.class_names == TEN and ds.fingerprint == datasets.fingerprint(images, labels, TEN)


@pytest.mark.parametrize("below", ["cifar-10-batches-py", "cifar10/cifar-10-batches-py", ""])
def test_cifar10_batches_py(tmp_path, monkeypatch, below):
    images, labels = write_py(tmp_path / "root" / below, monkeypatch)
    ds = datasets.load("cifar10", "train", tmp_path / "root")
    assert (ds.images == images).all() and (ds.labels == labels).all()
    assert ds.images.flags.c_contiguous
    assert len(datasets.load("cifar10", "test", tmp_path / "root").labels) == 10


@pytest.mark.parametrize("below", ["cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", ""])
def test_cifar10_batches_bin(tmp_path, monkeypatch, below):
    images, labels = write_bin(tmp_path / "root" / below, monkeypatch)
    ds = datasets.load("cifar10", "train", tmp_path / "root")
    assert (ds.images == images).all() and (ds.labels == labels).all()
    assert len(datasets.load("cifar10", "test", tmp_path / "root").labels) == 10


@pytest.mark.parametrize("below", ["", "cifar10"])
def test_cifar10_png_folders(tmp_path, below):
    images, labels = arrays(20)
    for split in ("train", "test"):
        write_tree(tmp_path / below, split, images, labels, TEN)
    ds = datasets.load("cifar10", "train", tmp_path)
    order = np.argsort(labels, kind="stable")
    assert (ds.images == images[order]).all() and (ds.labels == labels[order]).all()


def test_every_form_has_one_fingerprint(tmp_path, monkeypatch):
    images, labels = write_bin(tmp_path / "bin", monkeypatch)
    write_py(tmp_path / "py", monkeypatch)
    write_npz(tmp_path / "npz", "train", images, labels)
    prints = {
        datasets.load("cifar10", "train", tmp_path / form).fingerprint
        for form in ("bin", "py", "npz")
    }
    assert len(prints) == 1


# ---------------------------------------------------------------- cifar10: bad local copies


def test_pickles_are_checked_before_they_are_opened(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    folder = tmp_path / "cifar-10-batches-py"
    evil = pickle.dumps(Evil(), protocol=2)
    sums = dict(cifar.BATCH_MD5)
    write_py(folder, monkeypatch, broken=evil)
    line = fails(
        lambda: datasets.load("cifar10", "train", tmp_path), "data_batch_1", "asks for", "mkdir"
    )
    assert str(folder) in line
    monkeypatch.setattr(cifar, "BATCH_MD5", sums)  # the published ones
    fails(
        lambda: datasets.load("cifar10", "train", tmp_path), "data_batch_1", "md5", "get it again"
    )
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "broken", [python2_pickle([1]), python2_pickle({"labels": [1]}), b"\x80\x02garbage", b""]
)
def test_foreign_pickles(tmp_path, monkeypatch, broken):
    write_py(tmp_path / "cifar-10-batches-py", monkeypatch, broken=broken or b".")
    fails(lambda: datasets.load("cifar10", "test", tmp_path), "test_batch", "cannot be read")


def test_a_batch_is_missing_or_cut(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-bin"
    write_bin(folder, monkeypatch)
    path = folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    fails(
        lambda: datasets.load("cifar10", "train", tmp_path),
        path,
        "30,729 bytes",
        "30,730 bytes are right",
    )
    path.unlink()
    fails(lambda: datasets.load("cifar10", "train", tmp_path), path, "is missing")


def test_bin_label_out_of_range(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-bin"
    write_bin(folder, monkeypatch)
    raw = bytearray((folder / "test_batch.bin").read_bytes())
    raw[3073 * 4] = 10
    (folder / "test_batch.bin").write_bytes(raw)
    fails(
        lambda: datasets.load("cifar10", "test", tmp_path), "test_batch.bin", "label 10 of image 4"
    )


IMAGES, LABELS = arrays(20)


@pytest.mark.parametrize(
    "images, labels, word",
    [
        (IMAGES.astype(np.float32), LABELS, "images are float32"),
        (IMAGES[..., 0], LABELS, "(20, 32, 32)"),
        (IMAGES.transpose(0, 3, 1, 2), LABELS, "(20, 3, 32, 32)"),
        (IMAGES[:0], LABELS[:0], "(0, 32, 32, 3)"),
        (IMAGES, LABELS[:19], "labels are int64 (19,)"),
        (IMAGES, LABELS.astype(float), "labels are float64"),
        (IMAGES, np.eye(20), "labels are float64 (20, 20)"),
        (IMAGES, LABELS - 1, "label -1 of image 0"),
        (IMAGES, LABELS + 1, "label 10 of image 9"),
        (IMAGES, np.array(LABELS, object), "cannot be read"),  # a pickle inside: not loaded
    ],
)
def test_npz_with_wrong_arrays(tmp_path, images, labels, word):
    write_npz(tmp_path, "train", images, labels)
    fails(lambda: datasets.load("cifar10", "train", tmp_path), tmp_path / "train.npz", word)


def test_npz_damaged(tmp_path):
    write_npz(tmp_path, "train", IMAGES, LABELS)
    path = tmp_path / "train.npz"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[30_000] ^= 1  # inside the pixels: only the sum in the zip tells
    for data in (whole[: len(whole) // 2], b"", b"<html>404", bytes(flipped), pickle.dumps([1])):
        path.write_bytes(data)
        fails(lambda: datasets.load("cifar10", "train", tmp_path), path, "cannot be read")
    np.savez(path, images=IMAGES)
    fails(lambda: datasets.load("cifar10", "train", tmp_path), path, "no array 'labels'")
    fails(lambda: datasets.load("cifar10", "test", tmp_path), "test.npz is missing")
    assert tree(tmp_path) == ["train.npz"]


def test_cifar10_folders_of_other_classes_or_sizes(tmp_path):
    names = [n if n != "airplane" else "aeroplane" for n in TEN]
    for split in ("train", "test"):
        write_tree(tmp_path, split, IMAGES, LABELS, names)
    fails(
        lambda: datasets.load("cifar10", "train", tmp_path),
        "'aeroplane'",
        "did you mean 'airplane'?",
    )
    for split in ("train", "test"):
        (tmp_path / split / "aeroplane").rename(tmp_path / split / "airplane")
        for path in (tmp_path / split).rglob("*.png"):
            Image.new("RGB", (16, 16)).save(path)
    fails(lambda: datasets.load("cifar10", "train", tmp_path), "(20, 16, 16, 3)", "(N, 32, 32, 3)")


def test_cifar10_nowhere(tmp_path):
    line = fails(
        lambda: datasets.load("cifar10", "train", tmp_path, download=False), tmp_path, "no CIFAR-10"
    )
    assert "train.npz" in line and "cifar-10-python.tar.gz" in line


# ---------------------------------------------------------------- archives


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """tmp_path/made/cifar-10-python.tar.gz, with its sum made the published one."""
    images, _ = write_py(tmp_path / "made" / "cifar-10-batches-py", monkeypatch)
    path = tmp_path / "cifar-10-python.tar.gz"
    md5 = pack(tmp_path / "made", path)
    monkeypatch.setitem(cifar.CIFAR10_ARCHIVES, path.name, (md5, "cifar-10-batches-py"))
    return path, images


@pytest.mark.parametrize("below", ["", "cifar10"])
def test_archive_is_unpacked(tmp_path, archive, below):
    path, images = archive
    root = tmp_path / "root"
    (root / below).mkdir(parents=True)
    path.rename(root / below / path.name)
    assert (datasets.load("cifar10", "train", root).images == images).all()
    (root / below / path.name).unlink()  # not needed again
    assert len(datasets.load("cifar10", "test", root).labels) == 10
    assert len(tree(root)) == 7 + bool(below)  # one folder, six batches, nothing else


def test_archive_cut(tmp_path, archive):
    path, _ = archive
    root = tmp_path / "root"
    root.mkdir()
    (root / path.name).write_bytes(path.read_bytes()[:-100])
    fails(lambda: datasets.load("cifar10", "train", root), root / path.name, "md5", "get it again")
    assert tree(root) == [path.name]


def test_archive_that_climbs_out(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    path = root / "CINIC-10.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../owned"))
    monkeypatch.setattr(cifar, "CINIC10_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    fails(lambda: datasets.load("cinic10", "train", root), path, "cannot be read", "owned")
    assert tree(tmp_path) == ["root", "root/CINIC-10.tar.gz"]


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


CLIMBERS = {
    "a path": [member("../../owned", tarfile.REGTYPE)],
    "a path in the middle": [member("a/../../../owned", tarfile.REGTYPE)],
    "a link out": [member("train", tarfile.SYMTYPE, "../../..")],
    "an absolute link": [member("train", tarfile.SYMTYPE, "/etc")],
    "a hard link": [member("train", tarfile.LNKTYPE, "../../CINIC-10.tar.gz")],
    "through a link": [
        member("train", tarfile.SYMTYPE, "../.."),
        member("train/owned", tarfile.REGTYPE),
    ],
    "a device": [member("zero", tarfile.CHRTYPE)],
    "a disk": [member("disk", tarfile.BLKTYPE)],
    "a pipe": [member("train/pipe.png", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("climber", CLIMBERS)
def test_archives_that_pass_their_sum_are_still_not_trusted(tmp_path, monkeypatch, climber):
    root = tmp_path / "root"
    root.mkdir()
    path = root / "CINIC-10.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for info in CLIMBERS[climber]:
            tar.addfile(info)
    monkeypatch.setattr(cifar, "CINIC10_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    fails(lambda: datasets.load("cinic10", "train", root), path, "cannot be read")
    assert tree(tmp_path) == ["root", "root/CINIC-10.tar.gz"]


def test_an_absolute_path_in_an_archive_stays_inside(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    path = root / "CINIC-10.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(f"{tmp_path}/owned"))
    monkeypatch.setattr(cifar, "CINIC10_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    fails(lambda: datasets.load("cinic10", "train", root), "no CINIC-10")
    assert not (tmp_path / "owned").exists()


def test_archive_in_a_folder_that_cannot_be_written(tmp_path, archive, monkeypatch):
    path, _ = archive

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cifar.tempfile, "TemporaryDirectory", refuse)
    fails(lambda: datasets.load("cifar10", "train", path.parent), path.parent, "cannot be written")


def test_disk_full_leaves_nothing(tmp_path, archive, monkeypatch):
    path, _ = archive
    root = tmp_path / "root"
    root.mkdir()
    path.rename(root / path.name)
    before = tree(root)

    def full(self, folder, filter):
        (folder / "half").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    said = f"no room left in {root} to unpack {path.name}; make some"  # the archive is good
    fails(lambda: datasets.load("cifar10", "train", root), said)
    assert tree(root) == before


def test_two_unpack_at_once(tmp_path, archive):
    path, images = archive
    root = tmp_path / "root"
    root.mkdir()
    path.rename(root / path.name)
    found, gate = [], threading.Barrier(3)

    def work():
        gate.wait()
        found.append(datasets.load("cifar10", "train", root).fingerprint)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1 and len(tree(root)) == 8


# ---------------------------------------------------------------- download


@pytest.fixture
def fetch(monkeypatch):
    """Puts a stand-in in the place of torchvision's download (whose import costs 5 s)."""

    def install(function):
        module = types.ModuleType("torchvision.datasets.utils")
        module.download_url = function
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setitem(
            sys.modules, "torchvision.datasets", types.ModuleType("torchvision.datasets")
        )
        monkeypatch.setitem(sys.modules, "torchvision.datasets.utils", module)

    return install


def test_download(tmp_path, archive, fetch, monkeypatch):
    path, images = archive
    monkeypatch.setattr(config, "ROOT", tmp_path / "repository")  # whose data/ does not exist yet
    (tmp_path / "repository").mkdir()
    patience = []

    def download(url, folder, filename, md5):
        patience.append(socket.getdefaulttimeout())
        (folder / filename).write_bytes(path.read_bytes())

    fetch(download)
    before = socket.getdefaulttimeout()
    assert (datasets.load("cifar10", "train").images == images).all()
    # torchvision sets no limit, and would wait for a silent host for ever.
    assert patience == [cifar.STALLED] and socket.getdefaulttimeout() == before
    assert len(tree(tmp_path / "repository" / "data")) == 7  # the archive is not kept
    fetch(None)
    assert len(datasets.load("cifar10", "test").labels) == 10  # no second download


@pytest.mark.parametrize(
    "error",
    [
        OSError("<urlopen error [Errno -2]\nName not known>"),
        TimeoutError(),
        RuntimeError("corrupted."),
    ],
)
def test_download_fails(tmp_path, fetch, monkeypatch, error):
    def half(url, folder, filename, md5):
        (folder / filename).write_bytes(b"half")
        raise error

    fetch(half)
    load = partial(datasets.load, "cifar10", "train")
    fails(lambda: load(tmp_path), "could not be downloaded", tmp_path, "train.npz")
    assert tree(tmp_path) == []
    monkeypatch.setattr(config, "ROOT", tmp_path)
    fails(load, "throttled", tmp_path / "data")
    assert tree(tmp_path) == []


def test_download_interrupted(tmp_path, fetch, monkeypatch):
    def interrupt(url, folder, filename, md5):
        (folder / filename).write_bytes(b"half")
        raise KeyboardInterrupt

    fetch(interrupt)
    monkeypatch.setattr(config, "ROOT", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        datasets.load("cifar10", "train")
    assert tree(tmp_path) == []


@pytest.mark.slow  # imports torchvision
def test_download_with_torchvision(tmp_path, archive, monkeypatch):
    path, images = archive
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(cifar, "CIFAR10_URL", "http://127.0.0.1:9/nobody-listens-here.tar.gz")
    fails(lambda: datasets.load("cifar10", "train", root), "could not be downloaded", "refused")
    assert tree(root) == []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = partial(Quiet, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(cifar, "CIFAR10_URL", f"{url}/nothing.tar.gz")
        fails(lambda: datasets.load("cifar10", "train", root), "404")
        monkeypatch.setattr(cifar, "CIFAR10_URL", f"{url}/{path.name}")
        assert (datasets.load("cifar10", "train", root).images == images).all()
        server.shutdown()
    assert len(tree(root)) == 7


@pytest.mark.slow
def test_published_sums_are_torchvisions():
    from torchvision.datasets import CIFAR10

    assert dict(CIFAR10.train_list + CIFAR10.test_list) == cifar.BATCH_MD5
    assert CIFAR10.tgz_md5 == cifar.CIFAR10_ARCHIVES["cifar-10-python.tar.gz"][0]
    assert CIFAR10.url == cifar.CIFAR10_URL


# ---------------------------------------------------------------- cinic10


def cinic(root):
    images, labels = arrays(20)
    for split in ("train", "valid", "test"):
        write_tree(root, split, images, labels, TEN)
    return images[np.argsort(labels, kind="stable")]


@pytest.mark.parametrize("below", ["", "CINIC-10", "cinic10"])
def test_cinic10_folders(tmp_path, below):
    images = cinic(tmp_path / below)
    for split in datasets.splits("cinic10"):
        ds = datasets.load("cinic10", split, tmp_path)
        assert (ds.images == images).all() and ds.labels.tolist() == sorted(list(range(10)) * 2)
    assert ds.class_names == TEN


@pytest.mark.parametrize("inner", ["", "CINIC-10"])  # published without a folder of its own
@pytest.mark.parametrize("place", ["", "CINIC-10", "cinic10"])
def test_cinic10_archive(tmp_path, monkeypatch, inner, place):
    images = cinic(tmp_path / "made" / inner)
    root = tmp_path / "root"
    (root / place).mkdir(parents=True)
    md5 = pack(tmp_path / "made", root / place / "CINIC-10.tar.gz")
    fails(lambda: datasets.load("cinic10", "train", root), "CINIC-10.tar.gz", "md5")
    assert tree(root / place) == ["CINIC-10.tar.gz"]
    monkeypatch.setattr(cifar, "CINIC10_MD5", md5)
    assert (datasets.load("cinic10", "valid", root).images == images).all()
    assert sorted(p.name for p in (root / place).iterdir()) == ["CINIC-10", "CINIC-10.tar.gz"]
    (root / place / "CINIC-10.tar.gz").unlink()
    assert (datasets.load("cinic10", "valid", root).images == images).all()


def test_cinic10_bad_folders(tmp_path):
    fails(
        lambda: datasets.load("cinic10", "train", tmp_path),
        tmp_path,
        "no CINIC-10",
        "CINIC-10.tar.gz",
    )
    cinic(tmp_path)
    # Not mistaken.
    fails(lambda: datasets.load("cifar10", "train", tmp_path, download=False), "no CIFAR-10")
    (tmp_path / "valid").rename(tmp_path / "val")
    fails(
        lambda: datasets.load("cinic10", "valid", tmp_path),
        "no valid folder",
        "train, valid and test",
    )
    (tmp_path / "val").rename(tmp_path / "valid")
    next((tmp_path / "valid" / "frog").glob("*.png")).write_bytes(b"x")
    fails(lambda: datasets.load("cinic10", "valid", tmp_path), "valid/frog", "cannot be read")


# ---------------------------------------------------------------- load_parts


def test_parts_of_the_sample(sample_parts):
    parts = datasets.load_parts(config.resolve("smoke"))
    assert [len(p.labels) for p in parts] == [160, 160, 80]
    assert all(len(set(np.bincount(p.labels).tolist())) == 1 for p in parts)
    for part, split in zip(parts, ("train", "test", "valid"), strict=True):
        chosen = datasets.stratified(sample_parts[split].labels, len(part.labels), seed=0)
        assert part.fingerprint == datasets.take(sample_parts[split], chosen).fingerprint


def numbered(root, n=100):
    """An npz CIFAR-10 whose first pixel tells the index of the image."""
    images, labels = arrays(n)
    images[:, 0, 0, 0] = np.arange(n)
    for split in ("train", "test"):
        write_npz(root, split, images, labels)
    return partial(config.resolve, "paper-42", data_dir=str(root))


def test_parts_of_cifar10(tmp_path):
    resolve = numbered(tmp_path)
    parts = datasets.load_parts(resolve(n_train=40, n_test=30, holdout=60))
    train, test, holdout = (set(p.images[:, 0, 0, 0].tolist()) for p in parts)
    assert (len(train), len(test), len(holdout)) == (40, 30, 60) and not train & holdout
    assert np.bincount(parts.holdout.labels).tolist() == [6] * 10
    parts = datasets.load_parts(config.resolve("paper", data_dir=str(tmp_path)))
    assert len(parts.train.labels) == len(parts.test.labels) == 100 and parts.holdout is None
    assert parts.train.fingerprint == datasets.load("cifar10", "train", tmp_path).fingerprint
    small = datasets.load_parts(resolve(n_train=40, holdout=10, resize=8))
    assert small.holdout.images.shape == (10, 8, 8, 3)


def test_parts_refused(tmp_path):
    resolve = numbered(tmp_path)
    paper = config.resolve("paper", data_dir=str(tmp_path), holdout=10)
    for asked, words in (
        (resolve(n_train=101), ["n_train=101 of cifar10", "100 are available"]),
        (resolve(n_train=5), ["n_train=5", "class 5"]),
        (resolve(n_train=90, n_test=200, holdout=10), ["n_test=200"]),
        (resolve(n_train=90, holdout=20), ["holdout=20 outside n_train", "10 are available"]),
        (paper, ["holdout=10 outside n_train", "0 are available"]),
    ):
        fails(lambda s=asked: datasets.load_parts(s), *words)


def test_one_class_is_nothing_to_learn(tmp_path):
    for split in ("train", "test"):
        write_npz(tmp_path, split, IMAGES, np.full(20, 3))
    settings = config.resolve("paper", data_dir=str(tmp_path))
    fails(
        lambda: datasets.load_parts(settings),
        "all 20 training images are of class 'cat'",
        "2 classes",
    )


def test_parts_of_a_folder(tmp_path):
    two_classes(tmp_path, splits=("train", "valid"), side=8)
    two_classes(tmp_path, splits=("test",), side=9)
    numbers = {"n_train": 2, "n_test": 4, "holdout": 4}
    settings = config.resolve("smoke", dataset="folder", data_dir=str(tmp_path), **numbers)
    fails(lambda: datasets.load_parts(settings), "8x8", "9x9", "set resize")
    parts = datasets.load_parts(replace(settings, resize=8))
    assert [len(p.labels) for p in parts] == [2, 4, 4] and parts.train.class_names == ("cat", "dog")


# ---------------------------------------------------------------- the real thing


def test_real_cifar10(tmp_path):
    """The project's copy of CIFAR-10: one strip of 500, in official order, through an npz."""
    data = config.ROOT.parent / "shared" / "data" / "cifar10"
    if not data.is_dir():
        pytest.skip(f"no {data}: real CIFAR-10 is not here")
    labels = np.load(data / "labels.npz")["train"]
    strip = np.asarray(Image.open(data / "train_000.webp").convert("RGB")).reshape(-1, 32, 32, 3)
    write_npz(tmp_path, "train", strip, labels[:500])
    write_npz(tmp_path, "test", strip, labels[:500])
    ds = datasets.load("cifar10", "train", tmp_path)
    assert [ds.class_names[i] for i in ds.labels[:5]] == [
        "frog",
        "truck",
        "truck",
        "deer",
        "automobile",
    ]
    assert ds.images[0, 0, 0].tolist() == [59, 62, 63]  # the frog's first pixel
    assert len(labels) == 50_000 and np.bincount(labels).tolist() == [5000] * 10
    chosen = datasets.stratified(labels, 5000, seed=0)
    rest = datasets.stratified(labels, 2000, seed=0, exclude=chosen)
    assert np.bincount(labels[chosen]).tolist() == [500] * 10 and not set(chosen) & set(rest)
