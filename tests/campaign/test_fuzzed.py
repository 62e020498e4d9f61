"""Nonsense of every kind: refused in one line, or read as what it is; no traceback, no hang.

Sound files are changed at a few places or cut, because noise alone is refused at its first byte.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import math
import os
import pickle
import re
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from campaign_work import SEED
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from tgd_lib import config
from tgd_lib.config import InputError
from tgd_lib.images import cifar, corruptions, folders
from tgd_lib.lab import store as store_module
from tgd_lib.lab.store import Store, damage

EXAMPLES = 300


def fuzz(**strategies):
    """A test of EXAMPLES examples, drawn from the campaign's seed."""

    def decorate(test):
        quiet = [
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ]
        bounded = settings(
            max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=quiet
        )
        return seed(SEED)(bounded(given(**strategies)(test)))

    return decorate


@contextlib.contextmanager
def tried(tally, part: str):
    """Counts what is inside: well or one line is clear, anything else that is raised is not."""
    try:
        yield
    except InputError as error:
        line = str(error)
        plain = line.isprintable() and 0 < len(line) < 1100
        tally(part, "clear" if plain else "unclear", repr(line)[:300])
    except AssertionError as error:
        tally(part, "lost", str(error)[:300])
    except Exception as error:
        tally(part, "unclear", repr(error)[:300])
    else:
        tally(part, "clear")


# What is done to a sound file: some bytes are others, a piece goes, a piece comes twice.
changes = st.lists(
    st.tuples(
        st.sampled_from(("set", "drop", "double")),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
        st.integers(1, 64),
    ),
    min_size=1,
    max_size=6,
)


def changed(whole: bytes, edits) -> bytes:
    data = bytearray(whole)
    for kind, where, value, length in edits:
        at = int(where * len(data))
        if kind == "set" and data:
            data[at] = value
        elif kind == "drop":
            del data[at : at + length]
        else:
            data[at:at] = data[at : at + length]
    return bytes(data)


# ---------------------------------------------------------------- parameters

plain_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=40),
    st.binary(max_size=8),
    st.lists(st.integers(), max_size=3),
    st.sampled_from(["inf", "nan", "1e309", "0x10", "１２", " 3 ", "3_0", "-0", "", "\x00"]),
)
names = st.one_of(st.sampled_from(sorted(config.PARAMETERS)), st.text(max_size=20))
others = names.filter("profile".__ne__)  # which is an argument of its own


@fuzz(
    name=names, text=st.one_of(st.text(max_size=40), st.floats().map(str), st.integers().map(str))
)
def test_parameters_on_a_command_line(tally, name, text):
    with tried(tally, "parameters"):
        value = config.parse(name, text)
        assert not isinstance(value, float) or math.isfinite(value), f"{name}={text} gave {value}"


@fuzz(profile=st.one_of(st.sampled_from(sorted(config.PROFILES)), st.text(max_size=9)),
      overrides=st.dictionaries(others, plain_values, max_size=3))  # fmt: skip
def test_overrides(tally, profile, overrides):
    with tried(tally, "parameters"):
        found = config.resolve(profile, **overrides)
        for name, value in overrides.items():
            if value is not None and name != "data_dir":
                assert getattr(found, name) == value, f"{name}={value!r} was ignored"


# ---------------------------------------------------------------- arrays and pictures


@cache
def sound_npz() -> bytes:
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    images = rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    np.savez(file, images=images, labels=np.arange(10), source=np.arange(10) % 2)
    return file.getvalue()


@fuzz(edits=changes)
def test_npz(tally, tmp_path, edits):
    (tmp_path / "train.npz").write_bytes(changed(sound_npz(), edits))
    with tried(tally, "npz"):
        images, labels, _ = cifar.cifar10(tmp_path, "train", download=False)
        # A zip has sums: what is read at all is what was written, or its names were hit.
        assert images.shape[1:] == (32, 32, 3) and labels.min() >= 0 and labels.max() <= 9
    with tried(tally, "npz"):
        cifar.transfer_sample(tmp_path / "train.npz")


@cache
def sound_picture(form: str) -> bytes:
    rng = np.random.default_rng(1)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(file, form)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")  # what Pillow makes of damaged tags
@pytest.mark.parametrize("form", folders.FORMATS)
@fuzz(edits=changes)
def test_pictures(tally, tmp_path, form, edits):
    path = tmp_path / "x.png"  # whatever its name says
    path.write_bytes(changed(sound_picture(form), edits))
    with tried(tally, "pictures"):
        found = folders.decode(path)
        assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
    with tried(tally, "pictures"):
        assert folders.decode(path, (9, 7)).shape == (9, 7, 3)


@fuzz(edits=changes)
def test_pickled_batches(tally, tmp_path, edits):
    """Whatever a pickle asks for, nothing but arrays is built (its sum is not looked at here)."""
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "odd": [b"x", ("y", 1.5)]}
    path = tmp_path / "test_batch"
    path.write_bytes(changed(pickle.dumps(batch, protocol=2), edits))
    with tried(tally, "pickles"), folders.reading(path), path.open("rb") as file:
        cifar._ArraysOnly(file, encoding="latin1").load()


@fuzz(edits=changes)
def test_official_arrays(tally, tmp_path, edits):
    file = io.BytesIO()
    np.save(file, np.zeros((5, 32, 32, 3), np.uint8))
    (tmp_path / "fog.npy").write_bytes(changed(file.getvalue(), edits))
    with tried(tally, "official arrays"):
        corruptions.read_official(tmp_path, "fog")
        raise AssertionError("five images were taken for 50,000")


# ---------------------------------------------------------------- by coverage


@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="pip install atheris")
@pytest.mark.parametrize("target", ["picture", "npz", "official", "manifest", "state"])
def test_by_coverage(tally, tmp_path, target):
    """Ten seconds of libFuzzer on each reader of files, from sound ones where there are some.

    Not on pickled batches: Python's reader takes gigabytes where a file asks it to (a place in its
    memo), and is only shown those whose md5 is the official one.
    """
    corpus, inputs = tmp_path / "corpus", tmp_path / "inputs"
    corpus.mkdir()
    inputs.mkdir()
    for number, data in enumerate(SEEDS[target](tmp_path)):
        (corpus / str(number)).write_bytes(data)
    script = Path(__file__).with_name("atheris_target.py")
    limits = ["-max_total_time=10", f"-seed={SEED + 1}", "-max_len=40000", "-timeout=20"]
    done = subprocess.run(
        [sys.executable, script, target, inputs, *limits, corpus], capture_output=True, text=True,
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(config.ROOT)},
    )  # fmt: skip
    tried = re.search(r"Done (\d+) runs", done.stderr)
    if done.returncode or not tried:
        tally("by coverage", "unclear", f"{target}: {done.stderr[-900:]}")
    for _ in range(int(tried[1]) if tried else 0):
        tally("by coverage", "clear")


def _sound_state(folder: Path) -> bytes:
    _save_state(folder / "sound")
    return (folder / "sound").read_bytes()


def _sound_fog(_: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((2, 32, 32, 3), np.uint8))
    return file.getvalue()


SEEDS = {
    "picture": lambda _: [sound_picture(form) for form in folders.FORMATS],
    "npz": lambda _: [sound_npz()],
    "official": lambda folder: [_sound_fog(folder)],
    "manifest": lambda _: [b"{}", json.dumps({"x": hashlib.sha256(b"x").hexdigest()}).encode()],
    "state": lambda folder: [_sound_state(folder)],
}

# ---------------------------------------------------------------- archives


@cache
def sound_tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("CINIC-10/train/cat/a.png", "CINIC-10/test/cat/b.png"):
            info = tarfile.TarInfo(name)
            info.size = 300
            tar.addfile(info, io.BytesIO(bytes(300)))
        link = tarfile.TarInfo("CINIC-10/link")
        link.type, link.linkname = tarfile.SYMTYPE, "train"
        tar.addfile(link)
    return out.getvalue()


@fuzz(edits=changes, name=st.text(alphabet="./ab\\\n", min_size=1, max_size=12),
      kind=st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                            tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]),
      target=st.text(alphabet="./ab\\\n", max_size=12))  # fmt: skip
def test_archives(tally, tmp_path_factory, edits, name, kind, target):
    """Archives whose sum is right (it is made so): nothing is written outside of their folder."""
    root = tmp_path_factory.mktemp("archive") / "inner"
    root.mkdir()
    for data in (changed(sound_tar(), edits), _one_member(name, kind, target)):
        path = root / cifar.CINIC10_ARCHIVE
        path.write_bytes(data)
        with tried(tally, "archives"):
            with contextlib.suppress(InputError):  # what is unpacked is looked at in any case
                cifar._unpack(path, hashlib.md5(data).hexdigest(), root / "CINIC-10")
            outside = [p for p in root.parent.iterdir() if p != root]
            outside += [p for p in root.iterdir() if p.name not in (path.name, "CINIC-10")]
            assert not outside, f"written outside: {outside}"
            for made in root.rglob("*"):
                leads = Path(os.path.realpath(made))  # resolve() raises for a link to itself
                assert leads.is_relative_to(root), f"{made} leads outside"
                ordinary = made.is_dir() or made.is_file() or made.is_symlink()
                assert ordinary, f"{made} is a device or a pipe"


def _one_member(name: str, kind: bytes, target: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = kind, target, 0o7777
        tar.addfile(info)
    return out.getvalue()


# ---------------------------------------------------------------- the store's files

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@fuzz(value=json_values, name=st.sampled_from(["MANIFEST.json", "record.json", "spec.json"]))
def test_json_of_artefacts(tally, tmp_path_factory, value, name):
    store = Store(tmp_path_factory.mktemp("store"), newer_than=0, published=[])
    path = store.make("evaluation", {"q": 1}, _build).path
    before = (path / name).read_text()
    (path / name).write_text(json.dumps(value))
    with tried(tally, "JSON of artefacts"):
        same = json.loads(before) == value
        assert (damage(path) is None) == same
        assert (
            same
            or Store(store.root, newer_than=0, published=[]).find("evaluation", {"q": 1}) is None
        )


@fuzz(edits=changes, name=st.sampled_from(["MANIFEST.json", "record.json", "spec.json"]))
def test_bytes_of_artefacts(tally, tmp_path_factory, edits, name):
    store = Store(tmp_path_factory.mktemp("store"), newer_than=0, published=[])
    path = store.make("evaluation", {"q": 1}, _build).path
    before = (path / name).read_bytes()
    (path / name).write_bytes(changed(before, edits))
    with tried(tally, "JSON of artefacts"):
        found = damage(path)
        meant = name == "MANIFEST.json" and _means_the_same(path / name, before)
        assert found or meant or (path / name).read_bytes() == before
        assert found is None or "\n" not in found


def _build(folder: Path) -> dict:
    (folder / "x").write_text("x")
    return {"answer": 42}


def _means_the_same(path: Path, before: bytes) -> bool:
    """Whether a manifest is another text of the same sums: a blank more, say."""
    try:
        return json.loads(path.read_bytes()) == json.loads(before)
    except ValueError:
        return False


@fuzz(spec=st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_specs_have_one_key_or_none(tally, spec):
    with tried(tally, "specs"):
        try:
            key = store_module.key_of("evaluation", spec)
        except (ValueError, TypeError):  # not a number
            return
        assert key == store_module.key_of("evaluation", json.loads(store_module.canonical(spec)))


# ---------------------------------------------------------------- training states and losses


@fuzz(edits=changes)
def test_training_states(tally, tmp_path, edits):
    from safetensors import SafetensorError

    from tgd_lib import training

    path = tmp_path / "state"
    if not (tmp_path / "sound").exists():
        _save_state(tmp_path / "sound")
    sound = (tmp_path / "sound").read_bytes()
    data = changed(sound, edits)
    path.write_bytes(data)
    with tried(tally, "training states"):
        try:
            tensors, history, threads = training.read_state(path)
        except (SafetensorError, OSError, ValueError):
            return
        wanted = training.read_state(tmp_path / "sound")
        same = all((tensors[k] == v).all() for k, v in wanted[0].items())
        assert same and (history, threads) == wanted[1:], "another state was taken"


def _save_state(path: Path) -> None:
    import torch

    from tgd_lib import training

    tensors = {"a": torch.arange(40.0).reshape(5, 8), "b": torch.tensor(3), "c": torch.zeros(0)}
    about = {"of": path.parent.name, "history": json.dumps([{"epoch": 1}]), "threads": "1"}
    training.save_tensors(path, tensors, about | {"sum": training.state_sum(tensors, about)})


sizes = st.lists(st.integers(0, 4), min_size=0, max_size=3)


@fuzz(logits=sizes, labels=sizes, teacher=sizes, features=st.lists(sizes, max_size=4),
      maps=st.lists(sizes, max_size=4), numbers=st.tuples(*[st.floats() | st.none()] * 4),
      right=st.sets(st.sampled_from(["logits", "labels", "teacher", "features", "maps", "numbers"]),
                    min_size=4))  # fmt: skip
def test_shapes_and_numbers_of_the_loss(
    tally, logits, labels, teacher, features, maps, numbers, right
):
    import torch

    from tgd_lib.losses import tgd_loss

    shapes = {"logits": logits, "labels": labels, "teacher": teacher, "features": features}
    shapes |= {"maps": maps, "numbers": numbers}
    shapes |= {k: v for k, v in SOUND.items() if k in right}
    alpha, lam, temperature, gamma = shapes["numbers"]
    with tried(tally, "shapes of the loss"):
        total, terms = tgd_loss(
            torch.ones(shapes["logits"]), torch.zeros(shapes["labels"], dtype=torch.int64),
            [torch.ones(f) for f in shapes["features"]], (torch.ones(shapes["teacher"]),) * 2,
            [torch.ones(m) for m in shapes["maps"]],
            alpha=alpha, lam=lam, temperature=temperature, gamma=gamma, kl_reduction="mean",
        )  # fmt: skip
        assert (
            total.shape == ()
            and total.isfinite()
            and set(terms) == {"ce", "kd_t1", "kd_t2", "maps"}
        )


SOUND = {
    "logits": [3, 4], "labels": [3], "teacher": [3, 4], "features": [[3, 2, 2, 2], [3, 5], [3, 1]],
    "maps": [[3, 3]] * 3, "numbers": (0.9, 0.9, 4.0, 3000.0),
}  # fmt: skip
